"""What becomes of the client's key on its way to the upstream: passed, stripped, or replaced by the route's
own.

All other bytes keep their value and their order. With PASS nothing is even copied.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from gateway.proxy.identify import Identified, Parts
from gateway.proxy.parameters import decode_text, percent_decode, split
from gateway.proxy.request_plan import RequestPlan
from gateway.proxy.scan import Parted
from gateway.proxy.signature import SIGNATURE, TIMESTAMP, decoded, decoded_arguments, sign, timestamp_of
from gateway.settings import KeyOut, Route

_PASS, _REPLACE = KeyOut.PASS, KeyOut.REPLACE
# Escapes of letters, digits and the underscore.
# What most escapes are, those of punctuation marks, is ruled out first.
NEEDLESS_ESCAPE = re.compile(rb"%(?!3[A-F])[3-7](?!(?<=3)[a-f]|(?<=[46])0|(?<=5)[B-Eb-e]|(?<=7)[B-Fb-f])")
_AWS_CREDENTIAL = re.compile(rb"(Credential=)[^/,\s]+", re.IGNORECASE)


def rewrite(
    route: Route, parts: Parts, identified: Identified, now: float
) -> tuple[bytes, Sequence[tuple[bytes, bytes]], bytes | None]:
    """Return the target, headers and body to send: the very same objects where nothing changes.

    STRIP takes the key out wherever the route looks for it, and drops whatever else repeats it. REPLACE swaps
    it in place, and signs the call anew when the route's credential has a secret. A new body may have another
    length: the Content-Length field is the caller's to set.
    """
    headers = parts.headers
    if route.key_out is _PASS:
        return parts.target, headers, parts.body
    replacement = None
    secret = None
    if route.key_out is _REPLACE and route.credential is not None:
        replacement = route.credential.key.encode()
        secret = route.credential.secret
    credential = identified.credential.encode()
    key = _Key(identified.plan, credential, replacement)
    query = b"" if identified.query is None else key.out_of_parameters(identified.query)
    form = None if identified.form is None else key.out_of_parameters(identified.form)
    body = parts.body
    if body is not None and identified.envelope is not None:
        body = key.out_of_text(body)
    if secret is not None:
        query, form = _sign_anew(identified, query, form, secret, now)
    target = parts.target
    mark = target.find(b"?") + 1
    if mark:
        target = target[:mark] + query if query else target[: mark - 1]
    elif query:
        target = target + b"?" + query
    framing = parts.framing
    if (
        framing is None
        or framing.without_role is not identified.plan
        or framing.values().find(credential) >= 0
    ):
        headers = key.out_of_headers(headers)
    return target, headers, body if form is None else form


class _Key:
    """The client's key and what takes its place; a replacement of None takes it out."""

    def __init__(self, plan: RequestPlan, credential: bytes, replacement: bytes | None) -> None:
        self._plan = plan
        self._credential = credential
        self._plain_part = _plain_part(credential)
        self._replacement = replacement
        self._quoted = None if replacement is None else quote(replacement, safe="").encode()

    def out_of_parameters(self, parted: Parted) -> bytes:
        """Take the key out of a query or a form."""
        segments, rest, keys = parted.segments, parted.raw, parted.keys
        if keys:
            if self._quoted is None:
                segments = segments.copy()
                for segment in keys:
                    segments.remove(segment)
            else:
                segments = [self._swapped(each) if each in keys else each for each in segments]
            rest = b"&".join(segments)
        # A text of letters and digits can hide only behind escapes that nobody needs to write.
        part = self._plain_part
        if part and rest.find(part) < 0 and not _hides_text(segments, parted.plain_value):
            return rest
        # Where the client wrote its key and no key belongs, the upstream must not learn it.
        own = b"" if self._quoted is None else b"=" + self._quoted
        return b"&".join(
            segment for segment in segments if (own and segment.endswith(own)) or not self._repeats(segment)
        )

    def out_of_text(self, body: bytes) -> bytes:
        """Take the key out of an envelope, where its characters stand as in plain text."""
        return body.replace(self._credential, self._replacement or b"")

    def out_of_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> Sequence[tuple[bytes, bytes]]:
        """Take the key out of the header fields."""
        kept = []
        changed = False
        credential = self._credential
        roles = self._plan.headers
        for field in headers:
            name, value = field
            try:
                role = roles[name]
            except KeyError:
                role = self._plan.header_role(name)
            if role is not None and role.key is not None:
                changed = True
                if self._replacement is not None:
                    kept.append((name, self._replacement if value.strip() else value))
            elif value.find(credential) < 0:
                kept.append(field)
            else:
                changed = True
                if role is not None and role.authorization and self._replacement is not None:
                    kept.append((name, value.replace(credential, self._replacement)))
        return kept if changed else headers

    def _swapped(self, segment: bytes) -> bytes:
        """Put the replacement for the key; an empty one was not the key, and an upstream would read it as
        none."""
        name, _, value = segment.partition(b"=")
        return name + b"=" + (self._quoted or b"") if value else segment

    def _repeats(self, segment: bytes) -> bool:
        return self._credential in segment or (
            b"%" in segment and self._credential in (percent_decode(segment) or b"")
        )


def _plain_part(credential: bytes) -> bytes:
    """Return a part of a key without which it stands nowhere, however its hyphens are written; or nothing.

    Keys of other gateways are often UUIDs.
    """
    if credential.replace(b"_", b"").isalnum():
        return credential
    part = max(credential.split(b"-"), key=len)
    return part if part.replace(b"_", b"").isalnum() else b""


def _hides_text(segments: list[bytes], plain_value: bytes) -> bool:
    """Say whether escapes hide letters or digits; in a value that is known to be plain none do."""
    size = len(plain_value)
    if size:
        segments = [
            each[:-size] if len(each) >= size and each.endswith(plain_value) else each for each in segments
        ]
    return NEEDLESS_ESCAPE.search(b"&".join(segments)) is not None


def _sign_anew(
    identified: Identified, query: bytes, form: bytes | None, secret: str, now: float
) -> tuple[bytes, bytes | None]:
    """Put the gateway's timestamp and signature where the client's stood, or where the parameters stand."""
    in_form = form is not None
    parts = [_without_signature(query), _without_signature(form or b"")]
    chosen = 1 if in_form else 0
    stamp = timestamp_of(now)
    parts[chosen] = b"&".join(filter(None, (parts[chosen], b"timestamp=" + stamp)))
    values = [(decoded(name), decoded(value)) for part in parts for name, value in split(part)]
    values += decoded_arguments(identified)
    signed = b"signature=" + sign(identified.method, values, secret).encode()
    parts[chosen] = b"&".join((parts[chosen], signed))
    return parts[0], parts[1] if in_form else None


def _without_signature(raw: bytes) -> bytes:
    return b"&".join(
        segment
        for segment in raw.split(b"&")
        if decode_text(segment.partition(b"=")[0]).encode() not in (SIGNATURE, TIMESTAMP)
    )
