"""The wire: the proxy, the control API, the command line, and the processes they run in.

Owns everything that knows HTTP, the configuration, the embedded stores and the supervisor. Does not own
what was used and what the ledger holds (`metering`), nor what the contract says (`policies`).
"""
