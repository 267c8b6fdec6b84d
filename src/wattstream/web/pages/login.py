"""Browsers sign in with a key, and hold a session instead of it."""

from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from wattstream.caller import caller
from wattstream.domain.access import Act, Scope
from wattstream.domain.errors import ForbiddenError, WattstreamError
from wattstream.domain.units import MICRO
from wattstream.query.keyring import Keyring
from wattstream.replies import error_reply
from wattstream.web.guard import COOKIE, LOGIN_PATH, LOGOUT_PATH, Guard
from wattstream.web.pages.rendering import rendered

_HOURS = 12
_MAX_FORM_BYTES = 4096


def add_login(app: FastAPI, keyring: Keyring, guard: Guard) -> None:
    """Add the page to sign in, and the way out."""

    def form(onward: str, status: int = 200, message: str = "") -> Response:
        facts = {"message": message, "hours": _HOURS, "is_open": keyring.is_open}
        return rendered("login", status, onward=onward, **facts)

    @app.get(LOGIN_PATH, include_in_schema=False)
    async def ask(request: Request) -> Response:
        return form(_inside(request.query_params.get("next", "/")))

    @app.post(LOGIN_PATH, include_in_schema=False)
    async def sign_in(request: Request) -> Response:
        sent = await _form(request)
        onward = _inside(sent.get("next", "/"))
        try:
            key = guard.valid(await keyring.holder(sent.get("key", "").strip()))
            if not key.allows(Scope.READ):
                raise ForbiddenError(f"the key {key.name!r} has not the scope read")
            act = Act(keyring.clock_us(), f"{key.prefix} {key.name}", caller().address, "sign in")
            audit_id = await keyring.begin_act(act)
            token = await keyring.begin_session(key, _HOURS * 3600 * MICRO)
            await keyring.end_act(audit_id, 303)
        except WattstreamError as error:
            return form(onward, error_reply(error).status, error.message)
        answer = RedirectResponse(onward, 303, {"Cache-Control": "no-store"})
        answer.set_cookie(
            COOKIE,
            str(token),
            max_age=_HOURS * 3600,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return answer

    @app.post(LOGOUT_PATH, include_in_schema=False)
    async def sign_out() -> Response:
        key = caller().key
        if key is not None and key.parent is not None:
            await keyring.end_session(key)
        answer = RedirectResponse(LOGIN_PATH, 303, {"Cache-Control": "no-store"})
        answer.delete_cookie(COOKIE)
        return answer


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form; one that is too long is none."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            return {}
    fields = parse_qs(body.decode("latin-1"), max_num_fields=10)
    return {name: values[0] for name, values in fields.items()}


def _inside(path: str) -> str:
    """Return a path of this engine; anything else leads to the first page."""
    is_path = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_path else "/"
