"""What our words mean. Standard library only.

errors.py      every error, and what kinds there are         canonical.py  the one encoding that is hashed or signed
labels.py      how sensitive, and where and what for         nations/      the words that labels are made of
requests.py    what is asked and answered, in no dialect     statements/   what is said in a leaf of a log
deadlines.py   how long anybody waits                        times.py      now, days, moments as officers write them
shown_text.py  others' text, safe to show                    telling.py    what a command writes, and to whom
files/         whole or not at all, plain or refused        stages.py     the stages of training, a row each
tables.py      strict reading of what TOML and JSON say       digests.py    SHA-256, in its two spellings
places.py      countries and their parts, as ISO 3166 codes  urls.py       addresses of servers, as people write them
"""
