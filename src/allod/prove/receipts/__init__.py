"""Receipts as they are handed out.

bundle.py       the file: statement, proof and opening       from_log.py     bundles, out of a log
commitments.py  salted digests of prompts and answers        day_keys.py     a tenant's name of one day
clock.py        the clock that receipts are dated by
"""
