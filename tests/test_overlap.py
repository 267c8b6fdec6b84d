"""Efficiency accuses nobody of energy that the other side was not there to see."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conftest import Server
from test_http import Api
from wattstream.settings import load

NOW = datetime.now(UTC).replace(microsecond=0)
Json = dict[str, Any]


@pytest.fixture(scope="module")
def api(embedded: Server) -> Iterator[Api]:
    api = Api(embedded.make_database(), load({}, {}))
    yield api
    api.close()


def at(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat()


def ac(name: str, kwh: float, *minutes: float) -> list[Json]:
    return [{"meterId": name, "kwhConsumedAc": kwh, "timestamp": at(m)} for m in minutes]


def dc(name: str, kwh: float, *minutes: float) -> list[Json]:
    return [{"vehicleId": name, "kwhDeliveredDc": kwh, "timestamp": at(m)} for m in minutes]


def performance(api: Api, name: str, *records: list[Json]) -> Json:
    api.batch([record for some in records for record in some])
    answer: Json = api.get(f"/v1/analytics/performance/{name}").json()
    return answer


def test_energy_of_another_time_is_not_held_against_the_vehicle(api: Api) -> None:
    charge = ac("gone", 0.2, *range(60))
    answer = performance(api, "gone", charge, dc("gone", 0, 180), dc("gone", 0.5, 190))
    assert (answer["totalAc"], answer["totalDc"]) == (12, 0.5)
    assert (answer["efficiency"], answer["status"]) == (None, "ok")
    assert "the other sent no reading" in answer["reason"]


def test_nor_is_it_held_against_the_meter(api: Api) -> None:
    charge = dc("late", 0.2, *range(60))
    answer = performance(api, "late", charge, ac("late", 0.2, 180, 181))
    assert (answer["totalAc"], answer["totalDc"]) == (0.4, 12)
    assert (answer["efficiency"], answer["status"]) == (None, "ok")
    assert "the other sent no reading" in answer["reason"]


def test_a_single_reading_in_a_long_charge_is_no_witness_of_it(api: Api) -> None:
    answer = performance(api, "rare", ac("rare", 0.1, *range(240)), dc("rare", 0, 120))
    assert (answer["efficiency"], answer["status"]) == (None, "ok")


@pytest.mark.parametrize(
    ("name", "records", "efficiency", "status"),
    [
        # Heard all along: it got nothing.
        ("zero", lambda n: ac(n, 0.1, *range(90)) + dc(n, 0, *range(90)), 0.0, "low_efficiency"),
        # Heard for most of the energy.
        ("most", lambda n: ac(n, 0.1, *range(90)) + dc(n, 0.1, *range(40)), 4 / 9,
         "low_efficiency"),
        # A reading each, at about the same time.
        ("each", lambda n: ac(n, 10, 30) + dc(n, 7, 20), 0.7, "low_efficiency"),
        ("over", lambda n: ac(n, 10, 30) + dc(n, 11, 20), 1.1, "over_unity"),
        # Far apart, but it fits: registers read once a charge look like that.
        ("fits", lambda n: ac(n, 10, 30) + dc(n, 9, 200), 0.9, "ok"),
    ],
)  # fmt: skip
def test_what_was_there_is_judged(
    api: Api,
    name: str,
    records: Callable[[str], list[Json]],
    efficiency: float,
    status: str,
) -> None:
    answer = performance(api, name, records(name))
    assert answer["efficiency"] == pytest.approx(efficiency, rel=1e-12)
    assert answer["status"] == status
