"""The history of devices, page by page as JSON, or as a stream of CSV or Arrow."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated

import msgspec
import structlog
from fastapi import Depends, FastAPI, Header, Query, Response
from fastapi.responses import StreamingResponse
from starlette.types import Send

from wattstream.domain.errors import MalformedError, WattstreamError
from wattstream.domain.units import rfc3339
from wattstream.query.history import Block, Place, Resolution, Wanted
from wattstream.query.queries import Queries
from wattstream.web.documents import (
    AWAY,
    BAD,
    FORM,
    UNKNOWN,
    DeviceId,
    DeviceType,
    Responses,
)
from wattstream.web.models import Model
from wattstream.web.negotiation import preferred
from wattstream.web.parameters import EndQuery, StartQuery, time_range
from wattstream.web.series import DeviceHistoryAnswer, HistoryAnswer, columns_of
from wattstream.web.tables import ARROW, CSV, ArrowEncoder, CsvEncoder, Encoder, rows_of

JSON = "application/json"
MAX_PAGE_ROWS = 10_000
_DEFAULT_PAGE_ROWS = 1000
_MAX_DEVICES = 1000
_VARY = {"Vary": "Accept"}

_log = structlog.get_logger()

_Ids = Annotated[
    list[str],
    Query(description="Ids of devices; repeat the key", min_length=1, max_length=_MAX_DEVICES),
]
_Resolution = Annotated[
    Resolution,
    Query(description="Readings, or sums by bucket; hours and days are of the device's time zone"),
]
_Limit = Annotated[
    int | None,
    Query(
        ge=1,
        le=2**31 - 1,
        description=f"Most items. JSON: default {_DEFAULT_PAGE_ROWS}, at most {MAX_PAGE_ROWS}. "
        "CSV and Arrow: no limit unless given.",
    ),
]
_CursorQuery = Annotated[
    str | None,
    Query(description="`next` of the page before; it keeps the range, whatever start and end say"),
]
_Accept = Annotated[list[str] | None, Header(include_in_schema=False)]


class _Cursor(msgspec.Struct, array_like=True):
    """Where a page begins, and of which range: the default range moves with the clock."""

    resolution: Resolution
    start_us: int
    end_us: int
    external_id: str
    at_us: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request says, besides of which devices."""

    type: DeviceType
    start: StartQuery = None
    end: EndQuery = None
    resolution: _Resolution = Resolution.RAW
    limit: _Limit = None
    cursor: _CursorQuery = None
    accept: _Accept = None


class _Stream(StreamingResponse):
    """A stream that breaks off where the engine cannot go on, so that it does not look whole."""

    async def stream_response(self, send: Send) -> None:
        """Send the blocks; without a last one, the server closes the connection."""
        try:
            await super().stream_response(send)
        except WattstreamError as error:
            _log.warning("A stream of history broke off; its client sees it", why=error.message)


def add_history(app: FastAPI, queries: Queries) -> None:
    """Add the endpoints of history."""

    @app.get(
        "/v1/history/{type}/{id:path}",
        tags=["history"],
        summary="Readings or buckets of a device, oldest first",
        responses=_responses(DeviceHistoryAnswer),
    )
    async def of_device(id: DeviceId, asked: Annotated[_Asked, Depends()]) -> Response:
        return await _answer(queries, asked, [id], is_list=False)

    @app.get(
        "/v1/history/{type}",
        tags=["history"],
        summary="Readings or buckets of several devices, one device after the other",
        responses=_responses(HistoryAnswer),
    )
    async def of_devices(id: _Ids, asked: Annotated[_Asked, Depends()]) -> Response:
        return await _answer(queries, asked, list(dict.fromkeys(id)), is_list=True)


def _responses(answer: type[Model]) -> Responses:
    content = {
        CSV: {"schema": {"type": "string"}},
        ARROW: {"schema": {"type": "string", "format": "binary"}},
    }
    found = {"model": answer, "content": content, "description": "History, oldest first"}
    return {200: found, **BAD, **UNKNOWN, **FORM, **AWAY}


async def _answer(
    queries: Queries, asked: _Asked, ids: Sequence[str], *, is_list: bool
) -> Response:
    form = preferred(", ".join(asked.accept or ()), (JSON, CSV, ARROW))
    start_us, end_us, after = _range(queries.clock_us(), asked, ids)
    wanted = Wanted(asked.type, ids, asked.resolution, start_us, end_us, after)
    if form == JSON:
        return await _page(queries, wanted, _page_rows(asked.limit), is_list=is_list)
    encoder = CsvEncoder() if form == CSV else ArrowEncoder(_facts(wanted))
    blocks = queries.history_stream(wanted, asked.limit)
    # What can be wrong with the request shows before the answer begins.
    body = _encoded(await anext(blocks), blocks, encoder, is_list=is_list)
    return _Stream(body, media_type=form, headers=_VARY)


def _range(now_us: int, asked: _Asked, ids: Sequence[str]) -> tuple[int, int, Place | None]:
    """Return the range, and where in it to go on.

    Raises:
        MalformedError: A time or the cursor is wrong.
    """
    if asked.cursor is None:
        return *time_range(asked.start, asked.end, now_us), None
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(asked.cursor), type=_Cursor)
        # Anyone can write a cursor: its times are checked like those of a query.
        time_range(rfc3339(found.start_us), rfc3339(found.end_us), now_us)
    except (msgspec.DecodeError, ValueError, OverflowError, MalformedError):
        found = None
    if (
        found is None
        or found.resolution is not asked.resolution
        or found.external_id not in ids
        or not found.start_us <= found.at_us <= found.end_us
    ):
        raise MalformedError(
            "cursor must be `next` of the page before, for the same devices and resolution",
            code="cursor_invalid",
            field="cursor",
        )
    return found.start_us, found.end_us, Place(found.external_id, found.at_us)


def _page_rows(limit: int | None) -> int:
    if limit is not None and limit > MAX_PAGE_ROWS:
        raise MalformedError(
            f"limit must be at most {MAX_PAGE_ROWS} for JSON, got {limit}; "
            f"go on with `next`, or accept {CSV} or {ARROW}",
            code="parameter_invalid",
            field="limit",
        )
    return limit or _DEFAULT_PAGE_ROWS


async def _page(queries: Queries, wanted: Wanted, limit: int, *, is_list: bool) -> Response:
    blocks, following = await queries.history_page(wanted, limit)
    device = blocks[0].device
    own = {} if is_list else {"id": device.external_id, "timeZone": device.time_zone}

    def encode() -> bytes:
        return msgspec.json.encode(
            {
                "type": wanted.stream,
                **own,
                "resolution": wanted.resolution,
                "window": {"start": rfc3339(wanted.start_us), "end": rfc3339(wanted.end_us)},
                "items": [
                    row for block in blocks for row in rows_of(columns_of(block, has_id=is_list))
                ],
                "next": None if following is None else _cursor(wanted, following),
            }
        )

    # In a thread, so that ingest goes on meanwhile.
    return Response(await asyncio.to_thread(encode), media_type=JSON, headers=_VARY)


def _cursor(wanted: Wanted, place: Place) -> str:
    cursor = _Cursor(
        wanted.resolution, wanted.start_us, wanted.end_us, place.external_id, place.at_us
    )
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode()


async def _encoded(
    first: Block, blocks: AsyncGenerator[Block], encoder: Encoder, *, is_list: bool
) -> AsyncIterator[bytes]:
    def encode(block: Block) -> bytes:
        return encoder.block(columns_of(block, has_id=is_list))

    async with aclosing(blocks):
        yield await asyncio.to_thread(encode, first)
        async for block in blocks:
            yield await asyncio.to_thread(encode, block)
        yield encoder.end()


def _facts(wanted: Wanted) -> dict[str, str]:
    """Return what the schema of an Arrow stream says of all rows."""
    return {
        "type": wanted.stream.value,
        "resolution": wanted.resolution.value,
        "start": rfc3339(wanted.start_us),
        "end": rfc3339(wanted.end_us),
    }
