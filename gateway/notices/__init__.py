"""Notices on their way: from the outbox to webhooks and mailboxes, tried again until they arrive.

Owns: how a notice is written as an e-mail and as a signed webhook, and how often it is tried. Does not own
what is told and when (`metering.notices`), or that it is told once (`metering.ledger.notices`).
"""
