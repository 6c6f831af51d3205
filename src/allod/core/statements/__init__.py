"""Statements: what is said in a leaf of a log, as values and as the exact bytes that are hashed and signed.

shapes.py    what a field may hold
receipt.py   one answer or refusal
training.py  one stage of a run, and a release
policy.py    that a policy is in force
clock.py     that this machine's clock is right
"""
