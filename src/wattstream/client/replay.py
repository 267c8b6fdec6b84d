"""Files of readings sent to an engine as they are, or moved in time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec

from wattstream.client.files import Row, device_of, read_rows, shifted, time_of
from wattstream.client.sender import Batch, Sender, Totals
from wattstream.domain.errors import OperatorError
from wattstream.domain.readings import Stream
from wattstream.domain.units import MICRO


@dataclass(frozen=True, slots=True)
class Survey:
    """What files hold, found in a first pass.

    Attributes:
        rows: Records, unreadable lines included.
        devices: Every device in them.
        newest_us: The newest time, after the devices' clock offsets; None without any.
    """

    rows: int
    devices: frozenset[tuple[Stream, str]]
    newest_us: int | None


@dataclass(frozen=True, slots=True)
class Replay:
    """How files are sent.

    Attributes:
        files: In this order.
        shift_us: Every timestamp is moved by that much.
        clock_offset_us: Moved further, by device id.
        mode: Energy mode that their devices get first, or None to leave it.
        rate: Readings a second at the most, or None.
        batch: Readings a request.
    """

    files: Sequence[Path]
    shift_us: int
    clock_offset_us: Mapping[str, int]
    mode: str | None
    rate: float | None
    batch: int

    def rows(self) -> Iterator[Row]:
        """Yield every record, moved in time."""
        for path in self.files:
            for row in read_rows(path):
                if row.record is None:
                    yield row
                    continue
                by_us = self.shift_us + _offset_us(row.record, self.clock_offset_us)
                yield row if by_us == 0 else _moved(row, by_us)


def survey(files: Sequence[Path], clock_offset_us: Mapping[str, int]) -> Survey:
    """Read files once to learn how much they hold, of which devices, and up to when.

    Raises:
        OperatorError: A file cannot be read, or a clock offset names a device in none of them.
    """
    rows = 0
    newest_us = None
    devices = set()
    for path in files:
        for row in read_rows(path):
            rows += 1
            if row.record is None:
                continue
            if (device := device_of(row.record)) is not None:
                devices.add(device)
            if (at_us := time_of(row.record)) is not None:
                at_us += _offset_us(row.record, clock_offset_us)
                newest_us = at_us if newest_us is None else max(newest_us, at_us)
    unknown = set(clock_offset_us) - {name for _, name in devices}
    if unknown:
        raise OperatorError(
            f"--clock-offset names {', '.join(sorted(unknown))}, which no file holds"
        )
    return Survey(rows, frozenset(devices), newest_us)


def shift_to_now_us(found: Survey, now_us: int) -> int:
    """Return the one shift, in whole seconds, that moves the newest time to now.

    Raises:
        OperatorError: No record has a readable time.
    """
    if found.newest_us is None:
        raise OperatorError("--shift-to-now: no record has a timestamp that can be read")
    return (now_us - found.newest_us) // MICRO * MICRO


async def replay(
    plan: Replay,
    devices: frozenset[tuple[Stream, str]],
    sender: Sender,
    on_answer: Callable[[int], None],
) -> Totals:
    """Set the devices' energy mode, then send the files.

    Raises:
        OperatorError: The engine is away, or a file cannot be read.
    """
    await sender.check()
    if plan.mode is not None:
        for stream, name in sorted(devices):
            path = f"/v1/devices/{stream}/{quote(name, safe='')}"
            await sender.put(path, {"energyMode": plan.mode})
    await sender.send_all(_batches(plan), on_answer)
    return sender.totals


async def _batches(plan: Replay) -> AsyncIterator[Batch]:
    """Yield NDJSON batches no faster than the rate."""
    started = time.monotonic()
    sent = 0
    pending: list[Row] = []
    size = plan.batch if plan.rate is None else max(1, min(plan.batch, int(plan.rate)))
    for row in plan.rows():
        pending.append(row)
        if len(pending) == size:
            yield _batch(pending)
            sent += size
            pending = []
            if plan.rate is not None:
                await asyncio.sleep(max(0.0, started + sent / plan.rate - time.monotonic()))
    if pending:
        yield _batch(pending)


def _batch(rows: list[Row]) -> Batch:
    return Batch(
        b"\n".join(row.raw for row in rows),
        len(rows),
        content_type="application/x-ndjson",
        origins=tuple(row.origin for row in rows),
    )


def _offset_us(record: Mapping[str, object], offsets: Mapping[str, int]) -> int:
    device = device_of(dict(record)) if offsets else None
    return offsets.get(device[1], 0) if device else 0


def _moved(row: Row, by_us: int) -> Row:
    record = shifted(row.record or {}, by_us)
    return Row(record, msgspec.json.encode(record), row.origin)
