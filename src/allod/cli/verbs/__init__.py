"""The verbs, a module each: `add_arguments`, and `run`, whose status is the command's.

up.py      the gateway, on first run with all it needs      ask.py     one answer
train.py   from documents to a signed model                 verify.py  a bundle, offline
log.py     the log's key, head and health                   seal.py    every escape, as a table
model.py   the models there are, and what is behind them    key.py     tenants' keys
tenant.py  who shares the engines                          fleet.py   the replicas that answer
tune.py    which settings suit this machine
policy.py  who may ask what; `policy explain` is policy_explain.py, `policy prove` is policy_prove.py
"""
