"""Billing: from the ledger's counts to invoices, payments and what follows from them.

Owns: closing a month into drafts (`close`), issuing them under numbers without gaps (`issue`), what is
outstanding (`balance`, pure), payments, disputes with their credit notes, moves between versions of a
price, and the comparison of counters, ledger, invoices and payments (`reconcile`).

Does not own: prices and which of them applies (`policies`), the lines of one key's month
(`metering.rating`), the tables and queries (`metering.ledger`), and telling customers of it
(`metering.notices`).

What holds: an account has one invoice per month, whatever is run again; what was issued never changes; an
amount is rounded once, in its line; the keys' date of the oldest unpaid invoice changes in the transaction
that changes what is unpaid.
"""
