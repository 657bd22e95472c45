"""What a worker answers on the health path: may calls be sent here?

For load balancers and orchestrators, who have no key. A worker that lacks Redis is `degraded` and still to be
called: it refuses in each route's dialect, or goes on as the route says, which clients understand better than
no answer at all; and the other gateways lack the same Redis. Only one that leaves says no.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from gateway.proxy.headers import status_line


def health_answer(*, leaving: bool, reasons: Sequence[str]) -> tuple[bytes, bytes]:
    """Return head, without its end, and body: 200 with `ready` or `degraded`, 503 with `leaving`."""
    told = "leaving" if leaving else "degraded" if reasons else "ready"
    body = json.dumps({"status": told, "reasons": list(reasons)}).encode() + b"\n"
    head = b"%bContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: %d\r\n" % (
        status_line(503 if leaving else 200),
        len(body),
    )
    return head, body
