"""Files for the engine, tried in the engine itself.

engine.py      the engine, asked about a file
round_trip.py  texts that tell two tokenizers apart          export_checks.py   what must hold of a file
history.py     what a file says of where it came from
"""
