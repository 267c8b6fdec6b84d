"""Clock offsets of pairs over HTTP."""

from typing import Annotated

from fastapi import FastAPI, Query

from wattstream.domain.clock import ClockEstimate, ClockState
from wattstream.domain.errors import MalformedError
from wattstream.domain.links import AcSource, Link
from wattstream.domain.units import DAY_US, MICRO, rfc3339
from wattstream.query.queries import Queries
from wattstream.web import models
from wattstream.web.documents import AWAY, BAD, UNKNOWN, DeviceId
from wattstream.web.parameters import EndQuery, time_range

_DEFAULT_US = 2 * DAY_US
_LONGEST_US = 31 * DAY_US

_StartQuery = Annotated[
    str | None,
    Query(
        description=(
            "Start of the range, inclusive: RFC 3339 with an offset. Default: 48 h before its end."
        ),
        examples=["2026-02-09T00:00:00Z"],
    ),
]


class PairClock(models.Model):
    """A meter of the vehicle, and by how much its clock differs from the vehicle's.

    `offsetSeconds` is positive where the meter's clock is ahead; null where the energy of the
    two does not tell it, and `reason` says why. Offsets up to `uncertaintySeconds` from it fit
    about as well. `quality` is how much worse every offset far from it fits: 1 not at all, 0 as
    well.
    """

    meter_id: str
    window: models.Window
    state: ClockState
    offset_seconds: float | None
    uncertainty_seconds: float | None
    quality: float | None
    reason: str | None


class ClockAnswer(models.Model):
    """The clocks of a vehicle's meters against its own, over a range of the meters' time."""

    vehicle_id: str
    window: models.Window
    ac_source: AcSource
    meters: list[PairClock]


def add_clock(app: FastAPI, queries: Queries) -> None:
    """Add the endpoint of clock offsets."""

    @app.get(
        "/v1/analytics/clock/{vehicleId:path}",
        tags=["answers"],
        summary="How far the clocks of a vehicle's meters differ from its own",
        description=(
            "Estimated from the energy of each pair, and never applied. A range holds at most 31 "
            "days; the offset looked for is at most 26 hours."
        ),
        responses={**BAD, **UNKNOWN, **AWAY},
    )
    async def clock(
        vehicleId: DeviceId, start: _StartQuery = None, end: EndQuery = None
    ) -> ClockAnswer:
        start_us, end_us = time_range(start, end, queries.clock_us(), _DEFAULT_US)
        if end_us - start_us > _LONGEST_US:
            raise MalformedError(
                f"a range of clocks must be at most {_LONGEST_US // DAY_US} days, got "
                f"{(end_us - start_us) / DAY_US:.1f}",
                code="range_too_long",
                field="start",
            )
        found = await queries.clocks(vehicleId, start_us, end_us)
        return ClockAnswer(
            vehicle_id=found.vehicle_id,
            window=models.Window(start=rfc3339(start_us), end=rfc3339(end_us)),
            ac_source=found.ac_source,
            meters=[_pair(link, estimate) for link, estimate in found.pairs],
        )


def _pair(link: Link, estimate: ClockEstimate) -> PairClock:
    return PairClock(
        meter_id=link.meter.external_id,
        window=models.Window(start=rfc3339(link.start_us), end=rfc3339(link.end_us)),
        state=estimate.state,
        offset_seconds=_seconds(estimate.offset_us),
        uncertainty_seconds=_seconds(estimate.uncertainty_us),
        quality=None if estimate.quality is None else round(estimate.quality, 4),
        reason=estimate.reason,
    )


def _seconds(time_us: int | None) -> float | None:
    return None if time_us is None else round(time_us / MICRO, 1)
