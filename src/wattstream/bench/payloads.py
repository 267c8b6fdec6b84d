"""Request bodies, made before anything is timed."""

import gzip
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import msgspec
import numpy as np

from wattstream.domain.units import MICRO, rfc3339

DEVICES = 10_000
"""Meters, and as many vehicles; each reports once a simulated minute."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How readings are packed into requests.

    Attributes:
        per_request: Readings a request.
        ndjson: Lines instead of an array.
        compress: gzip.
        late_share: Readings sent ten minutes late, among those of their own time.
        duplicate_share: Readings sent a second time, ten minutes later.
        devices: Meters, and as many vehicles.
        prefix: Of their ids.
        token: Of the key that requests show; None for none.
        is_register: Values that rise from minute to minute, as those of a counter.
    """

    per_request: int = 5000
    ndjson: bool = False
    compress: bool = False
    late_share: float = 0.0
    duplicate_share: float = 0.0
    devices: int = DEVICES
    prefix: str = ""
    is_register: bool = False
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A whole HTTP request as bytes, and how many readings it holds."""

    data: bytes
    readings: int


def requests(shape: Shape, start_s: int, minutes: int, path: str) -> list[Request]:
    """Return the requests of some minutes of the fleet, from `start_s` on, seconds since 1970."""
    delay = 10
    held: dict[int, list[dict[str, object]]] = {}
    rng = random.Random(start_s)  # noqa: S311 - a benchmark repeats
    built: list[Request] = []
    for minute in range(minutes):
        now: list[dict[str, object]] = []
        for record in _minute(shape, start_s + 60 * minute, minute):
            chance = rng.random() if shape.late_share or shape.duplicate_share else 1.0
            if chance < shape.late_share + shape.duplicate_share:
                held.setdefault(minute + delay, []).append(record)
            if chance >= shape.late_share:
                now.append(record)
        now += held.pop(minute, [])
        built += _packed(now, shape, path)
    built += _packed([record for records in held.values() for record in records], shape, path)
    return built


def moved(template: Sequence[Request], minutes: int, start_s: int) -> list[Request]:
    """Return requests made for some minutes of 1970 at later times; cheaper than making them.

    Args:
        template: Each minute has as many requests as another.
        minutes: How many they are.
        start_s: Of the first, seconds since 1970.
    """
    a_minute = len(template) // minutes
    found = []
    for i, request in enumerate(template):
        old, new = (rfc3339((first + i // a_minute * 60) * MICRO) for first in (0, start_s))
        found.append(replace(request, data=request.data.replace(old.encode(), new.encode())))
    return found


def _minute(shape: Shape, at_s: int, seed: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    at, n, prefix = rfc3339(at_s * MICRO), shape.devices, shape.prefix
    energy = np.round(rng.random(n) / 5 + (0.2 * at_s / 60 if shape.is_register else 0), 6).tolist()
    volts = np.round(225 + 10 * rng.random(n), 1).tolist()
    soc = np.round(100 * rng.random(n), 1).tolist()
    meters: list[dict[str, object]] = [
        {"meterId": f"{prefix}M{i:06d}", "kwhConsumedAc": e, "voltage": v, "timestamp": at}
        for i, (e, v) in enumerate(zip(energy, volts, strict=True))
    ]
    vehicles: list[dict[str, object]] = [
        {"vehicleId": f"{prefix}V{i:06d}", "kwhDeliveredDc": e, "soc": s, "batteryTemp": 24.5,
         "timestamp": at}
        for i, (e, s) in enumerate(zip(energy, soc, strict=True))
    ]  # fmt: skip
    # A body of each in turn: of a million devices, all meters before all vehicles would leave
    # one lane without work.
    starts = range(0, n, shape.per_request)
    each = [part[i : i + shape.per_request] for i in starts for part in (meters, vehicles)]
    return list(chain.from_iterable(each))


def _packed(records: list[dict[str, object]], shape: Shape, path: str) -> list[Request]:
    built = []
    for start in range(0, len(records), shape.per_request):
        part = records[start : start + shape.per_request]
        if shape.ndjson:
            body = b"\n".join(map(msgspec.json.encode, part))
        else:
            body = msgspec.json.encode(part)
        kind = "application/x-ndjson" if shape.ndjson else "application/json"
        encoding = key = ""
        if shape.token is not None:
            key = f"Authorization: Bearer {shape.token}\r\n"
        if shape.compress:
            body, encoding = gzip.compress(body, 1), "Content-Encoding: gzip\r\n"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {kind}\r\n{encoding}{key}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        built.append(Request(head.encode() + body, len(part)))
    return built
