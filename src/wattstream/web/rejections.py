"""What was refused, over HTTP: pages of JSON, a CSV file, counts by code."""

import base64
import csv
import io
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from starlette.responses import Response, StreamingResponse

from wattstream.domain.errors import MalformedError
from wattstream.domain.holdings import KeptRejection, RejectionCount, WantedRejections
from wattstream.domain.readings import Stream, is_valid_id
from wattstream.domain.units import NEVER_US, rfc3339
from wattstream.query.queries import Queries
from wattstream.web import models
from wattstream.web.documents import AWAY, BAD
from wattstream.web.parameters import optional_range

_LAST_ID = 2**63 - 1
_PAGE = 1000
_COLUMNS = (
    "rejectionId", "rejectedAt", "type", "id", "code", "message", "field", "kept", "got",
    "record", "recordBase64", "key",
)  # fmt: skip

DeviceTypeAnswer = Literal["meter", "vehicle"]


class ConflictAnswer(models.Model):
    """Both values of a reading that was sent twice, by the keys of a reading."""

    kept: dict[str, float | None]
    got: dict[str, float | None]


class RejectionAnswer(models.Model):
    """A record that was refused; recordBase64 has its bytes where they are no UTF-8.

    `key` is the prefix of the key that it came with.
    """

    rejection_id: int
    rejected_at: models.Time
    type: DeviceTypeAnswer | None
    id: str | None
    code: str
    message: str
    field: str | None
    conflict: ConflictAnswer | None
    record: str
    record_base64: str | None
    key: str | None


class RejectionsAnswer(models.Model):
    """A page of rejections; `next` goes into `after`."""

    rejections: list[RejectionAnswer]
    next: int | None


class RejectionCountAnswer(models.Model):
    """How many records ever broke a rule, and when the last one did."""

    type: DeviceTypeAnswer | None
    code: str
    count: int
    last_at: models.Time | None


class RejectionCountsAnswer(models.Model):
    """Counts by type and code; they do not shrink when old rejections are dropped."""

    counts: list[RejectionCountAnswer]


def add_rejections(app: FastAPI, queries: Queries) -> None:
    """Add the endpoints of rejections."""

    @app.get(
        "/v1/rejections",
        tags=["operations"],
        summary="What was refused, as it came",
        description=(
            "With `Accept: text/csv`, a file of all that match, streamed; a cell begins as its "
            "text does, so let no spreadsheet run it."
        ),
        response_model=RejectionsAnswer,
        responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **BAD, **AWAY},
    )
    async def rejections(
        *,
        request: Request,
        code: Annotated[
            str | None, Query(description="Only of this code", pattern="^[a-z_]{1,64}$")
        ] = None,
        type: Annotated[Stream | None, Query(description="Only of meters, or of vehicles")] = None,
        id: Annotated[str | None, Query(description="Only of the device with this id")] = None,
        start: Annotated[
            str | None, Query(description="Refused at or after: RFC 3339 with an offset")
        ] = None,
        end: Annotated[str | None, Query(description="Refused before: RFC 3339 with an offset")] = (
            None
        ),
        order: Annotated[
            Literal["asc", "desc"], Query(description="asc: oldest first; desc: newest first")
        ] = "asc",
        after: Annotated[
            int | None, Query(ge=0, le=_LAST_ID, description="`next` of the page before")
        ] = None,
        limit: Annotated[
            int | None,
            Query(ge=1, le=_PAGE, description="Most items; default 100, and all in CSV"),
        ] = None,
    ) -> Any:
        if id is not None and not is_valid_id(id):
            raise MalformedError(
                "id must be 1 to 128 printable characters without white space",
                code="id_invalid",
                field="id",
            )
        start_us, end_us = optional_range(start, end)
        wanted = WantedRejections(code, type, id, start_us, end_us, newest_first=order == "desc")
        if _wants_csv(request):
            pages = _pages(queries, wanted, after, limit)
            first = await anext(pages)  # an error is answered before the file begins
            return StreamingResponse(
                _csv(first, pages),
                media_type="text/csv",
                headers={"Content-Disposition": 'attachment; filename="rejections.csv"'},
            )
        page = limit or 100
        found = await queries.rejections(wanted, after, page)
        answer = RejectionsAnswer(
            rejections=[_answer(kept) for kept in found],
            next=found[-1].rejection_id if len(found) == page else None,
        )
        return Response(answer.model_dump_json(by_alias=True), media_type="application/json")

    @app.get(
        "/v1/rejections/counts",
        tags=["operations"],
        summary="How many records were ever refused, by type and code",
        responses={**AWAY},
    )
    async def counts() -> RejectionCountsAnswer:
        return RejectionCountsAnswer(counts=[_count(c) for c in await queries.rejection_counts()])


def _wants_csv(request: Request) -> bool:
    """Return whether the client names CSV; who takes anything gets JSON."""
    named = [part.partition(";") for part in request.headers.get("Accept", "").lower().split(",")]
    return any(
        name.strip() == "text/csv" and "q=0" not in [p.strip() for p in rest.split(";")]
        for name, _, rest in named
    )


async def _pages(
    queries: Queries, wanted: WantedRejections, after: int | None, limit: int | None
) -> AsyncIterator[list[KeptRejection]]:
    """Yield at least one page; without a limit, all up to the newest of now, so that it ends.

    Each page is an answer of its own: no connection is held while a client reads.
    """
    newest = await queries.rejections(WantedRejections(newest_first=True), None, 1)
    size = limit or _PAGE
    while True:
        page = await queries.rejections(wanted, after, size)
        yield page
        if limit is not None or len(page) < size:
            return
        after = page[-1].rejection_id
        if not wanted.newest_first and after >= newest[0].rejection_id:
            return


async def _csv(
    first: list[KeptRejection], others: AsyncIterator[list[KeptRejection]]
) -> AsyncIterator[str]:
    """Write pages as CSV, RFC 4180."""
    yield _lines([_COLUMNS, *map(_row, first)])
    async for page in others:
        yield _lines(map(_row, page))


def _lines(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _row(kept: KeptRejection) -> list[Any]:
    shown = _answer(kept)
    both = (shown.conflict.kept, shown.conflict.got) if shown.conflict else ()
    kept_values, got_values = [json.dumps(values) for values in both] or (None, None)
    return [
        shown.rejection_id, shown.rejected_at, shown.type, shown.id, shown.code, shown.message,
        shown.field, kept_values, got_values, shown.record, shown.record_base64, shown.key,
    ]  # fmt: skip


def _answer(kept: KeptRejection) -> RejectionAnswer:
    refused = kept.rejection
    record = refused.record.decode(errors="replace")
    is_exact = record.encode() == refused.record
    return RejectionAnswer(
        rejection_id=kept.rejection_id,
        rejected_at=rfc3339(kept.rejected_at_us),
        type=refused.stream.value if refused.stream else None,
        id=refused.device,
        code=refused.code,
        message=refused.message,
        field=refused.field,
        conflict=refused.conflict
        and ConflictAnswer(kept=refused.conflict.kept, got=refused.conflict.got),
        record=record,
        record_base64=None if is_exact else base64.b64encode(refused.record).decode(),
        key=kept.key,
    )


def _count(count: RejectionCount) -> RejectionCountAnswer:
    return RejectionCountAnswer(
        type=count.stream.value if count.stream else None,
        code=count.code,
        count=count.rejections,
        last_at=None if count.last_at_us == NEVER_US else rfc3339(count.last_at_us),
    )
