"""Answers: a value becomes OTAPI's six fields in their order, as compact JSON or as XML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

Value = None | bool | int | float | str | Sequence["Value"] | Mapping[str, "Value"]

JSON_TYPE = b"application/json; charset=utf-8"
XML_TYPE = b"text/xml; charset=utf-8"


class MethodError(Exception):
    """A method that ends with an error code."""

    def __init__(self, code: str, description: str, sub_code: str | None = None) -> None:
        super().__init__(description)
        self.code = code
        self.sub_code = sub_code
        self.description = description


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: status, content type, body and further header fields."""

    status: int
    content_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())


def otapi(
    *,
    is_json: bool,
    result: Value = None,
    code: str = "Ok",
    sub_code: str | None = None,
    description: str | None = None,
    request_id: str,
    time: str,
) -> Answer:
    """Return an answer with all six fields, ErrorCode first and Result last."""
    fields: dict[str, Value] = {
        "ErrorCode": code,
        "SubErrorCode": sub_code,
        "ErrorDescription": description,
        "RequestId": request_id,
        "RequestTime": time,
        "Result": result,
    }
    if is_json:
        return Answer(200, JSON_TYPE, to_json(fields))
    return Answer(200, XML_TYPE, to_xml("OtapiAnswer", fields))


def to_json(value: Value) -> bytes:
    """Write compact JSON with raw UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def to_xml(root: str, value: Value) -> bytes:
    """Write XML with a declaration; the elements of a list are called Item."""
    out = ['<?xml version="1.0" encoding="utf-8"?>']
    _element(out, root, value)
    return "".join(out).encode()


def _element(out: list[str], name: str, value: Value) -> None:
    if value is None or value == "":
        out.append(f"<{name} />")
        return
    out.append(f"<{name}>")
    if isinstance(value, Mapping):
        for member, inner in value.items():
            _element(out, member, inner)
    elif isinstance(value, str):
        out.append(escape(value))
    elif isinstance(value, bool):
        out.append("true" if value else "false")
    elif isinstance(value, int | float):
        out.append(str(value))
    else:
        for inner in value:
            _element(out, "Item", inner)
    out.append(f"</{name}>")
