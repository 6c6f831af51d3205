"""C2SP's and RFC 9162's forms as values and arithmetic: pure, and shared by who writes, reads and verifies a log.

merkle.py       trees, inclusion and consistency proofs      proofs.py       one entry's proof, as text
notes.py        signed notes and verifier keys               tree_head.py    a log's size and root
signing_key.py  the Ed25519 key that signs tree heads        encodings.py    base64 and numbers, read strictly
"""
