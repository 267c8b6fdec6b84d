"""Links: made, ended, removed; overlaps refused; answers follow at once, cut to the microsecond."""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conftest import Server
from oracle import MemoryStore
from test_http import Api
from test_store import NOW as NOW_US
from test_store import opened
from wattstream.domain.errors import WattstreamError
from wattstream.domain.links import FOREVER_US, OverlapError
from wattstream.domain.units import MICRO
from wattstream.settings import load
from wattstream.store.port import Store

NOW = datetime.now(UTC).replace(microsecond=0)
_REFUSED = ("link_unknown", "link_overlaps", "range_empty")
_FAR = "2999-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def api(embedded: Server) -> Iterator[Api]:
    api = Api(embedded.make_database(), load({}, {}))
    yield api
    api.close()


def at(minutes: float) -> str:
    """Return a time so many minutes before the start of the tests."""
    return (NOW - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


def link(api: Api, meter: str, vehicle: str, start: str, end: str | None = None) -> Any:
    body = {"meterId": meter, "vehicleId": vehicle, "start": start, "end": end}
    return api.request("POST", "/v1/links", json=body)


def test_an_overlap_is_refused_with_the_link_in_the_way(api: Api) -> None:
    made = link(api, "O1", "OA", at(60), at(30))
    assert made.status_code == 201
    assert made.json() == {
        "linkId": made.json()["linkId"],
        "meterId": "O1",
        "vehicleId": "OA",
        "start": at(60),
        "end": at(30),
    }
    refused = link(api, "O1", "OB", at(31))
    assert refused.status_code == 409
    assert refused.json()["link"] == made.json()
    assert refused.json()["error"]["code"] == "link_overlaps"
    assert "OA" in refused.json()["error"]["message"]
    assert link(api, "O1", "OB", at(30)).status_code == 201  # they touch
    assert link(api, "O2", "OA", at(60)).status_code == 201  # another meter of the same vehicle
    listed = api.get("/v1/links", meterId="O1").json()["links"]
    assert [(one["vehicleId"], one["end"]) for one in listed] == [("OA", at(30)), ("OB", None)]
    # Longer than up to the next link is too long, and nothing changed.
    path = f"/v1/links/{made.json()['linkId']}"
    longer = api.request("PATCH", path, json={"end": at(29)})
    assert longer.status_code == 409
    assert longer.json()["link"]["vehicleId"] == "OB"
    assert api.get("/v1/links", vehicleId="OA").json()["links"][0]["end"] == at(30)
    shorter = api.request("PATCH", path, json={"end": at(45)})
    assert shorter.status_code == 200
    assert shorter.json()["end"] == at(45)


def test_answers_follow_a_link_at_once_and_to_the_microsecond(api: Api) -> None:
    edge = (NOW - timedelta(minutes=17, microseconds=1)).isoformat()
    api.batch(
        [{"meterId": "E1", "kwhConsumedAc": 1, "timestamp": at(m)} for m in range(10, 40)]
        + [{"meterId": "E1", "kwhConsumedAc": 100, "timestamp": edge}]
        + [{"vehicleId": "EA", "kwhDeliveredDc": 0.5, "timestamp": at(m)} for m in range(10, 40)]
    )
    path = "/v1/analytics/performance/EA"
    window = {"start": at(50), "end": at(0)}
    before = api.get(path, **window).json()
    assert (before["totalAc"], before["acSource"], before["status"]) == (None, "none", "no_meter")
    made = link(api, "E1", "EA", at(27), at(17)).json()
    during = api.get(path, **window).json()
    assert (during["totalAc"], during["acSource"], during["meters"]) == (110.0, "link", ["E1"])
    assert during["readings"]["meter"] == 11
    cut = (NOW - timedelta(minutes=17, microseconds=1)).isoformat()
    api.request("PATCH", f"/v1/links/{made['linkId']}", json={"end": cut})
    assert api.get(path, **window).json()["totalAc"] == 10.0
    link(api, "E2", "EA", at(30))
    two = api.get(path, **window).json()
    assert (two["totalAc"], two["meters"]) == (10.0, ["E1", "E2"])
    assert api.request("DELETE", f"/v1/links/{made['linkId']}").status_code == 204
    assert api.get(path, **window).json()["meters"] == ["E2"]


def test_a_link_of_any_time_ends_the_rule_of_the_same_id(api: Api) -> None:
    for kind, energy in (("meterId", "kwhConsumedAc"), ("vehicleId", "kwhDeliveredDc")):
        api.post({kind: "TWIN", energy: 1, "timestamp": at(5)})
    path = "/v1/analytics/performance/TWIN"
    assert api.get(path).json()["acSource"] == "same-id"
    made = link(api, "TWIN", "T-OTHER", "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z").json()
    assert api.get(path).json()["acSource"] == "none"
    api.request("DELETE", f"/v1/links/{made['linkId']}")
    assert api.get(path).json()["acSource"] == "same-id"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"meterId": "B 1"}, "meterId"),
        ({"vehicleId": "B\n"}, "vehicleId"),
        ({"vehicleId": "x" * 129}, "vehicleId"),
        ({"meterId": 7}, "meterId"),
        ({"start": "2026-01-01T00:00:00"}, "start"),
        ({"start": None}, "start"),
        ({"start": _FAR, "end": _FAR}, "end"),
        ({"end": "tomorrow"}, "end"),
        ({"end": "0001-01-01T00:00:00Z"}, "end"),
        ({"power": 1}, "power"),
    ],
)
def test_a_link_that_breaks_a_rule_is_named(api: Api, body: dict[str, Any], field: str) -> None:
    good = {"meterId": "B1", "vehicleId": "BA", "start": at(9)}
    answer = api.request("POST", "/v1/links", json={**good, **body})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field
    assert "Value error" not in answer.text
    assert api.get("/v1/links", meterId="B1").json()["links"] == []


def test_links_that_are_not_there_are_unknown(api: Api) -> None:
    for path in ("/v1/links/999999", "/v1/links/9223372036854775807"):
        assert api.request("DELETE", path).json()["error"]["code"] == "link_unknown"
        gone = api.request("PATCH", path, json={"end": None})
        assert gone.status_code == 404
    assert api.request("DELETE", "/v1/links/9223372036854775808").status_code == 404
    assert api.get("/v1/links", meterId="a\0b").json() == {"links": [], "next": None}


def test_pages_of_links_hold_each_once(api: Api) -> None:
    for i in range(5):
        link(api, f"P{i}", "PA", at(i + 1))
    seen: list[str] = []
    after: int | None = 0
    while after is not None:
        page = api.get("/v1/links", vehicleId="PA", after=after, limit=2).json()
        seen += [one["meterId"] for one in page["links"]]
        after = page["next"]
    assert seen == [f"P{i}" for i in range(5)]


def test_of_overlapping_links_made_at_once_one_stands(make_database: Callable[[], str]) -> None:
    async def main() -> None:
        conninfo = make_database()
        async for a in opened(conninfo):
            async for b in opened(conninfo):
                for i in range(20):
                    outcomes = await asyncio.gather(
                        a.add_link(f"M{i}", "A", NOW_US, FOREVER_US),
                        b.add_link(f"M{i}", "B", NOW_US + 1, FOREVER_US),
                        return_exceptions=True,
                    )
                    lost = [one for one in outcomes if isinstance(one, BaseException)]
                    (error,) = lost
                    assert isinstance(error, OverlapError)
                    assert error.link in outcomes

    asyncio.run(main())


def test_any_sequence_of_changes_gives_what_plain_loops_give(conninfo: str) -> None:
    async def outcome(store: Store, change: tuple[Any, ...]) -> str:
        kind, *args = change
        try:
            made = await getattr(store, kind)(*args)
            return "done" if made is None else repr(replace(made, link_id=0))
        except WattstreamError as error:
            return error.code

    async def main() -> None:
        rng = random.Random(3)
        oracle = MemoryStore()
        seen = set()
        numbers: dict[int, int] = {}  # by the oracle's number; gaps of identity columns differ
        async for store in opened(conninfo):
            for _ in range(300):
                start, length = rng.randrange(100), rng.randrange(1, 30)
                chosen = rng.choice([0, *numbers])
                end = rng.choice([NOW_US + (start + length) * MICRO, FOREVER_US])
                match rng.randrange(4):
                    case 0 | 1:
                        names = f"M{rng.randrange(3)}", f"V{rng.randrange(3)}"
                        change = ("add_link", *names, NOW_US + start * MICRO, end)
                    case 2:
                        change = ("end_link", chosen, end)
                    case _:
                        change = ("delete_link", chosen)
                expected = await outcome(oracle, change)
                if change[0] != "add_link":
                    change = (change[0], numbers.get(chosen, 0), *change[2:])
                got = await outcome(store, change)
                assert got == expected
                seen.add(expected if expected in _REFUSED else "done")
                if change[0] == "add_link" and expected.startswith("KeptLink"):
                    async with store.snapshot() as snapshot:
                        numbers[oracle.links_made] = (await snapshot.links(0, 1000))[-1].link_id
            async with store.snapshot() as snapshot:
                kept = await snapshot.links(0, 1000)
                assert [replace(one, link_id=0) for one in kept] == [
                    replace(one, link_id=0) for one in await oracle.links(0, 1000)
                ]
                assert len(kept) > 2
            assert seen == {"done", *_REFUSED}

    asyncio.run(main())
