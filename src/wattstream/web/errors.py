"""Errors of the API, in the one form that the contract has."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from wattstream.domain.errors import UnsupportedError, WattstreamError
from wattstream.replies import Reply, error_body, error_reply, internal_error
from wattstream.web.bodies import MAX_BODY_BYTES

_NO_OBJECT = "the body must be a JSON object"


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in the contract's form; the framework's own words never show."""

    @app.exception_handler(WattstreamError)
    async def known(request: Request, error: WattstreamError) -> Response:
        return _response(error_reply(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if isinstance(error.body, bytes):  # FastAPI parses only what is called JSON
            return _response(error_reply(_not_json(request.headers.get("Content-Type", ""))))
        return _validation_response(error)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code, message = {
            400: ("malformed_json", "the body is not readable JSON"),
            404: ("not_found", f"{request.url.path} is not here; GET / lists what is"),
            405: (
                "method_not_allowed",
                f"{request.url.path} does not take {request.method}; GET / lists what does",
            ),
            413: ("body_too_large", f"the body must be at most {MAX_BODY_BYTES} bytes"),
        }.get(error.status_code, ("bad_request", "the request cannot be read"))
        reply = Reply(error.status_code, dict(error.headers or {}), error_body(code, message, None))
        return _response(reply)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return _response(internal_error())


def _not_json(content_type: str) -> UnsupportedError:
    return UnsupportedError(
        f"Content-Type must be application/json, got {content_type[:60]!r}; "
        "with curl, add -H 'Content-Type: application/json'"
    )


def _validation_response(error: RequestValidationError) -> Response:
    """Return the answer for the first parameter or key that breaks its type."""
    first = error.errors()[0]
    place, *where = first["loc"]
    field = str(where[0]) if where and isinstance(where[0], str) else None
    if first["type"] == "json_invalid":
        return _response(Reply(400, {}, error_body("malformed_json", "the body is not JSON", None)))
    words = first["msg"].removeprefix("Value error, ")
    text = f"{field}: {words}" if field else _NO_OBJECT
    status, code = {
        "path": (404, "not_found"),
        "query": (400, "parameter_invalid"),
    }.get(str(place), (422, "setting_invalid"))
    return _response(Reply(status, {}, error_body(code, text, field)))


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, reply.headers, "application/json")
