"""What browsers are told, what other sites may ask, and what never shows: markup and secrets."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from conftest import Server, serving_on
from test_http import Api
from test_workers import workers_of
from wattstream.domain.errors import WattstreamError
from wattstream.settings import load
from wattstream.store.postgres import migrate

ROGUE = "<script>alert(1)</script>"
QUOTED = "\"'><img/src=x/onerror=alert(2)>"
OWN, OTHER = "https://ours.example", "https://theirs.example"
PAGE = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def api(embedded: Server) -> Iterator[Api]:
    engine = Api(embedded.make_database(), load({"cors_origins": f"{OWN}, https://b.example"}, {}))
    now = datetime.now(UTC).isoformat()
    for name in (ROGUE, QUOTED):
        engine.post({"vehicleId": name, "kwhDeliveredDc": 1, "batteryTemp": 70, "timestamp": now})
        engine.post({"meterId": name, "kwhConsumedAc": name, "timestamp": now})
        engine.post({"meterId": name, "kwhConsumedAc": 1, "timestamp": name})
        engine.request("PUT", f"/v1/devices/vehicle/{name}", json={"fleet": name})
    engine.post({"type": ROGUE})
    yield engine
    engine.close()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/devices",
        f"/devices?q={ROGUE}",
        f"/devices/vehicle/{ROGUE}",
        f"/devices/vehicle/{QUOTED}",
        f"/devices/vehicle/{ROGUE}-unknown",
        "/alerts",
        "/ingest",
        f"/{ROGUE}",
    ],
)
def test_ids_messages_and_labels_are_escaped_on_every_page(api: Api, path: str) -> None:
    answer = api.request("GET", path, headers=PAGE)
    if answer.headers["Content-Type"].startswith("text/html"):
        assert "<script>alert" not in answer.text
        assert "<img/src" not in answer.text
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    else:
        assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_what_was_refused_is_a_file_and_no_page(api: Api) -> None:
    answer = api.request("GET", "/v1/rejections", headers={"Accept": "text/csv"})
    assert ROGUE in answer.text, "it is kept as it came"
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/v1/health", "/metrics", "/v1/none", "/docs"])
def test_every_answer_tells_browsers_what_not_to_do(api: Api, path: str) -> None:
    headers = api.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "Strict-Transport-Security" not in headers, "without TLS it would lock browsers out"


@pytest.mark.parametrize("path", ["/v1/ingest", "/v1/devices/vehicle/A", "/v1/analytics/stats"])
def test_a_named_site_may_ask_and_another_may_not(api: Api, path: str) -> None:
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "Authorization, Content-Type",
    }
    allowed = api.request("OPTIONS", path, headers={"Origin": OWN, **preflight})
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == OWN
    assert "Access-Control-Allow-Credentials" not in allowed.headers
    refused = api.request("OPTIONS", path, headers={"Origin": OTHER, **preflight})
    assert refused.status_code == 400
    assert "Access-Control-Allow-Origin" not in refused.headers


def test_a_named_site_may_change_things_but_not_by_a_cookie(api: Api) -> None:
    def put(**headers: str) -> int:
        path = "/v1/devices/vehicle/EV-1"
        return api.request("PUT", path, json={}, headers=headers).status_code

    sent = {"Origin": OWN, "Sec-Fetch-Site": "cross-site"}
    assert put(**sent) in {200, 201}
    assert put(**sent, Cookie="session=1") == 403
    assert put(**(sent | {"Origin": OTHER})) == 403


def test_without_the_setting_no_site_may_ask(make_database: Callable[[], str]) -> None:
    engine = Api(make_database(), load({}, {}))
    answer = engine.request("GET", "/v1/health", headers={"Origin": OWN})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    engine.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://joe:s3cr3t@127.0.0.1:1/db",
        "postgresql://joe:x/s3cr3t@127.0.0.1:1/db",
        "postgresql://joe:s3cr3t%zz@127.0.0.1:1/db",
        "host=127.0.0.1 port=1 password=s3cr3t bogus=1",
        "host=127.0.0.1 password='s3cr3t",
        "joe:s3cr3t",
    ],
)
def test_a_database_url_that_is_wrong_shows_no_password(url: str) -> None:
    with pytest.raises(WattstreamError) as caught:
        migrate(url)
    assert "s3cr3t" not in caught.value.message


def test_no_process_shows_the_password_of_the_database(conninfo: str) -> None:
    password = psycopg.conninfo.conninfo_to_dict(conninfo)["password"]
    with serving_on(conninfo, "--workers", "2") as engine:
        pids = [engine.process.pid, *workers_of(engine.process.pid)]
        assert len(pids) == 3
        for pid in pids:
            assert str(password) not in Path(f"/proc/{pid}/cmdline").read_text()
