"""Nations: the words that one nation's labels are made of.

nation.py               tiers, markings, places and purposes
profile.py              the strict reading of a profile
identifier_patterns.py  what a pattern that finds identifiers may be made of
"""
