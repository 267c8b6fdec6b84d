"""Every endpoint against every kind of key: only what the reference says is let through."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import httpx
import psycopg
import pytest

from conftest import Server, serving_on
from test_http import Api
from wattstream.domain.access import WHOLE, Key, Reach, Scope, digest_of
from wattstream.domain.links import FOREVER_US
from wattstream.query.keyring import new_token
from wattstream.settings import load
from wattstream.store.postgres.access import PostgresAccess
from wattstream.store.postgres.connections import Worker

NOW = datetime.now(UTC).replace(microsecond=0)
ALL = frozenset(Scope)
Json = dict[str, Any]


def now_us() -> int:
    return time.time_ns() // 1000


def reading(stream: str, name: str, seconds: float = 60, energy: float = 1.0) -> Json:
    id_key, energy_key = {
        "meter": ("meterId", "kwhConsumedAc"),
        "vehicle": ("vehicleId", "kwhDeliveredDc"),
    }[stream]
    at = (NOW - timedelta(seconds=seconds)).isoformat()
    return {id_key: name, energy_key: energy, "timestamp": at}


class Keys:
    """Makes keys in an engine's database."""

    def __init__(self, api: Api, conninfo: str) -> None:
        self._api = api
        self._worker = Worker(conninfo, "test")
        self._store = PostgresAccess(self._worker)

    def make(
        self,
        scopes: frozenset[Scope] = ALL,
        reach: Reach = WHOLE,
        *,
        expires_at_us: int = FOREVER_US,
        rate: float | None = None,
        is_revoked: bool = False,
    ) -> str:
        """Return a token of a new key."""
        token = new_token()
        key = Key(
            token.prefix,
            digest_of(token.secret),
            "of a test",
            scopes,
            reach,
            now_us(),
            expires_at_us,
            requests_per_s=rate,
        )

        self._api.run(self._store.add(key))
        if is_revoked:
            self._api.run(self._store.revoke(key.prefix, now_us()))
        return str(token)

    def close(self) -> None:
        self._api.run(self._worker.close())


@dataclass
class Guarded:
    """An engine with keys, and devices of two fleets."""

    api: Api
    keys: Keys
    conninfo: str

    def ask(
        self, method: str, path: str, token: str | None = None, **options: Any
    ) -> httpx.Response:
        headers = options.pop("headers", {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self.api.request(method, path, headers=headers, **options)


@pytest.fixture(scope="module")
def guarded(embedded: Server) -> Iterator[Guarded]:
    conninfo = embedded.make_database()
    api = Api(conninfo, load({"alert_interval": 0}, {}))
    keys = Keys(api, conninfo)
    engine = Guarded(api, keys, conninfo)
    for fleet in ("north", "south"):
        for stream in ("meter", "vehicle"):
            name = f"{fleet}-1"
            for path in (f"/v1/devices/{stream}/{name}",):
                assert engine.ask("PUT", path, json={"fleet": fleet}).status_code == 201
            batch = [reading(stream, name, 60 * i, 1.0 if stream == "meter" else 0.5)
                     for i in range(1, 40)]  # fmt: skip
            assert api.batch(batch)["stored"] == 39
        link = {"meterId": f"{fleet}-1", "vehicleId": f"{fleet}-1",
                "start": (NOW - timedelta(days=2)).isoformat(), "end": None}  # fmt: skip
        assert engine.ask("POST", "/v1/links", json=link).status_code == 201
        refused = {**reading("meter", f"{fleet}-1"), "voltage": -1}
        assert api.post(refused).status_code == 422
    with psycopg.connect(conninfo) as connection:
        connection.execute(
            "INSERT INTO alerts (kind, stream, device_id, opened_at, evidence, updated_at) "
            "SELECT 'silent', stream, device_id, now(), '{}', now() FROM devices "
            "WHERE stream = 'vehicle' ORDER BY external_id"
        )
    keys.make()
    assert _ends(lambda: engine.ask("GET", "/v1/devices?type=meter").status_code == 401)
    yield engine
    keys.close()
    api.close()


# Method, path, scope, and what it is about: nothing held, one device, lists, or the whole engine.
# Paths with `{f}` are about a device of that fleet; numbers of links and alerts go by fleet.
OPEN, DEVICE, LIST, WHOLE_ENGINE = "open", "device", "list", "whole"
TABLE: list[tuple[str, str, str | None, str, Any]] = [
    ("GET", "/v1/health", None, OPEN, None),
    ("GET", "/v1/health/live", None, OPEN, None),
    ("GET", "/openapi.json", None, OPEN, None),
    ("GET", "/docs", None, OPEN, None),
    ("GET", "/login", None, OPEN, None),
    ("POST", "/logout", None, OPEN, None),
    ("POST", "/v1/ingest", "ingest", DEVICE, lambda f: reading("meter", f"{f}-1", 3000)),
    ("POST", "/v1/ingest/batch", "ingest", LIST, lambda f: [reading("meter", "north-1", 3100)]),
    ("GET", "/v1/ingest/status/meter/{f}-1", "read", DEVICE, None),
    ("GET", "/v1/ingest/status/vehicle/{f}-1", "read", DEVICE, None),
    ("GET", "/v1/analytics/performance/{f}-1", "read", DEVICE, None),
    ("GET", "/v1/analytics/clock/{f}-1", "read", DEVICE, None),
    ("GET", "/v1/devices/meter/{f}-1", "read", DEVICE, None),
    ("GET", "/v1/events/meter/{f}-1", "read", DEVICE, None),
    ("GET", "/v1/history/meter/{f}-1", "read", DEVICE, None),
    ("GET", "/v1/history/vehicle?id={f}-1", "read", DEVICE, None),
    ("GET", "/device?type=meter&id={f}-1", "read", DEVICE, None),
    ("GET", "/v1/analytics/fleet", "read", LIST, None),
    ("GET", "/v1/analytics/fleets", "read", LIST, None),
    ("GET", "/v1/analytics/alerts", "read", LIST, None),
    ("GET", "/v1/devices?type=meter", "read", LIST, None),
    ("GET", "/v1/links", "read", LIST, None),
    ("GET", "/v1/alerts", "read", LIST, None),
    ("GET", "/v1/rejections", "read", LIST, None),
    ("GET", "/", "read", LIST, None),
    ("GET", "/devices", "read", LIST, None),
    ("GET", "/alerts", "read", LIST, None),
    ("GET", "/pages/day.json", "read", LIST, None),
    ("GET", "/v1/analytics/stats", "read", WHOLE_ENGINE, None),
    ("GET", "/v1/rejections/counts", "read", WHOLE_ENGINE, None),
    ("GET", "/metrics", "read", WHOLE_ENGINE, None),
    ("GET", "/ingest", "read", WHOLE_ENGINE, None),
    ("GET", "/pages/ingest.json", "read", WHOLE_ENGINE, None),
    ("GET", "/v1/audit", "admin", WHOLE_ENGINE, None),
    ("POST", "/v1/analytics/refresh", "admin", WHOLE_ENGINE, None),
    ("PUT", "/v1/devices/meter/{f}-1", "admin", DEVICE, lambda f: {"heartbeatSeconds": 60}),
    ("POST", "/v1/links", "admin", DEVICE, lambda f: {
        "meterId": f"{f}-1", "vehicleId": f"{f}-1", "start": "2020-01-01T00:00:00Z",
        "end": "2020-01-02T00:00:00Z"}),
    ("GET", "/v1/no/such/thing", "read", OPEN, None),
    ("POST", "/v1/no/such/thing", "admin", OPEN, None),
    ("DELETE", "/v1/ingest", "ingest", OPEN, None),
]  # fmt: skip


def ask(guarded: Guarded, row: tuple[Any, ...], fleet: str, token: str | None) -> httpx.Response:
    method, path, _, _, body = row
    options = {} if body is None else {"json": body(fleet)}
    headers = {"Accept": "text/html"} if _is_page(path) else {}
    if "headers" not in options:
        options["headers"] = headers
    return guarded.ask(method, path.replace("{f}", fleet), token, **options)


def _is_page(path: str) -> bool:
    return path in {"/", "/devices", "/alerts", "/ingest"} or path.startswith("/device?")


def code(answer: httpx.Response) -> str | None:
    try:
        found: str | None = answer.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return found


@pytest.mark.parametrize("row", TABLE, ids=[f"{row[0]} {row[1]}" for row in TABLE])
def test_only_a_valid_key_of_the_right_scope_passes(
    guarded: Guarded, row: tuple[str, str, str | None, str, Any]
) -> None:
    scope, path = row[2], row[1]
    good = guarded.keys.make()
    refusals = {
        "none": (None, "key_missing"),
        "empty": ("", "key_unknown"),
        "no token": ("hello", "key_unknown"),
        "unknown": (str(new_token()), "key_unknown"),
        "wrong secret": (good[:-1] + ("A" if good[-1] != "A" else "B"), "key_unknown"),
        "expired": (guarded.keys.make(expires_at_us=now_us() - 1), "key_expired"),
        "revoked": (guarded.keys.make(is_revoked=True), "key_revoked"),
    }
    for name, (token, expected) in refusals.items():
        answer = ask(guarded, row, "north", token)
        if scope is None:
            assert answer.status_code in {200, 303}, (name, answer.text[:200])
        elif _is_page(path):
            assert answer.status_code == 303, name
            assert answer.headers["Location"].startswith("/login?next=%2F")
        else:
            assert (answer.status_code, code(answer)) == (401, expected), name
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "north-1" not in answer.text
    for other in Scope:
        token = guarded.keys.make(frozenset({other}))
        answer = ask(guarded, row, "north", token)
        if scope is None or other in {scope, "admin"}:
            assert answer.status_code not in {401, 403}, (other, answer.text[:200])
        else:
            assert answer.status_code == 403, (other, answer.text[:200])
            assert "north-1" not in answer.text
            assert _is_page(path) or code(answer) == "scope_missing"


BOUND = [Reach("north", None), Reach(None, "north-*"), Reach("north", "north-?")]


@pytest.mark.parametrize("row", TABLE, ids=[f"{row[0]} {row[1]}" for row in TABLE])
def test_a_bound_key_reaches_its_devices_only(
    guarded: Guarded, row: tuple[str, str, str | None, str, Any]
) -> None:
    kind, path = row[3], row[1]
    for reach in BOUND:
        token = guarded.keys.make(reach=reach)
        answer = ask(guarded, row, "north", token)
        if kind == WHOLE_ENGINE:
            assert answer.status_code == 403
            assert _is_page(path) or code(answer) == "key_bound"
            continue
        assert answer.status_code not in {401, 403, 500}, answer.text[:300]
        assert "south" not in answer.text
        if kind == DEVICE:
            assert "north-1" in answer.text or answer.status_code in {200, 422}
            answer = ask(guarded, row, "south", token)
            assert answer.status_code == 403, answer.text[:200]
            assert _is_page(path) or code(answer) == "device_forbidden"
            unknown = ask(guarded, row, "nowhere", token)
            assert unknown.status_code == 403, "whether a device exists does not show"


def test_a_list_shows_a_bound_key_what_it_reaches(guarded: Guarded) -> None:
    for reach in BOUND:
        token = guarded.keys.make(reach=reach)

        def get(path: str, token: str = token) -> Json:
            found: Json = guarded.ask("GET", path, token).json()
            return found

        assert [d["id"] for d in get("/v1/devices?type=meter")["devices"]] == ["north-1"]
        assert [d["id"] for d in get("/v1/devices?type=vehicle&limit=1")["devices"]] == ["north-1"]
        assert {x["vehicleId"] for x in get("/v1/links")["links"]} == {"north-1"}
        assert [x["id"] for x in get("/v1/alerts")["alerts"]] == ["north-1"]
        assert {x["id"] for x in get("/v1/rejections")["rejections"]} == {"north-1"}
        assert {x["id"] for x in get("/v1/rejections?order=desc&limit=1")["rejections"]} == {
            "north-1"
        }
        assert [x["vehicleId"] for x in get("/v1/analytics/alerts")["alerts"]] == ["north-1"]
        assert [x["fleet"] for x in get("/v1/analytics/fleets")["fleets"]] == ["north"]
        everything = guarded.keys.make()
        # A quarter-hour may end between two questions, so one is asked before and after.
        of_label = [get("/v1/analytics/fleet?fleet=north", everything)]
        of_key = get("/v1/analytics/fleet")
        of_label.append(get("/v1/analytics/fleet?fleet=north", everything))
        assert of_key in of_label
        assert code(guarded.ask("GET", "/v1/analytics/fleet?fleet=south", token)) == "fleet_unknown"
        before, day, after = (
            get("/pages/day.json", each) for each in (everything, token, everything)
        )
        whole = before if day["start"] == before["start"] else after
        assert day["start"] == whole["start"]
        assert [2 * dc for dc in day["dcKwh"]] == pytest.approx(whole["dcKwh"])


def test_links_and_alerts_of_others_are_as_if_they_were_not_there(guarded: Guarded) -> None:
    everything = guarded.keys.make()
    links = guarded.ask("GET", "/v1/links", everything).json()["links"]
    alerts = guarded.ask("GET", "/v1/alerts", everything).json()["alerts"]
    link = next(x["linkId"] for x in links if x["vehicleId"] == "south-1")
    alert = next(x["alertId"] for x in alerts if x["id"] == "south-1")
    for reach in BOUND:
        token = guarded.keys.make(reach=reach)
        for method, path, body in (
            ("PATCH", f"/v1/links/{link}", {"end": NOW.isoformat()}),
            ("DELETE", f"/v1/links/{link}", None),
            ("GET", f"/v1/alerts/{alert}", None),
            ("POST", f"/v1/alerts/{alert}/ack", {}),
        ):
            answer = guarded.ask(method, path, token, json=body)
            assert answer.status_code == 404, (method, path)
        for ends in (("north-1", "south-1"), ("south-1", "north-1"), ("north-1", "south-2")):
            body = {"meterId": ends[0], "vehicleId": ends[1], "start": NOW.isoformat()}
            answer = guarded.ask("POST", "/v1/links", token, json=body)
            assert code(answer) == "device_forbidden"
    assert guarded.ask("GET", "/v1/links", everything).json()["links"] == links
    assert guarded.ask("GET", "/v1/alerts", everything).json()["alerts"] == alerts


def test_a_batch_keeps_what_the_key_reaches_and_refuses_the_rest(guarded: Guarded) -> None:
    token = guarded.keys.make(frozenset({Scope.INGEST}), Reach("north", None))
    names = ["north-1", "south-1", "unheard-of", "north-1"]
    batch = [reading(stream, name, 5000 + i) for i, name in enumerate(names)
             for stream in ("meter", "vehicle")]  # fmt: skip
    answer = guarded.ask("POST", "/v1/ingest/batch", token, json=batch)
    assert answer.status_code == 207
    body = answer.json()
    assert (body["stored"], body["rejected"]) == (4, 4)
    assert [error["index"] for error in body["errors"]] == [2, 3, 4, 5]
    assert {error["code"] for error in body["errors"]} == {"device_forbidden"}
    kept = guarded.ask(
        "GET", "/v1/rejections?code=device_forbidden&order=desc&limit=4", guarded.keys.make()
    ).json()["rejections"]
    assert {each["key"] for each in kept} == {token.split("_")[1]}
    assert {each["id"] for each in kept} == {"south-1", "unheard-of"}
    lines = "\n".join(str(each).replace("'", '"') for each in batch)
    again = guarded.ask(
        "POST", "/v1/ingest/batch", token, content=lines,
        headers={"Content-Type": "application/x-ndjson"},
    ).json()  # fmt: skip
    assert (again["stored"], again["duplicates"], again["rejected"]) == (0, 4, 4)
    unknown = guarded.ask("GET", "/v1/devices/meter/unheard-of", guarded.keys.make())
    assert unknown.status_code == 404, "a device that may not report is not made"


def test_a_new_device_within_reach_reports_and_a_label_moves_it(guarded: Guarded) -> None:
    token = guarded.keys.make(frozenset({Scope.INGEST}), Reach(None, "fresh-*"))
    assert guarded.ask("POST", "/v1/ingest", token, json=reading("meter", "fresh-1")).is_success
    bound = guarded.keys.make(reach=Reach("north", None))
    path = "/v1/devices/meter/moved-1"
    assert code(guarded.ask("PUT", path, bound, json={})) == "device_forbidden"
    assert guarded.ask("PUT", path, bound, json={"fleet": "north"}).status_code == 201
    assert guarded.ask("POST", "/v1/ingest", bound, json=reading("meter", "moved-1")).is_success
    for change in ({"fleet": "south"}, {"fleet": None}):
        assert code(guarded.ask("PUT", path, bound, json=change)) == "device_forbidden"
    assert guarded.ask("PUT", path, guarded.keys.make(), json={"fleet": "west"}).is_success
    time.sleep(10.1)  # labels are known for ten seconds
    for body in (reading("meter", "moved-1", 61),):
        assert code(guarded.ask("POST", "/v1/ingest", bound, json=body)) == "device_forbidden"


def test_a_rate_is_refused_with_the_time_to_wait(guarded: Guarded) -> None:
    token = guarded.keys.make(rate=0.5)
    answers = [guarded.ask("GET", "/v1/devices?type=meter", token) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert code(answers[-1]) == "rate_limited"
    assert int(answers[-1].headers["Retry-After"]) >= 1


def test_a_browser_signs_in_and_out_and_a_revoked_key_ends_its_session(guarded: Guarded) -> None:
    token = guarded.keys.make(frozenset({Scope.READ}))
    page = {"Accept": "text/html"}
    sent = guarded.ask("GET", "/alerts?state=all", headers=page)
    assert sent.headers["Location"] == "/login?next=%2Falerts%3Fstate%3Dall"
    wrong = guarded.ask("POST", "/login", data={"key": "no", "next": "/alerts"})
    assert wrong.status_code == 401
    assert "not known" in wrong.text
    for elsewhere in ("https://evil.example/", "//evil.example", "/\\evil.example", "alerts"):
        answer = guarded.ask("POST", "/login", data={"key": token, "next": elsewhere})
        assert answer.headers["Location"] == "/"
    signed = guarded.ask("POST", "/login", data={"key": token, "next": "/alerts?state=all"})
    assert (signed.status_code, signed.headers["Location"]) == (303, "/alerts?state=all")
    cookie = signed.headers["Set-Cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    assert token not in cookie
    held = {**page, "Cookie": cookie.split(";")[0]}
    assert "Sign out" in guarded.ask("GET", "/alerts", headers=held).text
    assert guarded.ask("GET", "/v1/alerts", headers=held).status_code == 200
    forbidden = guarded.ask("PUT", "/v1/devices/meter/north-1", json={}, headers=held)
    assert code(forbidden) == "scope_missing", "a session may do no more than its key"
    crossed = guarded.ask("POST", "/logout", headers={**held, "Sec-Fetch-Site": "cross-site"})
    assert code(crossed) == "cross_site"
    assert guarded.ask("GET", "/alerts", headers=held).status_code == 200
    guarded.ask("POST", "/logout", headers=held)
    assert _ends(lambda: guarded.ask("GET", "/alerts", headers=held).status_code == 303)
    again = guarded.ask("POST", "/login", data={"key": token}).headers["Set-Cookie"]
    held = {**page, "Cookie": again.split(";")[0]}
    assert guarded.ask("GET", "/alerts", headers=held).status_code == 200
    with psycopg.connect(guarded.conninfo) as connection:
        connection.execute("UPDATE access_changes SET changes = changes + 1")
        connection.execute(
            "UPDATE access_keys SET revoked_at = now() WHERE prefix = %s", [token.split("_")[1]]
        )
    assert _ends(lambda: guarded.ask("GET", "/alerts", headers=held).status_code == 303)


def _ends(is_over: Callable[[], bool]) -> bool:
    """Return whether something comes to be within ten seconds."""
    until = time.monotonic() + 10
    while not is_over():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_acts_are_written_down_with_who_and_what(guarded: Guarded) -> None:
    token = guarded.keys.make()
    guarded.ask("PUT", "/v1/devices/meter/audited", token, json={"fleet": "é"})
    guarded.ask("PUT", "/v1/devices/meter/audited", token, json={"energyMode": "nonsense"})
    guarded.ask("PUT", "/v1/devices/meter/audited", json={})
    acts = guarded.ask("GET", "/v1/audit?limit=2", token).json()
    assert [(act["act"], act["status"]) for act in acts["acts"]] == [
        ("PUT /v1/devices/meter/audited", 422),
        ("PUT /v1/devices/meter/audited", 201),
    ]
    assert acts["acts"][1]["detail"] == '{"fleet":"é"}'
    assert {act["who"] for act in acts["acts"]} == {f"{token.split('_')[1]} of a test"}
    older = guarded.ask("GET", f"/v1/audit?before={acts['next']}&limit=1", token).json()["acts"]
    assert older[0]["auditId"] < acts["acts"][1]["auditId"]
    with psycopg.connect(guarded.conninfo) as connection:
        rows = connection.execute("SELECT audit::text FROM audit").fetchall()
    assert not any(token.split("_", 2)[2] in row[0] for row in rows)


def test_an_invalid_key_costs_the_same_however_near_it_is(guarded: Guarded) -> None:
    """Times of refusals are compared with each other, rank by rank: no clock is a bound."""
    good = guarded.keys.make()
    start, prefix, secret = good.split("_", 2)
    flipped = "A" if secret[0] != "A" else "B"
    kinds = {
        "unknown prefix": str(new_token()),
        "first sign wrong": f"{start}_{prefix}_{flipped}{secret[1:]}",
        "last sign wrong": good[:-1] + ("A" if good[-1] != "A" else "B"),
    }
    took: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(150):
        for name, token in kinds.items():
            began = time.perf_counter()
            answer = guarded.ask("GET", "/v1/devices?type=meter", token)
            took[name].append(time.perf_counter() - began)
            assert answer.status_code == 401
    medians = {name: median(times) for name, times in took.items()}
    same = took["unknown prefix"]
    spread = median(abs(a - b) for a, b in zip(same[::2], same[1::2], strict=True))
    assert max(medians.values()) - min(medians.values()) <= spread, (medians, spread)


@pytest.fixture(scope="module")
def open_engine(embedded: Server) -> Iterator[Api]:
    api = Api(embedded.make_database(), load({}, {}))
    yield api
    api.close()


@pytest.mark.parametrize(
    ("host", "is_answered"),
    [
        ("localhost:8000", True),
        ("127.0.0.1", True),
        ("[::1]:8000", True),
        ("wattstream:8000", True),
        ("a.localhost", True),
        ("rebound.example:8000", False),
        ("Rebound.Example.", False),
        ("127.0.0.1.rebound.example", False),
        ("[::1].rebound.example", False),
    ],
)
def test_without_keys_a_public_name_is_not_answered(
    open_engine: Api, host: str, is_answered: bool
) -> None:
    page = {"Host": host, "Origin": f"http://{host}"}
    answers = [
        open_engine.request("GET", "/v1/analytics/stats", headers={"Host": host}),
        open_engine.request("POST", "/v1/ingest", headers=page, json=reading("meter", "hosted")),
    ]
    for answer in answers:
        assert answer.is_success == is_answered
        assert is_answered or (answer.status_code, code(answer)) == (403, "host_unknown")


def test_a_page_of_another_site_cannot_send_readings(embedded: Server) -> None:
    """A browser sends such a request without asking first; it must not poison an open engine."""
    api = Api(embedded.make_database(), load({}, {}))
    try:
        for path in ("/v1/ingest", "/v1/ingest/batch"):
            for headers, is_taken in (
                ({"Origin": "https://evil.example"}, False),
                ({"Sec-Fetch-Site": "cross-site", "Content-Type": ""}, False),
                ({"Sec-Fetch-Site": "same-site"}, False),
                ({"Origin": "http://api"}, True),
                ({"Sec-Fetch-Site": "same-origin", "Origin": "http://api"}, True),
            ):
                record = reading("meter", "M")
                answer = api.request(
                    "POST", path, json=record if path == "/v1/ingest" else [record], headers=headers
                )
                assert answer.is_success == is_taken, (path, headers, answer.text)
                assert is_taken or code(answer) == "cross_site"
    finally:
        api.close()


def test_without_any_key_an_engine_is_open_and_with_the_first_no_more(embedded: Server) -> None:
    conninfo = embedded.make_database()
    api = Api(conninfo, load({}, {}))
    try:
        assert api.post(reading("meter", "M")).status_code == 201
        assert api.get("/login").status_code == 200
        keys = Keys(api, conninfo)
        token = keys.make()
        keys.close()
        assert _ends(lambda: api.get("/v1/devices", type="meter").status_code == 401)
        answer = api.request(
            "GET", "/v1/devices?type=meter", headers={"Authorization": f"bearer {token}"}
        )
        assert answer.status_code == 200
        for scheme in ("Basic", "wattstream", ""):
            wrong = {"Authorization": f"{scheme} {token}"}
            assert api.request("GET", "/v1/devices?type=meter", headers=wrong).status_code == 401
    finally:
        api.close()


def test_a_stream_is_cut_to_its_key_and_ends_with_it(embedded: Server) -> None:
    conninfo = embedded.make_database()

    def command(*arguments: str) -> str:
        run = [sys.executable, "-m", "wattstream", "keys", *arguments, "--database-url", conninfo]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    with serving_on(conninfo) as engine:
        for fleet in ("north", "south"):
            path = f"{engine.url}/v1/devices/vehicle/{fleet}-1"
            assert httpx.put(path, json={"fleet": fleet}).status_code == 201
        everything = {"Authorization": f"Bearer {command('create', '--name=a', '--scope=admin')}"}
        token = command("create", "--name=n", "--scope=read", "--fleet=north")
        bound = {"Authorization": f"Bearer {token}"}
        assert _ends(lambda: httpx.get(f"{engine.url}/v1/links").status_code == 401)
        stream = f"{engine.url}/v1/stream"
        with httpx.stream("GET", stream, headers=bound, timeout=30) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            assert next(lines).startswith("retry:")
            both = [reading("vehicle", "south-1", 9), reading("vehicle", "north-1", 9)]
            batch = f"{engine.url}/v1/ingest/batch"
            assert httpx.post(batch, json=both, headers=everything).status_code == 201
            told = next(line for line in lines if line.startswith("data:"))
            assert "north-1" in told
            command("revoke", token.split("_")[1])
            later = [reading("vehicle", "south-1", 8), reading("vehicle", "north-1", 8)]
            # Not the stream: a moment too early it would be let in, and wait for news.
            assert _ends(lambda: httpx.get(f"{engine.url}/v1/links", headers=bound).is_error)
            assert httpx.get(stream, headers=bound).status_code == 401
            assert httpx.post(batch, json=later, headers=everything).status_code == 201
            rest = "".join(lines)  # ends, or the read times out
            assert "data:" not in rest
        assert "south" not in told + rest
