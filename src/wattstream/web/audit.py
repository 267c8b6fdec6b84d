"""Administrative acts: each is written down before it is done, and may be read again."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Query

from wattstream.caller import caller
from wattstream.domain.access import Act, KeptAct
from wattstream.domain.errors import TooLargeError, WattstreamError
from wattstream.domain.units import rfc3339
from wattstream.log import request_id
from wattstream.query.keyring import Keyring
from wattstream.web import models
from wattstream.web.documents import AWAY, BAD, Limit

_MAX_BODY_BYTES = 1024**2
_MAX_DETAIL = 4096
_LAST_ID = 2**63 - 1

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

_log = structlog.get_logger()


class ActAnswer(models.Model):
    """An administrative act; status is null where the engine ended before it was answered."""

    audit_id: int
    at: models.Time
    who: str
    address: str | None
    act: str
    detail: str | None
    request_id: str | None
    status: int | None


class AuditAnswer(models.Model):
    """A page of acts, newest first; `next` goes into `before`."""

    acts: list[ActAnswer]
    next: int | None


async def recorded(
    keyring: Keyring, app: _App, scope: _Message, receive: _Receive, send: _Send
) -> None:
    """Answer a request that changes something, and keep who asked for what, and its answer.

    Raises:
        StoreUnavailableError: It cannot be written down, so it was not done.
        TooLargeError: Its body is larger than any such request's.
    """
    messages = await _read(receive)
    body = b"".join(message.get("body", b"") for message in messages)
    detail = body[:_MAX_DETAIL].decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    query = scope["query_string"].decode("latin-1")
    path = scope["path"].replace("\0", "") + (f"?{query}" if query else "")
    act = Act(
        keyring.clock_us(),
        caller().who,
        caller().address,
        f"{scope['method']} {path}"[:_MAX_DETAIL],
        detail or None,
        request_id(),
    )
    audit_id = await keyring.begin_act(act)
    status = 500

    async def replay() -> _Message:
        return messages.pop(0) if messages else await receive()

    async def send_noted(message: _Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        await app(scope, replay, send_noted)
    finally:
        try:
            await keyring.end_act(audit_id, status)
        except WattstreamError as error:
            _log.warning("An act's answer is not in the audit log", act=act.act, why=error.message)


async def _read(receive: _Receive) -> list[_Message]:
    """Return the messages of a whole body."""
    messages: list[_Message] = []
    size = 0
    while not messages or messages[-1].get("more_body", False):
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
        if size > _MAX_BODY_BYTES:
            raise TooLargeError(f"the body must be at most {_MAX_BODY_BYTES} bytes, got more")
    return messages


def add_audit(app: FastAPI, keyring: Keyring) -> None:
    """Add the endpoint of the audit log."""

    @app.get(
        "/v1/audit",
        tags=["operations"],
        summary="Administrative acts, newest first: who changed what, and when",
        responses={**BAD, **AWAY},
    )
    async def audit(
        before: Annotated[
            int, Query(ge=1, le=_LAST_ID, description="`next` of the page before")
        ] = _LAST_ID,
        limit: Limit = 100,
    ) -> AuditAnswer:
        found = await keyring.acts(before, limit)
        return AuditAnswer(
            acts=[_answer(kept) for kept in found],
            next=found[-1].audit_id if len(found) == limit else None,
        )


def _answer(kept: KeptAct) -> ActAnswer:
    act = kept.act
    return ActAnswer(
        audit_id=kept.audit_id,
        at=rfc3339(act.at_us),
        who=act.who,
        address=act.address,
        act=act.act,
        detail=act.detail,
        request_id=act.request_id,
        status=kept.status,
    )
