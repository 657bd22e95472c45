"""Backups: the ledger in a file, and back.

Owns: the archive with its manifest (`archive`), PostgreSQL's own programs that write and read dumps
(`postgres`), which ledger is meant and whether somebody serves on it (`ledgers`), and making and restoring
(`make`, `restore`).

Does not own: Redis, which is made anew from the ledger (`metering.rebuild`), and secrets, which are in no
backup (docs/operations.md).
"""
