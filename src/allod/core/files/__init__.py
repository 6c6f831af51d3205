"""Files as Allod reads and writes them: whole or not at all, and plain or refused.

named.py   files that somebody named: of any kind, bounded
plain.py   files and folders that others may have made: no links, no devices, bounded
secret.py  files that their owner alone may read
whole.py   files that are replaced whole
"""
