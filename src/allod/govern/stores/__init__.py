"""Where tenants, keys, audit events, leases and the ledger are kept.

memory.py    forgets everything when the process ends        sqlite.py      one file, for one gateway
postgres.py  shared by several gateways                      rules.py       what every store refuses and grants
sql.py       every statement once, for both databases        sql_ledger.py  the same for leases and the ledger
dialect.py   what the two spell differently                  schema.py      the tables
database.py  transactions over a few connections             rows.py        values as the JSON that a row keeps
"""
