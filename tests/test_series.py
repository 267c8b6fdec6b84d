"""History cut into readings and buckets equals plain loops over all readings."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import count, groupby, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from oracle import MemoryStore
from test_exactness import Sent, falls, readings, set_rules
from test_store import NOW, opened
from wattstream.domain.devices import Device, DeviceChange
from wattstream.domain.readings import Readings, Stream
from wattstream.domain.register import EnergyMode, Rules
from wattstream.domain.units import BUCKET_US, DAY_US, MICRO, bucket_floor, to_datetime, to_us
from wattstream.query import history
from wattstream.query.history import Place, RawBlock, Resolution, Wanted
from wattstream.store.port import Store

# Clock changes and a zone whose hours begin at a quarter past.
CHANGES = [
    ("Europe/Paris", datetime(2025, 10, 26, 1, tzinfo=UTC)),
    ("Europe/Paris", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("America/New_York", datetime(2025, 11, 2, 6, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, 7, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2025, 10, 4, 15, 30, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2026, 2, 28, 18, 15, tzinfo=UTC)),
]
_numbers = count()
SPAN_US = 2 * DAY_US
_values = st.one_of(st.integers(0, 2_000_000), st.sampled_from([0, 999_999, 1_000_000, 10**15]))
# Whole quarter-hours and hours are where mistakes are.
_offsets = st.one_of(
    st.integers(-SPAN_US, SPAN_US - 1),
    st.integers(-SPAN_US // BUCKET_US, SPAN_US // BUCKET_US - 1).map(lambda n: n * BUCKET_US),
)
_rules = st.builds(
    Rules,
    energy_mode=st.sampled_from(EnergyMode),
    modulus_ukwh=st.sampled_from([None, 1_000_000, 2_000_000]),
    rated_w=st.sampled_from([None, 1_000, 22_000]),
)


def label(resolution: Resolution, zone: ZoneInfo, at_us: int) -> object:
    """Name the bucket of a time by what the zone's clocks show."""
    local = to_datetime(at_us).astimezone(zone)
    match resolution:
        case Resolution.RAW:
            return at_us
        case Resolution.QUARTER:
            return at_us // BUCKET_US
        case Resolution.HOUR:
            return local.date(), local.hour, local.utcoffset()
        case Resolution.DAY:
            return local.date()


def expected(
    oracle: MemoryStore, device: Device, resolution: Resolution, start: int, end: int
) -> list[tuple[Any, ...]]:
    """Return rows by plain loops: times, counted, suspect, number, and means or values."""
    parts = oracle.contributions(device)
    held = oracle.readings[device.stream, device.external_id]
    zone = ZoneInfo(device.time_zone)
    rows = []
    inside = sorted(at for at in held if start <= at < end)
    for _, group in groupby(inside, lambda at: label(resolution, zone, at)):
        times = list(group)
        columns = zip(*(held[at][0].fields for at in times), strict=True)
        present = [[value for value in column if not math.isnan(value)] for column in columns]
        means = [
            sum(round(value * 1e6) for value in column) / (len(column) * 1e6) if column else None
            for column in present
        ]
        energy = [sum(parts[at][i] for at in times) for i in (0, 1)]
        rows.append((tuple(times), *energy, len(times), *means))
    return rows


def rows_of(
    blocks: Sequence[history.Block], oracle: MemoryStore, start: int, end: int
) -> list[tuple[Any, ...]]:
    """Return blocks in the form of `expected`; a bucket stands for the readings inside it."""
    rows = []
    for block in blocks:
        held = oracle.readings[block.device.stream, block.device.external_id]
        if isinstance(block, RawBlock):
            assert block.energy_ukwh.tolist() == [held[at][0].energy_ukwh for at in block.at_us]
            times = [(at,) for at in block.at_us.tolist()]
            energy, suspect = block.parts.energy.tolist(), block.parts.suspect.tolist()
            counts, fields = [1] * len(times), block.values
        else:
            bounds = list(zip(block.start_us.tolist(), block.end_us.tolist(), strict=True))
            assert all(start <= a < b <= end for a, b in bounds)
            assert all(b <= a for (_, b), (a, _) in pairwise(bounds))
            times = [tuple(sorted(at for at in held if a <= at < b)) for a, b in bounds]
            energy, suspect = block.energy_ukwh, block.suspect_ukwh
            counts, fields = block.readings.tolist(), block.means
        means = [[None if math.isnan(x) else x for x in row] for row in fields.tolist()]
        rows += [
            (*row, *mean) for *row, mean in zip(times, energy, suspect, counts, means, strict=True)
        ]
    return rows


async def walked(store: Store, wanted: Wanted, limit: int) -> list[history.Block]:
    """Read all pages."""
    blocks: list[history.Block] = []
    place: Place | None = wanted.after
    while True:
        page, place = await history.page(
            store,
            Wanted(
                wanted.stream, wanted.ids, wanted.resolution, wanted.start_us, wanted.end_us, place
            ),
            limit,
        )
        blocks += page
        n = sum(len(block) for block in page)
        if place is None:
            assert n <= limit
            return blocks
        assert n == limit


async def compare(
    store: Store,
    stream: Stream,
    change: tuple[str, datetime],
    devices: list[tuple[dict[int, int], Rules]],
    rng: random.Random,
) -> None:
    """Send histories around a clock change, and compare every cut of them with plain loops."""
    oracle = MemoryStore()
    zone, middle = change[0], to_us(change[1])
    prefix = f"e{next(_numbers)}-"
    rows = [
        Sent(device, middle + at, value)
        for device, (held, _) in enumerate(devices)
        for at, value in held.items()
    ]
    rng.shuffle(rows)
    cut = rng.randrange(len(rows))
    names = [f"{prefix}{device}" for device in range(len(devices))]
    for target in (store, oracle):
        for part in (rows[:cut], rows[cut:]):
            if part:
                await target.write(readings(stream, lambda device: names[device], part), NOW)
        for name, (_, rules) in zip(names, devices, strict=True):
            await set_rules(target, stream, name, rules)
            await target.change_device(stream, name, DeviceChange(time_zone=zone))
    edges = [middle - 10 * DAY_US, middle + 10 * DAY_US]
    edges += [middle + rng.randrange(-SPAN_US, SPAN_US) for _ in range(2)]
    edges += [bucket_floor(middle + rng.randrange(-SPAN_US, SPAN_US)) for _ in range(2)]
    start, end = sorted(rng.sample(edges, 2))
    if start == end:
        return
    for resolution in Resolution:
        truth = []
        for name in names:
            device = oracle.registry[stream, name]
            truth += expected(oracle, device, resolution, start, end)
        wanted = Wanted(stream, names, resolution, start, end)
        for target in (store, oracle):
            found = await walked(target, wanted, rng.choice([1, 2, 3, 10, 10_000]))
            assert rows_of(found, oracle, start, end) == truth
            streamed = [block async for block in history.stream(target, wanted, None)]
            assert rows_of(streamed, oracle, start, end) == truth
            some = [block async for block in history.stream(target, wanted, 5)]
            assert rows_of(some, oracle, start, end) == truth[:5]


def test_every_cut_of_a_history_equals_plain_loops(make_database: Callable[[], str]) -> None:
    conninfo = make_database()
    kinds: Counter[str] = Counter()

    @settings(max_examples=40, phases=[phase for phase in Phase if phase is not Phase.shrink])
    @given(
        stream=st.sampled_from(Stream),
        change=st.sampled_from(CHANGES),
        devices=st.lists(
            st.tuples(st.dictionaries(_offsets, _values, min_size=1, max_size=30), _rules),
            min_size=1,
            max_size=3,
        ),
        seed=st.integers(0, 2**32),
    )
    def check(
        stream: Stream,
        change: tuple[str, datetime],
        devices: list[tuple[dict[int, int], Rules]],
        seed: int,
    ) -> None:
        for held, rules in devices:
            kinds.update(falls(held, rules))

        async def main() -> None:
            async for store in opened(conninfo):
                await compare(store, stream, change, devices, random.Random(seed))

        asyncio.run(main())

    check()
    assert set(kinds) == {"rollover", "dip", "reset", "suspect"}, kinds


@pytest.mark.parametrize("change", CHANGES, ids=[f"{zone} {at:%m-%d}" for zone, at in CHANGES])
@pytest.mark.parametrize("resolution", [Resolution.HOUR, Resolution.DAY])
def test_every_minute_around_a_clock_change_is_counted_in_its_hour_and_day(
    conninfo: str, change: tuple[str, datetime], resolution: Resolution
) -> None:
    zone, middle = ZoneInfo(change[0]), to_us(change[1])
    at_us = middle + np.arange(-2 * 1440, 2 * 1440) * 60 * MICRO
    n = len(at_us)
    sent = Readings(Stream.METER, ["M"] * n, at_us, np.arange(n), np.full((n, 1), 230.0))
    counts = Counter(label(resolution, zone, at) for at in at_us.tolist())
    energy: Counter[object] = Counter()
    for at, value in zip(at_us.tolist(), range(n), strict=True):
        energy[label(resolution, zone, at)] += value

    async def main() -> None:
        async for store in opened(conninfo):
            await store.write(sent, NOW)
            await store.change_device(Stream.METER, "M", DeviceChange(time_zone=change[0]))
            wanted = Wanted(Stream.METER, ["M"], resolution, int(at_us[0]), int(at_us[-1]) + 1)
            (block,), _ = await history.page(store, wanted, 1000)
            assert isinstance(block, history.BucketBlock)
            assert block.readings.tolist() == list(counts.values())
            assert block.energy_ukwh == list(energy.values())
            minutes = (block.end_us - block.start_us) / (60 * MICRO)
            assert (minutes[:-1] == block.readings[:-1]).all()

    asyncio.run(main())


def test_a_history_longer_than_a_block_is_read_whole(conninfo: str) -> None:
    """A reading a quarter-hour for 120 days: more quarter-hours and readings than a block."""
    n = 120 * 96
    start = NOW - n * BUCKET_US
    at_us = start + np.arange(n) * BUCKET_US
    columns = Readings(
        Stream.VEHICLE, ["EV"] * n, at_us, np.arange(n) * 1000, np.full((n, 2), 20.5)
    )

    async def main() -> None:
        async for store in opened(conninfo):
            await store.write(columns, NOW)
            change = DeviceChange(energy_mode=1, time_zone="Europe/Paris")
            await store.change_device(Stream.VEHICLE, "EV", change)
            for resolution in (Resolution.RAW, Resolution.QUARTER, Resolution.DAY):
                wanted = Wanted(Stream.VEHICLE, ["EV"], resolution, start + 1, NOW)
                blocks = [block async for block in history.stream(store, wanted, None)]
                assert len(blocks) > 1
                assert max(map(len, blocks)) <= history.BLOCK_ROWS
                assert sum(sum(_energy(block)) for block in blocks) == (n - 1) * 1000
            days = [day for block in blocks for day in _days(block)]
            assert len(days) == len(set(days)) == 121

    asyncio.run(main())


def _energy(block: history.Block) -> list[int]:
    return block.parts.energy.tolist() if isinstance(block, RawBlock) else block.energy_ukwh


def _days(block: history.Block) -> list[object]:
    assert not isinstance(block, RawBlock)
    zone = ZoneInfo("Europe/Paris")
    return [to_datetime(at).astimezone(zone).date() for at in block.start_us.tolist()]
