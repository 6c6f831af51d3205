"""Sources: where documents come from, how each kind of file is read, and on what terms its text may be used.

collect.py   before the stage `source`, and its verdict      fetch.py        a package, by name
archives.py  a package's members, in memory                  unpacked.py     what the unpacking process left
content.py   what a source holds, and its digest             files.py        which of its files are read
licences.py  terms under which text may be trained on        bounds.py       how much is taken
kinds.py     the kinds that a recipe may name                plain_text.py   text files
packages/    a reader for each package whose texts are documents
"""
