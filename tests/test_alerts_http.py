"""Alerts over HTTP: a running engine that looks every second."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from conftest import Server
from test_http import Api
from test_webhook import SECRET, Json, Receiver
from wattstream.settings import load


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def api(embedded: Server, receiver: Receiver) -> Iterator[Api]:
    flags = {
        "alert_interval": "1s",
        "alert_battery_hot": "50",
        "webhook_url": receiver.url,
        "webhook_secret": SECRET,
    }
    api = Api(embedded.make_database(), load(flags, {}))
    yield api
    api.close()


def report(api: Api, name: str, temp_c: float) -> None:
    now = datetime.now(UTC).isoformat()
    reading = {"vehicleId": name, "kwhDeliveredDc": 0, "batteryTemp": temp_c, "timestamp": now}
    assert api.post(reading).status_code == 201


def wait_for(api: Api, found: Callable[[], Any]) -> Any:
    """Return what is found once there is something, while the engine runs."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if result := found():
            return result
        api.get("/v1/health/live")  # the engine's loop runs only while it is asked
        time.sleep(0.05)
    pytest.fail("nothing came")


def listed(api: Api, **wanted: object) -> list[Json]:
    answer = api.get("/v1/alerts", **wanted)
    assert answer.status_code == 200, answer.text
    alerts: list[Json] = answer.json()["alerts"]
    return alerts


def opened_for(api: Api, name: str) -> Json:
    (alert,) = wait_for(api, lambda: listed(api, id=name))
    found: Json = alert
    return found


def test_an_alert_is_listed_acknowledged_once_and_resolved(api: Api) -> None:
    report(api, "hot", 51.5)
    alert = opened_for(api, "hot")
    assert alert | {"alertId": 0, "openedAt": "", "evidence": {}} == {
        "alertId": 0, "kind": "battery_hot", "type": "vehicle", "id": "hot", "state": "open",
        "openedAt": "", "acknowledgedAt": None, "acknowledgedBy": None, "resolvedAt": None,
        "evidence": {}, "resolution": None,
    }  # fmt: skip
    assert alert["evidence"]["batteryTempC"] == 51.5
    assert alert["evidence"]["thresholdC"] == 50
    path = f"/v1/alerts/{alert['alertId']}"
    assert api.get(path).json() == alert

    noted = api.request("POST", f"{path}/ack", json={"by": "Zoë"})
    assert noted.status_code == 200
    assert (noted.json()["state"], noted.json()["acknowledgedBy"]) == ("acknowledged", "Zoë")
    again = api.request("POST", f"{path}/ack")
    assert (again.status_code, again.json()) == (200, noted.json())
    assert listed(api, id="hot", state="open") == []
    assert listed(api, id="hot", state="acknowledged") == [noted.json()]

    report(api, "hot", 20)
    (over,) = wait_for(api, lambda: listed(api, id="hot", state="resolved"))
    assert over["acknowledgedBy"] == "Zoë"
    assert over["resolution"]["batteryTempC"] == 20
    assert over["resolvedAt"] > over["openedAt"]
    assert api.request("POST", f"{path}/ack").json() == over


def test_what_was_resolved_before_cannot_be_acknowledged(api: Api) -> None:
    report(api, "brief", 60)
    alert = opened_for(api, "brief")
    report(api, "brief", 20)
    wait_for(api, lambda: listed(api, id="brief", state="resolved"))
    refused = api.request("POST", f"/v1/alerts/{alert['alertId']}/ack", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "alert_resolved")


def test_alerts_are_listed_newest_first_page_by_page(api: Api) -> None:
    names = [f"page-{i}" for i in range(5)]
    for name in names:
        report(api, name, 70)
        opened_for(api, name)
    found, after = [], {}
    while True:
        page = api.get("/v1/alerts", kind="battery_hot", type="vehicle", limit=2, **after).json()
        found += [alert["id"] for alert in page["alerts"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert [name for name in found if name in names] == names[::-1]
    assert listed(api, type="meter", state="all") == []
    assert listed(api, kind="silent", state="all") == []
    assert listed(api, id="\0", state="all") == []
    metrics = api.get("/metrics").text
    count = next(line for line in metrics.splitlines() if 'alerts_open{kind="battery_hot"}' in line)
    assert float(count.split()[1]) == len(found)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/alerts?state=there", None, 400, "parameter_invalid"),
        ("GET", "/v1/alerts?kind=cold", None, 400, "parameter_invalid"),
        ("GET", "/v1/alerts?type=truck", None, 400, "parameter_invalid"),
        ("GET", "/v1/alerts?after=0", None, 400, "parameter_invalid"),
        ("GET", f"/v1/alerts?after={2**63}", None, 400, "parameter_invalid"),
        ("GET", "/v1/alerts/999999", None, 404, "alert_unknown"),
        ("GET", "/v1/alerts/first", None, 404, "not_found"),
        ("GET", "/v1/alerts/0", None, 404, "not_found"),
        ("POST", "/v1/alerts/999999/ack", {}, 404, "alert_unknown"),
        ("POST", "/v1/alerts/1/ack", {"by": ""}, 422, "setting_invalid"),
        ("POST", "/v1/alerts/1/ack", {"by": "a\0b"}, 422, "setting_invalid"),
        ("POST", "/v1/alerts/1/ack", {"by": 5}, 422, "setting_invalid"),
        ("POST", "/v1/alerts/1/ack", {"who": "me"}, 422, "setting_invalid"),
        ("POST", "/v1/alerts/1/ack", [1], 422, "setting_invalid"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    api: Api, method: str, path: str, body: object, status: int, code: str
) -> None:
    answer = api.request(method, path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_device_has_thresholds_of_its_own(api: Api) -> None:
    path = "/v1/devices/vehicle/own"
    put = api.request("PUT", path, json={"alertThresholds": {"battery_hot": 62.5, "silent": None}})
    assert put.status_code == 201
    assert api.get(path).json()["alertThresholds"] == {"battery_hot": 62.5, "silent": None}
    report(api, "own", 62)
    report(api, "usual", 62)
    opened_for(api, "usual")
    assert listed(api, id="own") == []
    # What is not named stays; what is named replaces what was.
    assert api.request("PUT", path, json={"fleet": "north"}).json()["alertThresholds"] != {}
    put = api.request("PUT", path, json={"alertThresholds": {"silent": 9}})
    assert put.json()["alertThresholds"] == {"silent": 9}
    opened_for(api, "own")
    put = api.request("PUT", path, json={"alertThresholds": None})
    assert put.json()["alertThresholds"] == {}


@pytest.mark.parametrize(
    "wrong",
    [{"cold": 5}, {"silent": "5"}, {"silent": 0}, {"low_efficiency": 85}, {"battery_hot": True},
     [], "silent", 5, {"battery_hot": 1e400}],
)  # fmt: skip
def test_wrong_thresholds_are_refused(api: Api, wrong: object) -> None:
    body = json.dumps({"alertThresholds": wrong})
    answer = api.request(
        "PUT",
        "/v1/devices/vehicle/wrong",
        content=body,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code in (400, 422), answer.text
    assert api.get("/v1/devices/vehicle/wrong").status_code == 404


def test_the_engine_tells_the_webhook(api: Api, receiver: Receiver) -> None:
    report(api, "told", 60)
    opened_for(api, "told")

    def told() -> list[Json]:
        return [body for body in receiver.bodies if body["alert"]["id"] == "told"]

    (first,) = wait_for(api, told)
    assert first["event"] == "opened"
    assert first["alert"]["evidence"]["batteryTempC"] == 60
    report(api, "told", 20)
    _, second = wait_for(api, lambda: len(told()) == 2 and told())
    assert second["event"] == "resolved"
    assert second["eventId"] > first["eventId"]
    assert second["alert"]["alertId"] == first["alert"]["alertId"]
    assert second["alert"]["resolution"]["batteryTempC"] == 20
