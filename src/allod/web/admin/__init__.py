"""OpenAI's administration interface, `/v1/organization/...`, over the tenants of this realm.

Their project is our tenant. What the published shapes have no word for stands in a member `allod` of the same objects,
to be read and written there. Source: OpenAI's published specification, as its Python client of version 3.54 types it.

handlers.py  which handler answers                           request.py      one request, as handlers get it
bodies.py    bodies, read strictly                           query.py      query strings, read strictly
listing.py   pages of lists                                  projects.py   tenants
accounts.py  programs of theirs, which hold keys             keys.py       keys of tenants and of administrators
limits.py    how fast, and with which models                 spending.py   spend limits
usage.py     tokens and costs                                audit.py      what administrators did
retention.py  what is kept of prompts: nothing
"""
