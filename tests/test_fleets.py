"""Answers over devices together: by label, and what no link explains; exact against plain loops."""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from conftest import Server
from oracle import MemoryStore
from test_exactness import Sent, readings, set_rules
from test_http import Api, at
from test_store import NOW, opened
from wattstream.domain.devices import DeviceChange
from wattstream.domain.links import FOREVER_US, OverlapError, covered
from wattstream.domain.readings import Stream
from wattstream.domain.register import EnergyMode, Rules
from wattstream.domain.units import BUCKET_US, DAY_US, MICRO, NEVER_US
from wattstream.query.fleet import FleetTotals, default_start, fleet_performance, fleets
from wattstream.query.ranges import grouped
from wattstream.settings import load
from wattstream.store.port import Store

LABELS = [None, None, "north", "süd", "a'; --"]
RULES = [
    Rules(),
    Rules(rated_w=7_000),
    Rules(EnergyMode.REGISTER),
    Rules(EnergyMode.REGISTER, modulus_ukwh=2_000_000, rated_w=22_000, heartbeat_s=900),
]
_FEW = settings(
    max_examples=20,
    phases=[phase for phase in Phase if phase is not Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, *settings().suppress_health_check],
)


@dataclass(frozen=True)
class Expected:
    """What plain loops say of some devices."""

    ac: tuple[int, int, int]
    dc: tuple[int, int, int]
    temperature: tuple[int, int]
    linked_ac: int
    linked_dc: int


def seen(totals: FleetTotals) -> Expected:
    return Expected(
        (totals.ac.energy_ukwh, totals.ac.suspect_ukwh, totals.ac.readings),
        (totals.dc.energy_ukwh, totals.dc.suspect_ukwh, totals.dc.readings),
        (totals.dc.sums_micro[1], totals.dc.counts[1]),
        totals.linked_ac_ukwh,
        totals.linked_dc_ukwh,
    )


def is_linked(oracle: MemoryStore, stream: Stream, name: str, at_us: int) -> bool:
    """Say whether a link, or the same-id rule, holds for a device at a time."""
    side = "meter_id" if stream is Stream.METER else "vehicle_id"
    links = oracle.linked.values()
    if any(getattr(link, side) == name and link.start_us <= at_us < link.end_us for link in links):
        return True
    is_named = any(name in (link.meter_id, link.vehicle_id) for link in links)
    return not is_named and all((other, name) in oracle.registry for other in Stream)


@dataclass(frozen=True)
class Counted:
    """A reading with what it counts for."""

    stream: Stream
    label: str | None
    at_us: int
    energy_ukwh: int
    suspect_ukwh: int
    temperature_micro: int | None
    is_linked: bool


def counted(oracle: MemoryStore) -> list[Counted]:
    found = []
    for (stream, name), device in oracle.registry.items():
        for time, (energy, suspect) in oracle.contributions(device).items():
            last = oracle.readings[stream, name][time][0].fields[-1]
            micro = None if stream is Stream.METER or np.isnan(last) else round(last * 1e6)
            linked = is_linked(oracle, stream, name, time)
            found.append(Counted(stream, device.fleet, time, energy, suspect, micro, linked))
    return found


def brute_force(rows: list[Counted], start: int, end: int, labels: set[str | None]) -> Expected:
    inside = [row for row in rows if row.label in labels and start <= row.at_us < end]
    ac = [row for row in inside if row.stream is Stream.METER]
    dc = [row for row in inside if row.stream is Stream.VEHICLE]
    warm = [row.temperature_micro for row in dc if row.temperature_micro is not None]
    return Expected(
        (sum(r.energy_ukwh for r in ac), sum(r.suspect_ukwh for r in ac), len(ac)),
        (sum(r.energy_ukwh for r in dc), sum(r.suspect_ukwh for r in dc), len(dc)),
        (sum(warm), len(warm)),
        sum(r.energy_ukwh for r in ac if r.is_linked),
        sum(r.energy_ukwh for r in dc if r.is_linked),
    )


async def fill(rng: random.Random, stores: list[Store]) -> None:
    """Give stores the same devices, rules, labels, readings and links."""

    def some_time() -> int:
        moment = NOW - rng.randrange(3 * 24 * 3600) * MICRO
        return moment // BUCKET_US * BUCKET_US if rng.random() < 0.2 else moment

    for stream in Stream:
        rows = []
        for device in range(rng.randrange(1, 7)):
            start = some_time()
            gap = rng.choice([40, 300, 2000])
            rows += [
                Sent(device, start + i * gap * MICRO, rng.randrange(3_000_000))
                for i in range(rng.randrange(60))
            ]
        rng.shuffle(rows)
        # Ids of both streams overlap, so some are twins.
        for target in stores if rows else ():
            await target.write(readings(stream, lambda device: f"d{device}", rows), NOW)
        for device in range(7):
            if rng.random() < 0.8:
                rules, label = rng.choice(RULES), rng.choice(LABELS)
                for target in stores:
                    await set_rules(target, stream, f"d{device}", rules)
                    await target.change_device(stream, f"d{device}", DeviceChange(fleet=label))
    for _ in range(rng.randrange(12)):
        start, end = sorted((some_time(), some_time() + 1))
        start = NEVER_US if rng.random() < 0.15 else start
        end = FOREVER_US if rng.random() < 0.3 else end
        meter, vehicle = f"d{rng.randrange(6)}", f"d{rng.randrange(6)}"
        refused = []
        for target in stores:
            try:
                await target.add_link(meter, vehicle, start, end)
            except OverlapError:
                refused.append(target)
        assert refused in ([], stores)


@_FEW
@given(st.integers(0, 2**32))
def test_totals_by_label_and_what_is_linked_equal_plain_loops(
    make_database: Callable[[], str], seed: int
) -> None:
    rng = random.Random(seed)

    async def main() -> None:
        async for store in opened(make_database()):
            oracle = MemoryStore()
            await fill(rng, [store, oracle])
            rows = counted(oracle)
            last = max((t for history in oracle.readings.values() for t in history), default=NOW)
            some = {"same_id": True, "threshold": 0.85}
            for _ in range(4):
                start = NOW - rng.randrange(-3600, 4 * 24 * 3600) * MICRO
                end = start + rng.choice([1, 700, 3600, 86_400, 10**6]) * MICRO
                start = start // BUCKET_US * BUCKET_US if rng.random() < 0.3 else start
                asked = rng.choice([(None, None), (start, None), (start, end)])
                now = last + rng.randrange(DAY_US)
                first = default_start(now) if asked[0] is None else asked[0]
                until = max(first, last) + 1 if asked[1] is None else asked[1]
                for target in (store, oracle):
                    answer = await fleet_performance(target, now, *asked, label=None, **some)
                    assert answer.start_us == first
                    assert seen(answer.totals) == brute_force(rows, first, until, {*LABELS})
                each = await fleets(store, now, *asked, **some)
                present = {device.fleet for device in oracle.registry.values()}
                named = sorted(label for label in present if label is not None)
                labels = [*named, *([None] if None in present else [])]
                assert [label for label, _ in each.fleets] == labels
                for label, totals in each.fleets:
                    assert seen(totals) == brute_force(rows, first, until, {label})
                for label in named:
                    one = await fleet_performance(store, now, *asked, label=label, **some)
                    assert one.totals == dict(each.fleets)[label]

    asyncio.run(main())


_ranges = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-5, 30), st.integers(1, 12)).map(
        lambda r: (r[0], r[1], r[1] + r[2])
    ),
    max_size=12,
)


@given(_ranges)
def test_ranges_cover_what_each_of_them_covers(ranges: list[tuple[int, int, int]]) -> None:
    columns = np.array(ranges, np.int64).reshape(-1, 3).T
    found = list(zip(*(column.tolist() for column in covered(*columns)), strict=True))
    assert {(key, t) for key, a, z in found for t in range(a, z)} == {
        (key, t) for key, a, z in ranges for t in range(a, z)
    }
    assert found == sorted(found)
    for (key, _, end), (other, start, _) in itertools.pairwise(found):
        assert key != other or end < start


_large = st.integers(-(2**62), 2**63 - 1)


@given(st.lists(st.tuples(st.integers(-1, 3), _large, _large)))
def test_sums_of_groups_are_as_large_as_they_are(rows: list[tuple[int, int, int]]) -> None:
    group, *columns = np.array(rows, np.int64).reshape(-1, 3).T
    assert grouped(np.stack(columns), group, 4) == [
        [sum(row[1] for row in rows if row[0] == g), sum(row[2] for row in rows if row[0] == g)]
        for g in range(4)
    ]


def test_labels_and_what_is_not_linked_over_http(embedded: Server) -> None:
    api = Api(embedded.make_database(), load({}, {}))
    assert api.get("/v1/analytics/fleets").json()["fleets"] == []
    for i, name in enumerate(("twin", "m1", "m2")):
        api.post({"meterId": name, "kwhConsumedAc": 10**i, "timestamp": at(600)})
    for i, name in enumerate(("twin", "v1", "v2")):
        api.post({"vehicleId": name, "kwhDeliveredDc": 0.5 * 10**i, "timestamp": at(600)})
    link = {"meterId": "m1", "vehicleId": "v1", "start": at(600), "end": at(599)}
    assert api.post(link, "/v1/links").status_code == 201
    north = [("meter", "twin"), ("meter", "m2"), ("vehicle", "twin"), ("vehicle", "v2")]
    for kind, name in north:
        api.request("PUT", f"/v1/devices/{kind}/{name}", json={"fleet": "north"})
    answer = api.get("/v1/analytics/fleet").json()
    assert (answer["totalAc"], answer["totalDc"], answer["efficiency"]) == (111, 55.5, 0.5)
    assert answer["linked"] == {"ac": 11, "dc": 5.5, "efficiency": 0.5}
    assert answer["unlinked"] == {"ac": 100, "dc": 50}
    listed = api.get("/v1/analytics/fleets").json()
    assert listed["window"] == answer["window"]
    labelled, others = listed["fleets"]
    assert (labelled.pop("fleet"), others["fleet"]) == ("north", None)
    assert labelled["linked"] == {"ac": 1, "dc": 0.5, "efficiency": 0.5}
    assert labelled["unlinked"] == {"ac": 100, "dc": 50}
    assert others["unlinked"] == {"ac": 0, "dc": 0}
    one = api.get("/v1/analytics/fleet", fleet="north").json()
    assert one == {**labelled, "window": listed["window"]}
    for label in ("south", "", "a\0", "\N{ZERO WIDTH SPACE}" * 500):
        refused = api.get("/v1/analytics/fleet", fleet=label)
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "fleet_unknown"
    # A vehicle whose meter is known before and after, but not then, is unlinked then.
    then = api.get("/v1/analytics/fleet", start=at(601), end=at(600)).json()
    assert then["status"] == "no_data"
    assert then["linked"]["efficiency"] is None
    api.close()
