"""GGUF, the engine's format.

header.py      the gate: read strictly, refuse what is not whole     writer.py     networks and adapters, written
plain_file.py  a file that somebody named, opened                    adaptable.py  what an adapter can be learnt over
"""
