"""The OpenAPI document, made from the declarations that requests are checked against."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.control.auth import RIGHTS, Role
from gateway.control.operations import DRY_RUN, IDEMPOTENCY_KEY, Operation
from gateway.control.problems import CONTENT_TYPE

DOCUMENT: web.AppKey[Callable[[], dict[str, Any]]] = web.AppKey("document")

_REF = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"{(\w+)}")
_ID = "_[0-9a-f]{16}$"  # how the pattern of every identifier ends

# Every status that a problem comes with. An answer with any other one is a fault.
_PROBLEMS = {
    401: "No valid token or key came along",
    403: "The token's role does not have the right; `detail` names the roles that do",
    404: "There is no such object",
    408: "The body did not arrive in time",
    409: "It does not fit what is there already, or the contract does not allow it",
    413: "The body is too large",
    415: "The body is no JSON in UTF-8",
    422: "The request is not valid; `errors` names every wrong field",
    429: "Too many wrong tokens or keys came from this address",
    500: "A fault of the gateway; its log has more under the request id",
    503: "A store cannot be reached; nothing was changed",
}
_TEXT = {"schema": {"type": "string"}}
_HEADERS = {
    401: {"WWW-Authenticate": "How to send a token."},
    429: {"Retry-After": "Seconds to wait."},
    503: {"Retry-After": "Seconds to wait."},
}


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the document of these operations."""
    bodies: list[tuple[type[BaseModel], Any]] = [
        (operation.body, "validation") for operation in operations if operation.body is not None
    ]
    answers: list[tuple[type[BaseModel], Any]] = [
        (operation.answer, "serialization") for operation in operations if operation.answer is not None
    ]
    by_model, definitions = models_json_schema(list(dict.fromkeys(bodies + answers)), ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.verb.lower()] = _described(operation, by_model)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tallygate control API",
            "version": "1",
            "description": "Accounts, keys, usage, prices, bills, notices. Lists are paged with `cursor`.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Problem": _PROBLEM},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A control token, tgc_..."},
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Api-Key",
                    "description": "A site's own key.",
                },
            },
        },
    }


def _described(operation: Operation, by_model: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.path.removeprefix("/v1/").strip("/").split("/")[0]],
        "parameters": _parameters(operation),
        "responses": _responses(operation, by_model),
    }
    if operation.rights:
        roles = [role for role in Role if not RIGHTS[role].isdisjoint(operation.rights)]
        described["description"] = f"Roles: {', '.join(roles)}."
    else:
        described["security"] = [] if _is_open(operation) else [{"key": []}]
    if operation.body is not None:
        described["requestBody"] = {
            "required": any(field.is_required() for field in operation.body.model_fields.values()),
            "content": {"application/json": {"schema": by_model[operation.body, "validation"]}},
        }
    return described


def _responses(operation: Operation, by_model: dict[Any, Any]) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done", "content": _content(operation, by_model)}
    if operation.etag:
        done["headers"] = _headers({"ETag": "Send it as `If-None-Match` to hear of changes only."})
    responses: dict[int, Any] = {operation.status: done}
    if operation.etag:
        responses[304] = {"description": "Nothing changed since the answer with this ETag"}
    for status in _problem_statuses(operation):
        told = {
            "description": _PROBLEMS[status],
            "content": {CONTENT_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
        }
        if status in _HEADERS:
            told["headers"] = _headers(_HEADERS[status])
        responses[status] = told
    # What is no HTTP, or has a line of more than 8,190 bytes, is refused before any operation sees it.
    responses[400] = {"description": "The request cannot be read", "content": {"text/plain": _TEXT}}
    for status in operation.further:
        responses[status] = {"description": "Not so", "content": _content(operation, by_model)}
    return {str(status): responses[status] for status in sorted(responses)}


def _problem_statuses(operation: Operation) -> set[int]:
    statuses = {422, 500, 503}
    if operation.rights:
        statuses |= {401, 403, 429}
    elif not _is_open(operation):
        statuses |= {401, 429}
    if operation.body is not None:
        statuses |= {408, 413, 415}
    if operation.verb != "GET" or operation.conflicts:
        statuses.add(409)
    if _PARAMETER.search(operation.path) or any(
        _takes_ids(kind) for kind in (operation.body, operation.query)
    ):
        statuses.add(404)
    return statuses


def _is_open(operation: Operation) -> bool:
    """Say whether an operation asks for no token and no key."""
    return not operation.rights and not operation.path.startswith("/v1/me")


def _takes_ids(kind: type[BaseModel] | None) -> bool:
    return kind is not None and _ID in json.dumps(kind.model_json_schema())


def _headers(told: dict[str, str]) -> dict[str, Any]:
    return {
        name: {"description": text, "required": True, "schema": {"type": "string"}}
        for name, text in told.items()
    }


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _path_schema(name)}
        for name in _PARAMETER.findall(operation.path)
    ]
    schema = operation.query.model_json_schema(ref_template=_REF)
    for name, described in schema.get("properties", {}).items():
        parameters.append(
            {
                "name": name,
                "in": "query",
                "required": name in schema.get("required", []),
                "description": described.pop("description", ""),
                "schema": _inlined(described, schema.get("$defs", {})),
            }
        )
    if operation.verb == "POST" and operation.changes:
        parameters.append(
            {
                "name": IDEMPOTENCY_KEY,
                "in": "header",
                "required": operation.once,
                "description": "Visible characters. A request that is repeated with it has no second effect.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        )
    if operation.changes:
        parameters.append(
            {
                "name": DRY_RUN,
                "in": "header",
                "required": False,
                "description": "With `true` nothing is changed, and the answer tells what would be; "
                "what is told once is null.",
                "schema": {"type": "string", "enum": ["true", "false"]},
            }
        )
    if operation.etag:
        parameters.append(
            {
                "name": "If-None-Match",
                "in": "header",
                "required": False,
                "description": "The ETag of an earlier answer; 304 says that nothing changed.",
                "schema": {"type": "string"},
            }
        )
    return parameters


def _path_schema(name: str) -> dict[str, str]:
    return {"type": "string", "pattern": f"^[a-z]{{3}}{_ID}"} if name.endswith("_id") else {"type": "string"}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """Put definitions in place of references: those of a query belong to no component."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
        return {name: _inlined(inner, definitions) for name, inner in schema.items()}
    if isinstance(schema, list):
        return [_inlined(inner, definitions) for inner in schema]
    return schema


def _content(operation: Operation, by_model: dict[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {
        media: {"schema": {"type": "string", "description": text}} for media, text in operation.media.items()
    }
    if operation.answer is not None:
        content["application/json"] = {"schema": by_model[operation.answer, "serialization"]}
    return content


_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
