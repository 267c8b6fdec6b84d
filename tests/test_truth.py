"""Everything an engine answers equals a plain recomputation of what it holds.

Devices of every kind, their readings in random order, repeated and contradicted, from several
clients of two engines at once, settings and links made before, meanwhile or after. More rounds:

    WATTSTREAM_TEST_ROUNDS=100 .venv/bin/python -m pytest -m '' tests/test_truth.py
"""

import asyncio
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from truth import Judged, Rules, judge
from wattstream.app import running
from wattstream.settings import load

DEVICES = 100  # of each round, in pairs
BUCKET = 900_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
END_US = (END - _EPOCH) // timedelta(microseconds=1)
_ENERGY = {"meter": "kwhConsumedAc", "vehicle": "kwhDeliveredDc"}
_FIELDS = {"meter": ("voltage",), "vehicle": ("soc", "batteryTemp")}
_FALLS = {"rollover", "dip", "reset"}


def text(at_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat()


def us(moment: str) -> int:
    return (datetime.fromisoformat(moment) - _EPOCH) // timedelta(microseconds=1)


@dataclass
class Device:
    """A device, all that is sent of it, and what the engine says that it holds."""

    type: str
    id: str
    rules: Rules
    sent: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    held: dict[int, dict[str, Any]] = field(default_factory=dict)
    judged: list[Judged] = field(default_factory=list)

    def totals(self, start: int, end: int) -> tuple[int, int, int]:
        """Return counted and suspect energy, and readings, in [start, end)."""
        inside = [one for one in self.judged if start <= one.at < end]
        return sum(x.counted for x in inside), sum(x.suspect for x in inside), len(inside)


@dataclass
class Link:
    meter: Device
    vehicle: Device
    start: int
    end: int | None
    number: int = 0


class Round:
    """One round: what is made up, what is sent, and whether the answers are true."""

    def __init__(self, seed: int, clients: list[httpx.AsyncClient], kinds: Counter[str]) -> None:
        self.rng = random.Random(seed)
        self.clients = clients
        self.kinds = kinds
        self.stored = self.duplicates = self.conflicts = 0
        prefix = f"r{seed}-"
        self.devices = []
        for i in range(DEVICES // 2):
            # Of some pairs, meter and vehicle have the same id.
            twin = f"{prefix}t{i}"
            for kind in _ENERGY:
                name = twin if i % 3 == 0 else f"{prefix}{kind}{i}"
                self.devices.append(self._device(kind, name))
        self.links = self._links()

    def _device(self, kind: str, name: str) -> Device:
        rng = self.rng
        rules = Rules(
            rng.random() < 0.7,
            rng.choice([None, 1_000_000, 50_000_000]),
            rng.choice([None, None, 3_700, 22_000]),
            rng.choice([60, 60, 900]),
        )
        device = Device(kind, name, rules)
        at = END_US - rng.randrange(3 * 3600, 20 * 3600) * 1_000_000
        value = rng.randrange(rules.modulus or 5_000_000)
        back = None
        for _ in range(rng.randrange(1, 60)):
            at += rng.choice([1, 500_000, 7_000_000, 60_000_000, 60_000_000, 1_300_000_000])
            if at >= END_US:
                break
            chance = rng.random()
            if back is not None:
                value, back = back + rng.randrange(20_000), None
            elif chance < 0.05:
                back, value = value, rng.randrange(value + 1)
            elif chance < 0.08:
                value = rng.randrange(value + 1)
            elif chance < 0.12:
                value += rng.randrange(90_000_000)
            else:
                value += rng.randrange(30_000)
            if rules.modulus and rng.random() < 0.9:
                value %= rules.modulus
            device.sent[at] = [self._record(device, at, value)]
            if rng.random() < 0.05:
                device.sent[at].append(self._record(device, at, value + rng.randrange(1, 99)))
        return device

    def _record(self, device: Device, at: int, value: int) -> dict[str, Any]:
        rng = self.rng
        record: dict[str, Any] = {
            f"{device.type}Id": device.id,
            _ENERGY[device.type]: rng.choice([value / 1e6, f"{value / 1e6:.6f}"]),
            "timestamp": text(at),
        }
        for name in _FIELDS[device.type]:
            if rng.random() < 0.8:
                record[name] = rng.choice([rng.randrange(100), round(rng.random() * 90, 3)])
        return record

    def _links(self) -> list[Link]:
        """Make up links that begin and end anywhere; a meter feeds one vehicle at a time."""
        rng = self.rng
        meters = [device for device in self.devices if device.type == "meter"]
        vehicles = [device for device in self.devices if device.type == "vehicle"]
        links = []
        for meter in rng.sample(meters, len(meters) // 2):
            at = END_US - rng.randrange(24 * 3600 * 1_000_000)
            for _ in range(rng.randrange(1, 4)):
                end = at + rng.randrange(1, 6 * 3600 * 1_000_000)
                links.append(Link(meter, rng.choice(vehicles[::2]), at, end))
                at = end + rng.choice([0, 1, 3_000_000_000])
            if rng.random() < 0.3:
                links[-1].end = None
        return links

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.rng.choice(self.clients).request(method, path, **options)

    async def get(self, path: str, **params: Any) -> Any:
        answer = await self.ask("GET", path, params=params)
        assert answer.status_code == 200, (path, params, answer.text)
        return answer.json()

    async def run(self) -> None:
        rows = [row for device in self.devices for rows in device.sent.values() for row in rows]
        rows += self.rng.choices(rows, k=len(rows) // 3)
        self.rng.shuffle(rows)
        early = {d.id + d.type for d in self.devices if self.rng.random() < 0.4}
        await self.set_rules([d for d in self.devices if d.id + d.type in early])
        await asyncio.gather(
            *(self.client(rows[i::4]) for i in range(4)),
            self.set_rules([d for d in self.devices[::2] if d.id + d.type not in early]),
            self.make_links(),
        )
        await self.set_rules([d for d in self.devices[1::2] if d.id + d.type not in early])
        distinct = sum(len(device.sent) for device in self.devices)
        assert self.stored == distinct
        assert self.stored + self.duplicates + self.conflicts == len(rows)
        await self.change_links()
        await self.check_readings()
        await self.check_buckets()
        for device in self.devices:
            await self.check_device(device)
            if device.type == "vehicle":
                await self.check_performance(device)

    async def client(self, rows: list[dict[str, Any]]) -> None:
        while rows:
            size = self.rng.choice([1, 3, 40, 300])
            batch, rows = rows[:size], rows[size:]
            answer = await self.ask("POST", "/v1/ingest/batch", json=batch)
            assert answer.status_code in (201, 207, 422), answer.text
            report = answer.json()
            assert {error["code"] for error in report["errors"]} <= {"conflict"}
            self.stored += report["stored"]
            self.duplicates += report["duplicates"]
            self.conflicts += report["rejected"]

    async def set_rules(self, devices: list[Device]) -> None:
        for device in devices:
            rules = device.rules
            settings = {
                "energyMode": "register" if rules.is_register else "interval",
                "registerModulusKwh": rules.modulus and rules.modulus / 1e6,
                "ratedPowerKw": rules.rated_w and rules.rated_w / 1000,
                "heartbeatSeconds": rules.heartbeat_s,
            }
            path = f"/v1/devices/{device.type}/{device.id}"
            answer = await self.ask("PUT", path, json=settings)
            assert answer.status_code in (200, 201), answer.text

    async def make_links(self) -> None:
        for link in self.links:
            body = {
                "meterId": link.meter.id,
                "vehicleId": link.vehicle.id,
                "start": text(link.start),
                "end": None if link.end is None else text(link.end),
            }
            answer = await self.ask("POST", "/v1/links", json=body)
            assert answer.status_code == 201, answer.text
            link.number = answer.json()["linkId"]

    async def change_links(self) -> None:
        for link in self.rng.sample(self.links, len(self.links) // 4):
            path = f"/v1/links/{link.number}"
            if self.rng.random() < 0.5:
                assert (await self.ask("DELETE", path)).status_code == 204
                self.links.remove(link)
            elif link.end is not None:
                link.end = self.rng.randrange(link.start + 1, link.end + 1)
                answer = await self.ask("PATCH", path, json={"end": text(link.end)})
                assert answer.status_code == 200, answer.text

    async def walk(self, path: str, **params: Any) -> list[Any]:
        """Return the items of all pages."""
        items: list[Any] = []
        cursor = None
        while True:
            page = await self.get(path, **params, **({"cursor": cursor} if cursor else {}))
            items += page["items"]
            cursor = page["next"]
            if cursor is None:
                return items

    async def check_readings(self) -> None:
        """Each time that was sent is held once, with values that were sent; count by them."""
        everything = {"start": text(END_US - 2 * 86_400_000_000), "end": END.isoformat()}
        for kind, key in _ENERGY.items():
            mine = {device.id: device for device in self.devices if device.type == kind}
            names = [name for name, device in mine.items() if device.sent]
            for item in await self.walk(
                f"/v1/history/{kind}", id=names, resolution="raw", limit=10_000, **everything
            ):
                device = mine[item["id"]]
                assert us(item["timestamp"]) not in device.held
                device.held[us(item["timestamp"])] = item
            for device in mine.values():
                assert list(device.held) == sorted(device.sent)
                for at, item in device.held.items():
                    values = [item[key], *(item[name] for name in _FIELDS[kind])]
                    candidates = [
                        [float(one[key]), *(one.get(name) for name in _FIELDS[kind])]
                        for one in device.sent[at]
                    ]
                    assert values in candidates
                history = [(at, round(item[key] * 1e6)) for at, item in device.held.items()]
                device.judged = judge(device.rules, history)
                for one in device.judged:
                    item = device.held[one.at]
                    counted = (round(item["energyKwh"] * 1e6), round(item["suspectKwh"] * 1e6))
                    assert counted == (one.counted, one.suspect), (device, one)
                    self.kinds[one.fall or ("suspect" if one.suspect else "plain")] += 1
                self.kinds["conflict"] += sum(len(rows) - 1 for rows in device.sent.values())

    async def check_buckets(self) -> None:
        start, end = END_US - 2 * 86_400_000_000, END_US - self.rng.randrange(3600) * 1_000_000
        for kind in _ENERGY:
            devices = [d for d in self.devices if d.type == kind and d.sent]
            found = defaultdict(list)
            for item in await self.walk(
                f"/v1/history/{kind}", id=[d.id for d in devices], resolution="15m",
                limit=10_000, start=text(start), end=text(end),
            ):  # fmt: skip
                found[item["id"]].append(item)
            for device in devices:
                starts = sorted({x.at // BUCKET * BUCKET for x in device.judged if x.at < end})
                assert [us(item["start"]) for item in found[device.id]] == starts
                for item, at in zip(found[device.id], starts, strict=True):
                    stop = min(at + BUCKET, end)
                    counted, suspect, readings = device.totals(at, stop)
                    assert round(item["energyKwh"] * 1e6) == counted
                    assert round(item["suspectKwh"] * 1e6) == suspect
                    assert item["readings"] == readings
                    for name in _FIELDS[kind]:
                        mean = item["avg" + name[0].upper() + name[1:]]
                        assert mean == self.mean(device, name, at, stop)

    def mean(self, device: Device, name: str, start: int, end: int) -> float | None:
        values = [x[name] for at, x in device.held.items() if start <= at < end]
        micro = [round(value * 1e6) for value in values if value is not None]
        return sum(micro) / (len(micro) * 1e6) if micro else None

    async def check_device(self, device: Device) -> None:
        events = (await self.get(f"/v1/events/{device.type}/{device.id}", limit=1000))["events"]
        values = {at: round(x[_ENERGY[device.type]] * 1e6) for at, x in device.held.items()}
        times = list(device.held)
        expected = [
            (one.at, one.fall, values[one.at], times[i - 1], values[times[i - 1]])
            for i, one in enumerate(device.judged)
            if one.fall
        ]
        assert [
            (us(e["at"]), e["kind"], round(e["kwh"] * 1e6), us(e["beforeAt"]),
             round(e["beforeKwh"] * 1e6))
            for e in events
        ] == expected  # fmt: skip
        if device.held:
            status = await self.get(f"/v1/ingest/status/{device.type}/{device.id}")
            newest = device.held[times[-1]]
            assert us(status["timestamp"]) == times[-1]
            for key in (_ENERGY[device.type], *_FIELDS[device.type]):
                assert status[key] == newest[key]
            if device.type == "vehicle":
                last = device.judged[-1]
                assert status["charging"] == (last.counted + last.suspect > 0)

    async def check_performance(self, vehicle: Device) -> None:
        rng = self.rng
        cuts = [END_US - rng.randrange(86_400_000_000) for _ in range(4)]
        cuts += [link.start for link in self.links if link.vehicle is vehicle][:1]
        cuts += [END_US - 2 * 86_400_000_000, END_US]
        for _ in range(3):
            start, end = sorted(rng.sample(cuts, 2))
            if start < end:
                window = {"start": text(start), "end": text(end)}
                answer = await self.get(f"/v1/analytics/performance/{vehicle.id}", **window)
                self.compare(vehicle, start, end, answer)

    def compare(self, vehicle: Device, start: int, end: int, answer: Any) -> None:
        mine = [link for link in self.links if link.vehicle is vehicle]
        parts = [(x.meter, max(start, x.start), min(end, x.end or end)) for x in mine]
        parts = [part for part in parts if part[1] < part[2]]
        source = "link" if parts else "none"
        twins = [d for d in self.devices if d.type == "meter" and d.id == vehicle.id]
        if not mine and twins and not any(link.meter is twins[0] for link in self.links):
            parts, source = [(twins[0], start, end)], "same-id"
        ac = [meter.totals(first, last) for meter, first, last in parts]
        counted, suspect, readings = (sum(column) for column in zip((0, 0, 0), *ac, strict=True))
        dc, dc_suspect, dc_readings = vehicle.totals(start, end)
        micro = 1e6
        assert answer["totalAc"] == (counted / micro if parts else None)
        assert answer["totalDc"] == dc / micro
        assert answer["suspectKwh"] == {"ac": suspect / micro, "dc": dc_suspect / micro}
        assert answer["readings"] == {"vehicle": dc_readings, "meter": readings}
        assert answer["meters"] == sorted({meter.id for meter, _, _ in parts})
        assert answer["acSource"] == source
        assert answer["avgBatteryTemp"] == self.mean(vehicle, "batteryTemp", start, end)
        value = answer["efficiency"]
        if value is None:  # never without saying why
            assert answer["reason"] or answer["status"] == "no_data"
        else:
            assert value == dc / counted
        assert (answer["status"] == "no_data") == (dc_readings == 0)
        if dc_readings and parts and value is not None:
            expected = "over_unity" if value > 1.02 else "low_efficiency" if value < 0.85 else "ok"
            assert answer["status"] == expected
            self.kinds["efficiency"] += 1
        self.kinds[source] += 1
        self.kinds["several meters"] += len(parts) > 1


@pytest.mark.parametrize("engines", [1, 2])
def test_every_answer_equals_a_recomputation(
    make_database: Callable[[], str], engines: int
) -> None:
    rounds = int(os.environ.get("WATTSTREAM_TEST_ROUNDS", "1"))
    first = int(os.environ.get("WATTSTREAM_TEST_SEED", "1"))
    kinds: Counter[str] = Counter()

    async def main() -> None:
        conninfo = make_database()
        async with AsyncExitStack() as stack:
            clients = []
            for _ in range(engines):
                app = await stack.enter_async_context(running(load({}, {}), conninfo))
                client = httpx.AsyncClient(
                    transport=httpx.ASGITransport(app), base_url="http://e", timeout=60
                )
                clients.append(await stack.enter_async_context(client))
            for seed in range(first, first + rounds):
                try:
                    await Round(seed, clients, kinds).run()
                except AssertionError as error:
                    error.add_note(f"seed {seed}, {engines} engines")
                    raise
            await check_refresh(clients[-1], conninfo)

    asyncio.run(main())
    print(  # noqa: T201 - said where more rounds were asked for
        f"{rounds} rounds of {DEVICES} devices from seed {first}, {engines} engines: {kinds}"
    )
    assert _FALLS | {"suspect", "conflict", "link", "same-id", "none"} <= set(kinds)
    assert kinds["several meters"] > 0


async def check_refresh(client: httpx.AsyncClient, conninfo: str) -> None:
    """Nothing is to repair; then one rollup row is damaged, and just that one is found."""
    start = text(END_US - 3 * 86_400_000_000)

    async def repaired() -> int:
        answer = await client.post("/v1/analytics/refresh", params={"start": start})
        return int(answer.json()["bucketsRepaired"])

    assert await repaired() == 0
    with psycopg.connect(conninfo) as connection:
        connection.execute(
            "UPDATE meter_rollup SET suspect_ukwh = suspect_ukwh + 1 WHERE (device_id, bucket_at) ="
            " (SELECT device_id, bucket_at FROM meter_rollup ORDER BY device_id, bucket_at LIMIT 1)"
        )
    assert await repaired() == 1
    assert await repaired() == 0
