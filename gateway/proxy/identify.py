"""Who calls what: the key, the method and the watched parameters of a request, from its raw bytes.

Nothing is changed and nothing is guessed. A method that cannot be read for certain is refused, because it
decides what a call costs and whether it is allowed; a parameter that cannot be read for certain makes the
reading uncertain, and the contract then sees neither an official search nor a missing surcharge in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.proxy.content import BodyKind, Content, content_of
from gateway.proxy.envelopes import Envelope, UnreadableError, read_json_rpc, read_soap
from gateway.proxy.parameters import MAX_PARAMETERS, Spelling, decode_text, percent_decode
from gateway.proxy.request_path import PathReading, full_method, is_method_name
from gateway.proxy.request_plan import (
    CHARSET_OVERRIDE,
    ITEM_ID,
    METHOD_OVERRIDES,
    HeaderRole,
    ParameterRole,
    RequestPlan,
    RuleView,
    plan_of,
)
from gateway.settings import KeyOut, Place, Route, Source
from policies.decision import Denied, Reason
from policies.methods import MethodRule, MethodTable, Reading

_AWS_CREDENTIAL = re.compile(rb"AWS4-[A-Z0-9-]+\s(?:.*[\s,])?Credential=([^/,\s]+)", re.IGNORECASE)
# For these the parameters stand in the query; for all others in the body.
_QUERY_METHODS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_CERTAIN: Final = Reading()
_UNSEEN: Final = object()


# Of a watched parameter: its role, the raw value or an envelope's text, whether it stands in the body, and
# whether only some readers see it.
_Found = tuple[ParameterRole, bytes | str, bool, bool]


@dataclass(slots=True)
class Parts:
    """What identification sees of a request.

    `target` and `headers` are raw as received. `body` is the whole body when it was buffered. `body_complete`
    is False when there is a body that was not buffered, because it need not be or is over the bound.
    """

    http_method: str
    target: bytes = field(repr=False)
    headers: Sequence[tuple[bytes, bytes]] = field(repr=False)
    body: bytes | None = field(repr=False)
    body_complete: bool


@dataclass(slots=True)
class Identified:
    """A request of which key and method are known.

    `counted` is the name under which the call is counted, `method` the name as the client wrote it. `query`,
    `form` and `envelope` hold the parameters, raw, for signatures; `plan` knows which of them are the key.
    """

    credential: str = field(repr=False)
    credential_places: tuple[Place, ...]
    counted: str
    rule: MethodRule
    reading: Reading
    method: str
    query: bytes = field(repr=False)
    form: bytes | None = field(repr=False)
    envelope: Envelope | None = field(repr=False)
    plan: RequestPlan = field(repr=False)


def needs_body(route: Route, http_method: str, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Say whether a request's body, if it has one, has to be buffered before `identify` can be called."""
    content = _content(headers)
    if content.kind is BodyKind.FORM:
        return True
    sources = {place.source for place in route.method_from}
    if content.kind is BodyKind.XML:
        return Source.SOAP in sources
    return content.kind is BodyKind.JSON and Source.JSON_RPC in sources


def identify(route: Route, methods: MethodTable, parts: Parts) -> Identified | Denied:
    """Find key, method and watched parameters of a request.

    Denied is MISSING_KEY, AMBIGUOUS_KEY (different keys in several places), UNKNOWN_METHOD, or UNREADABLE
    when the path or the method could mean different things to different servers.
    """
    plan = plan_of(route, methods)
    path, _, query = parts.target.partition(b"?")
    path_reading = plan.path(path)
    if path_reading is None or b"#" in query:
        return Denied(Reason.UNREADABLE)
    scan = _Scan(plan)
    scan.read_headers(parts.headers)
    if query:
        scan.read_parameters(query, in_form=False)
    form: bytes | None = None
    if parts.body:
        form = scan.read_body(parts.http_method, parts.body)
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
    return Identified(
        scan.credential,
        scan.places,
        view.counted,
        view.rule,
        _reading(view, scan, parts) if view.needs_parameters else _CERTAIN,
        method,
        query,
        form,
        scan.envelope,
        plan,
    )


class _Scan:
    """What one pass over a request's headers and parameters has found.

    Nearly all requests leave nearly all of it as it is, so what is not found costs nothing to set up.
    """

    credential: str | None = None
    places: tuple[Place, ...] = ()
    ambiguous = False
    unreadable = False  # the method, or what it depends on
    doubtful = False  # the parameters
    methods: tuple[str, ...] = ()
    data: tuple[_Found, ...] = ()
    content_types: tuple[bytes, ...] = ()
    is_coded = False
    action = b""
    envelope: Envelope | None = None
    unread_body: bytes | object | None = None

    def __init__(self, plan: RequestPlan) -> None:
        self.plan = plan

    def read_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Look through the header fields."""
        roles = self.plan.headers
        for name, value in headers:
            try:
                role = roles[name]
            except KeyError:
                role = self.plan.header_role(name)
            if role is not None:
                self._take_header(role, value.strip())
        if self.content_types and not content_of(self.content_types, is_coded=False).is_utf_8:
            self.doubtful = True

    def read_parameters(self, raw: bytes, *, in_form: bool) -> None:
        """Look through the parameters of a query or a form."""
        if raw.count(b"&") >= MAX_PARAMETERS or raw.count(b";") >= MAX_PARAMETERS:
            self.unreadable = True
            return
        roles = self.plan.parameters
        for segment in raw.split(b"&"):
            name, _, value = segment.partition(b"=")
            try:
                role = roles[name]
            except KeyError:
                role = self.plan.parameter_role(name)
            if role is not None:
                self._take_parameter(role, value, in_form, hidden=False)
        if b";" in raw:
            # Some readers split parameters at semicolons too.
            for segment in raw.split(b"&"):
                for part in segment.split(b";")[1:]:
                    name, _, value = part.partition(b"=")
                    role = self.plan.parameter_role(name)
                    if role is not None:
                        self._take_parameter(role, value, in_form, hidden=True)

    def read_body(self, http_method: str, body: bytes) -> bytes | None:
        """Look through a buffered body; returns it when it is a form."""
        content = content_of(self.content_types, self.is_coded)
        if http_method in _QUERY_METHODS:
            self.doubtful = True
        if content.kind is BodyKind.FORM:
            self.read_parameters(body, in_form=True)
            return body
        plan = self.plan
        try:
            if content.kind is BodyKind.XML and plan.soap is not None:
                self._take_envelope(read_soap(body), content)
            elif plan.json_rpc is not None and (
                content.kind is BodyKind.JSON or body.lstrip()[:1] in (b"{", b"[")
            ):
                self._take_envelope(read_json_rpc(body), content)
            else:
                self.doubtful = True
                self.unread_body = body
        except UnreadableError:
            self.unreadable = True
        return None

    def miss_body(self) -> None:
        """Take note of a body that was not buffered."""
        self.doubtful = True
        self.unread_body = _UNSEEN
        plan = self.plan
        kind = content_of(self.content_types, self.is_coded).kind
        if kind is BodyKind.FORM:
            # A form may hold the key, or a second one, and a key that was not found cannot be taken out.
            in_form = any(place.source is Source.FORM for place in plan.route.key_in)
            self.unreadable |= in_form and plan.route.key_out is not KeyOut.PASS
            self.unreadable |= any(place.source is Source.FORM for place in plan.route.method_from)
        elif kind is BodyKind.XML:
            self.unreadable |= plan.soap is not None
        elif kind is BodyKind.JSON:
            self.unreadable |= plan.json_rpc is not None

    def _take_header(self, role: HeaderRole, value: bytes) -> None:
        if role.key is not None:
            self._take_key(value.decode("utf-8", "replace"), role.key)
        if role.method is not None and value:
            # Amazon's target is `com.amazon.paapi5.v1.ProductAdvertisingAPIv1.SearchItems`.
            name = value.rpartition(b".")[2] if role.name == b"x-amz-target" else value
            self.methods += (name.decode("utf-8", "replace"),)
        if role.authorization:
            self._take_authorization(value)
        if role.name == b"content-type":
            self.content_types += (value,)
        elif role.name == b"content-encoding":
            # Amazon's clients send `amz-1.0`, which is no compression.
            self.is_coded |= value.lower() not in (b"", b"identity", b"amz-1.0")
        elif role.name == b"soapaction":
            self.unreadable |= bool(self.action) and self.action != value
            self.action = value
        elif role.name == CHARSET_OVERRIDE:
            self.doubtful = True
        elif role.name in METHOD_OVERRIDES:
            self.unreadable = True

    def _take_authorization(self, value: bytes) -> None:
        plan = self.plan
        scheme, _, rest = value.partition(b" ")
        if plan.bearer is not None and scheme.lower() == b"bearer":
            self._take_key(rest.strip().decode("utf-8", "replace"), plan.bearer)
        elif plan.aws_credential is not None:
            credential = _AWS_CREDENTIAL.match(value)
            if credential is not None:
                self._take_key(credential.group(1).decode("utf-8", "replace"), plan.aws_credential)

    def _take_key(self, text: str, place: Place) -> None:
        if not text:
            return
        if self.credential is None:
            self.credential = text
        elif text != self.credential:
            self.ambiguous = True
        self.places += (place,)

    def _take_parameter(self, role: ParameterRole, value: bytes, in_form: bool, *, hidden: bool) -> None:
        unsure = hidden or role.spelling is Spelling.LOOSE
        key = role.key_in_form if in_form else role.key_in_query
        if key is not None:
            if unsure:
                self.ambiguous = True
            else:
                self._take_key(decode_text(value), key)
        method = role.method_in_form if in_form else role.method_in_query
        if method is not None:
            if unsure:
                self.unreadable = True
            else:
                self.methods += (decode_text(value),)
        if role.data is not None:
            self.data += ((role, value, in_form, unsure),)

    def _take_envelope(self, envelope: Envelope, content: Content) -> None:
        self.envelope = envelope
        self.methods += (envelope.method,)
        self.doubtful |= not content.is_utf_8
        for action in (self.action, content.action):
            # The action is a URI whose last part is the method: `"http://example.org/SearchItemsFrame"`.
            name = re.split(rb"[/#:]", action.strip(b"\"' "))[-1]
            if name and content.kind is BodyKind.XML:
                self.methods += (name.decode("utf-8", "replace"),)
        for argument in envelope.arguments:
            role = self.plan.parameter_role(argument.name.encode())
            if role is not None and role.data is not None:
                self.data += ((role, argument.value, True, not argument.plain),)


def _method(scan: _Scan, path_reading: PathReading, parts: Parts, path: bytes) -> str | Denied:
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


def _reading(view: RuleView, scan: _Scan, parts: Parts) -> Reading:
    """Read the watched parameters under a method's rule."""
    from_form = parts.http_method not in _QUERY_METHODS
    found = [each for each in scan.data if each[0].data in view.data]
    if len(found) == 1 and not scan.doubtful:
        role, raw, in_form, unsure = found[0]
        if (
            role.data in view.xml
            and role.spelling is Spelling.EXACT
            and in_form is from_form
            and not unsure
            and isinstance(raw, bytes)
        ):
            return view.read(raw)
    if not found and not scan.doubtful:
        return _CERTAIN
    return _merged(view, scan, found, from_form)


def _merged(view: RuleView, scan: _Scan, found: list[_Found], from_form: bool) -> Reading:
    certain = not scan.doubtful
    values: dict[str, str] = {}
    mentions: set[str] = set()
    seen: set[str] = set()
    item_ids: list[str] = []
    for role, raw, in_form, unsure in found:
        name = role.data
        assert name is not None
        certain &= in_form is from_form and not unsure and name not in seen
        if name in seen and name != ITEM_ID:
            # What the upstream makes of two is unknown, so a second one is not worth reading.
            mentions |= view.watch.names
            continue
        seen.add(name)
        if name in view.xml:
            inner = view.read(raw) if isinstance(raw, bytes) else view.watch.read(raw)
            certain &= (
                inner.certain and role.spelling is Spelling.EXACT and values.keys().isdisjoint(inner.values)
            )
            values.update(inner.values)
            mentions |= inner.mentions
        elif name == ITEM_ID:
            item_ids.append(decode_text(raw) if isinstance(raw, bytes) else raw)
        else:
            decoded = percent_decode(raw) if isinstance(raw, bytes) else raw.encode()
            certain &= decoded is not None and name not in values and name not in view.only_in_xml
            values[name] = (decoded or b"").decode("utf-8", "replace")
    provider = _provider_of(view.rule, scan.plan.route, item_ids)
    if provider is not None:
        # The item is what the upstream fetches, whatever else the call says of its provider.
        certain &= view.rule.official is None or values.get("Provider", provider) == provider
        values["Provider"] = provider
    if certain:
        return Reading(True, values)
    mentions.update(values)
    if scan.unread_body is _UNSEEN:
        mentions |= view.watch.names
    elif isinstance(scan.unread_body, bytes):
        mentions |= view.watch.mentioned(scan.unread_body.decode("latin-1"))
    return Reading(False, values, frozenset(mentions & view.watch.names))


def _provider_of(rule: MethodRule, route: Route, item_ids: list[str]) -> str | None:
    """Return the provider that the prefixes of item ids tell; of several the dearest."""
    providers = [
        provider
        for item_id in item_ids
        for prefix, provider in route.item_id_prefixes
        if item_id.lower().startswith(prefix.lower())
    ]
    return max(
        providers,
        key=lambda provider: max(
            (each.by_provider.get(provider, each.cost) for each in rule.surcharges), default=0
        ),
        default=None,
    )


def _content(headers: Sequence[tuple[bytes, bytes]]) -> Content:
    types = [value.strip() for name, value in headers if name.lower() == b"content-type"]
    is_coded = any(name.lower() == b"content-encoding" for name, _ in headers)
    return content_of(types, is_coded)
