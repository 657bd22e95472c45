"""The schema's history, applied by `metering.ledger.migrate`."""
