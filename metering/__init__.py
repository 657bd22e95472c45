"""What was used: counted in Redis, kept in PostgreSQL.

Owns: the live counters and the scripts that move them (`counters`, `lua/`), the projection of key records
that a gateway decides on (`projection`), the roll-up of counters into the ledger (`rollup`), the way back
from the ledger to an empty Redis (`rebuild`), what billing and clients are told about usage (`usage`), and
the ledger itself (`ledger`).

Does not own: what a call may cost or whether it may be made (`policies`), and anything that speaks HTTP
(`gateway`). PostgreSQL is the truth for accounts, keys, usage and audit. Redis is the truth for the counts
since the last roll-up.
"""
