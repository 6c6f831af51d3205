"""Metering: how much each tenant uses, may use, and pays.

quotas.py   limits at one gateway, spent in memory          leases.py  slices of limits, leased from the store
windows.py  meters, and their days and months of UTC        prices.py  what an answer costs
ledger.py   the sum of the receipts
"""
