"""Policies in Cedar: what may be asked of which model, where; decided, checked, explained.

decision.py  permit or forbid, by which rules               request.py   what a policy is asked, in Cedar's words
rules.py     the rules in a policy's text                   schema.py    what a policy may speak of
check.py     can anybody have meant this policy             sampling.py  the questions that such a check asks
explain.py   what would have to be different                claims.py    sentences that a pass over the log decides
"""
