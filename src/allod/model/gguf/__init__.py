"""GGUF, the engine's format.

header.py      the gate: refuse what is not whole            metadata.py   keys and values, read strictly
writer.py      networks and adapters, written                adaptable.py  what an adapter can be learnt over
plain_file.py  a file that somebody named, opened
"""
