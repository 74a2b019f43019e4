"""The OpenAPI 3.1 document, generated from the request and answer structs."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.schema import (
    MAX_K,
    EventsAnswer,
    Health,
    PostedEvent,
    Problem,
    RecallAnswer,
    RecallRequest,
    SimilarAnswer,
)

_TYPES = (RecallRequest, RecallAnswer, SimilarAnswer, PostedEvent, EventsAnswer, Health, Problem)
_MEANING = {
    "200": "The answer.",
    "202": "Handed to the stream.",
    "413": "The body is larger than the server reads.",
    "404": "The item or model does not exist in the served version.",
    "422": "The request is wrong: names the field, what was expected and what was found.",
    "503": "Not ready; the reason is in the answer. Try again later.",
}


def document() -> dict[str, Any]:
    """The document as JSON-able objects."""
    schemas, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    of = dict(zip((t.__name__ for t in _TYPES), schemas, strict=True))
    one_or_many = {"oneOf": [of["PostedEvent"], {"type": "array", "items": of["PostedEvent"]}]}
    parameters = [
        _parameter(
            "id", "path", {"type": "string"}, "The item; digits mean the string first, then the number."
        ),
        _parameter(
            "k", "query", {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": 50}, "How many."
        ),
        _parameter("model", "query", {"type": "string"}, "Whose vectors; by default the first model's."),
        _parameter("scene", "query", {"type": "string"}, "Whose filters and caps hold, beside those of all."),
    ]
    plain = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "freshrecall",
            "version": "1",
            "description": "Recall that keeps learning while it serves.",
        },
        "paths": {
            "/v1/recall": {
                "post": _operation(
                    "recall",
                    "Items for a user",
                    {
                        "200": of["RecallAnswer"],
                        "413": of["Problem"],
                        "422": of["Problem"],
                        "503": of["Problem"],
                    },
                    body=of["RecallRequest"],
                    example={"user_id": 900, "k": 10},
                )
            },
            "/v1/events": {
                "post": _operation(
                    "events",
                    "One event or a list into the stream",
                    {
                        "202": of["EventsAnswer"],
                        "413": of["Problem"],
                        "422": of["Problem"],
                        "503": of["Problem"],
                    },
                    body=one_or_many,
                    example={"user_id": 900, "item_id": "a", "kind": "click"},
                )
            },
            "/v1/items/{id}/similar": {
                "get": _operation(
                    "similar",
                    "Items like an item",
                    {
                        "200": of["SimilarAnswer"],
                        "404": of["Problem"],
                        "422": of["Problem"],
                        "503": of["Problem"],
                    },
                    parameters=parameters,
                )
            },
            "/healthz": {"get": _operation("alive", "The process is alive", {"200": of["Health"]})},
            "/readyz": {
                "get": _operation("ready", "There is a snapshot", {"200": of["Health"], "503": of["Problem"]})
            },
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Prometheus metrics",
                    "responses": {"200": {"description": "Exposition format.", "content": plain}},
                }
            },
        },
        "components": {"schemas": components},
    }


def _operation(
    name: str,
    summary: str,
    answers: dict[str, dict[str, Any]],
    body: dict[str, Any] | None = None,
    example: object = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {
            status: {"description": _MEANING[status], "content": {"application/json": {"schema": schema}}}
            for status, schema in answers.items()
        },
    }
    if body is not None:
        content = {"schema": body, "example": example}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    if parameters:
        operation["parameters"] = parameters
    return operation


def _parameter(name: str, place: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "schema": schema,
        "description": description,
    }
