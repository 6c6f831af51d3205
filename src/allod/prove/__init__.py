"""Sign, log, verify, witnesses' cosignatures included: alone and offline.

verify.py          a bundle, in numbered steps               trust.py     the logs and witnesses that are believed
compare.py         a log beside a kept tree head             policy_history.py  which policies were in force
formats/           trees, notes, proofs, keys                tlog/        a transparency log on a disk
receipts/          bundles, commitments, names of a day      releases/    released models and their lineage
"""
