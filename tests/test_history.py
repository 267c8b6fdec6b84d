"""History over HTTP: pages, cursors, CSV, Arrow, and every way to ask wrongly."""

import asyncio
import base64
import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pyarrow as pa
import pytest

from conftest import Server
from test_http import Api
from wattstream.domain.errors import NotAcceptableError
from wattstream.settings import load
from wattstream.web.negotiation import preferred

JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"
OFFERED = (JSON, CSV, ARROW)
# Whole quarter-hours of a day that is over.
DAY = (datetime.now(UTC) - timedelta(days=2)).replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture(scope="module")
def api(embedded: Server) -> Iterator[Api]:
    engine = Api(embedded.make_database(), load({}, {}))
    yield engine
    engine.close()


def at(minute: float) -> str:
    return (DAY + timedelta(minutes=minute)).isoformat().replace("+00:00", "Z")


def meter(name: str, minute: float, kwh: float, **fields: object) -> dict[str, object]:
    return {"meterId": name, "kwhConsumedAc": kwh, "timestamp": at(minute), **fields}


def history(api: Api, name: str, accept: str = "", **params: object) -> httpx.Response:
    return api.request(
        "GET",
        f"/v1/history/{name}",
        params={"start": at(0), "end": at(1440)} | params,
        headers={"Accept": accept} if accept else {},
    )


def test_readings_are_shown_as_sent_with_what_they_add(api: Api) -> None:
    api.request("PUT", "/v1/devices/meter/R", json={"energyMode": "register"})
    api.batch(
        [
            meter("R", 1, 100, voltage=230.1),
            meter("R", 2, 100.25),
            meter("R", 3, 9000.000001, voltage=0),
        ]
    )
    answer = history(api, "meter/R", start=at(2))
    assert answer.headers["Vary"] == "Accept"
    assert answer.json() == {
        "type": "meter",
        "id": "R",
        "timeZone": "UTC",
        "resolution": "raw",
        "window": {"start": at(2), "end": at(1440)},
        "items": [
            {"timestamp": at(2), "kwhConsumedAc": 100.25, "voltage": None,
             "energyKwh": 0.25, "suspectKwh": 0.0},
            {"timestamp": at(3), "kwhConsumedAc": 9000.000001, "voltage": 0.0,
             "energyKwh": 0.0, "suspectKwh": 8899.750001},
        ],
        "next": None,
    }  # fmt: skip


def test_buckets_are_those_of_the_devices_own_clocks_and_of_the_range(api: Api) -> None:
    api.request("PUT", "/v1/devices/vehicle/K", json={"timeZone": "Asia/Kathmandu"})
    api.batch(
        [
            {"vehicleId": "K", "kwhDeliveredDc": 0.5, "soc": soc, "timestamp": at(minute)}
            for minute, soc in ((10, 50), (14, 51), (16, None), (75, 60))
        ]
    )
    hours = history(api, "vehicle/K", resolution="1h", end=at(76)).json()
    assert hours["timeZone"] == "Asia/Kathmandu"
    common = {"suspectKwh": 0.0, "avgBatteryTemp": None}
    assert hours["items"] == [
        {"start": at(0), "end": at(15), "energyKwh": 1.0, "readings": 2, "avgSoc": 50.5, **common},
        {"start": at(15), "end": at(75), "energyKwh": 0.5, "readings": 1, "avgSoc": None, **common},
        {"start": at(75), "end": at(76), "energyKwh": 0.5, "readings": 1, "avgSoc": 60.0, **common},
    ]
    (day,) = history(api, "vehicle/K", resolution="1d", start=at(-1440)).json()["items"]
    assert (day["start"], day["end"]) == (at(-345), at(1095))
    assert day["energyKwh"] == 2.0
    quarters = history(api, "vehicle/K", resolution="15m").json()["items"]
    assert [bucket["start"] for bucket in quarters] == [at(0), at(15), at(75)]


def pages(
    api: Api, name: str, between: Any = None, **params: object
) -> tuple[list[dict[str, Any]], int]:
    """Follow `next` to the end; return all items, and how many pages they were."""
    items: list[dict[str, Any]] = []
    number, cursor = 0, {}
    while True:
        page = history(api, name, **params, **cursor).json()
        items += page["items"]
        number += 1
        if page["next"] is None:
            return items, number
        cursor = {"cursor": page["next"]}
        if between is not None:
            between(number)


def test_a_walk_sees_every_reading_once_while_others_come_in(api: Api) -> None:
    api.batch([meter("W", minute, 1) for minute in range(0, 1400, 7)])

    def add(number: int) -> None:
        api.post(meter("W", 1399 - number / 100, 1))  # ahead of the walk
        api.post(meter("W", number / 100, 1))  # behind it

    items, number = pages(api, "meter/W", add, limit=50)
    times = [item["timestamp"] for item in items]
    assert times == sorted(set(times))
    assert {at(minute) for minute in range(0, 1400, 7)} <= set(times)
    assert len(times) == 200 + 4
    assert number == 5


@pytest.mark.parametrize("resolution", ["raw", "15m", "1h", "1d"])
def test_the_last_page_has_no_next_also_where_it_is_full(api: Api, resolution: str) -> None:
    name = f"L{resolution}"
    api.batch([meter(name, minute, 1) for minute in (0, 300, 600, 900)])
    sizes = {limit: pages(api, f"meter/{name}", resolution=resolution, limit=limit) for limit in
             (1, 2, 3, 4, 5)}  # fmt: skip
    rows = 1 if resolution == "1d" else 4
    for limit, (items, number) in sizes.items():
        assert len(items) == rows
        assert number == -(-rows // limit)


def test_a_walk_without_an_end_keeps_the_range_of_its_first_page(api: Api) -> None:
    now = datetime.now(UTC)
    times = [(now - timedelta(hours=hours)).isoformat() for hours in (25, 23, 2, 1)]
    api.batch([{"meterId": "D", "kwhConsumedAc": 1, "timestamp": time} for time in times])
    first = api.get("/v1/history/meter/D", limit=1).json()
    assert len(first["items"]) == 1
    following = api.get("/v1/history/meter/D", cursor=first["next"]).json()
    assert following["window"] == first["window"]
    assert len(following["items"]) == 2


def test_devices_in_a_list_come_one_after_the_other(api: Api) -> None:
    for name, n in (("A1", 3), ("B1", 0), ("C1", 2)):
        api.request("PUT", f"/v1/devices/meter/{name}", json={})
        if n:
            api.batch([meter(name, minute, minute) for minute in range(n)])
    ids = {"id": ["C1", "B1", "A1", "C1"]}
    expected = [("C1", 0), ("C1", 1), ("A1", 0), ("A1", 1), ("A1", 2)]
    for limit in (1, 2, 3, 5, 100):
        items, number = pages(api, "meter", limit=limit, **ids)
        assert [(item["id"], item["kwhConsumedAc"]) for item in items] == expected
        assert number == -(-5 // limit)
    page = history(api, "meter", **ids).json()
    assert set(page) == {"type", "resolution", "window", "items", "next"}
    items, number = pages(api, "meter", id=["A1", "B1"], limit=3)
    assert number == 1
    table = csv.DictReader(io.StringIO(history(api, "meter", CSV, **ids).text))
    assert [(row["id"], float(row["kwhConsumedAc"])) for row in table] == expected
    read = pa.ipc.open_stream(history(api, "meter", ARROW, **ids).content).read_all()
    assert read.schema.field("id").type == pa.string()
    assert list(zip(*read.select(["id", "kwhConsumedAc"]).to_pydict().values(), strict=True)) == (
        expected
    )


def test_csv_has_a_header_and_the_numbers_of_json(api: Api) -> None:
    api.batch([meter("CSV", 1, 0.1, voltage=229.9), meter("CSV", 2, 2)])
    answer = history(api, "meter/CSV", CSV)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.text == (
        "timestamp,kwhConsumedAc,voltage,energyKwh,suspectKwh\r\n"
        f"{at(1)},0.1,229.9,0.1,0.0\r\n"
        f"{at(2)},2.0,,2.0,0.0\r\n"
    )
    buckets = history(api, "meter/CSV", CSV, resolution="1h")
    assert buckets.text == (
        "start,end,energyKwh,suspectKwh,readings,avgVoltage\r\n"
        f"{at(0)},{at(60)},2.1,0.0,2,229.9\r\n"
    )
    assert history(api, "meter/CSV", CSV, limit=1).text.count("\r\n") == 2
    nothing = history(api, "meter/CSV", CSV, start=at(100))
    assert nothing.text == "timestamp,kwhConsumedAc,voltage,energyKwh,suspectKwh\r\n"


def test_an_id_with_commas_quotes_and_slashes_stays_one_cell(api: Api) -> None:
    name = 'a/b,"c"/名前?#%2F'
    api.post(meter(name, 1, 1))
    assert history(api, f"meter/{quote(name, safe='')}").json()["id"] == name
    table = list(csv.reader(io.StringIO(history(api, "meter", CSV, id=name).text)))
    assert table[1][0] == name


def test_arrow_opens_with_types_units_and_the_values_of_json(api: Api) -> None:
    api.batch(
        [
            {"vehicleId": "AR", "kwhDeliveredDc": 0.1, "soc": 50, "timestamp": at(1)},
            {"vehicleId": "AR", "kwhDeliveredDc": 0.2, "batteryTemp": -3.5,
             "timestamp": at(1.0000001)},
        ]
    )  # fmt: skip
    answer = history(api, "vehicle/AR", ARROW)
    assert answer.headers["Content-Type"] == ARROW
    with pa.ipc.open_stream(answer.content) as stream:
        table = stream.read_all()
    table.validate(full=True)
    time, number = pa.timestamp("us", "UTC"), pa.float64()
    units = {"kwhDeliveredDc": "kWh", "soc": "%", "batteryTemp": "°C", "energyKwh": "kWh",
             "suspectKwh": "kWh"}  # fmt: skip
    assert {field.name: field.type for field in table.schema} == {
        "timestamp": time, **dict.fromkeys(units, number)
    }  # fmt: skip
    assert {f.name: f.metadata[b"unit"].decode() for f in table.schema if f.metadata} == units
    assert table.schema.metadata == {
        b"type": b"vehicle", b"resolution": b"raw",
        b"start": at(0).encode(), b"end": at(1440).encode(),
    }  # fmt: skip
    rows = [
        {**row, "timestamp": row["timestamp"].isoformat().replace("+00:00", "Z")}
        for row in table.to_pylist()
    ]
    assert rows == history(api, "vehicle/AR").json()["items"]
    assert rows[1]["timestamp"].endswith(":01:00.000006Z")

    buckets = pa.ipc.open_stream(history(api, "vehicle/AR", ARROW, resolution="1d").content)
    assert {field.name: field.type for field in buckets.schema} == {
        "start": time, "end": time, "energyKwh": number, "suspectKwh": number,
        "readings": pa.int64(), "avgSoc": number, "avgBatteryTemp": number,
    }  # fmt: skip
    assert buckets.schema.field("readings").metadata == {b"unit": b"1"}
    assert buckets.read_all().column("readings").to_pylist() == [2]

    nothing = pa.ipc.open_stream(history(api, "vehicle/AR", ARROW, start=at(100)).content)
    assert nothing.schema == table.schema
    assert nothing.read_all().num_rows == 0


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        ("text/csv", CSV),
        ("TEXT/CSV; header=present", CSV),
        ("text/*", CSV),
        ("application/json;q=0.5, text/csv;q=0.9", CSV),
        ("application/json;q=0.5, */*", CSV),
        ("application/json;q=0, */*;q=0.1", CSV),
        ("text/csv, application/json", JSON),
        (f"{ARROW}, application/json;q=0.9", ARROW),
        ("application/json; q=x, text/csv;q=0.001", CSV),
        ("nonsense, text/csv", CSV),
    ],
)
def test_the_form_is_what_the_client_prefers(accept: str | None, form: str) -> None:
    assert preferred(accept, OFFERED) == form


@pytest.mark.parametrize(
    "accept", ["text/html", "image/*", "*/*;q=0", "text/csv;q=0.0", ",;/", "text/csv;q=2", "csv"]
)
def test_a_client_that_takes_no_form_gets_none(api: Api, accept: str) -> None:
    with pytest.raises(NotAcceptableError):
        preferred(accept, OFFERED)
    answer = history(api, "meter/none", accept)
    assert answer.status_code == 406
    assert answer.json()["error"]["code"] == "not_acceptable"


def cursor(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


START_US = int(DAY.timestamp()) * 1_000_000
END_US = START_US + 86_400_000_000


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"start": "yesterday"}, "start"),
        ({"start": at(5), "end": at(5)}, "start"),
        ({"resolution": "5m"}, "resolution"),
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"limit": 2**63}, "limit"),
        ({"cursor": ""}, "cursor"),
        ({"cursor": "é%"}, "cursor"),
        ({"cursor": "bm8="}, "cursor"),
        ({"cursor": cursor("1h", START_US, END_US, "E", START_US)}, "cursor"),
        ({"cursor": cursor("raw", START_US, END_US, "other", START_US)}, "cursor"),
        ({"cursor": cursor("raw", START_US, END_US, "E", END_US + 1)}, "cursor"),
        ({"cursor": cursor("raw", START_US, END_US, "E", START_US - 1)}, "cursor"),
        ({"cursor": cursor("raw", END_US, START_US, "E", START_US)}, "cursor"),
        ({"cursor": cursor("raw", -(2**63), 2**63 - 1, "E", 0)}, "cursor"),
        ({"cursor": cursor("raw", START_US, 10**30, "E", START_US)}, "cursor"),
    ],
)
def test_a_wrong_parameter_is_named(api: Api, params: dict[str, object], field: str) -> None:
    api.post(meter("E", 1, 1))
    answer = history(api, "meter/E", **params)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["field"] == field


def test_a_list_names_at_least_one_device_and_at_most_a_thousand(api: Api) -> None:
    for ids in ([], [f"x{i}" for i in range(1001)]):
        answer = history(api, "meter", id=ids)
        assert answer.status_code == 400
        assert answer.json()["error"]["field"] == "id"


@pytest.mark.parametrize("accept", OFFERED)
def test_a_device_never_seen_is_unknown_in_every_form(api: Api, accept: str) -> None:
    api.post(meter("known", 1, 1))
    for name, params in (
        ("meter/never", {}),
        ("vehicle/known", {}),
        ("meter", {"id": ["known", "never"]}),
        ("meter/a%00b", {}),
        ("meter/" + "x" * 200, {}),
    ):
        answer = history(api, name, accept, **params)
        assert answer.status_code == 404, answer.text
        assert answer.json()["error"]["code"] in ("meter_unknown", "vehicle_unknown")
    assert history(api, "tram/known", accept).status_code == 404


def long_stream(api: Api) -> dict[str, Any]:
    """Store readings of several blocks; return the scope of a request that streams them."""
    times = [DAY + timedelta(seconds=second) for second in range(0, 86_400, 3)]
    records = [
        {"meterId": "LONG", "kwhConsumedAc": 1, "timestamp": time.isoformat()} for time in times
    ]
    assert api.batch(records)["stored"] == len(records) == 28_800
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "path": "/v1/history/meter/LONG",
        "query_string": f"start={at(0)}&end={at(1440)}".encode(),
        "headers": [(b"accept", CSV.encode())],
    }


class Client:
    """A client that takes two blocks, and then no more until it may go on."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.is_stuck, self.may_go_on, self.left = (asyncio.Event() for _ in range(3))

    async def receive(self) -> dict[str, str]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if len(self.messages) == 3:
            self.is_stuck.set()
            await self.may_go_on.wait()


def started(api: Api, clients: list[Client]) -> Any:
    app: Any = api._client._transport.app  # type: ignore[attr-defined]
    scope = long_stream(api)

    async def main() -> list[asyncio.Task[None]]:
        streams = [
            asyncio.create_task(app(scope, client.receive, client.send)) for client in clients
        ]
        for client, stream in zip(clients, streams, strict=True):
            stuck = asyncio.create_task(client.is_stuck.wait())
            await asyncio.wait((stuck, stream), return_when=asyncio.FIRST_COMPLETED)
            assert stuck.done(), client.messages
        return streams

    return api.run(main())


async def ended(streams: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*streams)


def test_a_slow_client_holds_nothing_and_one_that_leaves_ends_its_stream(api: Api) -> None:
    clients = [Client() for _ in range(40)]  # more than the pool has connections
    streams = started(api, clients)
    assert history(api, "meter/LONG").status_code == 200
    for client in clients:
        client.left.set()
    api.run(ended(streams))
    assert {len(client.messages) for client in clients} == {3}


def test_a_stream_without_its_database_does_not_look_whole(embedded: Server) -> None:
    conninfo = embedded.make_database()
    name = psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"]
    elsewhere = psycopg.conninfo.make_conninfo(embedded.superuser(conninfo), dbname="postgres")
    api = Api(conninfo, load({}, {}))
    client = Client()
    streams = started(api, [client])
    with psycopg.connect(elsewhere, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        client.may_go_on.set()
        api.run(ended(streams))
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    assert all(message.get("more_body", True) for message in client.messages)
    assert sum(message.get("body", b"").count(b"\r\n") for message in client.messages) == 20_001
    api.close()
