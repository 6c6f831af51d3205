"""Tenants: who asks.

tenants.py  tenants, keys and audit events, as values       keys.py     the keys that open this gateway
store.py    the port to what is kept about them             officer.py  who changes them, and the audit log's line
"""
