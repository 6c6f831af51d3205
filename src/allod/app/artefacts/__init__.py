"""The artefacts log: what is in force, and what was released.

log.py          the log: its files, its key, its lock, and the one verdict on it
known_heads.py  the tree heads that the log is known to have had
policies.py     a view of the log: policies, and which of them is in force
release_log.py  a view of the log: releases, and the stages behind them
released_models.py  the releases by name, each checked whole
"""
