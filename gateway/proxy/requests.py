"""A request's head, checked: what llhttp accepts and an origin might read in another way is refused. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.failures import Failure
from gateway.proxy.headers import Header, connection_options, end_to_end, is_host, request_fields
from gateway.proxy.incoming import Incoming

if TYPE_CHECKING:
    from gateway.proxy.request_plan import RequestPlan

_HASH, _UNDERSCORE = b"#_"
_SLASH = b"/"
# CONNECT and TRACE make no sense through a gateway, and llhttp also knows the methods of RTSP and ICE.
_METHODS = {name.encode(): name for name in ("GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")}
_CONNECTION_DEFAULTS = frozenset((b"keep-alive", b"close"))
_NO_OPTIONS: frozenset[bytes] = frozenset()


class Framing:
    """What the header fields say of the message; a client that repeats them is not read twice.

    Others note here what they have found in the fields, too.
    """

    __slots__ = (
        "_lines",
        "_lines_readable",
        "_values",
        "chunked",
        "end_to_end",
        "expects_continue",
        "headers",
        "http_11",
        "length",
        "without_role",
    )

    def __init__(
        self,
        headers: tuple[Header, ...],
        seen: tuple[Header, ...],
        http_11: bool,
        length: int | None,
        chunked: bool,
        expects_continue: bool,
    ) -> None:
        self.headers = headers  # as they came
        self.end_to_end = seen  # without those that end here, so that what is identified travels on
        self.http_11 = http_11
        self.length = length
        self.chunked = chunked
        self.expects_continue = expects_continue
        self.without_role: RequestPlan | None = None  # under which no field says anything of the call
        self._values: bytes | None = None
        self._lines = b""
        self._lines_readable: bool | None = None

    def values(self) -> bytes:
        """Return the values of the fields that travel on, one after the other."""
        if self._values is None:
            self._values = b"\n".join([value for _, value in self.end_to_end])
        return self._values

    def lines(self, *, readable: bool) -> bytes:
        """Return the lines that go on to the upstream, as `request_fields` writes them."""
        if self._lines_readable is not readable:
            self._lines_readable = readable
            self._lines = request_fields(self.end_to_end, readable=readable)
        return self._lines


class Request:
    """A checked head, as far as the path needs it.

    `target` and `headers` are the bytes as they came, without the fields that end at this hop. With
    `plain_target` the target is known to consist of plain bytes only.
    """

    __slots__ = (
        "client",
        "expects_continue",
        "framing",
        "has_body",
        "headers",
        "http_11",
        "length",
        "method",
        "path",
        "plain_target",
        "scheme",
        "target",
    )

    def __init__(
        self,
        method: str,
        target: bytes,
        path: bytes,
        framing: Framing,
        client: bytes,
        scheme: bytes,
        plain_target: bool,
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.headers = framing.end_to_end
        self.http_11 = framing.http_11
        self.has_body = framing.chunked or bool(framing.length)
        self.length = framing.length
        self.expects_continue = framing.expects_continue
        self.client = client
        self.scheme = scheme
        self.framing = framing
        self.plain_target = plain_target


def read_head(incoming: Incoming, known: Framing | None, client: bytes, scheme: bytes) -> Request | Failure:
    """Check what llhttp lets through, and pick out what the path needs.

    `known` is the framing of the request before on the same connection, whose fields are often the same.
    """
    version = incoming.version
    method = _METHODS.get(incoming.method)
    if (version != "1.1" and version != "1.0") or method is None or incoming.upgrade:
        return Failure.NOT_IMPLEMENTED
    target = incoming.target
    if target[:1] != _SLASH or _HASH in target:
        return Failure.BAD_REQUEST
    http_11 = version == "1.1"
    framing = known
    if framing is None or framing.headers != incoming.headers or framing.http_11 is not http_11:
        read = _read_framing(incoming.headers, http_11)
        if isinstance(read, Failure):
            return read
        framing = read
    query = target.find(b"?")
    path = target if query < 0 else target[:query]
    return Request(method, target, path, framing, client, scheme, incoming.plain_target)


def _read_framing(headers: tuple[Header, ...], http_11: bool) -> Framing | Failure:
    """Check the fields that frame a message, and refuse what an origin might read in another way."""
    length: int | None = None
    expects = chunked = underscored = False
    options = _NO_OPTIONS
    hosts = 0
    for name, value in headers:
        size = len(name)
        if _UNDERSCORE in name:
            underscored = True
        if size == 4:
            if name.lower() == b"host":
                hosts += 1
                if not is_host(value):
                    return Failure.BAD_REQUEST
        elif size == 6:
            if name.lower() == b"expect":
                if value.lower() != b"100-continue":
                    return Failure.EXPECTATION_FAILED
                expects = True
        elif size == 10:
            if name.lower() == b"connection" and value.lower() not in _CONNECTION_DEFAULTS:
                options = connection_options(headers)
        elif size == 14:
            if name.lower() == b"content-length":
                length = int(value)
        elif size == 17 and name.lower() == b"transfer-encoding":
            if not http_11 or chunked or value.lower() != b"chunked":
                return Failure.BAD_REQUEST
            chunked = True
    if (hosts != 1 if http_11 else hosts > 1) or (chunked and length is not None):
        return Failure.BAD_REQUEST
    seen = end_to_end(headers, options) if options or underscored else headers
    return Framing(headers, seen, http_11, length, chunked, expects and http_11)
