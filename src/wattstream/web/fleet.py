"""The fleet over HTTP: all devices together, those of a label, and each label."""

from typing import Annotated

from fastapi import FastAPI, Query

from wattstream.domain.efficiency import Status
from wattstream.domain.units import kwh
from wattstream.query.fleet import FleetTotals
from wattstream.query.queries import Queries
from wattstream.web import models
from wattstream.web.answers import window
from wattstream.web.documents import AWAY, BAD, UNKNOWN
from wattstream.web.parameters import EndQuery, StartQuery, open_range

_DEFAULT = (
    "Without a range: from the first whole quarter-hour after now − 24 h up to the newest "
    "reading. No quarter-hour is cut there, so the answer is cheap."
)


class Linked(models.Model):
    """AC of which the vehicle is known, DC of which the meter is, kWh; their ratio."""

    ac: float
    dc: float
    efficiency: float | None


class Unlinked(models.Model):
    """AC of meters that fed no known vehicle, DC of vehicles that no known meter fed, kWh."""

    ac: float
    dc: float


class Figures(models.Model):
    """Energy and efficiency of devices together over a range."""

    total_ac: float | None
    total_dc: float
    efficiency: float | None
    linked: Linked
    unlinked: Unlinked
    avg_battery_temp: float | None
    suspect_kwh: models.SuspectKwh
    readings: models.ReadingCounts
    status: Status


class FleetAnswer(Figures):
    """All devices together, or those of one label."""

    window: models.Window


class LabelAnswer(Figures):
    """The devices of a fleet label; null: those without one."""

    fleet: str | None


class FleetsAnswer(models.Model):
    """Every fleet label in code point order; devices without one come last."""

    window: models.Window
    fleets: list[LabelAnswer]


def add_fleet(app: FastAPI, queries: Queries) -> None:
    """Add the endpoints of the fleet."""

    @app.get(
        "/v1/analytics/fleet",
        tags=["answers"],
        summary="Energy and efficiency of all devices together, or of a fleet label",
        description=_DEFAULT,
        responses={**BAD, **UNKNOWN, **AWAY},
    )
    async def fleet(
        start: StartQuery = None,
        end: EndQuery = None,
        fleet: Annotated[
            str | None, Query(description="Only devices with this fleet label")
        ] = None,
    ) -> FleetAnswer:
        found = await queries.fleet(*open_range(start, end, queries.clock_us()), fleet)
        return FleetAnswer(
            window=window(found.start_us, found.end_us), **dict(_figures(found.totals))
        )

    @app.get(
        "/v1/analytics/fleets",
        tags=["answers"],
        summary="Energy and efficiency of each fleet label",
        description=_DEFAULT,
        responses={**BAD, **AWAY},
    )
    async def fleets(start: StartQuery = None, end: EndQuery = None) -> FleetsAnswer:
        found = await queries.fleets(*open_range(start, end, queries.clock_us()))
        return FleetsAnswer(
            window=window(found.start_us, found.end_us),
            fleets=[
                LabelAnswer(fleet=label, **dict(_figures(totals))) for label, totals in found.fleets
            ],
        )


def _figures(totals: FleetTotals) -> Figures:
    ac, dc = totals.ac, totals.dc
    return Figures(
        total_ac=kwh(ac.energy_ukwh) if ac.readings else None,
        total_dc=kwh(dc.energy_ukwh),
        efficiency=totals.efficiency,
        linked=Linked(
            ac=kwh(totals.linked_ac_ukwh),
            dc=kwh(totals.linked_dc_ukwh),
            efficiency=totals.linked_efficiency,
        ),
        unlinked=Unlinked(
            ac=kwh(ac.energy_ukwh - totals.linked_ac_ukwh),
            dc=kwh(dc.energy_ukwh - totals.linked_dc_ukwh),
        ),
        avg_battery_temp=totals.battery_temp_c,
        suspect_kwh=models.SuspectKwh(ac=kwh(ac.suspect_ukwh), dc=kwh(dc.suspect_ukwh)),
        readings=models.ReadingCounts(vehicle=dc.readings, meter=ac.readings),
        status=totals.status,
    )
