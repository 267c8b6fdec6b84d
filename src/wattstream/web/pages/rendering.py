"""What every page has in common: templates, headers, errors as pages."""

from collections.abc import MutableMapping
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

import wattstream
from wattstream.caller import caller
from wattstream.domain.errors import UnauthorizedError, WattstreamError
from wattstream.domain.links import FOREVER_US
from wattstream.domain.units import NEVER_US, rfc3339
from wattstream.replies import error_reply
from wattstream.web.guard import LOGIN_PATH
from wattstream.web.pages import words
from wattstream.web.pages.static import static_path, style_marks

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}


def is_signed_in() -> bool:
    """Return whether who asks is a browser with a session."""
    key = caller().key
    return key is not None and key.parent is not None


@cache
def environment() -> Environment:
    """Return the templates, with what all of them use."""
    found = Environment(
        loader=PackageLoader("wattstream.web.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "energy": words.energy,
        "quantity": words.quantity,
        "percent": words.percent,
        "seconds": words.seconds,
        "moment": words.moment,
        "rfc3339": rfc3339,
        "evidence": words.evidence,
        "reason": words.reason,
    }
    found.globals |= {
        "version": wattstream.__version__,
        "static": static_path(),
        "style_marks": style_marks(),
        "kinds": words.KINDS,
        "never_us": NEVER_US,
        "forever_us": FOREVER_US,
        "is_signed_in": is_signed_in,
        "link": lambda path, **query: f"{path}?{urlencode(query)}",
    }
    return found


def rendered(name: str, status: int = 200, **facts: Any) -> HTMLResponse:
    """Return a page."""
    html = environment().get_template(f"{name}.html").render(page=name, **facts)
    return HTMLResponse(html, status, HEADERS)


def error_page(error: WattstreamError) -> HTMLResponse:
    """Return an error as a page."""
    reply = error_reply(error)
    phrase = HTTPStatus(reply.status).phrase
    return rendered("error", reply.status, code=reply.status, phrase=phrase, message=error.message)


def refusal(scope: MutableMapping[str, Any], error: WattstreamError) -> Response:
    """Return the answer to a request that may not pass; a browser is sent to sign in."""
    accept = dict(scope["headers"]).get(b"accept", b"")
    path = scope["path"]
    if scope["method"] != "GET" or b"text/html" not in accept or path.startswith("/v1/"):
        reply = error_reply(error)
        return Response(reply.body, reply.status, reply.headers, "application/json")
    if isinstance(error, UnauthorizedError):
        query = scope["query_string"].decode("latin-1")
        onward = urlencode({"next": path + (f"?{query}" if query else "")})
        return RedirectResponse(f"{LOGIN_PATH}?{onward}", 303, {"Cache-Control": "no-store"})
    return error_page(error)
