"""The command line: `tallygate ...`, one file a group of commands.

Owns: what people type and read. Commands talk to the control API (`client`); only `serve`, `check`, `demo`
and `token create --local` work without it. Exit codes: 0 done, 1 failed or refused, 2 typed wrong.
"""

from __future__ import annotations

from gateway.cli.main import main

__all__ = ["main"]
