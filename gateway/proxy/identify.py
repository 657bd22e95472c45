"""Who calls what: the key, the method and the watched parameters of a request, from its raw bytes.

Nothing is changed and nothing is guessed. A method that cannot be read for certain is refused, because it
decides what a call costs and whether it is allowed; a parameter that cannot be read for certain makes the
reading uncertain, and the contract then sees neither an official search nor a missing surcharge in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.proxy.content import BodyKind, Content, content_of
from gateway.proxy.readings import CERTAIN, reading_of
from gateway.proxy.request_path import PathReading, full_method, is_method_name
from gateway.proxy.request_plan import RuleView, plan_of
from gateway.proxy.requests import Framing
from gateway.proxy.scan import Scan
from gateway.settings import Route, Source
from policies.decision import Denied, Reason
from policies.methods import MethodTable, Reading

_HASH = ord("#")  # bytes look for a number faster than for other bytes


class Parts:
    """What identification sees of a request.

    `target` and `headers` are raw as received. `body` is the whole body when it was buffered. `body_complete`
    is False when there is a body that was not buffered, because it need not be or is over the bound.
    `framing` remembers what was found in the headers. With `plain_target` the target is known to consist of
    plain bytes only.
    """

    __slots__ = ("body", "body_complete", "framing", "headers", "http_method", "plain_target", "target")

    def __init__(
        self,
        http_method: str,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | None,
        body_complete: bool,
        framing: Framing | None = None,
        plain_target: bool = False,
    ) -> None:
        self.http_method = http_method
        self.target = target
        self.headers = headers
        self.body = body
        self.body_complete = body_complete
        self.framing = framing
        self.plain_target = plain_target


class Identified:
    """A request of which key and method are known.

    `counted` is the name under which the call is counted, `method` the name as the client wrote it. `query`,
    `form` and `envelope` hold the parameters, raw; `plan` knows which of them are the key.
    """

    __slots__ = (
        "counted",
        "credential",
        "credential_places",
        "envelope",
        "form",
        "method",
        "plan",
        "query",
        "reading",
        "rule",
    )

    def __init__(self, scan: Scan, credential: str, view: RuleView, reading: Reading, method: str) -> None:
        self.credential = credential
        self.credential_places = scan.places
        self.counted = view.counted
        self.rule = view.rule
        self.reading = reading
        self.method = method
        self.query = scan.query
        self.form = scan.form
        self.envelope = scan.envelope
        self.plan = scan.plan


def needs_body(route: Route, http_method: str, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Say whether a request's body, if it has one, has to be buffered before `identify` can be called."""
    content = _content(headers)
    if content.kind is BodyKind.FORM:
        return True
    sources = {place.source for place in route.method_from}
    # A JSON-RPC request is known by how its body begins, whatever type is written above it.
    return Source.JSON_RPC in sources or (content.kind is BodyKind.XML and Source.SOAP in sources)


def hangs_on_body(route: Route, methods: MethodTable, parts: Parts) -> bool:
    """Say whether a body that `needs_body` would let pass may tell what the call of `parts` costs.

    It is no form, but may mention a surcharge. Unseen it counts as if it did, so the cost would hang on
    whether it came in one piece with the head.
    """
    found = identify(route, methods, parts)
    return isinstance(found, Identified) and bool(found.rule.surcharges)


def identify(route: Route, methods: MethodTable, parts: Parts) -> Identified | Denied:
    """Find key, method and watched parameters of a request.

    Denied is MISSING_KEY, AMBIGUOUS_KEY (different keys in several places), UNKNOWN_METHOD, or UNREADABLE
    when the path or the method could mean different things to different servers.
    """
    plan = plan_of(route, methods)
    path, _, query = parts.target.partition(b"?")
    path_reading = plan.path(path)
    if path_reading is None or _HASH in query:
        return Denied(Reason.UNREADABLE)
    scan = Scan(plan)
    framing = parts.framing
    if framing is None:
        scan.read_headers(parts.headers)
    elif framing.without_role is not plan and not scan.read_headers(parts.headers):
        framing.without_role = plan
    if query:
        scan.read_parameters(query, in_form=False)
    if parts.body:
        scan.read_body(parts.http_method, parts.body)
    elif not parts.body_complete:
        scan.miss_body()
    if scan.unreadable:
        return Denied(Reason.UNREADABLE)
    if scan.ambiguous:
        return Denied(Reason.AMBIGUOUS_KEY)
    if scan.credential is None:
        return Denied(Reason.MISSING_KEY)
    method = path_reading.last
    if scan.methods or not plan.path_is_method:
        decided = _method(scan, path_reading, parts, path)
        if isinstance(decided, Denied):
            return decided
        method = decided
    elif not path_reading.is_name:
        return Denied(Reason.UNREADABLE if method else Reason.UNKNOWN_METHOD)
    view = plan.view(method)
    if view is None:
        return Denied(Reason.UNKNOWN_METHOD)
    if not view.known and plan.is_disguised(method):
        return Denied(Reason.UNREADABLE)
    reading = CERTAIN
    if view.needs_parameters:
        reading = reading_of(view, scan, parts.http_method, parts.plain_target)
    return Identified(scan, scan.credential, view, reading, method)


def _method(scan: Scan, path_reading: PathReading, parts: Parts, path: bytes) -> str | Denied:
    """Settle on the one method that all places agree on."""
    plan = scan.plan
    candidates = scan.methods
    last = path_reading.last
    # A file such as OtapiWebService2.asmx is where envelopes are posted to, unless it is itself a method.
    if plan.path_is_method and last and not (candidates and "." in last and not plan.names_exactly(last)):
        candidates += (last,)
    if plan.path_is_full_method:
        full = full_method(parts.http_method, path)
        if full is None:
            return Denied(Reason.UNREADABLE)
        if not candidates:
            return full
        candidates += (full,)
    if not candidates:
        return Denied(Reason.UNKNOWN_METHOD)
    if len({candidate.lower() for candidate in candidates}) > 1 or not is_method_name(candidates[0]):
        return Denied(Reason.UNREADABLE)
    return candidates[0]


def _content(headers: Sequence[tuple[bytes, bytes]]) -> Content:
    types = [value.strip() for name, value in headers if name.lower() == b"content-type"]
    is_coded = any(name.lower() == b"content-encoding" for name, _ in headers)
    return content_of(types, is_coded)
