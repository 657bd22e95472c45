"""What arrived, byte for byte: the last requests, and how many there were of each method."""

from __future__ import annotations

from collections import Counter, deque

from demo.answers import Value
from demo.request import Request

KEPT = 2000
SHOWN_BODY_BYTES = 64 * 1024


class Journal:
    """The requests since the start, or since the last clearing."""

    def __init__(self) -> None:
        self._last: deque[Request] = deque(maxlen=KEPT)
        self._methods: Counter[str] = Counter()

    def add(self, request: Request, method: str) -> None:
        """Take note of a request."""
        self._last.append(request)
        self._methods[method] += 1

    def clear(self) -> None:
        """Forget everything."""
        self._last.clear()
        self._methods.clear()

    def show(self, limit: int) -> dict[str, Value]:
        """Return the counts and the last `limit` requests, the newest last; bytes are shown as Latin-1."""
        last = list(self._last)
        return {
            "total": self._methods.total(),
            "methods": dict(sorted(self._methods.items())),
            "requests": [_shown(request) for request in last[len(last) - min(limit, len(last)) :]],
        }


def _shown(request: Request) -> dict[str, Value]:
    body = request.body
    return {
        "method": request.method.decode("latin-1"),
        "target": request.target.decode("latin-1"),
        "version": request.version.decode("latin-1"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
        "body_bytes": body.length,
        "body_sha256": body.sha256(),
        "body": body.kept.decode("latin-1") if body.length <= SHOWN_BODY_BYTES else None,
    }
