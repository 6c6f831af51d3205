"""JSON Schemas of clients: bounded, judged in a process of their own, enforced by the engine, checked afterwards.

size.py     how large one is, before anything else is read   bounds.py     what one may ask for
repetition.py  what a pattern asks for, written out          judge.py      what one is worth, a tenant at a time
judging.py  the gateway's end of the schema process          process.py    that process
objects.py  whether any object keeps a schema                reasons.py    why a schema cannot be used
json_text.py  JSON as every reader understands it
"""
