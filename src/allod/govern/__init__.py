"""Who may ask what of which model, where.

policy/         rules, and the decision by them             tenancy/     tenants and their keys
metering/       limits, prices and the ledger               stores/      where both are kept
identifiers.py  identifiers of people in a text             readings.py  a text as its reader reads it
"""
