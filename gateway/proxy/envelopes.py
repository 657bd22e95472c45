"""Bodies that carry the method's name inside: SOAP envelopes and JSON-RPC requests.

Both are read only where every reader agrees: one method, UTF-8, no document type, no doubled names. Otherwise
an `UnreadableError` is raised, because the method decides whether a call is allowed at all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from xml.parsers import expat

from gateway.proxy.parameters import MAX_PARAMETERS

MAX_DEPTH = 64
SOAP_NAMESPACES = frozenset(
    {"http://schemas.xmlsoap.org/soap/envelope/", "http://www.w3.org/2003/05/soap-envelope"}
)
# With a space between namespace and name neither can be mistaken for the other.
_SEPARATOR = " "
_DECLARED_ENCODING = re.compile(rb"""<\?xml[^>]*\sencoding\s*=\s*["']([^"']*)["']""")


class UnreadableError(ValueError):
    """The envelope cannot be read for certain."""


@dataclass(slots=True)
class Argument:
    """A parameter inside an envelope; `plain` is False when its value has attributes or parts of its own."""

    name: str
    value: str
    plain: bool = True


@dataclass(slots=True)
class Envelope:
    """The method that a body names, and its parameters in order."""

    method: str
    arguments: list[Argument]


def read_json_rpc(body: bytes) -> Envelope:
    """Read a JSON-RPC request; a batch, a doubled member or a method that is no string is unreadable."""
    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=_Members)
    except (ValueError, RecursionError) as error:
        raise UnreadableError("not a JSON-RPC request") from error
    if not isinstance(found, _Members):
        raise UnreadableError("not a single JSON-RPC request")
    method: object = None
    parameters: object = None
    seen = set()
    for name, value in found:
        folded = name.lower()
        if folded in seen and folded in ("method", "params"):
            raise UnreadableError("a member is doubled")
        seen.add(folded)
        if folded == "method":
            method = value if name == "method" else None
        elif folded == "params":
            parameters = value
    if not isinstance(method, str):
        raise UnreadableError("no method")
    arguments = []
    if isinstance(parameters, _Members):
        if len(parameters) > MAX_PARAMETERS:
            raise UnreadableError("too many parameters")
        for name, value in parameters:
            text = value if isinstance(value, str) else json.dumps(value)
            arguments.append(Argument(name, text, plain=not isinstance(value, _Members | list)))
    return Envelope(method, arguments)


class _Members(list[tuple[str, object]]):
    """The members of a JSON object, doubled ones included."""


def read_soap(body: bytes) -> Envelope:
    """Read a SOAP request: the one child of its Body is the method, whose children are the parameters."""
    return _SoapReader().read(body)


class _SoapReader:
    """Follows an envelope by depth: 1 Envelope, 2 Body, 3 the method, 4 its parameters."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._method: str | None = None
        self._bodies = 0
        self._arguments: list[Argument] = []
        self._text: list[str] = []
        parser = expat.ParserCreate("utf-8", _SEPARATOR)
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._refuse
        parser.ProcessingInstructionHandler = self._refuse
        parser.buffer_text = True
        self._parser = parser

    def read(self, body: bytes) -> Envelope:
        declared = _DECLARED_ENCODING.match(body)
        if declared is not None and declared.group(1).lower() != b"utf-8":
            raise UnreadableError("the envelope declares another encoding")
        try:
            body.decode("utf-8")
            self._parser.Parse(body, True)
        except (expat.ExpatError, UnicodeDecodeError) as error:
            raise UnreadableError("not a SOAP envelope") from error
        if self._method is None or self._bodies != 1:
            raise UnreadableError("no method in the envelope")
        return Envelope(self._method, self._arguments)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        depth = len(self._path)
        namespace, _, local = name.rpartition(_SEPARATOR)
        if depth == 0 and (local != "Envelope" or namespace not in SOAP_NAMESPACES):
            raise UnreadableError("not a SOAP envelope")
        if depth == 1 and local.lower() == "body":
            if self._path[0] != f"{namespace}{_SEPARATOR}Envelope" or local != "Body":
                raise UnreadableError("the Body is of another namespace")
            self._bodies += 1
        elif depth == 2 and self._in_body():
            if self._method is not None:
                raise UnreadableError("more than one method")
            self._method = local
        elif depth == 3 and self._in_body():
            self._text = []
            self._arguments.append(Argument(local, "", plain=not attributes))
            if len(self._arguments) > MAX_PARAMETERS:
                raise UnreadableError("too many parameters")
        elif depth > 3 and self._in_body():
            self._arguments[-1].plain = False
        if depth >= MAX_DEPTH:
            raise UnreadableError("nested too deep")
        self._path.append(name)

    def _end(self, name: str) -> None:
        self._path.pop()
        if len(self._path) == 3 and self._in_body():
            self._arguments[-1].value = "".join(self._text)

    def _characters(self, text: str) -> None:
        if len(self._path) == 4 and self._in_body():
            self._text.append(text)

    def _in_body(self) -> bool:
        return len(self._path) >= 2 and self._path[1].endswith(f"{_SEPARATOR}Body")

    def _refuse(self, *_: object) -> None:
        raise UnreadableError("a document type or processing instruction")
