"""A transparency log on a disk (spec/log.md): one segment that cannot be made again, and what is derived from it.

begun.py     whether there is one, and whose turn it is      log.py      an open log: append, look up, prove
segment.py   the file: framed entries and tree heads         state.py    where it stands after its last batch
recovery.py  from files to a state, or a refusal             writer.py   the thread that appends
index.py     id → leaf, derived                              reader.py   every entry again, checked
tiles.py     the tree's hashes, derived                      fsck.py     is it whole, and what is not
"""
