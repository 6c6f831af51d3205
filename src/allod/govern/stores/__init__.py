"""Where tenants, keys, audit events, leases and the ledger are kept: in memory, in SQLite, in PostgreSQL."""
