"""Switches, by which a caller asks for a slow, failed, large, broken or otherwise awkward answer."""

from __future__ import annotations

from dataclasses import dataclass, fields

from demo.request import Request

PREFIX = b"x-demo-"

HELP = """\
switches, as a header or as a query or form parameter of any call:
  x-demo-delay-ms=N      wait N milliseconds before the answer x-demo-error=CODE      answer with this
  ErrorCode, such as ValidationError or BatchError; on the REST and TOP
                         faces an error of theirs
  x-demo-status=N        answer with this HTTP status
  x-demo-size-bytes=N    pad the answer to about N bytes, streamed
  x-demo-truncate=N      break the connection off after N bytes of the body; with 0 right after the head
  x-demo-drop=1          break the connection off without an answer
  x-demo-chunked=1       send the body in chunks instead of with a Content-Length
  x-demo-stall-ms=N      wait N milliseconds in the middle of the body
gzip is used when Accept-Encoding asks for it.
"""


@dataclass(frozen=True, slots=True)
class Switches:
    """What one caller asks for."""

    delay_ms: int = 0
    error: str = ""
    status: int = 0
    size_bytes: int = 0
    truncate: int = -1
    drop: int = 0
    chunked: int = 0
    stall_ms: int = 0


NONE = Switches()


def read_switches(request: Request, default: Switches = NONE) -> Switches:
    """Read a request's switches; an unknown or malformed one is ignored."""
    parameters = PREFIX in request.target.lower() or PREFIX in request.body.kept.lower()
    if not parameters and not any(name.startswith(PREFIX) for name in request.fields):
        return default
    found: dict[str, int | str] = {}
    for each in fields(Switches):
        name = "x-demo-" + each.name.replace("_", "-")
        value = request.fields.get(name.encode(), b"").decode("latin-1")
        if parameters:
            value = value or request.parameters.get(name, "")
        if each.name == "error":
            found["error"] = value or default.error
        else:
            found[each.name] = (
                int(value) if value.isascii() and value.isdigit() else getattr(default, each.name)
            )
    return Switches(**found)  # type: ignore[arg-type] # one field is text, the others are numbers
