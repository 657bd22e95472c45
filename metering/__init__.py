"""What was used and what it costs: counted in Redis, kept in PostgreSQL, billed by the month.

Owns: the live counters and the scripts that move them (`counters`, `lua/`), the projection of key records
that a gateway decides on (`projection`, `projecting`), the roll-up of counters into the ledger
(`rollup`), the way back from the ledger to an empty Redis (`rebuild`), what billing and clients are told
about usage (`usage`), price lists as a file (`catalogue`), the lines of a key's month (`rating`, pure),
invoices, payments and disputes (`billing`), what customers are told of them (`notices`), exports
(`focus`), rehearsals of all that (`rehearsal`), and the ledger itself (`ledger`).

Does not own: prices, what a call may cost or whether it may be made (`policies`), and anything that speaks
HTTP (`gateway`). PostgreSQL is the truth for accounts, keys, usage, money and audit. Redis is the truth for
the counts since the last roll-up.
"""
