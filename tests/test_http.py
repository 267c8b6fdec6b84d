"""The API over HTTP, as the contract promises it."""

import asyncio
import gzip
import itertools
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Server
from wattstream.app import running
from wattstream.settings import Settings, load

NOW = datetime.now(UTC).replace(microsecond=0)
Json = dict[str, Any]
_NUMBERS = itertools.count()


def at(seconds: float = 0) -> str:
    """Return a time so many seconds before the start of the tests."""
    return (NOW - timedelta(seconds=seconds)).isoformat()


class Api:
    """An engine in this process, asked through ASGI; one event loop for all requests."""

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self._runner = asyncio.Runner()
        self._running = running(settings, conninfo)
        app = self._runner.run(self._running.__aenter__())
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://api"
        )

    def run(self, work: Awaitable[Any]) -> Any:
        async def main() -> Any:
            return await work

        return self._runner.run(main())

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self._client.request(method, path, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        response: httpx.Response = self.run(self.ask(method, path, **options))
        return response

    def get(self, path: str, **params: object) -> httpx.Response:
        return self.request("GET", path, params=params)

    def post(self, record: object, path: str = "/v1/ingest") -> httpx.Response:
        return self.request("POST", path, json=record)

    def batch(self, records: object) -> Json:
        body: Json = self.post(records, "/v1/ingest/batch").json()
        return body

    def close(self) -> None:
        self.run(self._client.aclose())
        self._runner.run(self._running.__aexit__(None, None, None))
        self._runner.close()


@pytest.fixture(scope="module")
def make_api(embedded: Server) -> Iterator[Callable[..., Api]]:
    """Return a function that starts an engine on a fresh database, with some settings."""
    started: list[Api] = []

    def make(**flags: object) -> Api:
        started.append(Api(embedded.make_database(), load(flags, {})))
        return started[-1]

    yield make
    for api in started:
        api.close()


@pytest.fixture(scope="module")
def api(make_api: Callable[..., Api]) -> Api:
    """An engine that the tests of this module share; each uses devices of its own."""
    return make_api()


def test_the_four_usual_bodies_are_stored_and_shown(api: Api) -> None:
    now = at()
    meters = [
        {"meterId": "M1", "kwhConsumedAc": 15.2, "voltage": 230, "timestamp": now},
        {"type": "meter", "meterId": "MTR-1001", "kwhConsumedAc": 15.5, "voltage": 230,
         "timestamp": now},
    ]  # fmt: skip
    vehicles = [
        {"vehicleId": "V1", "soc": 75, "kwhDeliveredDc": 12.5, "batteryTemp": 36, "timestamp": now},
        {"type": "vehicle", "vehicleId": "EV-2001", "soc": 78, "kwhDeliveredDc": 12.2,
         "batteryTemp": 34, "timestamp": now},
    ]  # fmt: skip
    written = now.replace("+00:00", "Z")
    for kind, id_key, bodies in (("meter", "meterId", meters), ("vehicle", "vehicleId", vehicles)):
        for body in bodies:
            answer = api.post(body)
            assert answer.status_code == 201
            assert answer.json() == {
                "status": "ok",
                "type": kind,
                "id": body[id_key],
                "timestamp": written,
                "stored": True,
            }
            status = api.get(f"/v1/ingest/status/{kind}/{body[id_key]}").json()
            assert status | body == status | {"timestamp": now}
            assert status["type"] == kind
            age_s = (datetime.now(UTC) - NOW).total_seconds()
            assert age_s - 60 < status["ageSeconds"] <= age_s
            assert datetime.fromisoformat(status["receivedAt"]) > NOW - timedelta(minutes=1)
    assert api.get("/v1/ingest/status/vehicle/V1").json()["charging"] is True


def test_a_pair_with_one_id_has_its_performance_to_the_digit(api: Api) -> None:
    for i in range(3):
        ac, dc, temp = 0.1 + i, 0.09 + i * 0.9, 30.1 + i
        api.post({"meterId": "P", "kwhConsumedAc": ac, "timestamp": at(60 * i)})
        api.post(
            {"vehicleId": "P", "kwhDeliveredDc": dc, "batteryTemp": temp, "timestamp": at(60 * i)}
        )
    answer = api.get("/v1/analytics/performance/P").json()
    assert answer["totalAc"] == 3.3
    assert answer["totalDc"] == 2.97
    assert answer["efficiency"] == 0.9
    assert answer["avgBatteryTemp"] == 31.1
    assert answer["readings"] == {"vehicle": 3, "meter": 3}
    assert (answer["acSource"], answer["meters"]) == ("same-id", ["P"])
    assert (answer["status"], answer["reason"]) == ("ok", None)
    assert answer["suspectKwh"] == {"ac": 0, "dc": 0}
    empty = api.get("/v1/analytics/performance/P", start=at(9999), end=at(9000)).json()
    assert (empty["status"], empty["totalDc"], empty["totalAc"]) == ("no_data", 0, 0)
    assert empty["efficiency"] is None
    assert empty["avgBatteryTemp"] is None


def test_a_vehicle_without_meter_has_no_guessed_efficiency(api: Api) -> None:
    api.post({"vehicleId": "alone", "kwhDeliveredDc": 5, "timestamp": at()})
    answer = api.get("/v1/analytics/performance/alone").json()
    assert (answer["status"], answer["acSource"]) == ("no_meter", "none")
    assert answer["totalAc"] is None
    assert answer["efficiency"] is None
    assert "no meter" in answer["reason"]


def test_a_range_is_cut_to_the_microsecond(api: Api) -> None:
    for i in range(40):
        api.post({"vehicleId": "cut", "kwhDeliveredDc": 1 + i, "timestamp": at(60 * i)})
    for first, last in ((0, 40), (3, 4), (7, 33), (20, 21)):
        start, end = at(60 * last - 30), (NOW - timedelta(seconds=60 * first - 30)).isoformat()
        answer = api.get("/v1/analytics/performance/cut", start=start, end=end).json()
        assert answer["totalDc"] == sum(1 + i for i in range(first, last))
    exact = api.get("/v1/analytics/performance/cut", start=at(60), end=at(0)).json()
    assert exact["totalDc"] == 2
    with_plus = at(60).replace("+00:00", "+01:00")
    assert api.request(
        "GET", f"/v1/analytics/performance/cut?start={with_plus}&end={quote(at())}"
    ).is_success


def test_the_same_again_is_a_duplicate_and_other_values_a_conflict(api: Api) -> None:
    body = {"meterId": "D", "kwhConsumedAc": 1, "voltage": 230, "timestamp": at()}
    assert api.post(body).status_code == 201
    again = api.post(body)
    assert again.status_code == 200
    assert again.json() == {
        "status": "ok", "type": "meter", "id": "D", "timestamp": at().replace("+00:00", "Z"),
        "stored": False, "duplicate": True,
    }  # fmt: skip
    for other in ({**body, "voltage": 231}, {**body, "voltage": None}):
        conflict = api.post(other)
        assert conflict.status_code == 409
        assert conflict.json()["error"]["code"] == "conflict"
    (stats,) = [api.batch([body, {**body, "kwhConsumedAc": 2}])]
    assert (stats["duplicates"], stats["rejected"]) == (1, 1)
    assert stats["errors"][0]["code"] == "conflict"


def test_every_form_of_batch_has_a_verdict_for_every_record(api: Api) -> None:
    good = [
        {"meterId": "F", "kwhConsumedAc": 1, "timestamp": at()},
        {"vehicleId": "F", "kwhDeliveredDc": 1, "timestamp": at()},
    ]
    bad = {"meterId": "F", "kwhConsumedAc": -1, "timestamp": at()}
    lines = "\r\n".join(map(json.dumps, good)).encode() + b"\n\n{nope\n"
    as_json = {"Content-Type": "application/json; charset=UTF-8"}
    cases: list[tuple[bytes, dict[str, str], int, tuple[int, int]]] = [
        (json.dumps(good).encode(), as_json, 201, (2, 0)),
        (json.dumps({"records": [*good, bad]}).encode(), as_json, 207, (3, 1)),
        (json.dumps([bad]).encode(), as_json, 422, (1, 1)),
        (b"[]", as_json, 422, (0, 0)),
        (lines, {"Content-Type": "application/x-ndjson"}, 207, (3, 1)),
        (gzip.compress(lines), {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"},
         207, (3, 1)),
        (zstandard.compress(json.dumps(good).encode()), {**as_json, "Content-Encoding": "zstd"},
         201, (2, 0)),
    ]  # fmt: skip
    for body, headers, status, (received, rejected) in cases:
        answer = api.request("POST", "/v1/ingest/batch", content=body, headers=headers)
        counts = answer.json()
        assert answer.status_code == status
        assert set(counts) == {"received", "stored", "duplicates", "rejected", "errors"}
        assert (counts["received"], counts["rejected"]) == (received, rejected)
        assert received == counts["stored"] + counts["duplicates"] + rejected
        assert len(counts["errors"]) == rejected


def test_one_bad_record_in_five_thousand_costs_that_record_only(api: Api) -> None:
    records: list[Json] = [
        {"meterId": f"K{i}", "kwhConsumedAc": 1, "timestamp": at()} for i in range(5000)
    ]
    records[4321]["kwhConsumedAc"] = "a lot"
    counts = api.batch(records)
    assert (counts["stored"], counts["rejected"]) == (4999, 1)
    assert counts["errors"][0]["index"] == 4321
    assert counts["errors"][0]["code"] == "energy_invalid"


def test_a_hundred_thousand_records_in_one_request_work(api: Api) -> None:
    records = [
        {"vehicleId": f"L{i % 500}", "kwhDeliveredDc": 1, "timestamp": at(i // 500)}
        for i in range(100_000)
    ]
    counts = api.batch(records)
    assert (counts["received"], counts["stored"]) == (100_000, 100_000)
    assert api.batch(records)["duplicates"] == 100_000
    assert api.get("/v1/analytics/performance/L7").json()["totalDc"] == 200


def test_at_most_a_hundred_errors_are_listed(api: Api) -> None:
    counts = api.batch([{"meterId": f"E{i}"} for i in range(150)])
    assert counts["rejected"] == 150
    assert len(counts["errors"]) == 100


def test_a_late_reading_does_not_touch_live_state(api: Api) -> None:
    api.post({"vehicleId": "late", "kwhDeliveredDc": 2, "soc": 50, "timestamp": at()})
    before = api.get("/v1/ingest/status/vehicle/late").json()
    api.post({"vehicleId": "late", "kwhDeliveredDc": 0, "soc": 10, "timestamp": at(7200)})
    after = api.get("/v1/ingest/status/vehicle/late").json()
    assert before | {"ageSeconds": 0} == after | {"ageSeconds": 0}


@settings(max_examples=40)
@given(
    energy=st.decimals(0, 10**9, places=6).map(float),
    soc=st.none() | st.floats(0, 100),
    temp=st.none() | st.floats(-60, 150),
    device=st.text(
        st.characters(categories=["L", "M", "N", "P", "S"]), min_size=1, max_size=110
    ).filter(str.isprintable),
    offset=st.integers(-14, 14),
    micro=st.integers(0, 999_999),
)
def test_what_is_sent_is_read_back(
    api: Api,
    energy: float,
    soc: float | None,
    temp: float | None,
    device: str,
    offset: int,
    micro: int,
) -> None:
    moment = NOW - timedelta(seconds=1) + timedelta(microseconds=micro)
    local = (moment + timedelta(hours=offset)).replace(tzinfo=None).isoformat("T", "microseconds")
    device = f"{device}{next(_NUMBERS)}"
    body = {
        "vehicleId": device,
        "kwhDeliveredDc": energy,
        "soc": soc,
        "batteryTemp": temp,
        "timestamp": f"{local}7{'+' if offset >= 0 else '-'}{abs(offset):02d}:00",
    }
    assert api.post(body).status_code == 201
    status = api.get(f"/v1/ingest/status/vehicle/{quote(device, safe='')}").json()
    assert status["vehicleId"] == device
    assert datetime.fromisoformat(status["timestamp"]) == moment
    shown = {key: status[key] for key in ("kwhDeliveredDc", "soc", "batteryTemp")}
    assert shown == {key: body[key] for key in shown}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("36.2", 36.2),
        ("1000000000", 1e9),
        (".5", 0.5),
        ("+1e-3", 0.001),
        ("0.1234564", 0.123456),
        ("0.1234566", 0.123457),
        (0.1234566, 0.123457),
        ("999999999.999999", 999_999_999.999999),
        (123_456_789.123457, 123_456_789.123457),
    ],
)
def test_energy_is_kept_to_a_millionth_as_number_or_decimal_string(
    api: Api, sent: str | float, kept: float
) -> None:
    device = f"decimal{next(_NUMBERS)}"
    assert api.post({"meterId": device, "kwhConsumedAc": sent, "timestamp": at()}).is_success
    assert api.get(f"/v1/ingest/status/meter/{device}").json()["kwhConsumedAc"] == kept


@pytest.mark.parametrize(
    ("clock", "kept"),
    [
        ("10:00:00.123456789Z", "10:00:00.123456Z"),
        ("10:00:00.9999999Z", "10:00:00.999999Z"),
        ("10:00:00.5z", "10:00:00.500000Z"),
        ("12:00:00+02:00", "10:00:00Z"),
        ("15:45:00.000001+05:45", "10:00:00.000001Z"),
        ("00:30:00-09:30", "10:00:00Z"),
    ],
)
def test_a_time_is_kept_in_utc_to_the_microsecond_and_cut_there(
    api: Api, clock: str, kept: str
) -> None:
    day = (NOW - timedelta(days=2)).date()
    device = f"time{next(_NUMBERS)}"
    body = {"meterId": device, "kwhConsumedAc": 1, "timestamp": f"{day}T{clock}"}
    answer = api.post(body)
    assert answer.status_code == 201
    shown = api.get(f"/v1/ingest/status/meter/{device}").json()["timestamp"]
    assert answer.json()["timestamp"] == shown
    assert datetime.fromisoformat(shown) == datetime.fromisoformat(f"{day}T{kept}")


@pytest.mark.parametrize("device", ["a/b", "100%", "q?x=1", "#1", "..", "a%2Fb", "été", "電車"])
def test_ids_of_any_script_and_sign_are_found(api: Api, device: str) -> None:
    assert api.post({"meterId": device, "kwhConsumedAc": 1, "timestamp": at()}).is_success
    path = quote(device, safe="").replace(".", "%2E")
    assert api.get(f"/v1/ingest/status/meter/{path}").json()["meterId"] == device
    assert api.get(f"/v1/devices/meter/{path}").json()["id"] == device


def test_devices_appear_by_themselves_and_change_only_what_is_named(api: Api) -> None:
    path = "/v1/devices/meter/R1"
    made = api.request("PUT", path, json={"energyMode": "register", "registerModulusKwh": 99999.9})
    assert made.status_code == 201
    changed = api.request("PUT", path, json={"ratedPowerKw": 7.4, "fleet": "north"})
    assert changed.status_code == 200
    assert changed.json() == {
        "type": "meter", "id": "R1", "energyMode": "register", "registerModulusKwh": 99999.9,
        "ratedPowerKw": 7.4, "heartbeatSeconds": 60, "timeZone": "UTC", "fleet": "north",
        "alertThresholds": {}, "recomputing": None,
    }  # fmt: skip
    cleared = api.request("PUT", path, json={"registerModulusKwh": None, "fleet": None}).json()
    assert (cleared["registerModulusKwh"], cleared["fleet"]) == (None, None)
    assert cleared["ratedPowerKw"] == 7.4
    assert api.get(path).json() == cleared
    assert api.get("/v1/ingest/status/meter/R1").status_code == 404


def test_a_register_is_told_by_its_setting_whenever_that_is_set(api: Api) -> None:
    for i in range(5):
        api.post({"vehicleId": "R2", "kwhDeliveredDc": 100 + i, "timestamp": at(600 - 60 * i)})
    assert api.get("/v1/analytics/performance/R2").json()["totalDc"] == 510
    api.request("PUT", "/v1/devices/vehicle/R2", json={"energyMode": "register"})
    assert api.get("/v1/analytics/performance/R2").json()["totalDc"] == 4


def test_devices_are_listed_page_by_page(make_api: Callable[..., Api]) -> None:
    api = make_api()
    names = sorted(f"N{i}" for i in range(25))
    api.batch([{"meterId": n, "kwhConsumedAc": 1, "timestamp": at()} for n in names])
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = api.get("/v1/devices", type="meter", after=after, limit=10).json()
        seen += [device["id"] for device in page["devices"]]
        after = page["next"]
    assert seen == names


def test_what_is_held_is_counted_and_low_efficiency_found(make_api: Callable[..., Api]) -> None:
    api = make_api()
    for name, dc in (("bad", 0.7), ("fair", 0.86), ("good", 0.93)):
        for minute in (1, 2):
            api.post({"meterId": name, "kwhConsumedAc": 1, "timestamp": at(60 * minute)})
            api.post({"vehicleId": name, "kwhDeliveredDc": dc, "timestamp": at(60 * minute)})
    api.post({"vehicleId": "bad", "kwhDeliveredDc": -1, "timestamp": at()})
    stats = api.get("/v1/analytics/stats").json()
    for kind, rejections in (("meter", 0), ("vehicle", 1)):
        held = stats[kind]
        assert (held["devices"], held["readings"], held["rejections"]) == (3, 6, rejections)
        assert sum(day["readings"] for day in held["readingsPerDay"]) == 6
        assert held["firstReading"] == at(120).replace("+00:00", "Z")
        assert held["lastReading"] == at(60).replace("+00:00", "Z")
    alerts = api.get("/v1/analytics/alerts").json()
    assert (alerts["threshold"], alerts["count"]) == (0.85, 1)
    (alert,) = alerts["alerts"]
    assert (alert["vehicleId"], alert["efficiency"]) == ("bad", 0.7)
    assert (alert["totalAc"], alert["totalDc"], alert["meters"]) == (2, 1.4, ["bad"])
    for threshold in (0.9, 90):
        found = api.get("/v1/analytics/alerts", threshold=threshold).json()
        assert found["threshold"] == 0.9
        assert [alert["vehicleId"] for alert in found["alerts"]] == ["bad", "fair"]
    refresh = api.request("POST", "/v1/analytics/refresh").json()
    assert refresh["bucketsRepaired"] == 0
    assert refresh["bucketsChecked"] in (6, 12)
    assert refresh["durationMs"] > 0


def test_the_fleet_is_all_devices_together(make_api: Callable[..., Api]) -> None:
    api = make_api()
    assert api.get("/v1/analytics/fleet").json()["status"] == "no_data"
    meters = [
        {"meterId": f"m{i}", "kwhConsumedAc": 1, "timestamp": at(60 * minute)}
        for i in range(3) for minute in (1, 20, 40)
    ]  # fmt: skip
    vehicles = [
        {"vehicleId": f"v{i}", "kwhDeliveredDc": 0.9, "batteryTemp": 20 + i,
         "timestamp": at(60 * minute)}
        for i in range(2) for minute in (1, 20, 40)
    ]  # fmt: skip
    api.batch(meters + vehicles)
    answer = api.get("/v1/analytics/fleet").json()
    assert (answer["totalAc"], answer["totalDc"], answer["efficiency"]) == (9, 5.4, 0.6)
    assert answer["avgBatteryTemp"] == 20.5
    assert answer["readings"] == {"meter": 9, "vehicle": 6}
    assert answer["status"] == "low_efficiency"
    assert answer["window"]["end"] == at(60).replace("+00:00", ".000001Z")
    # Edges inside quarter-hours: the reading at the start counts, the one at the end does not.
    part = api.get("/v1/analytics/fleet", start=at(60 * 20), end=at(60)).json()
    assert (part["totalAc"], part["totalDc"]) == (3, 1.8)
    until = api.get("/v1/analytics/fleet", end=at(60 * 19)).json()
    assert (until["totalAc"], until["totalDc"]) == (6, 3.6)
    since = api.get("/v1/analytics/fleet", start=at(60 * 20)).json()
    assert (since["totalAc"], since["totalDc"]) == (6, 3.6)
    assert api.get("/v1/analytics/fleet", start=at(), end=at(60)).status_code == 400


def test_alerts_count_linked_meters_as_performance_does(embedded: Server) -> None:
    conninfo = embedded.make_database()
    api = Api(conninfo, load({}, {}))
    records: list[Json] = []
    for minute in range(1, 100, 7):
        records += [
            {"meterId": f"m{i}", "kwhConsumedAc": 1 + i / 10, "timestamp": at(60 * minute)}
            for i in range(5)
        ]
        records += [
            {"vehicleId": f"v{i}", "kwhDeliveredDc": 0.3, "timestamp": at(60 * minute)}
            for i in range(4)
        ]
    api.batch(records)
    with psycopg.connect(conninfo) as connection:
        for meter, vehicle, start, end in (
            ("m0", "v0", "-infinity", "infinity"),
            ("m1", "v0", "-infinity", "infinity"),  # a second meter
            ("m2", "v1", at(60 * 50), "infinity"),  # cut inside a quarter-hour, most likely
            ("m3", "v1", at(60 * 80), at(60 * 20)),
            ("m4", "v2", "-infinity", at(60 * 60 * 48)),  # over before the window
        ):
            connection.execute(
                """INSERT INTO links (meter_id, vehicle_id, start_at, end_at)
                SELECT m.device_id, v.device_id, %s, %s FROM devices AS m, devices AS v
                WHERE m.external_id = %s AND v.external_id = %s""",
                (start, end, meter, vehicle),
            )
    found = api.get("/v1/analytics/alerts").json()
    assert {alert["vehicleId"] for alert in found["alerts"]} == {"v0", "v1"}
    for alert in found["alerts"]:
        path = f"/v1/analytics/performance/{alert['vehicleId']}"
        same = api.get(path, **found["window"]).json()
        for key in ("totalAc", "totalDc", "efficiency", "meters", "acSource"):
            assert alert[key] == same[key], key
    api.close()


def test_what_was_refused_is_kept_as_it_came(make_api: Callable[..., Api]) -> None:
    api = make_api()
    body = b'{"meterId": "J1",  "kwhConsumedAc": -1, "timestamp": "2026-01-01T00:00:00Z"}'
    api.request("POST", "/v1/ingest", content=body, headers={"Content-Type": "application/json"})
    api.request("POST", "/v1/ingest", content=b"\xff{", headers={"Content-Type": "text/json"})
    api.batch([{"meterId": "J2", "kwhConsumedAc": v, "timestamp": at()} for v in (1, 2)])
    rejections = api.get("/v1/rejections").json()["rejections"]
    assert [r["code"] for r in rejections] == ["energy_out_of_range", "malformed_json", "conflict"]
    assert rejections[0]["record"] == body.decode()
    assert (rejections[0]["type"], rejections[0]["id"]) == ("meter", "J1")
    assert "kept kwhConsumedAc 1," in rejections[2]["message"]
    assert "got kwhConsumedAc 2," in rejections[2]["message"]
    first = api.get("/v1/rejections", limit=1).json()
    rest = api.get("/v1/rejections", after=first["next"]).json()
    assert first["rejections"] + rest["rejections"] == rejections
    assert rest["next"] is None


def test_counters_add_up_after_any_mix(make_api: Callable[..., Api]) -> None:
    api = make_api()
    good = {"meterId": "S", "kwhConsumedAc": 1, "timestamp": at()}
    api.batch([good, good, {**good, "voltage": 1}, {}, 5])
    api.post(good)
    api.post({**good, "kwhConsumedAc": None})
    api.request("POST", "/v1/ingest", content=b"{")
    api.request(
        "POST", "/v1/ingest/batch", content=b"x\ny", headers={"Content-Type": "application/jsonl"}
    )
    text = api.get("/metrics").text

    def total(name: str) -> float:
        rows = re.findall(rf"^wattstream_readings_{name}_total(?:{{.*}})? (\S+)$", text, re.M)
        return sum(map(float, rows))

    assert total("received") == 10
    assert total("stored") == 1
    assert total("duplicate") == 2
    assert total("rejected") == 7
    kept = api.get("/v1/rejections").json()["rejections"]
    assert len(kept) == 7


def test_the_engine_says_what_it_is_and_how_it_is(api: Api) -> None:
    assert api.get("/v1/health").json() == {"status": "ready"}
    assert api.get("/v1/health/live").json() == {"status": "alive"}
    for path in ("/", "/openapi.json", "/v1/health", "/v1/analytics/stats"):
        assert api.get(path).headers["Content-Type"] == "application/json"
    index = api.get("/").json()
    assert "POST /v1/ingest/batch" in index["endpoints"]
    assert "GET /v1/analytics/performance/{vehicleId}" in index["endpoints"]
    docs = api.get("/docs")
    assert docs.headers["Content-Type"].startswith("text/html")
    assert "://" not in docs.text
    for source in re.findall(r'(?:src|href)="([^"]+)"', docs.text):
        assert source.startswith("/"), source
        assert api.get(source).is_success
    assert api.get("/metrics").headers["Content-Type"].startswith("text/plain")


def test_a_browser_gets_a_page_and_every_file_that_it_names(api: Api) -> None:
    page = api.request("GET", "/", headers={"Accept": "text/html"})
    assert page.status_code == 200
    named = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    assert len(named) >= 4
    for path in named:
        file = api.get(path)
        assert file.status_code == 200
        assert "immutable" in file.headers["Cache-Control"]
    assert len(api.get(next(path for path in named if "plotly" in path)).content) > 1_000_000
    assert api.get("/static/other/style.css").headers["Cache-Control"] == "no-store"
    assert api.get("/static/other/routes.py").status_code == 404
