"""``/api/v1/openapi.json``: the interface for programs, described for programs."""

from __future__ import annotations

from typing import Any, Final

from metaserver import __version__

_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer"}
_ANY: Final = {"type": "object"}


def openapi_document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "metaserver",
            "version": __version__,
            "description": "Messages, groups and replicas. Errors are problem details (RFC 9457).",
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Message": _object(
                    topic=_TEXT,
                    partition={"type": ["integer", "string"]},
                    offset=_NUMBER,
                    next_offset=_NUMBER,
                    id=_NUMBER,
                    time=_TEXT,
                    attribute={"type": ["string", "null"]},
                    payload=_TEXT,
                    payload_base64=_TEXT,
                ),
                "NewMessage": _object(payload=_TEXT, payload_base64=_TEXT, attribute=_TEXT),
                "Position": _object(
                    topic=_TEXT,
                    partition=_TEXT,
                    offset=_NUMBER,
                    id=_NUMBER,
                    version={"type": ["integer", "null"]},
                ),
                "Problem": _object(title=_TEXT, status=_NUMBER, detail=_TEXT),
            },
        },
        "security": [{"token": []}, {}],
        "paths": {**_BROKER, **_TOPICS, **_GROUPS},
    }


def _object(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties}


def _reference(name: str) -> dict[str, object]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(name: str) -> dict[str, object]:
    return {"type": "array", "items": _reference(name)}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, object]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _path(name: str, schema: dict[str, Any] = _TEXT) -> dict[str, object]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _operation(
    summary: str,
    *parameters: dict[str, object],
    body: dict[str, Any] | None = None,
    answer: dict[str, Any] = _ANY,
    status: int = 200,
    media: str = "application/json",
) -> dict[str, object]:
    operation: dict[str, object] = {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            str(status): {"description": summary, "content": {media: {"schema": answer}}},
            "default": {
                "description": "What was wrong, and what to do.",
                "content": {"application/problem+json": {"schema": _reference("Problem")}},
            },
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


_TOPIC: Final = _path("topic")
_GROUP: Final = _path("group")
_PARTITION: Final = _path("partition", _NUMBER)
_WAIT: Final = _query("wait_ms", _NUMBER, "Longest wait where there is nothing; at most maxLongPollInMills.")
_COUNT: Final = _query("max_messages", _NUMBER, "At most so many messages.")
_FROM: Final = _query("from", _TEXT, "start, end, an offset, a time (ISO 8601, @SECONDS), or -10m.")

_BROKER: Final = {
    "/api/v1/status": {"get": _operation("The node on one page, as metaServer status shows it.")},
    "/api/v1/openapi.json": {"get": _operation("This document.")},
    "/api/v1/replicas": {"get": _operation("Slaves, or the master, with state and delay.")},
    "/api/v1/rates": {
        "get": _operation("The rates of the last ten minutes.", _query("topic", _TEXT, "Only its."))
    },
    "/api/v1/rates/events": {
        "get": _operation("Each new sample of the rates.", answer=_TEXT, media="text/event-stream")
    },
    "/api/v1/reload": {"post": _operation("Read server.ini again (admin).")},
}

_TOPICS: Final = {
    "/api/v1/topics": {"get": _operation("Every topic of this broker, with its partitions.")},
    "/api/v1/topics/{topic}": {"get": _operation("One topic.", _TOPIC)},
    "/api/v1/topics/{topic}/messages": {
        "post": _operation(
            "Append messages to one partition: all, in their order, or none (write).",
            _TOPIC,
            _query("partition", _NUMBER, "Without it the broker chooses one."),
            _query("attribute", _TEXT, "Of messages that have none of their own."),
            body={
                **_json(_object(messages=_list("NewMessage"))),
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
            answer=_object(topic=_TEXT, messages=_list("Message")),
            status=201,
        )
    },
    "/api/v1/topics/{topic}/partitions/{partition}/messages": {
        "get": _operation(
            "Messages of a partition from a place on.",
            _TOPIC,
            _PARTITION,
            _FROM,
            _COUNT,
            _query("max_bytes", _NUMBER, "At most about so many bytes."),
            _WAIT,
            answer=_object(messages=_list("Message"), next_offset=_NUMBER, end_offset=_NUMBER),
        )
    },
    "/api/v1/topics/{topic}/partitions/{partition}/search": {
        "get": _operation(
            "The messages that hold a text, or the one with an id.",
            _TOPIC,
            _PARTITION,
            _query("text", _TEXT, "In the payload or the attribute."),
            _query("id", _NUMBER, "Of a message."),
            _FROM,
            _COUNT,
            answer=_object(messages=_list("Message"), next_offset=_NUMBER, is_complete={"type": "boolean"}),
        )
    },
    "/api/v1/topics/{topic}/events": {
        "get": _operation(
            "A topic followed live: message, moved and problem events; Last-Event-ID goes on.",
            _TOPIC,
            _query("partition", _NUMBER, "Only this one."),
            _FROM,
            answer=_TEXT,
            media="text/event-stream",
        )
    },
}

_GROUPS: Final = {
    "/api/v1/groups": {"get": _operation("Every group of the cluster, with its lag in bytes.")},
    "/api/v1/groups/{group}": {
        "get": _operation("One group: members, owners, offsets, lag in bytes, messages and seconds.", _GROUP)
    },
    "/api/v1/groups/{group}/topics/{topic}/messages": {
        "get": _operation(
            "Messages from where the group stands, of partitions that no member owns.",
            _GROUP,
            _TOPIC,
            _query("partition", _TEXT, "Only this one, BROKER-PARTITION."),
            _query("from", _TEXT, "start or end: where a group begins that has not committed yet."),
            _COUNT,
            _WAIT,
            answer=_object(messages=_list("Message"), positions=_list("Position")),
        )
    },
    "/api/v1/groups/{group}/positions": {
        "post": _operation(
            "Commit positions as consuming has told them; 409 where somebody else has (write).",
            _GROUP,
            body=_json(_object(positions=_list("Position"))),
        )
    },
    "/api/v1/groups/{group}/reset": {
        "post": _operation(
            "Move a group, or only tell where it would go (admin).",
            _GROUP,
            body=_json(
                _object(
                    to=_TEXT,
                    topic=_TEXT,
                    partitions={"type": "array", "items": _TEXT},
                    execute={"type": "boolean"},
                    force={"type": "boolean"},
                )
            ),
        )
    },
}
