"""The control API: accounts, keys, usage, tokens and the audit log over HTTP, for operators and client sites.

Owns: who may do what (`auth`), what each operation takes and gives (`operations`, a file per noun, `openapi`
from the same declarations), how refusals look (`problems`), and the jobs that run by themselves (`periodic`).

Does not own: SQL and Redis (`metering`), the calls of client sites (`gateway.proxy`), and what a contract
allows (`policies`).
"""
