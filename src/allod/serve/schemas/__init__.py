"""JSON Schemas of clients: bounded, judged in a process of their own, enforced by the engine, checked afterwards.

size.py     bounds, before anything else is read             judge.py      what a schema is worth, a tenant at a time
judging.py  the gateway's end of the schema process          process.py    that process
objects.py  whether any object keeps a schema                reasons.py    why a schema cannot be used
json_text.py  JSON as every reader understands it
"""
