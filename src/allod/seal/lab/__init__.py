"""The lab: every escape tried unsealed, as the control, and then sealed.

suite.py     the suite and its report                       lab.py         two namespaces and a cable between them
honeypot.py  who is to be reached                           accomplice.py  who helps from outside
"""
