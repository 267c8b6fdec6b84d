"""The served OpenAPI file agrees with the contract and with what the engine answers."""

import functools
import gzip
import json
import secrets
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from conftest import Engine

# The contract's table, as far as it is served.
CONTRACT = {
    ("post", "/v1/ingest"): {200, 201, 400, 409, 413, 415, 422, 503},
    ("post", "/v1/ingest/batch"): {201, 207, 400, 413, 415, 422, 503},
    ("get", "/v1/ingest/status/{type}/{id}"): {200, 404, 503},
    ("get", "/v1/analytics/performance/{vehicleId}"): {200, 400, 404, 503},
    ("get", "/v1/analytics/clock/{vehicleId}"): {200, 400, 404, 503},
    ("get", "/v1/analytics/fleet"): {200, 400, 404, 503},
    ("get", "/v1/analytics/fleets"): {200, 400, 503},
    ("get", "/v1/analytics/stats"): {200, 503},
    ("get", "/v1/analytics/alerts"): {200, 400, 503},
    ("post", "/v1/analytics/refresh"): {200, 400, 503},
    ("get", "/v1/devices"): {200, 400, 503},
    ("get", "/v1/devices/{type}/{id}"): {200, 404, 503},
    ("put", "/v1/devices/{type}/{id}"): {200, 201, 202, 400, 404, 413, 415, 422, 503},
    ("get", "/v1/events/{type}/{id}"): {200, 400, 404, 503},
    ("get", "/v1/history/{type}"): {200, 400, 404, 406, 503},
    ("get", "/v1/history/{type}/{id}"): {200, 400, 404, 406, 503},
    ("get", "/v1/links"): {200, 400, 503},
    ("post", "/v1/links"): {201, 400, 409, 413, 415, 422, 503},
    ("patch", "/v1/links/{linkId}"): {200, 400, 404, 409, 413, 415, 422, 503},
    ("delete", "/v1/links/{linkId}"): {204, 404, 503},
    ("get", "/v1/alerts"): {200, 400, 503},
    ("get", "/v1/alerts/{alertId}"): {200, 404, 503},
    ("post", "/v1/alerts/{alertId}/ack"): {200, 400, 404, 409, 413, 415, 422, 503},
    ("get", "/v1/stream"): {200, 400, 503},
    ("get", "/v1/rejections"): {200, 400, 503},
    ("get", "/v1/rejections/counts"): {200, 503},
    ("get", "/v1/audit"): {200, 400, 503},
    ("get", "/v1/health"): {200, 503},
    ("get", "/v1/health/live"): {200},
    ("get", "/metrics"): {200},
    ("get", "/"): {200},
}
HISTORIES = [
    ("/v1/history/{type}/{id}", "/v1/history/meter/A?"),
    ("/v1/history/{type}/{id}", "/v1/history/vehicle/A?"),
    ("/v1/history/{type}", "/v1/history/meter?id=A&"),
]
METHODS = ["get", "post", "put", "delete", "patch"]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def test_every_endpoint_and_status_of_the_contract_is_documented(shared_engine: Engine) -> None:
    document = httpx.get(f"{shared_engine.url}/openapi.json").json()
    documented = {
        (method, path): {int(status) for status in operation["responses"]}
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    open_to_all = {("get", "/v1/health"), ("get", "/v1/health/live")}
    by_connection, by_key = {408, 431}, {401, 403, 429}
    assert documented == {
        name: statuses | by_connection | (set() if name in open_to_all else by_key)
        for name, statuses in CONTRACT.items()
    }
    assert document["openapi"].startswith("3.1")
    schemathesis.openapi.from_dict(document).validate()


def test_an_answer_of_every_kind_fits_its_schema(engine: Engine) -> None:
    """Generated readings are hardly ever of today, so stored ones are tried by hand."""
    now = datetime.now(UTC).isoformat()
    meter = {"meterId": "A", "kwhConsumedAc": 1.5, "voltage": None, "timestamp": now}
    vehicle = {"vehicleId": "A", "kwhDeliveredDc": "1", "soc": 50.5, "timestamp": now}
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    one, batch = "/v1/ingest", "/v1/ingest/batch"
    status, device = "/v1/ingest/status/{type}/{id}", "/v1/devices/{type}/{id}"
    history = "/v1/history/{type}/{id}"
    one_link = "/v1/links/{linkId}"
    link = {"meterId": "A", "vehicleId": "A", "start": now, "end": None}
    requests: list[tuple[str, str, str, dict[str, object], int]] = [
        ("POST", one, one, {"json": meter}, 201),
        ("POST", one, one, {"json": meter}, 200),
        ("POST", one, one, {"json": {**meter, "voltage": 1}}, 409),
        ("POST", one, one, {"json": {}}, 422),
        ("POST", one, one, {"content": b"{"}, 400),
        ("POST", one, one, {"content": b"{}", "headers": {"Content-Type": "a/b"}}, 415),
        ("POST", batch, batch, {"json": [meter, vehicle]}, 201),
        ("POST", batch, batch, {"json": {"records": [meter, {}]}}, 207),
        ("POST", batch, batch, {"json": []}, 422),
        ("POST", batch, batch,
         {"content": gzip.compress(json.dumps([vehicle]).encode()), "headers": packed}, 201),
        ("POST", batch, batch, {"content": b"x" * 17 * 1024**2}, 413),
        ("GET", status, "/v1/ingest/status/meter/A", {}, 200),
        ("GET", status, "/v1/ingest/status/vehicle/A", {}, 200),
        ("GET", status, "/v1/ingest/status/vehicle/B", {}, 404),
        ("GET", "/v1/analytics/performance/{vehicleId}", "/v1/analytics/performance/A", {}, 200),
        ("GET", "/v1/analytics/clock/{vehicleId}", "/v1/analytics/clock/A", {}, 200),
        ("GET", "/v1/analytics/fleet", "/v1/analytics/fleet", {}, 200),
        ("GET", "/v1/analytics/fleet", "/v1/analytics/fleet?fleet=none", {}, 404),
        ("GET", "/v1/analytics/fleets", "/v1/analytics/fleets", {}, 200),
        ("GET", "/v1/analytics/stats", "/v1/analytics/stats", {}, 200),
        ("GET", "/v1/analytics/alerts", "/v1/analytics/alerts?threshold=100", {}, 200),
        ("POST", "/v1/analytics/refresh", "/v1/analytics/refresh", {}, 200),
        ("GET", "/v1/devices", "/v1/devices?type=vehicle", {}, 200),
        ("PUT", device, "/v1/devices/meter/A", {"json": {"ratedPowerKw": 11}}, 200),
        ("PUT", device, "/v1/devices/meter/B", {"json": {"fleet": "north"}}, 201),
        ("PUT", device, "/v1/devices/meter/A", {"content": b"{}"}, 415),
        ("PUT", device, "/v1/devices/meter/A", {"json": "x" * 1024**2}, 413),
        ("GET", device, "/v1/devices/meter/B", {}, 200),
        *(
            ("GET", f"{path}", f"{target}resolution={resolution}", {}, 200)
            for path, target in HISTORIES
            for resolution in ("raw", "15m", "1h", "1d")
        ),
        ("GET", history, "/v1/history/meter/A", {"headers": {"Accept": "text/csv"}}, 200),
        ("GET", history, "/v1/history/meter/A", {"headers": {"Accept": "image/png"}}, 406),
        ("PUT", device, "/v1/devices/meter/R", {"json": {"energyMode": "register"}}, 201),
        ("POST", batch, batch, {"json": [{**meter, "meterId": "R", "kwhConsumedAc": kwh,
         "timestamp": f"{now[:11]}00:00:0{kwh}Z"} for kwh in (2, 3)]}, 201),
        ("POST", one, one, {"json": {**meter, "meterId": "R"}}, 201),
        ("GET", "/v1/events/{type}/{id}", "/v1/events/meter/R", {}, 200),
        ("POST", "/v1/links", "/v1/links", {"json": link}, 201),
        ("POST", "/v1/links", "/v1/links", {"json": link}, 409),
        ("POST", "/v1/links", "/v1/links", {"json": {**link, "meterId": " "}}, 422),
        ("GET", "/v1/links", "/v1/links?meterId=A", {}, 200),
        ("PATCH", one_link, "/v1/links/1", {"json": {"end": now}}, 422),
        ("PATCH", one_link, "/v1/links/1", {"json": {"end": "2999-01-01T00:00:00Z"}}, 200),
        ("PATCH", one_link, "/v1/links/9", {"json": {"end": None}}, 404),
        ("DELETE", one_link, "/v1/links/1", {}, 204),
        ("DELETE", one_link, "/v1/links/1", {}, 404),
        ("GET", "/v1/alerts", "/v1/alerts?state=all", {}, 200),
        ("GET", "/v1/alerts/{alertId}", "/v1/alerts/1", {}, 404),
        ("POST", "/v1/alerts/{alertId}/ack", "/v1/alerts/1/ack", {"json": {"by": "me"}}, 404),
        ("GET", "/v1/rejections", "/v1/rejections", {}, 200),
        ("GET", "/v1/rejections", "/v1/rejections", {"headers": {"Accept": "text/csv"}}, 200),
        ("GET", "/v1/rejections/counts", "/v1/rejections/counts", {}, 200),
    ]  # fmt: skip
    schema = schemathesis.openapi.from_url(f"{engine.url}/openapi.json")
    for method, path, target, options, expected in requests:
        answer = httpx.request(method, engine.url + target, **options)  # type: ignore[arg-type]
        assert answer.status_code == expected, (method, target, answer.text)
        schema[path][method].validate_response(answer)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_gets_an_undocumented_answer_or_a_server_error(
    engine: Engine, mode: GenerationMode
) -> None:
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{engine.url}/openapi.json")
    tried = 0
    for operation in operations(schema):
        strategy = operation.as_strategy(generation_mode=mode)

        @settings(
            max_examples=20,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(strategy)
        def check(case: schemathesis.Case) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(checks=CHECKS, timeout=60)

        if not (mode is GenerationMode.NEGATIVE and is_without_input(operation)):
            check()
    assert tried > 100


_STEPS = {
    "put": ("PUT", "/v1/devices/{type}/{id}"),
    "get": ("GET", "/v1/devices/{type}/{id}"),
    "events": ("GET", "/v1/events/{type}/{id}"),
    "status": ("GET", "/v1/ingest/status/{type}/{id}"),
    "link": ("POST", "/v1/links"),
    "end": ("PATCH", "/v1/links/{linkId}"),
    "unlink": ("DELETE", "/v1/links/{linkId}"),
}
_DAYS = st.integers(1, 28).map(lambda day: f"2026-02-{day:02}T00:00:00Z") | st.just("someday")


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(_STEPS)),
            st.integers(0, 1),
            st.sampled_from(["interval", "register", "none"]),
            st.tuples(_DAYS, st.none() | _DAYS),
        ),
        min_size=4,
        max_size=12,
    )
)
def test_what_is_asked_of_what_was_made_gets_a_documented_answer(
    engine: Engine, steps: list[tuple[str, int, str, tuple[str, str | None]]]
) -> None:
    schema = schema_of(engine.url)
    run, made = secrets.token_hex(4), [0]
    known = False
    for name, number, mode, (start, end) in steps:
        method, path = _STEPS[name]
        ids = {"type": "meter", "id": f"{run}-{number}", "linkId": made[-1 - number % len(made)]}
        body = {
            "put": {"energyMode": mode},
            "link": {"meterId": f"{run}-{number}", "vehicleId": run, "start": start, "end": end},
            "end": {"end": end},
        }.get(name)
        answer = httpx.request(method, engine.url + path.format(**ids), json=body)
        assert answer.status_code < 500
        schema[path][method].validate_response(answer)
        if name == "link" and answer.status_code == 201:
            made.append(answer.json()["linkId"])
        if name == "put" and number == 0:
            known |= answer.status_code == 201
        if name == "get" and number == 0 and known:
            assert answer.status_code == 200


@functools.cache
def schema_of(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def operations(schema: schemathesis.BaseSchema) -> Iterator[schemathesis.APIOperation]:
    for found in schema.exclude(path="/v1/stream").get_all_operations():  # it never ends
        yield found.ok()


def is_without_input(operation: schemathesis.APIOperation) -> bool:
    """Return whether nothing about a request can be wrong."""
    return not list(operation.iter_parameters()) and not operation.body


@given(
    st.sampled_from(sorted(CONTRACT)), st.sampled_from(["get", "post", "put", "delete", "patch"])
)
@settings(suppress_health_check=list(HealthCheck))
def test_a_method_that_is_not_documented_is_refused(
    shared_engine: Engine, known: tuple[str, str], method: str
) -> None:
    path = known[1].replace("{type}", "meter").replace("{id}", "x").replace("{vehicleId}", "x")
    path = path.replace("{linkId}", "1")
    if (method, known[1]) not in CONTRACT:
        answer = httpx.request(method, shared_engine.url + path)
        assert answer.status_code == 405
        assert answer.headers["Allow"]


def test_what_is_no_http_is_refused_in_the_form_of_every_error(shared_engine: Engine) -> None:
    address = httpx.URL(shared_engine.url)
    with socket.create_connection((address.host, address.port), timeout=10) as link:
        link.sendall(b"GET /v1/health\x01 HTTP/1.1\r\nBad\x00Header: x\r\n\r\n")
        answer = b"".join(iter(lambda: link.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Type: application/json" in head
    assert json.loads(body)["error"]["code"] == "malformed_request"
