"""One pass over a request's headers, parameters and body, in which everything that is looked for is found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.proxy.content import BodyKind, Content, content_of
from gateway.proxy.envelopes import Envelope, UnreadableError, read_json_rpc, read_soap
from gateway.proxy.parameters import MAX_PARAMETERS, SEMICOLON, Spelling, decode_text
from gateway.proxy.request_plan import (
    CHARSET_OVERRIDE,
    METHOD_OVERRIDES,
    HeaderRole,
    ParameterRole,
    RequestPlan,
)
from gateway.settings import KeyOut, Place, Source

# For these the parameters stand in the query; for all others in the body.
QUERY_METHODS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_LOOSE = Spelling.LOOSE  # members of an enumeration are found ten times slower than names of a module
# A body that was not buffered.
UNSEEN: Final = object()

_AWS_CREDENTIAL = re.compile(rb"AWS4-[A-Z0-9-]+\s(?:.*[\s,])?Credential=([^/,\s]+)", re.IGNORECASE)

# Of a watched parameter: its role, the raw value or an envelope's text, whether it stands in the body, and
# whether only some readers see it.
Found = tuple[ParameterRole, bytes | str, bool, bool]


class Parted:
    """A query or a form in its segments, and those of them that name the key and have a value's place."""

    __slots__ = ("keys", "plain_value", "raw", "segments")

    def __init__(self, raw: bytes, segments: list[bytes], keys: list[bytes]) -> None:
        self.raw = raw
        self.segments = segments
        self.keys = keys
        self.plain_value = b""  # of a parameter: begins with an escape, and no letter or digit in it is one


class Scan:
    """What one pass over a request's headers and parameters has found.

    Nearly all requests leave nearly all of it as it is, so what is not found costs nothing to set up.
    """

    credential: str | None = None
    places: tuple[Place, ...] = ()
    ambiguous = False
    unreadable = False  # the method, or what it depends on
    doubtful = False  # the parameters
    methods: tuple[str, ...] = ()
    data: tuple[Found, ...] = ()
    content_types: tuple[bytes, ...] = ()
    is_coded = False
    action = b""
    envelope: Envelope | None = None
    query: Parted | None = None
    form: Parted | None = None

    def __init__(self, plan: RequestPlan) -> None:
        self.plan = plan
        # Not with the others: a default of this type is lost when the module is compiled.
        self.unread_body: bytes | object | None = None

    def read_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Look through the header fields; returns whether any of them says anything."""
        roles = self.plan.headers
        said = False
        for name, value in headers:
            try:
                role = roles[name]
            except KeyError:
                role = self.plan.header_role(name)
            if role is not None:
                said = True
                self._take_header(role, value.strip())
        if self.content_types and not content_of(self.content_types, is_coded=False).is_utf_8:
            self.doubtful = True
        return said

    def read_parameters(self, raw: bytes, *, in_form: bool) -> None:
        """Look through the parameters of a query or a form."""
        segments = raw.split(b"&", MAX_PARAMETERS)
        has_semicolons = SEMICOLON in raw
        if len(segments) > MAX_PARAMETERS or (has_semicolons and raw.count(b";") >= MAX_PARAMETERS):
            self.unreadable = True
            return
        roles = self.plan.parameters
        keys = []
        for segment in segments:
            name, equals, value = segment.partition(b"=")
            try:
                role = roles[name]
            except KeyError:
                role = self.plan.parameter_role(name)
            if role is not None:
                self._take_parameter(role, value, in_form, hidden=False)
                if equals and (role.key_in_form if in_form else role.key_in_query) is not None:
                    keys.append(segment)
        parted = Parted(raw, segments, keys)
        if in_form:
            self.form = parted
        else:
            self.query = parted
        if has_semicolons:
            # Some readers split parameters at semicolons too.
            for segment in segments:
                for part in segment.split(b";")[1:]:
                    name, _, value = part.partition(b"=")
                    role = self.plan.parameter_role(name)
                    if role is not None:
                        self._take_parameter(role, value, in_form, hidden=True)

    def read_body(self, http_method: str, body: bytes) -> None:
        """Look through a buffered body."""
        content = content_of(self.content_types, self.is_coded)
        if http_method in QUERY_METHODS:
            self.doubtful = True
        if content.kind is BodyKind.FORM:
            self.read_parameters(body, in_form=True)
            return
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

    def miss_body(self) -> None:
        """Take note of a body that was not buffered."""
        self.doubtful = True
        self.unread_body = UNSEEN
        plan = self.plan
        kind = content_of(self.content_types, self.is_coded).kind
        if kind is BodyKind.FORM:
            # A form may hold the key, or a second one, and a key that was not found cannot be taken out.
            in_form = any(place.source is Source.FORM for place in plan.route.key_in)
            self.unreadable |= in_form and plan.route.key_out is not KeyOut.PASS
            self.unreadable |= any(place.source is Source.FORM for place in plan.route.method_from)
        else:
            self.unreadable |= plan.json_rpc is not None
            self.unreadable |= kind is BodyKind.XML and plan.soap is not None

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
        unsure = hidden or role.spelling is _LOOSE
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
