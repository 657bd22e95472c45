"""The application behind every Python server: it writes down what the server made of each request.

Run as a program, it is waitress; `application` and `asgi` are for the other servers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

ANSWER = b'{"ErrorCode":"Ok"}'
_log = (
    os.open(os.environ["ORIGIN_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if "ORIGIN_LOG" in os.environ
    else -1
)


def note(method: str, path: str, query: str, headers: dict[str, str], body: int) -> None:
    """Add a line to the log, in one write, so that lines of several processes do not mix."""
    seen = {"method": method, "path": path, "query": query, "headers": headers, "body": body}
    os.write(_log, json.dumps(seen).encode() + b"\n")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request by WSGI."""
    body = environ["wsgi.input"].read()
    headers = {
        name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name[:5] == "HTTP_"
    }
    note(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], headers, len(body))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(ANSWER)))])
    return [ANSWER]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer a request by ASGI."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    note(scope["method"], scope["path"], scope["query_string"].decode("latin-1"), headers, size)
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": ANSWER})


if __name__ == "__main__":
    import waitress

    waitress.serve(application, host="127.0.0.1", port=int(sys.argv[1]), threads=4)
