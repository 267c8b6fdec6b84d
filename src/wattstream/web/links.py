"""Links between meters and vehicles over HTTP."""

from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from pydantic import AfterValidator, ConfigDict
from pydantic.alias_generators import to_camel
from starlette.responses import JSONResponse

from wattstream.domain.errors import ReadingError
from wattstream.domain.links import FOREVER_US, KeptLink, OverlapError
from wattstream.domain.readings import is_valid_id
from wattstream.domain.units import rfc3339
from wattstream.query.queries import Queries
from wattstream.web import models
from wattstream.web.documents import AWAY, BAD, RULE, UNKNOWN, Limit
from wattstream.web.parameters import moment

_LAST_ID = 2**63 - 1


def _id(text: str) -> str:
    if not is_valid_id(text):
        raise ValueError("must be 1 to 128 printable characters without white space")
    return text


def _moment(text: str) -> str:
    moment(text)
    return text


_Id = Annotated[str, AfterValidator(_id)]
_Moment = Annotated[models.Time, AfterValidator(_moment)]
LinkId = Annotated[int, Path(description="Number of the link", ge=1, le=_LAST_ID)]


class LinkAnswer(models.Model):
    """A meter that feeds a vehicle over [start, end); end null: still."""

    link_id: int
    meter_id: str
    vehicle_id: str
    start: models.Time
    end: models.Time | None


class LinksAnswer(models.Model):
    """A page of links, in the order they were made; `next` goes into `after`."""

    links: list[LinkAnswer]
    next: int | None


class NewLink(models.Model):
    """A link to be made; end absent or null: still."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=False, extra="forbid", strict=True
    )

    meter_id: _Id
    vehicle_id: _Id
    start: _Moment
    end: _Moment | None = None


class LinkEnd(models.Model):
    """When a link ends; null: it does not."""

    model_config = ConfigDict(extra="forbid", strict=True)

    end: _Moment | None


class OverlapAnswer(models.ErrorAnswer):
    """A refused link, and the link in its way."""

    link: LinkAnswer


_OVERLAP: dict[int | str, dict[str, Any]] = {
    409: {"model": OverlapAnswer, "description": "The meter feeds a vehicle in that time"}
}


def add_links(app: FastAPI, queries: Queries) -> None:
    """Add the endpoints of links."""

    @app.exception_handler(OverlapError)
    async def overlap(request: Request, error: OverlapError) -> Response:
        body = OverlapAnswer(
            error=models.ErrorDetail(code=error.code, message=error.message, field=error.field),
            link=_answer(error.link),
        )
        return JSONResponse(body.model_dump(by_alias=True), 409)

    @app.get(
        "/v1/links",
        tags=["registry"],
        summary="List links: all, of a meter, of a vehicle",
        responses={**BAD, **AWAY},
    )
    async def links(
        meterId: Annotated[str | None, Query(description="Only links of this meter")] = None,
        vehicleId: Annotated[str | None, Query(description="Only links of this vehicle")] = None,
        after: Annotated[
            int, Query(ge=0, le=_LAST_ID, description="`next` of the page before")
        ] = 0,
        limit: Limit = 100,
    ) -> LinksAnswer:
        # What no device can be called names no link, and PostgreSQL refuses a zero byte.
        if not all(is_valid_id(name) for name in (meterId, vehicleId) if name is not None):
            return LinksAnswer(links=[], next=None)
        found = await queries.links(after, limit, meter=meterId, vehicle=vehicleId)
        more = found[-1].link_id if len(found) == limit else None
        return LinksAnswer(links=[_answer(link) for link in found], next=more)

    @app.post(
        "/v1/links",
        tags=["registry"],
        summary="Link a meter to a vehicle",
        description=(
            "Past answers change at once. A meter feeds at most one vehicle at a time; a vehicle "
            "may have several meters. A device that was never seen is made."
        ),
        status_code=201,
        responses={**BAD, **_OVERLAP, **RULE, **AWAY},
    )
    async def add(link: NewLink) -> LinkAnswer:
        start_us, end_us = moment(link.start), _end_us(link.end)
        if start_us >= end_us:
            raise ReadingError(
                f"end must be after start, got {rfc3339(start_us)} and {rfc3339(end_us)}",
                code="range_empty",
                field="end",
            )
        return _answer(await queries.add_link(link.meter_id, link.vehicle_id, start_us, end_us))

    @app.patch(
        "/v1/links/{linkId}",
        tags=["registry"],
        summary="Set the end of a link; null takes it away",
        responses={**BAD, **UNKNOWN, **_OVERLAP, **RULE, **AWAY},
    )
    async def change(linkId: LinkId, change: LinkEnd) -> LinkAnswer:
        return _answer(await queries.end_link(linkId, _end_us(change.end)))

    @app.delete(
        "/v1/links/{linkId}",
        tags=["registry"],
        summary="Remove a link, as if it had never been",
        status_code=204,
        responses={**UNKNOWN, **AWAY},
    )
    async def delete(linkId: LinkId) -> None:
        await queries.delete_link(linkId)


def _end_us(text: str | None) -> int:
    return FOREVER_US if text is None else moment(text)


def _answer(link: KeptLink) -> LinkAnswer:
    return LinkAnswer(
        link_id=link.link_id,
        meter_id=link.meter_id,
        vehicle_id=link.vehicle_id,
        start=rfc3339(link.start_us),
        end=None if link.end_us == FOREVER_US else rfc3339(link.end_us),
    )
