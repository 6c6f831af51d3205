"""OpenAI's administration interface, `/v1/organization/...`, over the tenants of this realm.

Their project is our tenant. What the published shapes have no word for stands in a member `allod` of the same objects,
to be read and written there. Source: OpenAI's published specification, as its Python client of version 3.54 types it.
"""
