"""Every error of the contract, over HTTP: status, code, field and words."""

import asyncio
import gzip
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import zstandard

from conftest import Engine, Server
from test_http import Api, at
from wattstream.inputs.http import _Turns
from wattstream.settings import load
from wattstream.store.embedded import EmbeddedPostgres
from wattstream.store.postgres import migrate

JSON = {"Content-Type": "application/json"}
METER = {"meterId": "M1", "kwhConsumedAc": 1, "voltage": 230, "timestamp": at()}
VEHICLE = {"vehicleId": "V1", "kwhDeliveredDc": 1, "soc": 50, "batteryTemp": 20, "timestamp": at()}
_FORBIDDEN = re.compile(
    r"Traceback|psycopg|SELECT|INSERT|UPDATE |constraint|relation"
    r"|\.py\b|File \"|/home/|/root/|/tmp/"
)


@pytest.fixture(scope="module")
def api(embedded: Server) -> Iterator[Api]:
    limits = {"max_body": "100KiB", "max_decoded_body": "200KiB"}
    engine = Api(embedded.make_database(), load(limits, {}))
    yield engine
    engine.close()


def assert_error(
    response: httpx.Response, status: int, code: str, field: str | None = None, words: str = ""
) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert set(error) == {"code", "message", "field"}
    assert error["code"] == code
    assert error["field"] == field
    assert re.search(words, error["message"]), error["message"]
    assert not _FORBIDDEN.search(response.text)


@pytest.mark.parametrize(
    ("record", "code", "field", "words"),
    [
        ({**METER, "type": "pump"}, "type_unknown", "type", "meter.*vehicle.*'pump'"),
        ({**METER, "type": 5}, "type_invalid", "type", "string, got 5"),
        ({**METER, "vehicleId": "V"}, "id_ambiguous", "type", "add type"),
        ({"timestamp": at()}, "id_missing", "meterId", "meterId or vehicleId"),
        ({**VEHICLE, "type": "meter"}, "id_missing", "meterId", "a meter needs meterId"),
        ({**METER, "meterId": "a b"}, "id_invalid", "meterId", "128 printable.*'a b'"),
        ({**METER, "meterId": ["x"]}, "id_invalid", "meterId", "must be a string"),
        ({**METER, "meterId": "<b>\u202e"}, "id_invalid", "meterId", r"\\u202e"),
        ({**METER, "kwhConsumedAc": None}, "energy_missing", "kwhConsumedAc", "missing.*meter M1"),
        ({**METER, "kwhConsumedAc": True}, "energy_invalid", "kwhConsumedAc", "number.*true"),
        ({**METER, "kwhConsumedAc": "NaN"}, "energy_invalid", "kwhConsumedAc", "number"),
        ({**METER, "kwhConsumedAc": -1}, "energy_out_of_range", "kwhConsumedAc", "got -1"),
        ({**METER, "kwhConsumedAc": "1e10"}, "energy_out_of_range", "kwhConsumedAc", "1000000000"),
        ({**METER, "voltage": -3.2}, "voltage_out_of_range", "voltage",
         r"voltage must be in \[0, 2000\] V, got -3.2 \(meter M1\)"),
        ({**METER, "voltage": []}, "voltage_invalid", "voltage", "number"),
        ({**VEHICLE, "kwhDeliveredDc": -1}, "energy_out_of_range", "kwhDeliveredDc", "vehicle V1"),
        ({**VEHICLE, "soc": 100.1}, "soc_out_of_range", "soc", r"\[0, 100\] %"),
        ({**VEHICLE, "soc": "full"}, "soc_invalid", "soc", "full"),
        ({**VEHICLE, "batteryTemp": -61}, "battery_temp_out_of_range", "batteryTemp",
         r"\[-60, 150\] °C"),
        ({**VEHICLE, "batteryTemp": False}, "battery_temp_invalid", "batteryTemp", "false"),
        ({**METER, "timestamp": None}, "timestamp_missing", "timestamp", "missing"),
        ({**METER, "timestamp": 5}, "timestamp_invalid", "timestamp", "string"),
        ({**METER, "timestamp": "soon"}, "timestamp_invalid", "timestamp", "RFC 3339"),
        ({**METER, "timestamp": "2026-02-30T00:00:00Z"}, "timestamp_invalid", "timestamp", "exist"),
        ({**METER, "timestamp": "2026-02-09T10:00:00"}, "timestamp_without_offset", "timestamp",
         "no offset; add Z"),
        ({**METER, "timestamp": at(-86_400)}, "timestamp_in_future", "timestamp", "later than"),
        ({**METER, "timestamp": at(401 * 86400)}, "timestamp_too_old", "timestamp", "earlier than"),
        ([METER], "not_an_object", None, "/v1/ingest/batch"),
        ("x", "not_an_object", None, "object"),
    ],
)  # fmt: skip
def test_a_reading_that_breaks_a_rule_is_422_alone_and_named_in_a_batch(
    api: Api, record: Any, code: str, field: str | None, words: str
) -> None:
    assert_error(api.post(record), 422, code, field, words)
    good = {**METER, "meterId": "good"}
    answer = api.post([good, record], "/v1/ingest/batch")
    assert answer.status_code == 207
    (error,) = answer.json()["errors"]
    assert (error["index"], error["code"]) == (1, code)
    assert re.search(words, error["message"])


def test_other_values_for_the_same_time_are_409(api: Api) -> None:
    api.post({**METER, "meterId": "C"})
    conflict = api.post({**METER, "meterId": "C", "voltage": 231})
    assert_error(conflict, 409, "conflict", "timestamp", "kept .*voltage 230.*got .*voltage 231")


def test_a_message_shows_every_digit_of_the_value_that_breaks_the_rule(api: Api) -> None:
    over = api.post({**METER, "kwhConsumedAc": 1000000000.0001})
    assert_error(over, 422, "energy_out_of_range", "kwhConsumedAc", r"got 1000000000\.0001")


def test_a_conflict_shows_in_which_digit_the_values_differ(api: Api) -> None:
    record = {**METER, "meterId": "digits", "kwhConsumedAc": 123456789.123456}
    api.post(record)
    conflict = api.post({**record, "kwhConsumedAc": 123456789.123457})
    assert_error(conflict, 409, "conflict", "timestamp", r"kept .*789\.123456,.*got .*789\.123457,")


@pytest.mark.parametrize("path", ["/v1/ingest", "/v1/ingest/batch"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"meterId": NaN}', "not JSON"),
        (b'{"meterId": "\xff", "records": [\xff', "not JSON"),
        (b'{"a":' + b"[" * 90_000, "nested too deeply"),
        (b'{"records": [] } x', "not JSON"),
    ],
)
def test_a_body_that_is_not_json_is_400(api: Api, path: str, body: bytes, words: str) -> None:
    answer = api.request("POST", path, content=body, headers=JSON)
    assert_error(answer, 400, "malformed_json", None, words)


@pytest.mark.parametrize("body", [b"7", b'"x"', b"{}", b'{"records": 7}', b"null"])
def test_a_batch_that_is_no_array_is_400(api: Api, body: bytes) -> None:
    answer = api.request("POST", "/v1/ingest/batch", content=body, headers=JSON)
    assert_error(answer, 400, "not_an_array", None, "records")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_that_is_not_what_its_encoding_says_is_400(api: Api, encoding: str) -> None:
    whole = json.dumps([METER]).encode()
    packed = gzip.compress(whole) if encoding == "gzip" else zstandard.compress(whole)
    for body in (whole, packed[:-5]):
        headers = {**JSON, "Content-Encoding": encoding}
        answer = api.request("POST", "/v1/ingest/batch", content=body, headers=headers)
        assert_error(answer, 400, "malformed_encoding", None, encoding)


@pytest.mark.parametrize(
    ("method", "path", "code", "field", "words"),
    [
        ("GET", "/v1/analytics/performance/M1?start=x", "time_invalid", "start", "RFC 3339"),
        ("GET", "/v1/analytics/performance/M1?end=2026-01-01T00:00:00", "time_invalid", "end",
         "no offset"),
        ("GET", "/v1/analytics/performance/M1?start=2026-01-02T00:00:00Z&end=2026-01-01T00:00:00Z",
         "range_empty", "start", "before end"),
        ("GET", "/v1/analytics/performance/M1?start=0001-01-01T00:00:00Z", "time_invalid", "start",
         "years"),
        ("GET", "/v1/analytics/alerts?threshold=0", "threshold_invalid", "threshold", "fraction"),
        ("GET", "/v1/analytics/alerts?threshold=101", "threshold_invalid", "threshold", "101"),
        ("GET", "/v1/analytics/alerts?threshold=nan", "threshold_invalid", "threshold", "nan"),
        ("GET", "/v1/analytics/alerts?threshold=low", "parameter_invalid", "threshold", "number"),
        ("POST", "/v1/analytics/refresh?start=never", "time_invalid", "start", "never"),
        ("GET", "/v1/devices", "parameter_invalid", "type", "required"),
        ("GET", "/v1/devices?type=car", "parameter_invalid", "type", "meter"),
        ("GET", "/v1/devices?type=meter&limit=0", "parameter_invalid", "limit", "1"),
        ("GET", "/v1/devices?type=meter&limit=5000", "parameter_invalid", "limit", "1000"),
        ("GET", "/v1/rejections?after=-1", "parameter_invalid", "after", "0"),
        ("GET", "/v1/rejections?after=99999999999999999999", "parameter_invalid", "after", ""),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_400(
    api: Api, method: str, path: str, code: str, field: str, words: str
) -> None:
    assert_error(api.request(method, path), 400, code, field, words)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/nowhere", "not_found"),
        ("/v1", "not_found"),
        ("/v1/ingest/", "not_found"),
        ("/v1/devices/", "not_found"),
        ("/metrics/", "not_found"),
        ("/v1/ingest/status/meter/ghost", "meter_unknown"),
        ("/v1/ingest/status/vehicle/ghost", "vehicle_unknown"),
        ("/v1/analytics/performance/ghost", "vehicle_unknown"),
        ("/v1/analytics/performance/%00", "vehicle_unknown"),
        ("/v1/devices/meter/ghost", "meter_unknown"),
        ("/v1/devices/vehicle/%F0%9F%9A%97", "vehicle_unknown"),
    ],
)
def test_what_is_unknown_is_404(api: Api, path: str, code: str) -> None:
    assert_error(api.get(path), 404, code)


def test_a_kind_of_device_that_is_none_is_404(api: Api) -> None:
    assert_error(api.get("/v1/ingest/status/car/x"), 404, "not_found", "type", "meter")
    assert_error(api.get("/v1/devices/car/x"), 404, "not_found", "type", "meter")


def test_a_device_without_readings_has_no_status(api: Api) -> None:
    api.request("PUT", "/v1/devices/meter/quiet", json={})
    answer = api.get("/v1/ingest/status/meter/quiet")
    assert_error(answer, 404, "meter_without_readings", None, "no reading yet")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/ingest", "POST"),
        ("PUT", "/v1/ingest/batch", "POST"),
        ("POST", "/v1/analytics/stats", "GET"),
        ("GET", "/v1/analytics/refresh", "POST"),
        ("DELETE", "/v1/devices", "GET"),
    ],
)
def test_a_method_that_is_not_taken_is_405(api: Api, method: str, path: str, allowed: str) -> None:
    answer = api.request(method, path)
    assert_error(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == allowed


def test_a_body_over_its_limit_is_413_however_it_comes(api: Api) -> None:
    body = json.dumps([{**METER, "x": "y" * 110_000}]).encode()

    async def chunks() -> Any:
        for i in range(0, len(body), 10_000):
            yield body[i : i + 10_000]

    for content in (body, chunks()):
        answer = api.request("POST", "/v1/ingest/batch", content=content, headers=JSON)
        assert_error(answer, 413, "body_too_large", None, "102400 bytes.*smaller batches")


def test_a_client_that_sends_too_much_over_a_socket_reads_why(shared_engine: Engine) -> None:
    """A server that closes before it has read the body resets the connection instead."""
    large = 17 * 1024**2
    pieces = (b"x" * 65_536 for _ in range(large // 65_536))
    with httpx.Client(base_url=shared_engine.url, timeout=30) as client:
        for content in (b"x" * large, pieces):
            answer = client.post("/v1/ingest/batch", content=content, headers=JSON)
            assert_error(answer, 413, "body_too_large", None, "16777216 bytes")
            assert client.get("/v1/health").is_success


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_decoded_body_over_its_limit_is_413(api: Api, encoding: str) -> None:
    large = json.dumps([{**METER, "x": "y" * 20_000_000}]).encode()
    body = gzip.compress(large) if encoding == "gzip" else zstandard.compress(large)
    headers = {**JSON, "Content-Encoding": encoding}
    answer = api.request("POST", "/v1/ingest/batch", content=body, headers=headers)
    assert_error(answer, 413, "decoded_body_too_large", None, "204800 bytes")


@pytest.mark.parametrize(
    ("headers", "code", "words"),
    [
        ({"Content-Type": "text/plain"}, "unsupported_media_type", "text/plain.*curl"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "unsupported_media_type", "-H"),
        ({"Content-Type": "application/json; charset=latin-1"}, "unsupported_media_type", "utf-8"),
        ({**JSON, "Content-Encoding": "br"}, "unsupported_encoding", "gzip or zstd.*'br'"),
        ({**JSON, "Content-Encoding": "gzip, gzip"}, "unsupported_encoding", "gzip"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/ingest", "/v1/ingest/batch"])
def test_a_content_type_or_encoding_that_is_not_read_is_415(
    api: Api, path: str, headers: dict[str, str], code: str, words: str
) -> None:
    answer = api.request("POST", path, content=json.dumps(METER).encode(), headers=headers)
    assert_error(answer, 415, code, None, words)


def test_lines_are_only_for_batches(api: Api) -> None:
    headers = {"Content-Type": "application/x-ndjson"}
    answer = api.request("POST", "/v1/ingest", content=b"{}", headers=headers)
    assert_error(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("body", "code", "field", "words"),
    [
        ({"energyMode": "counter"}, "setting_invalid", "energyMode", "interval"),
        ({"energyMod": "register"}, "setting_invalid", "energyMod", "Extra"),
        ({"ratedPowerKw": -1}, "setting_invalid", "ratedPowerKw", "greater"),
        ({"ratedPowerKw": 1e9}, "setting_invalid", "ratedPowerKw", "less"),
        ({"registerModulusKwh": 0}, "setting_invalid", "registerModulusKwh", "greater"),
        ({"heartbeatSeconds": 1.5}, "setting_invalid", "heartbeatSeconds", "integer"),
        ({"heartbeatSeconds": None}, "setting_invalid", "heartbeatSeconds", "integer"),
        ({"timeZone": "Mars/Base"}, "time_zone_unknown", "timeZone", "Europe/Paris"),
        ({"timeZone": "localtime"}, "time_zone_unknown", "timeZone", "Europe/Paris"),
        ({"fleet": ""}, "setting_invalid", "fleet", "1"),
        ({"fleet": "a\0b"}, "setting_invalid", "fleet", "pattern"),
        ([], "setting_invalid", None, "JSON object"),
    ],
)
def test_a_setting_that_breaks_a_rule_is_422(
    api: Api, body: Any, code: str, field: str | None, words: str
) -> None:
    answer = api.request("PUT", "/v1/devices/meter/S1", json=body)
    assert_error(answer, 422, code, field, words)
    assert api.get("/v1/devices/meter/S1").status_code == 404


def test_a_device_with_an_impossible_id_is_422_and_a_body_that_is_no_json_400(api: Api) -> None:
    assert_error(api.request("PUT", "/v1/devices/meter/a%20b", json={}), 422, "id_invalid", "id")
    for body in (b"{", b"\xff", b"[" * 90_000):
        answer = api.request("PUT", "/v1/devices/meter/x", content=body, headers=JSON)
        assert_error(answer, 400, "malformed_json", None, "not.* JSON")


_CHANGES = [
    ("PUT", "/v1/devices/meter/never", {"fleet": "x"}),
    ("POST", "/v1/links", {"meterId": "never", "vehicleId": "never", "start": at()}),
    ("PATCH", "/v1/links/1", {"end": None}),
    ("POST", "/v1/alerts/1/ack", {"by": "me"}),
]


@pytest.mark.parametrize(("method", "path", "body"), _CHANGES)
def test_a_change_that_is_too_large_or_not_called_json_is_413_or_415(
    api: Api, method: str, path: str, body: object
) -> None:
    text = json.dumps(body).encode()

    async def chunks() -> Any:
        for _ in range(3):
            yield b" " * 400_000
        yield text

    for content in (text + b" " * 1024**2, chunks()):
        answer = api.request(method, path, content=content, headers=JSON)
        assert_error(answer, 413, "body_too_large", None, "1048576 bytes")
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "text/json5; q=1"}):
        answer = api.request(method, path, content=text, headers=headers)
        assert_error(answer, 415, "unsupported_media_type", None, "application/json, got .*curl")
    assert api.get("/v1/devices/meter/never").status_code == 404
    assert api.get("/v1/links").json()["links"] == []


def test_a_change_that_is_too_large_over_a_socket_is_read_why(shared_engine: Engine) -> None:
    large = 17 * 1024**2
    pieces = (b" " * 65_536 for _ in range(large // 65_536))
    with httpx.Client(base_url=shared_engine.url, timeout=30) as client:
        for content in (b" " * large, pieces):
            answer = client.put("/v1/devices/meter/x", content=content, headers=JSON)
            assert_error(answer, 413, "body_too_large", None, "1048576 bytes")
            assert client.get("/v1/health").is_success


def test_a_full_queue_is_503_with_retry_after(embedded: Server) -> None:
    conninfo = embedded.make_database()
    api = Api(conninfo, load({"queue_readings": "1"}, {}))
    api.post(METER)
    other = {**METER, "timestamp": at(60)}
    with psycopg.connect(conninfo) as holder:
        holder.execute("SELECT FROM meter_live FOR UPDATE")

        async def overrun() -> list[httpx.Response]:
            async with asyncio.TaskGroup() as tasks:
                first = [tasks.create_task(api.ask("POST", "/v1/ingest", json=METER))]
                await asyncio.sleep(0.3)
                first.append(tasks.create_task(api.ask("POST", "/v1/ingest", json=other)))
                await asyncio.sleep(0.3)
                refused = await api.ask("POST", "/v1/ingest", json=other)
                health = await api.ask("GET", "/v1/health")
                waiting = await api.ask("GET", "/metrics")
                holder.rollback()
                return [refused, health, waiting, *[await task for task in first]]

        refused, health, waiting, *first = api.run(overrun())
    for answer in (refused, health):
        assert_error(answer, 503, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1
    assert 'wattstream_queue_readings{stream="meter"} 1.0' in waiting.text
    assert [answer.status_code for answer in first] == [200, 201]
    assert 'wattstream_queue_readings{stream="meter"} 0.0' in api.get("/metrics").text
    api.close()


def test_bodies_held_beyond_the_bound_are_503_with_retry_after(embedded: Server) -> None:
    conninfo = embedded.make_database()
    api = Api(conninfo, load({"queue_bytes": "1KiB"}, {}))
    alone = [{**METER, "timestamp": at(i)} for i in range(50)]
    assert api.post(alone, "/v1/ingest/batch").status_code == 201
    with psycopg.connect(conninfo) as holder:
        holder.execute("SELECT FROM meter_live FOR UPDATE")

        async def overrun() -> list[httpx.Response]:
            async with asyncio.TaskGroup() as tasks:
                large = [{**METER, "timestamp": at(60 + i)} for i in range(50)]
                first = tasks.create_task(api.ask("POST", "/v1/ingest/batch", json=large))
                await asyncio.sleep(0.3)
                refused = await api.ask("POST", "/v1/ingest", json=METER)
                holder.rollback()
                return [refused, await first]

        refused, first = api.run(overrun())
    assert_error(refused, 503, "queue_full", None, "hold more than 1024 bytes")
    assert int(refused.headers["Retry-After"]) >= 1
    assert first.status_code == 201
    assert api.post(METER).status_code in (200, 201), "nothing is held any more"
    api.close()


def test_a_client_that_outruns_the_engine_finds_all_that_was_acknowledged(
    embedded: Server,
) -> None:
    conninfo = embedded.make_database()
    api = Api(conninfo, load({"queue_readings": "300", "flush_readings": "100"}, {}))

    def batch(number: int) -> list[dict[str, object]]:
        return [{**METER, "meterId": f"o{number}", "timestamp": at(i)} for i in range(100)]

    async def overrun() -> list[httpx.Response]:
        return await asyncio.gather(
            *(api.ask("POST", "/v1/ingest/batch", json=batch(number)) for number in range(40))
        )

    answers = api.run(overrun())
    taken = {number for number, answer in enumerate(answers) if answer.status_code == 201}
    assert {answer.status_code for answer in answers} == {201, 503}
    assert all("Retry-After" in a.headers for a in answers if a.status_code == 503)
    with psycopg.connect(conninfo) as connection:
        held = connection.execute(
            """SELECT external_id, count(*) FROM meter_history JOIN devices USING (device_id)
            GROUP BY external_id"""
        ).fetchall()
    assert {f"o{number}" for number in taken} <= {name for name, count in held if count == 100}
    api.close()


@pytest.fixture
def own_server() -> Iterator[tuple[EmbeddedPostgres, str]]:
    folder = Path(tempfile.mkdtemp(prefix="wattstream-errors-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder)
    conninfo = server.start()
    migrate(conninfo)
    yield server, conninfo
    server.stop()
    shutil.rmtree(folder)


def test_a_database_that_is_away_is_503_and_back_again(
    own_server: tuple[EmbeddedPostgres, str],
) -> None:
    server, conninfo = own_server
    api = Api(conninfo, load({}, {}))
    assert api.post(METER).status_code == 201
    server.stop()
    calls: list[Callable[[], httpx.Response]] = [
        lambda: api.post(METER),
        lambda: api.post([METER], "/v1/ingest/batch"),
        lambda: api.get("/v1/ingest/status/meter/M1"),
        lambda: api.get("/v1/health"),
        lambda: api.request("PUT", "/v1/devices/meter/M1", json={}),
        lambda: api.request("POST", "/v1/analytics/refresh"),
    ]
    for call in calls:
        answer = call()
        assert_error(answer, 503, "database_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    assert api.get("/v1/health/live").is_success
    server.start()
    assert api.post(METER).status_code == 200
    for _ in range(12):
        assert api.get("/v1/ingest/status/meter/M1").is_success
    api.close()


def test_a_connection_that_ended_while_it_was_idle_costs_no_request(embedded: Server) -> None:
    conninfo = embedded.make_database()
    api = Api(conninfo, load({}, {}))
    calls: list[Callable[[], httpx.Response]] = [
        lambda: api.post(METER),
        lambda: api.post([VEHICLE], "/v1/ingest/batch"),
        lambda: api.post([{}], "/v1/ingest/batch"),
        lambda: api.request("PUT", "/v1/devices/meter/M1", json={}),
        lambda: api.get("/v1/ingest/status/meter/M1"),
        lambda: api.get("/v1/health"),
    ]
    first = [call().status_code for call in calls]
    for _ in range(2):
        with psycopg.connect(conninfo, autocommit=True) as connection:
            others = (
                "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            ended = connection.execute(
                f"SELECT pg_terminate_backend(pid, 10000) FROM {others}".encode()
            )
            assert [row[0] for row in ended].count(True) >= len(
                {"lanes", "admin", "keeper", "reader"}
            )
        assert [call().status_code for call in calls] == [200, 201, 422, 200, 200, 200]
    assert first == [201, 201, 422, 200, 200, 200]
    api.close()


def test_every_question_is_503_while_the_database_is_away(
    own_server: tuple[EmbeddedPostgres, str],
) -> None:
    server, conninfo = own_server
    api = Api(conninfo, load({}, {}))
    api.post(METER)
    server.stop()
    paths = [
        "/v1/ingest/status/meter/M1",
        "/v1/analytics/performance/M1",
        "/v1/analytics/stats",
        "/v1/analytics/alerts",
        "/v1/devices?type=meter",
        "/v1/devices/meter/M1",
        "/v1/rejections",
    ]

    async def all_at_once() -> list[httpx.Response]:
        return await asyncio.gather(*(api.ask("GET", path) for path in paths))

    for answer in api.run(all_at_once()):
        assert_error(answer, 503, "database_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    api.close()


@pytest.mark.slow
def test_questions_are_answered_soon_after_an_outage(
    own_server: tuple[EmbeddedPostgres, str],
) -> None:
    server, conninfo = own_server
    api = Api(conninfo, load({}, {}))
    api.post(METER)
    server.stop()

    async def ask_for(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if (await api.ask("GET", "/v1/ingest/status/meter/M1")).is_success:
                return True
            await asyncio.sleep(0.2)
        return False

    assert not api.run(ask_for(18))
    server.start()
    is_back = api.run(ask_for(4))
    api.close()
    assert is_back


def test_a_large_body_is_read_no_faster_than_it_could_be_stored(shared_engine: Engine) -> None:
    body = b"x" * (15 * 1024**2)
    started = time.monotonic()
    answer = httpx.post(f"{shared_engine.url}/v1/ingest/batch", content=body, timeout=30)
    assert_error(answer, 400, "malformed_json", None, "not JSON")
    assert time.monotonic() - started >= 14 / 64 * 0.9  # what is beyond 1 MiB, at 64 MiB a second


def test_who_works_long_rests_twice_as_long_but_not_for_having_waited() -> None:
    def took(turns: _Turns) -> float:
        started = time.monotonic()
        turns()
        return time.monotonic() - started

    turns = _Turns(0.01)
    time.sleep(0.3)  # in the queue
    assert took(turns) < 0.3
    time.sleep(0.05)
    assert took(turns) >= 0.1
