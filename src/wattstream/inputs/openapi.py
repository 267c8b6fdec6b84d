"""The ingest endpoints as OpenAPI path items: they are bare ASGI, so nothing derives them."""

from typing import Any

from wattstream.domain.readings import KINDS, MAX_ENERGY_KWH, MAX_ID_LENGTH, Kind
from wattstream.inputs.http import BATCH_PATH, MAX_ERRORS, ONE_PATH


def paths() -> dict[str, Any]:
    """Return the path items of both endpoints."""
    reading = {"anyOf": [_reading(kind) for kind in KINDS.values()]}
    return {
        ONE_PATH: {
            "post": {
                "tags": ["ingest"],
                "summary": "One reading of a meter or a vehicle",
                "description": "A 2xx means: committed to disk. Anything else may be sent again.",
                "operationId": "ingest_one",
                "requestBody": _body({"application/json": {"schema": reading}}),
                "responses": {
                    "201": _json("Stored", _ACCEPTED),
                    "200": _json("An exact duplicate, counted once", _ACCEPTED),
                    "409": _error("Other values are kept for this time"),
                    "422": _error("The reading breaks a rule"),
                    **_ERRORS,
                },
            }
        },
        BATCH_PATH: {
            "post": {
                "tags": ["ingest"],
                "summary": "Many readings, each with its own verdict",
                "description": (
                    "A JSON array, an object with `records`, or NDJSON; meters and vehicles "
                    "mixed. `Content-Encoding: gzip` or `zstd`. "
                    "received = stored + duplicates + rejected, always."
                ),
                "operationId": "ingest_batch",
                "requestBody": _body(
                    {
                        "application/json": {
                            "schema": {
                                "anyOf": [
                                    {"type": "array", "items": reading},
                                    {
                                        "type": "object",
                                        "required": ["records"],
                                        "properties": {
                                            "records": {"type": "array", "items": reading}
                                        },
                                    },
                                ]
                            }
                        },
                        "application/x-ndjson": {"schema": {"type": "string"}},
                    }
                ),
                "responses": {
                    "201": _json("Every record is stored or a duplicate", _REPORT),
                    "207": _json("Some records were rejected", _REPORT),
                    "422": _json("All records were rejected, or there are none", _REPORT),
                    **_ERRORS,
                },
            }
        },
    }


def _number(low: float, high: float, unit: str) -> dict[str, Any]:
    """Return the schema of a number, which may also come as a decimal string."""
    return {
        "anyOf": [
            {"type": "number", "minimum": low, "maximum": high},
            {"type": "string", "pattern": r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"},
        ],
        "description": f"{unit}; a JSON number or a decimal string",
    }


def _reading(kind: Kind) -> dict[str, Any]:
    fields = {field.key: _number(field.low, field.high, field.unit) for field in kind.fields}
    for schema in fields.values():
        schema["anyOf"].append({"type": "null"})
    return {
        "type": "object",
        "title": f"{kind.stream} reading",
        "required": [kind.id_key, kind.energy_key, "timestamp"],
        "properties": {
            "type": {"type": "string", "description": f"{kind.stream}, any case; optional"},
            kind.id_key: {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH},
            kind.energy_key: _number(0, MAX_ENERGY_KWH, "kWh"),
            **fields,
            "timestamp": {
                "type": "string",
                "format": "date-time",
                "description": "RFC 3339 with an offset",
            },
        },
    }


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": content}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error(description: str) -> dict[str, Any]:
    return _json(description, {"$ref": "#/components/schemas/ErrorAnswer"})


_ERRORS = {
    "400": _error("The body is not JSON"),
    "413": _error("The body is over its limit"),
    "415": _error("The content type or encoding is not supported"),
    "503": _error("The database is away or the queue is full; see Retry-After"),
}
_ACCEPTED = {
    "type": "object",
    "required": ["status", "type", "id", "timestamp", "stored"],
    "properties": {
        "status": {"type": "string", "enum": ["ok"]},
        "type": {"type": "string", "enum": [kind.stream.value for kind in KINDS.values()]},
        "id": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
        "stored": {"type": "boolean"},
        "duplicate": {"type": "boolean"},
    },
}
_COUNT = {"type": "integer", "minimum": 0}
_REPORT = {
    "type": "object",
    "required": ["received", "stored", "duplicates", "rejected", "errors"],
    "properties": {
        "received": _COUNT,
        "stored": _COUNT,
        "duplicates": _COUNT,
        "rejected": _COUNT,
        "errors": {
            "type": "array",
            "maxItems": MAX_ERRORS,
            "items": {
                "type": "object",
                "required": ["index", "code", "message"],
                "properties": {
                    "index": _COUNT,
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}
