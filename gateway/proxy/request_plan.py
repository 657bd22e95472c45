"""What identification looks for on one route under one table of methods, prepared once and remembered.

Every map from what clients send is bounded and emptied when full, so that no client can make a worker grow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.proxy.parameters import Spelling, decode_text, folded_name, percent_decode
from gateway.proxy.request_path import PathReading, is_method_name, is_treacherous, read_path
from gateway.proxy.xml_values import Watch
from gateway.settings import Place, Route, Source, UnknownMethods
from policies.methods import UNKNOWN_METHOD, MethodRule, MethodTable, Reading

REMEMBERED_NAMES = 1024
REMEMBERED_NAME_BYTES = 64
REMEMBERED_PATHS = 1024
REMEMBERED_PATH_BYTES = 256
REMEMBERED_VALUES = 512  # per rule
REMEMBERED_VALUE_BYTES = 2048
PLANS_MAX = 64

ITEM_ID = "itemId"
METHOD_OVERRIDES = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
# Old mobile gateways stated a form's character set in this header, and ASP.NET still believes it.
CHARSET_OVERRIDE = b"x-up-devcap-post-charset"


@dataclass(frozen=True, slots=True)
class ParameterRole:
    """What a parameter is for; `data` is its name in the rules' own spelling when a rule looks at it."""

    name: str
    key_in_query: Place | None
    key_in_form: Place | None
    method_in_query: Place | None
    method_in_form: Place | None
    data: str | None
    spelling: Spelling


@dataclass(frozen=True, slots=True)
class HeaderRole:
    """What a header of some name is for."""

    name: bytes  # in lower case, with hyphens
    key: Place | None = None
    method: Place | None = None
    authorization: bool = False


class RuleView:
    """A rule as identification needs it, with what was read of earlier values under it."""

    __slots__ = (
        "_remembered",
        "counted",
        "data",
        "known",
        "needs_parameters",
        "only_in_xml",
        "rule",
        "watch",
        "xml",
    )

    def __init__(self, counted: str, rule: MethodRule, known: bool, item_ids: bool) -> None:
        self.counted = counted
        self.rule = rule
        self.known = known
        self.needs_parameters = rule.needs_parameters
        self.xml = frozenset(rule.read)
        self.watch = Watch(rule.watched)
        self.data = self.xml | rule.watched | ({ITEM_ID} if item_ids else frozenset())
        # Where the parameter's XML decides what is official, a plain parameter of the name must not.
        self.only_in_xml = (
            frozenset({"Provider", "SearchMethod"})
            if rule.official is not None and rule.read
            else frozenset()
        )
        self._remembered: dict[bytes, Reading] = {}

    def read(self, raw: bytes) -> Reading:
        """Read the XML in the raw value of a parameter, and remember it."""
        found = self._remembered.get(raw)
        if found is None:
            found = self._decode_and_read(raw)
            if len(raw) <= REMEMBERED_VALUE_BYTES:
                if len(self._remembered) >= REMEMBERED_VALUES:
                    self._remembered.clear()
                self._remembered[raw] = found
        return found

    def _decode_and_read(self, raw: bytes) -> Reading:
        decoded = percent_decode(raw)
        if decoded is None:
            return self.watch.uncertain(decode_text(raw))
        try:
            return self.watch.read_encoded(decoded)
        except UnicodeDecodeError:
            return self.watch.uncertain(decoded.decode("latin-1"))


class RequestPlan:
    """The places of a route's key and method, and what was learnt of names, paths and methods."""

    def __init__(self, route: Route, methods: MethodTable) -> None:
        self.route = route
        self.methods = methods
        self.bearer = _first(route.key_in, Source.BEARER)
        self.aws_credential = _first(route.key_in, Source.AWS_CREDENTIAL)
        self.path_is_method = Place(Source.PATH) in route.method_from
        self.path_is_full_method = Place(Source.PATH, "full") in route.method_from
        self.soap = _first(route.method_from, Source.SOAP)
        self.json_rpc = _first(route.method_from, Source.JSON_RPC)
        self.parameters: dict[bytes, ParameterRole | None] = {}
        self.headers: dict[bytes, HeaderRole | None] = {}
        self._paths: dict[bytes, PathReading | None] = {}
        self._views: dict[str, RuleView] = {}
        self._views_by_method: dict[str, RuleView | None] = {}
        self._data = {ITEM_ID} if route.item_id_prefixes else set[str]()
        for rule in methods.rules:
            if rule.needs_parameters:
                self._data |= rule.watched | set(rule.read)
        self._roles = self._parameter_roles()
        self._header_roles = self._known_headers()

    def parameter_role(self, raw: bytes) -> ParameterRole | None:
        """Return what a parameter is for, by its raw name, and remember it."""
        try:
            return self.parameters[raw]
        except KeyError:
            pass
        text, core = folded_name(raw)
        roles = self._roles.get(text) or self._roles.get(core)
        found = None
        if roles is not None:
            exact, variant, loose = roles
            found = loose if text != exact.name.lower() else exact if raw == exact.name.encode() else variant
        if len(raw) <= REMEMBERED_NAME_BYTES:
            if len(self.parameters) >= REMEMBERED_NAMES:
                self.parameters.clear()
            self.parameters[raw] = found
        return found

    def header_role(self, raw: bytes) -> HeaderRole | None:
        """Return what a header is for, by its raw name, and remember it.

        Underscores count as hyphens, because CGI's descendants make the same variable of both.
        """
        try:
            return self.headers[raw]
        except KeyError:
            pass
        found = self._header_roles.get(raw.lower().replace(b"_", b"-"))
        if len(raw) <= REMEMBERED_NAME_BYTES:
            if len(self.headers) >= REMEMBERED_NAMES:
                self.headers.clear()
            self.headers[raw] = found
        return found

    def path(self, raw: bytes) -> PathReading | None:
        """Read a path, or answer None when servers may disagree on it."""
        try:
            return self._paths[raw]
        except KeyError:
            pass
        reading: PathReading | None = None
        if not is_treacherous(raw):
            reading = self._read_path(raw) if self.path_is_method else PathReading("")
        if len(raw) <= REMEMBERED_PATH_BYTES:
            if len(self._paths) >= REMEMBERED_PATHS:
                self._paths.clear()
            self._paths[raw] = reading
        return reading

    def _read_path(self, raw: bytes) -> PathReading | None:
        """A path with two methods in it may be called by either."""
        reading = read_path(raw)
        if reading is not None and any(
            segment.lower() != reading.last.lower()
            and (self.names_exactly(segment) or self.is_disguised(segment))
            for segment in reading.before
        ):
            return None
        return reading

    def view(self, method: str) -> RuleView | None:
        """Return the rule of a method; None when it is unknown and the route refuses unknown ones."""
        try:
            return self._views_by_method[method]
        except KeyError:
            pass
        found = self.methods.lookup(method)
        view: RuleView | None = None
        if found is not None or self.route.unknown_methods is UnknownMethods.ALLOW:
            counted, rule = found or ("*", UNKNOWN_METHOD)
            view = self._views.get(counted)
            if view is None:
                view = RuleView(counted, rule, found is not None, bool(self.route.item_id_prefixes))
                self._views[counted] = view
        if len(method) <= REMEMBERED_PATH_BYTES:
            if len(self._views_by_method) >= REMEMBERED_NAMES:
                self._views_by_method.clear()
            self._views_by_method[method] = view
        return view

    def is_disguised(self, method: str) -> bool:
        """Say whether an unknown method becomes a known one when a server trims what surrounds the name."""
        trimmed = method.strip("".join(c for c in map(chr, range(32, 127)) if not c.isalnum()))
        return trimmed != method and self.names_exactly(trimmed)

    def names_exactly(self, method: str) -> bool:
        """Say whether an explicit name, not a pattern, knows this method."""
        if not is_method_name(method):
            return False
        found = self.methods.lookup(method)
        return found is not None and "*" not in found[0]

    def _parameter_roles(self) -> dict[str, tuple[ParameterRole, ParameterRole, ParameterRole]]:
        """Return by folded name the role of a parameter in each of its spellings."""
        names: dict[str, str] = {}
        for place in (*self.route.key_in, *self.route.method_from):
            if place.source in (Source.QUERY, Source.FORM):
                names.setdefault(place.name.lower(), place.name)
        data = {name.lower(): name for name in sorted(self._data)}
        names.update(data)
        roles = {}
        for folded, name in names.items():
            exact = ParameterRole(
                name,
                _named(self.route.key_in, Source.QUERY, folded),
                _named(self.route.key_in, Source.FORM, folded),
                _named(self.route.method_from, Source.QUERY, folded),
                _named(self.route.method_from, Source.FORM, folded),
                data.get(folded),
                Spelling.EXACT,
            )
            variant, loose = (
                replace(exact, spelling=Spelling.VARIANT),
                replace(exact, spelling=Spelling.LOOSE),
            )
            roles[folded] = (exact, variant, loose)
        return roles

    def _known_headers(self) -> dict[bytes, HeaderRole]:
        names = {b"authorization", b"content-type", b"content-encoding", CHARSET_OVERRIDE}
        if self.soap is not None:
            names.add(b"soapaction")
        if self.path_is_full_method:
            names |= METHOD_OVERRIDES
        for place in (*self.route.key_in, *self.route.method_from):
            if place.source is Source.HEADER:
                names.add(_header_name(place.name))
        roles = {}
        for name in names:
            roles[name] = HeaderRole(
                name,
                key=_header_place(self.route.key_in, name),
                method=_header_place(self.route.method_from, name),
                authorization=name == b"authorization" and (self.bearer or self.aws_credential) is not None,
            )
        return roles


def plan_of(route: Route, methods: MethodTable) -> RequestPlan:
    """Return the plan of a route, made at its first use.

    A plan holds its route and table, so an id in the map cannot come to mean another object.
    """
    key = (id(route), id(methods))
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= PLANS_MAX:
            _plans.clear()
        plan = _plans[key] = RequestPlan(route, methods)
    return plan


_plans: dict[tuple[int, int], RequestPlan] = {}


def _first(places: tuple[Place, ...], source: Source) -> Place | None:
    return next((place for place in places if place.source is source), None)


def _named(places: tuple[Place, ...], source: Source, folded: str) -> Place | None:
    return next((place for place in places if place.source is source and place.name.lower() == folded), None)


def _header_name(name: str) -> bytes:
    return name.lower().replace("_", "-").encode()


def _header_place(places: tuple[Place, ...], name: bytes) -> Place | None:
    return next(
        (place for place in places if place.source is Source.HEADER and _header_name(place.name) == name),
        None,
    )
