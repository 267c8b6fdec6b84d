"""What was refused: kept within bounds, found again, listed as JSON and CSV, counted for good."""

import asyncio
import base64
import csv
import io
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest

from conftest import Server
from oracle import MemoryStore, size_bytes
from test_http import Api, at
from test_store import NOW, opened, run  # noqa: F401 - a fixture
from wattstream.domain.holdings import RejectionCount, WantedRejections
from wattstream.domain.readings import Conflict, Rejection, Stream
from wattstream.domain.units import DAY_US, NEVER_US
from wattstream.settings import load
from wattstream.store.port import Store
from wattstream.store.postgres import statements

Run = Callable[[Callable[[Store], Awaitable[None]]], None]
ALL = 2**62


def refused(number: int, *, size: int = 20, code: str = "energy_missing") -> Rejection:
    stream = (Stream.METER, Stream.VEHICLE, None)[number % 3]
    device = None if stream is None else f"d{number % 7}"
    both = Conflict({"soc": None}, {"soc": number / 10}) if code == "conflict" else None
    return Rejection(
        0, code, f"no {number} é", None, bytes([number % 256]) * size, stream, device, both
    )


async def numbers(store: Store, wanted: WantedRejections = WantedRejections()) -> list[int]:  # noqa: B008
    async with store.snapshot() as snapshot:
        found = await snapshot.rejections(wanted, None, ALL)
    return [int(kept.rejection.message.split()[1]) for kept in found]


async def counts(store: Store) -> list[RejectionCount]:
    async with store.snapshot() as snapshot:
        return await snapshot.rejection_counts()


def test_what_is_too_old_goes_and_is_still_counted(run: Run) -> None:  # noqa: F811
    async def test(store: Store) -> None:
        days = [3, 1, 30, 31, 0, 2, 40]  # also what a clock set back has put in another order
        for day in days:
            await store.keep([refused(day)], NOW - day * DAY_US)
        assert await store.prune(NOW - 30 * DAY_US, ALL) == 2
        assert sorted(await numbers(store)) == [0, 1, 2, 3, 30]
        assert await store.prune(NOW - 30 * DAY_US, ALL) == 0
        assert await store.prune(NOW - 30 * DAY_US + 1, ALL) == 1
        assert await counts(store) == [
            RejectionCount(None, "energy_missing", 1, NOW - 2 * DAY_US),
            RejectionCount(Stream.METER, "energy_missing", 3, NOW),
            RejectionCount(Stream.VEHICLE, "energy_missing", 3, NOW - DAY_US),
        ]

    run(test)


def test_the_oldest_go_until_the_rest_fits(run: Run) -> None:  # noqa: F811
    async def test(store: Store) -> None:
        kept = [
            refused(n, size=n * 7 % 300, code="conflict" if n % 4 else "energy_missing")
            for n in range(2500)
        ]
        await store.keep(kept[:1300], NOW)
        await store.keep(kept[1300:], NOW + 1)
        sizes = [size_bytes(rejection) for rejection in kept]
        assert await store.prune(NEVER_US, sum(sizes)) == 0
        for first in (1, 1200, 2400, 2499):
            await store.prune(NEVER_US, sum(sizes[first:]))
            assert await numbers(store) == list(range(first, 2500))
        assert await store.prune(NEVER_US, sizes[-1] - 1) == 1
        assert await numbers(store) == []
        await store.keep(kept[:2], NOW)
        assert await store.prune(NEVER_US, sum(sizes[:2])) == 0
        assert sum(count.rejections for count in await counts(store)) == 2502

    run(test)


def test_several_engines_prune_no_more_than_one_would(conninfo: str) -> None:
    async def main() -> None:
        async for a in opened(conninfo):
            async for b in opened(conninfo):
                same = refused(0)
                most = 500 * size_bytes(same)
                for store in (a, b):
                    await store.keep([same] * 3000, NOW)
                pruned = await asyncio.gather(
                    a.prune(NEVER_US, most),
                    b.prune(NEVER_US, most),
                    *(store.keep([same] * 100, NOW + i) for i in range(20) for store in (a, b)),
                )
                again = await a.prune(NEVER_US, most)
                assert len(await numbers(a)) == 500
                assert sum(n or 0 for n in pruned) + again == 10_000 - 500
                assert sum(count.rejections for count in await counts(b)) == 10_000

    asyncio.run(main())


def test_rejections_are_found_by_what_is_known_of_them(run: Run) -> None:  # noqa: F811
    async def test(store: Store) -> None:
        oracle = MemoryStore()
        rng = random.Random(3)
        for first in range(0, 300, 50):
            some = [
                refused(n, code=rng.choice(["conflict", "id_missing"]))
                for n in range(first, first + 50)
            ]
            for target in (store, oracle):
                await target.keep(some, NOW + first)
        for _ in range(60):
            wanted = WantedRejections(
                code=rng.choice([None, "conflict", "id_missing", "other"]),
                stream=rng.choice([None, *Stream]),
                device=rng.choice([None, None, "d3"]),
                start_us=rng.choice([NEVER_US, NOW + 50, NOW + 51]),
                end_us=rng.choice([2**63 - 1, NOW + 200]),
                newest_first=rng.random() < 0.5,
            )
            after: int | None = None
            pages = []
            async with store.snapshot() as found:
                while page := await found.rejections(wanted, after, 40):
                    after = page[-1].rejection_id
                    pages += page
            expected = await oracle.rejections(wanted, None, ALL)
            assert [kept.rejection for kept in pages] == [kept.rejection for kept in expected]

    run(test)


def test_an_engine_drops_what_is_too_old_by_itself(conninfo: str) -> None:
    async def prepare() -> None:
        async for store in opened(conninfo):
            await store.keep([refused(1)], NOW)  # in February

    asyncio.run(prepare())
    api = Api(conninfo, load({"rejections_max_age": "1h"}, {}))
    api.post({"meterId": "new"})
    while len(left := listed(api)) > 1:
        pass
    assert [rejection["id"] for rejection in left] == ["new"]
    api.close()


def test_what_was_kept_before_sizes_were_counted_is_bounded_too(embedded: Server) -> None:
    conninfo = embedded.make_database()
    ((_, _, text),) = [m for m in statements.migrations() if m[1] == "0005_rejections"]
    with psycopg.connect(conninfo) as connection:
        connection.execute("DROP TABLE rejections, rejection_counts")
        ((_, _, first),) = [m for m in statements.migrations() if m[0] == 1]
        made = [part for part in first.split(";\n") if "TABLE rejection" in part]
        connection.execute(";\n".join(part for part in made if "COMMENT" not in part).encode())
        connection.execute(
            "INSERT INTO rejections (rejected_at, stream, external_id, code, message, record)"
            " VALUES ('2026-01-01Z', 'meter', 'M', 'conflict', 'no', '{}'),"
            " ('2026-01-02Z', NULL, NULL, 'not_an_object', 'no', '5')"
        )
        connection.execute("INSERT INTO rejection_counts VALUES ('meter', 'conflict', 0, 7)")
        connection.execute(text.encode())
        connection.execute("ALTER TABLE rejections ADD COLUMN key text")  # by a later migration

    async def main() -> None:
        async for store in opened(conninfo):
            assert [(c.stream, c.rejections) for c in await counts(store)] == [
                (None, 0),
                ("meter", 7),
            ]
            assert await store.prune(NEVER_US, 200) == 1
            async with store.snapshot() as snapshot:
                (left,) = await snapshot.rejections(WantedRejections(), None, 10)
            assert left.rejection.code == "not_an_object"

    asyncio.run(main())


@pytest.fixture(scope="module")
def api(embedded: Server) -> Iterator[Api]:
    api = Api(embedded.make_database(), load({}, {}))
    yield api
    api.close()


def listed(api: Api, **params: object) -> list[Any]:
    found: list[Any] = api.get("/v1/rejections", **params).json()["rejections"]
    return found


def rows_of(api: Api, **params: object) -> list[dict[str, str]]:
    answer = api.request(
        "GET", "/v1/rejections", params=params, headers={"Accept": "text/html, text/csv;q=0.5"}
    )
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.content.count(b"\r\n") >= 1
    return list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))


def test_a_conflict_shows_both_values(api: Api) -> None:
    time = at(60)
    vehicle = {"vehicleId": "both", "kwhDeliveredDc": "0.1", "batteryTemp": 36.2, "timestamp": time}
    api.post(vehicle)
    assert api.post({**vehicle, "soc": 50, "batteryTemp": None}).status_code == 409
    (kept,) = listed(api, id="both", code="conflict", type="vehicle")
    assert kept["conflict"] == {
        "kept": {"kwhDeliveredDc": 0.1, "soc": None, "batteryTemp": 36.2},
        "got": {"kwhDeliveredDc": 0.1, "soc": 50, "batteryTemp": None},
    }
    assert listed(api, id="both", type="meter") == []
    (row,) = rows_of(api, id="both")
    assert row["kept"] == '{"kwhDeliveredDc": 0.1, "soc": null, "batteryTemp": 36.2}'


RECORDS = [
    b'{"meterId": "=1+1", "kwhConsumedAc": -1}',
    b'=cmd|"/c calc"!A0',
    b"-1, +2,\t@SUM(A1)",
    b"\xff\xfe\x00 no text",
    b'a "quoted",\rcell',
    b"\xef\xbf\xbd",  # U+FFFD itself, as it came
    "\N{ZERO WIDTH SPACE}電車".encode(),
]


def test_a_csv_file_holds_every_record_as_it_came(api: Api) -> None:
    for record in RECORDS:
        options: Any = {"content": record, "headers": {"Content-Type": "application/x-ndjson"}}
        assert api.request("POST", "/v1/ingest/batch", **options).status_code == 422
    rows = rows_of(api)[-len(RECORDS) :]
    found = [
        base64.b64decode(row["recordBase64"]) if row["recordBase64"] else row["record"].encode()
        for row in rows
    ]
    assert found == RECORDS
    assert [bool(row["recordBase64"]) for row in rows] == [i == 3 for i in range(len(RECORDS))]
    shown = listed(api, order="desc", limit=len(RECORDS))[::-1]
    assert [answer["record"] for answer in shown] == [row["record"] for row in rows]
    assert [str(answer["rejectionId"]) for answer in shown] == [row["rejectionId"] for row in rows]


def test_a_csv_file_has_every_page_and_json_one(embedded: Server) -> None:
    api = Api(embedded.make_database(), load({}, {}))
    assert rows_of(api) == []
    assert api.batch([{"meterId": f"n{i}"} for i in range(2345)])["rejected"] == 2345
    names = [f"n{i}" for i in range(2345)]
    assert [row["id"] for row in rows_of(api)] == names
    assert [row["id"] for row in rows_of(api, order="desc")] == names[::-1]
    assert [row["id"] for row in rows_of(api, limit=3)] == names[:3]
    assert rows_of(api, id="n7")[0]["code"] == "energy_missing"
    seen: list[str] = []
    page: dict[str, Any] = {"next": None}
    while not seen or page["next"] is not None:
        after = {} if page["next"] is None else {"after": page["next"]}
        page = api.get("/v1/rejections", order="desc", limit=469, **after).json()
        seen += [rejection["id"] for rejection in page["rejections"]]
    assert seen == names[::-1]
    (count,) = api.get("/v1/rejections/counts").json()["counts"]
    last = listed(api, order="desc", limit=1)[0]
    assert count == {
        "type": "meter", "code": "energy_missing", "count": 2345, "lastAt": last["rejectedAt"],
    }  # fmt: skip
    api.close()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/csv", "text/csv"),
        ("TEXT/CSV; header=present", "text/csv"),
        ("*/*", "application/json"),
        ("text/csv;q=0", "application/json"),
        ("text/csvx", "application/json"),
        ("", "application/json"),
    ],
)
def test_csv_is_for_who_asks_for_it(api: Api, accept: str, kind: str) -> None:
    answer = api.request("GET", "/v1/rejections", headers={"Accept": accept})
    assert answer.headers["Content-Type"].partition(";")[0] == kind


@pytest.mark.parametrize(
    ("params", "code", "field"),
    [
        ({"id": "a\nb"}, "id_invalid", "id"),
        ({"id": "a\0"}, "id_invalid", "id"),
        ({"id": ""}, "id_invalid", "id"),
        ({"code": "a\0"}, "parameter_invalid", "code"),
        ({"code": "' OR 1=1"}, "parameter_invalid", "code"),
        ({"type": "tram"}, "parameter_invalid", "type"),
        ({"order": "up"}, "parameter_invalid", "order"),
        ({"start": "2026-01-01"}, "time_invalid", "start"),
        ({"start": at(0), "end": at(60)}, "range_empty", "start"),
        ({"limit": "1001"}, "parameter_invalid", "limit"),
    ],
)
def test_a_wrong_filter_is_refused(api: Api, params: dict[str, str], code: str, field: str) -> None:
    for accept in ("text/csv", "application/json"):
        answer = api.request("GET", "/v1/rejections", params=params, headers={"Accept": accept})
        assert answer.status_code == 400
        assert (answer.json()["error"]["code"], answer.json()["error"]["field"]) == (code, field)


def test_times_bound_both_sides(api: Api) -> None:
    api.post({"meterId": "timed"})
    (kept,) = listed(api, id="timed")
    when = kept["rejectedAt"]
    assert listed(api, id="timed", start=when) == [kept]
    assert listed(api, id="timed", end=when) == []
