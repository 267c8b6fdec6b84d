"""Rows of history as the API shows them: readings and buckets, their keys and units."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from wattstream.domain.readings import KINDS
from wattstream.domain.units import MICRO, Int64, kwh
from wattstream.query.history import Block, BucketBlock, RawBlock
from wattstream.web.models import Model, Time, Window
from wattstream.web.tables import Column, Numbers, Text, Times


class Contribution(Model):
    """What a reading, or all of a bucket, adds to the energy of its device.

    `id` is there in answers for several devices. Suspect energy is not counted in `energyKwh`.
    """

    id: str | None = None
    energy_kwh: float
    suspect_kwh: float


class MeterReading(Contribution):
    """A reading as sent, and what it adds."""

    timestamp: Time
    kwh_consumed_ac: float
    voltage: float | None


class VehicleReading(Contribution):
    """A reading as sent, and what it adds."""

    timestamp: Time
    kwh_delivered_dc: float
    soc: float | None
    battery_temp: float | None


class MeterBucket(Contribution):
    """The readings of [start, end); means are over the readings that have the value."""

    start: Time
    end: Time
    readings: int
    avg_voltage: float | None


class VehicleBucket(Contribution):
    """The readings of [start, end); means are over the readings that have the value."""

    start: Time
    end: Time
    readings: int
    avg_soc: float | None
    avg_battery_temp: float | None


class HistoryAnswer(Model):
    """A page of history, oldest first within a device; `next` goes into `cursor`."""

    type: Literal["meter", "vehicle"]
    resolution: Literal["raw", "15m", "1h", "1d"]
    window: Window
    items: list[MeterReading | VehicleReading | MeterBucket | VehicleBucket]
    next: str | None


class DeviceHistoryAnswer(HistoryAnswer):
    """A page of the history of one device."""

    id: str
    time_zone: Annotated[str, Field(description="Its days are those of 1d")]


def columns_of(block: Block, *, has_id: bool) -> list[Column]:
    """Return a block as the columns of an answer, named as the models above.

    Args:
        block: Rows of one device.
        has_id: Whether the answer may hold several devices.
    """
    own: list[Column] = [Text("id", block.device.external_id, len(block))] if has_id else []
    return own + (_of_readings(block) if isinstance(block, RawBlock) else _of_buckets(block))


def _of_readings(block: RawBlock) -> list[Column]:
    kind = KINDS[block.device.stream]
    return [
        Times("timestamp", block.at_us),
        _energy(kind.energy_key, block.energy_ukwh),
        *(
            Numbers(field.key, field.unit, block.values[:, i])
            for i, field in enumerate(kind.fields)
        ),
        _energy("energyKwh", block.parts.energy),
        _energy("suspectKwh", block.parts.suspect),
    ]


def _of_buckets(block: BucketBlock) -> list[Column]:
    kind = KINDS[block.device.stream]
    return [
        Times("start", block.start_us),
        Times("end", block.end_us),
        Numbers("energyKwh", "kWh", np.array([kwh(sum_) for sum_ in block.energy_ukwh])),
        Numbers("suspectKwh", "kWh", np.array([kwh(sum_) for sum_ in block.suspect_ukwh])),
        Numbers("readings", "1", block.readings),
        *(
            Numbers(f"avg{field.key[0].upper()}{field.key[1:]}", field.unit, block.means[:, i])
            for i, field in enumerate(kind.fields)
        ),
    ]


def _energy(key: str, ukwh: Int64) -> Numbers:
    """Return the energy of single readings, correctly rounded: a float holds their integers."""
    return Numbers(key, "kWh", ukwh / MICRO)
