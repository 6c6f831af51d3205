"""The artefacts log: what is in force, and what was released.

log.py              the log as releases use it               known_heads.py  the tree heads that it is known to have had
released_models.py  models by name                           policies.py     policies, and which is in force
"""
