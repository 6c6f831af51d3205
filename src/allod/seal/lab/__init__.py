"""The lab: every escape tried unsealed, as the control, and then sealed.

suite.py     the suite and its report                       lab.py         two namespaces and a cable between them
honeypot.py  who is to be reached                           accomplice.py  who helps from outside
device_trial.py  an island with devices, in which all that it is granted is tried (`allod seal test --gpu`)
"""
