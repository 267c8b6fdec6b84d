"""Energy and efficiency of a vehicle over a range, with its meters as linked."""

from dataclasses import dataclass

from wattstream.domain.efficiency import OVER_UNITY, Status, efficiency, status
from wattstream.domain.links import AcSource, feeds_within
from wattstream.domain.readings import VEHICLE
from wattstream.domain.units import MICRO
from wattstream.query.latest import find_vehicle
from wattstream.query.overlap import is_witnessed
from wattstream.query.window import Range, window_sums
from wattstream.store.port import Records

BATTERY_TEMP = [field.key for field in VEHICLE.fields].index("batteryTemp")
_APART = (
    "most of the energy in this range was counted on one side while the other sent no reading, "
    "so efficiency is not known: check the range, the clocks and the link"
)


@dataclass(frozen=True, slots=True)
class Performance:
    """The answer for one vehicle over [start_us, end_us).

    Attributes:
        ac_ukwh: Drawn by its meters, micro-kWh; None where no meter was linked in the range.
        dc_ukwh: Delivered to the battery, micro-kWh.
        efficiency: DC / AC as a fraction, None where AC is None or 0, the vehicle silent, or
            the energy that it would accuse of another time than the other side's readings.
        battery_temp_c: Mean over readings, °C; None where there are none.
        ac_suspect_ukwh: AC left out as not plausible, micro-kWh.
        dc_suspect_ukwh: DC left out as not plausible, micro-kWh.
        reason: Why AC or efficiency is missing or doubtful, or None.
    """

    vehicle_id: str
    start_us: int
    end_us: int
    ac_ukwh: int | None
    dc_ukwh: int
    efficiency: float | None
    battery_temp_c: float | None
    ac_suspect_ukwh: int
    dc_suspect_ukwh: int
    meters: list[str]
    ac_source: AcSource
    vehicle_readings: int
    meter_readings: int
    status: Status
    reason: str | None


async def performance(
    store: Records,
    vehicle_id: str,
    start_us: int,
    end_us: int,
    *,
    same_id: bool,
    threshold: float,
) -> Performance:
    """Return energy and efficiency of a vehicle over [start_us, end_us).

    Args:
        store: Where the readings are.
        vehicle_id: Outside id.
        start_us: Inclusive, microseconds.
        end_us: Exclusive, microseconds.
        same_id: Whether a meter of the same id counts where no link names either.
        threshold: Efficiency below this is low, fraction.

    Raises:
        NotFoundError: The vehicle was never seen.
    """
    async with store.snapshot() as snapshot:
        vehicle, feeds = await find_vehicle(snapshot, vehicle_id, same_id=same_id)
        links, source = feeds_within(feeds, start_us, end_us)
        sent: list[Range] = [(vehicle, start_us, end_us)]
        drawn: list[Range] = [(link.meter, link.start_us, link.end_us) for link in links]
        sums = await window_sums(snapshot, [*sent, *drawn])
        dc, *acs = (each.totals for each in sums)
        ac_ukwh = sum(ac.energy_ukwh for ac in acs)
        # A vehicle that sent nothing is silent, not 0 % efficient.
        value = efficiency(dc.energy_ukwh, ac_ukwh) if dc.readings else None
        # Nor is one whose readings are of another time than its meters' energy, or the reverse.
        is_apart = False
        if value is not None and value < threshold:
            others = list(zip(sent, sums[:1], strict=True))
            is_apart = not await is_witnessed(snapshot, drawn, ac_ukwh, others)
        elif value is not None and value > OVER_UNITY:
            others = list(zip(drawn, sums[1:], strict=True))
            is_apart = not await is_witnessed(snapshot, sent, dc.energy_ukwh, others)
        if is_apart:
            value = None
    ac_suspect_ukwh = sum(ac.suspect_ukwh for ac in acs)
    meter_readings = sum(ac.readings for ac in acs)
    state = status(
        vehicle_readings=dc.readings, has_meter=bool(links), value=value, threshold=threshold
    )
    temps = dc.counts[BATTERY_TEMP]
    return Performance(
        vehicle_id=vehicle_id,
        start_us=start_us,
        end_us=end_us,
        ac_ukwh=ac_ukwh if links else None,
        dc_ukwh=dc.energy_ukwh,
        efficiency=value,
        battery_temp_c=dc.sums_micro[BATTERY_TEMP] / (temps * MICRO) if temps else None,
        ac_suspect_ukwh=ac_suspect_ukwh,
        dc_suspect_ukwh=dc.suspect_ukwh,
        meters=sorted({link.meter.external_id for link in links}),
        ac_source=source,
        vehicle_readings=dc.readings,
        meter_readings=meter_readings,
        status=state,
        reason=_APART if is_apart else _reason(state, value, meter_readings, threshold),
    )


def _reason(
    state: Status, value: float | None, meter_readings: int, threshold: float
) -> str | None:
    if state is Status.OK and value is None:
        missing = "counted no energy" if meter_readings else "sent no reading"
        return f"the vehicle's meters {missing} in this range, so efficiency is not known"
    return {
        Status.NO_DATA: "the vehicle sent no reading in this range",
        Status.NO_METER: "no meter is linked to the vehicle in this range, so AC is not known",
        Status.OVER_UNITY: "more energy arrived than was drawn: a meter or a link is wrong",
        Status.LOW_EFFICIENCY: f"efficiency is below {threshold:g}: check the charger",
        Status.OK: None,
    }[state]
