"""Clock offsets over HTTP: of links, of meters of the same id, and what is asked wrongly."""

from collections.abc import Iterator
from typing import Any

import pytest

from conftest import Server
from test_clock import DAYS, FIRST_MINUTE, NOW_US, RANGE
from test_fleet import table
from test_http import Api
from wattstream.client.fleet import Fleet
from wattstream.domain.units import HOUR_US, MICRO, Float64, rfc3339
from wattstream.settings import load

TWO_DAYS = {"start": rfc3339(RANGE[0]), "end": rfc3339(RANGE[1])}
HOUR_S = 3600


def heartbeats(minutes: range) -> Iterator[tuple[Float64, ...]]:
    """Return times, AC and DC energy of two pairs, minute by minute."""
    columns = table(Fleet(2, seed=8), minutes, "meter_at_us", "ac_kwh", "dc_kwh")
    return zip(*columns, strict=True)


@pytest.fixture(scope="module")
def api(embedded: Server) -> Iterator[Api]:
    """Two pairs with six days of minutes; the meters' clocks are 2 h and 5 h behind."""
    api = Api(embedded.make_database(), load({}, {}))
    for hours in range(24, DAYS * 24, 12):
        records: list[dict[str, Any]] = []
        minutes = range(FIRST_MINUTE + (hours - 12) * 60, FIRST_MINUTE + hours * 60)
        for times_us, ac_kwh, dc_kwh in heartbeats(minutes):
            for i, behind_h in enumerate((2, 5)):
                at_us = int(times_us[i])
                if at_us >= NOW_US:
                    continue
                records += [
                    {
                        "meterId": f"P{i}" if i else "charger",
                        "kwhConsumedAc": float(ac_kwh[i]),
                        "timestamp": rfc3339(at_us - behind_h * HOUR_US),
                    },
                    {
                        "vehicleId": f"P{i}",
                        "kwhDeliveredDc": float(dc_kwh[i]),
                        "timestamp": rfc3339(at_us),
                    },
                ]
        assert api.batch(records)["rejected"] == 0
    yield api
    api.close()


def clock(api: Api, vehicle: str, **params: str) -> Any:
    return api.get(f"/v1/analytics/clock/{vehicle}", **params)


def test_the_meter_of_the_same_id_is_compared(api: Api) -> None:
    answer = clock(api, "P1", **TWO_DAYS).json()
    (pair,) = answer.pop("meters")
    assert answer == {"vehicleId": "P1", "window": TWO_DAYS, "acSource": "same-id"}
    assert pair.pop("offsetSeconds") == pytest.approx(-5 * HOUR_S, abs=15)
    assert 0 < pair.pop("uncertaintySeconds") <= 60
    assert 0.95 < pair.pop("quality") <= 1
    assert pair == {"meterId": "P1", "window": TWO_DAYS, "state": "known", "reason": None}


def test_each_link_is_compared_within_its_time(api: Api) -> None:
    assert clock(api, "P0", **TWO_DAYS).json() == {
        "vehicleId": "P0", "window": TWO_DAYS, "acSource": "none", "meters": [],
    }  # fmt: skip
    middle, first = rfc3339(RANGE[0] + 23 * HOUR_US), rfc3339(RANGE[0] - 24 * HOUR_US)
    for meter, start, end in (("charger", first, None), ("idle", first, middle)):
        body = {"meterId": meter, "vehicleId": "P0", "start": start, "end": end}
        assert api.request("POST", "/v1/links", json=body).status_code == 201
    answer = clock(api, "P0", **TWO_DAYS).json()
    assert answer["acSource"] == "link"
    found = {pair["meterId"]: pair for pair in answer["meters"]}
    assert found["charger"]["offsetSeconds"] == pytest.approx(-2 * HOUR_S, abs=15)
    assert found["charger"]["window"] == TWO_DAYS
    assert found["idle"]["window"] == {"start": TWO_DAYS["start"], "end": middle}
    assert (found["idle"]["state"], found["idle"]["offsetSeconds"]) == ("unknown", None)
    assert "the meter counted too little" in found["idle"]["reason"]


def test_the_mode_and_the_pace_of_readings_do_not_matter(api: Api) -> None:
    """Quarter-hours in register mode on one side, in interval mode on the other."""
    counter_ukwh, quarter_kwh = 0, 0.0
    records: list[dict[str, Any]] = []
    minutes = range(FIRST_MINUTE + 12 * 60, NOW_US // (60 * MICRO) - 1)
    for minute, (times_us, ac_kwh, dc_kwh) in zip(minutes, heartbeats(minutes), strict=True):
        counter_ukwh += round(ac_kwh[0] * MICRO)
        quarter_kwh += float(dc_kwh[0])
        at_us = int(times_us[0])
        if minute % 15 == 7:
            behind = rfc3339(at_us - HOUR_US)
            counter = {"kwhConsumedAc": counter_ukwh / MICRO, "timestamp": behind}
            records.append({"meterId": "SLOW", **counter})
        if minute % 15 == 0:
            quarter = {"kwhDeliveredDc": round(quarter_kwh, 6), "timestamp": rfc3339(at_us)}
            records.append({"vehicleId": "SLOW", **quarter})
            quarter_kwh = 0.0
    path = "/v1/devices/meter/SLOW"
    assert api.request("PUT", path, json={"energyMode": "register"}).status_code == 201
    assert api.batch(records)["rejected"] == 0
    (pair,) = clock(api, "SLOW", **TWO_DAYS).json()["meters"]
    assert pair["offsetSeconds"] == pytest.approx(-HOUR_S, abs=pair["uncertaintySeconds"])


def test_a_range_that_is_too_long_is_refused(api: Api) -> None:
    long = {"start": rfc3339(NOW_US - 31 * 24 * HOUR_US - 1), "end": rfc3339(NOW_US)}
    answer = clock(api, "P1", **long)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "range_too_long"
    for day in range(51):
        start_us = NOW_US - day * HOUR_US // 4
        body = {"meterId": "MANY", "vehicleId": "MANY", "start": rfc3339(start_us - 1),
                "end": rfc3339(start_us)}  # fmt: skip
        assert api.request("POST", "/v1/links", json=body).status_code == 201
    refused = clock(api, "MANY", **TWO_DAYS)
    assert refused.status_code == 400
    assert "51 links" in refused.json()["error"]["message"]
    fewer = clock(api, "MANY", start=rfc3339(NOW_US - HOUR_US), end=rfc3339(NOW_US)).json()
    assert len(fewer["meters"]) == 4
    assert {pair["state"] for pair in fewer["meters"]} == {"unknown"}


@pytest.mark.parametrize(
    "params", [{"end": "0001-01-03T00:00:00Z"}, {"start": "9999-12-30T00:00:00Z",
                                                 "end": "9999-12-31T00:00:00Z"}]
)  # fmt: skip
def test_the_ends_of_the_calendar_hold_nothing(api: Api, params: dict[str, str]) -> None:
    answer = clock(api, "P1", **params)
    assert answer.status_code == 200, answer.text
    (pair,) = answer.json()["meters"]
    assert pair["state"] == "unknown"


def test_a_vehicle_never_seen_is_unknown(api: Api) -> None:
    answer = clock(api, "nobody")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "vehicle_unknown"
