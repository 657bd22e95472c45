"""The OpenAPI document, made from the declarations that requests are checked against."""

from __future__ import annotations

import functools
import re
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.control.app import OPERATIONS
from gateway.control.auth import RIGHTS, Role
from gateway.control.operations import IDEMPOTENCY_KEY, Operation
from gateway.control.problems import CONTENT_TYPE

_REF = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"{(\w+)}")


@functools.cache
def document() -> dict[str, Any]:
    """Return the document of all operations."""
    bodies: list[tuple[type[BaseModel], Any]] = [
        (operation.body, "validation") for operation in OPERATIONS if operation.body is not None
    ]
    answers: list[tuple[type[BaseModel], Any]] = [
        (operation.answer, "serialization") for operation in OPERATIONS if operation.answer is not None
    ]
    by_model, definitions = models_json_schema(list(dict.fromkeys(bodies + answers)), ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
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
        "responses": {
            str(operation.status): {"description": "Done", "content": _content(operation, by_model)},
            "default": {
                "description": "A problem (RFC 9457); `errors` names every wrong field",
                "content": {CONTENT_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
            },
        },
    }
    if operation.rights:
        roles = [role for role in Role if not RIGHTS[role].isdisjoint(operation.rights)]
        described["description"] = f"Roles: {', '.join(roles)}."
    else:
        described["security"] = [{"key": []}] if operation.path.startswith("/v1/me") else []
    if operation.body is not None:
        described["requestBody"] = {
            "required": any(field.is_required() for field in operation.body.model_fields.values()),
            "content": {"application/json": {"schema": by_model[operation.body, "validation"]}},
        }
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
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
