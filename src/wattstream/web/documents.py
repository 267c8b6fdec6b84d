"""What endpoints have in common in the OpenAPI file: error answers and parameters."""

from typing import Annotated, Any

from fastapi import Path, Query

from wattstream.domain.readings import Stream
from wattstream.web import models

Responses = dict[int | str, dict[str, Any]]

_ERROR: dict[str, Any] = {"model": models.ErrorAnswer}
BAD: Responses = {400: {**_ERROR, "description": "A parameter is wrong"}}
UNKNOWN: Responses = {404: {**_ERROR, "description": "Unknown"}}
FORM: Responses = {406: {**_ERROR, "description": "The client takes no form of the answer"}}
AWAY: Responses = {503: {**_ERROR, "description": "The database is away, or the queue is full"}}
RULE: Responses = {
    413: {**_ERROR, "description": "The body is over its limit"},
    415: {**_ERROR, "description": "The content type is not JSON"},
    422: {**_ERROR, "description": "A setting breaks a rule"},
}
_REF = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}}
CONNECTION: Responses = {
    408: {**_REF, "description": "Headers or body came too slowly; the connection is closed"},
    431: {**_REF, "description": "Headers and request line are too large"},
}
KEYS: Responses = {
    401: {**_REF, "description": "No key that is valid"},
    403: {**_REF, "description": "The key does not allow it, or not with that device"},
    429: {**_REF, "description": "The key's requests come too fast; see Retry-After"},
}

DeviceType = Annotated[Stream, Path(description="meter or vehicle")]
DeviceId = Annotated[str, Path(description="The id that the device reports", min_length=1)]
Limit = Annotated[int, Query(ge=1, le=1000, description="Most items of a page")]
