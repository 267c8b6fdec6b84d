"""What the engine counts of itself: it adds up, and Prometheus's own tool finds no fault."""

import asyncio
import json
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import Engine
from wattstream.client.fleet import Fleet
from wattstream.client.simulate import Plan, Simulation

REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "metrics.md"
PAIRS, MINUTES = 8, 60
Record = dict[str, Any]
Samples = Counter[tuple[str, frozenset[tuple[str, str]]]]


def scrape(url: str) -> Samples:
    """Return every sample of /metrics by name and labels."""
    text = httpx.get(f"{url}/metrics").text
    return Counter(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )  # type: ignore[arg-type]


def total(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum of a metric over all labels that are not named."""
    return sum(
        value
        for (found, has), value in samples.items()
        if found == f"wattstream_{name}" and labels.items() <= dict(has).items()
    )


def by_label(samples: Samples, name: str, label: str) -> dict[str, float]:
    return {
        dict(has)[label]: value
        for (found, has), value in samples.items()
        if found == f"wattstream_{name}" and value
    }


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check(tool: str, *arguments: str, text: bytes = b"") -> None:
    """Let promtool check something, or skip where it is not installed."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    done = subprocess.run(
        [program, "check", tool, *arguments], input=text, capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def broken(record: Record, rng: random.Random) -> Record:
    """Return a record that breaks a rule."""
    energy = "kwhConsumedAc" if "meterId" in record else "kwhDeliveredDc"
    name = "meterId" if "meterId" in record else "vehicleId"
    match rng.randrange(7):
        case 0:
            return {key: value for key, value in record.items() if key != "timestamp"}
        case 1:
            return record | {energy: "NaN"}
        case 2:
            return record | {energy: -1}
        case 3:
            return record | {name: "a b"}
        case 4:
            return record | {"type": "toaster"}
        case 5:
            return record | {"timestamp": record["timestamp"].removesuffix("Z")}
        case _:
            return record | {"timestamp": "2099-01-01T00:00:00Z"}


def conflicting(record: Record) -> Record:
    energy = "kwhConsumedAc" if "meterId" in record else "kwhDeliveredDc"
    return record | {energy: record[energy] + 1}


async def traffic(rng: random.Random) -> AsyncIterator[tuple[str, str, bytes]]:
    """Yield path, content type and body of an hour's requests, many of them wrong."""
    plan = Plan(
        backfill_min=MINUTES,
        duration_s=0,
        late_share=0.1,
        duplicate_share=0.1,
        out_of_order_share=0.3,
        batch=40,
    )
    async for batch in Simulation(Fleet(PAIRS), plan, "F-", 1).batches(time.time()):
        records = json.loads(batch.body)
        others = [conflicting(r) for r in records if rng.random() < 0.05]
        records = [broken(r, rng) if rng.random() < 0.1 else r for r in records] + others
        as_json, as_lines = ("application/json", "application/x-ndjson")
        match rng.randrange(5):
            case 0:
                for record in records:
                    yield "/v1/ingest", as_json, json.dumps(record).encode()
            case 1:
                lines = [json.dumps(record).encode() for record in records]
                lines.insert(rng.randrange(len(lines)), b"{nope")
                yield "/v1/ingest/batch", as_lines, b"\n".join(lines)
            case 2:
                body = json.dumps(records).encode()
                yield "/v1/ingest/batch", as_json, body[:-9]  # cut off: nothing of it counts
                yield "/v1/ingest/batch", "text/plain", body
                yield "/v1/ingest/batch", as_json, body
                yield "/v1/ingest/batch", as_json, body
            case _:
                yield "/v1/ingest/batch", as_json, json.dumps(records).encode()


def tally(response: httpx.Response) -> Counter[str]:
    """Return what an answer says became of its readings, refusals by code."""
    body = response.json()
    if "received" in body:
        assert body["rejected"] == len(body["errors"])
        codes = Counter(f"code {error['code']}" for error in body["errors"])
        return codes + Counter(
            {name: body[name] for name in ("received", "stored", "duplicates", "rejected")}
        )
    if response.is_success:
        verdict = "stored" if body["stored"] else "duplicates"
        return Counter({"received": 1, verdict: 1})
    if response.status_code == 415:
        return Counter()
    return Counter({"received": 1, "rejected": 1, f"code {body['error']['code']}": 1})


def test_the_counters_add_up_after_a_fuzzed_hour(engine: Engine) -> None:
    answered: Counter[str] = Counter()
    statuses: Counter[str] = Counter()

    async def send() -> None:
        room = asyncio.Semaphore(8)
        async with httpx.AsyncClient(base_url=engine.url, timeout=60) as client:

            async def one(path: str, content_type: str, body: bytes) -> None:
                headers = {"Content-Type": content_type}
                async with room:
                    response = await client.post(path, content=body, headers=headers)
                answered.update(tally(response))
                statuses[str(response.status_code)] += 1

            async with asyncio.TaskGroup() as tasks:
                async for request in traffic(random.Random(7)):
                    tasks.create_task(one(*request))

    asyncio.run(send())
    found = scrape(engine.url)
    stored = total(found, "readings_stored_total")
    duplicates = total(found, "readings_duplicate_total")
    rejected = total(found, "readings_rejected_total")
    assert total(found, "readings_received_total") == stored + duplicates + rejected
    assert answered["received"] == stored + duplicates + rejected
    assert (answered["stored"], answered["duplicates"]) == (stored, duplicates)
    codes = by_label(found, "readings_rejected_total", "code")
    assert codes == {
        name.removeprefix("code "): count
        for name, count in answered.items()
        if name.startswith("code ")
    }
    assert len(codes) >= 8
    assert min(stored, duplicates, codes["conflict"]) > 10
    assert by_label(found, "ingest_requests_total", "status") == statuses
    # What reached the database is what was stored, repeated or in conflict there.
    assert total(found, "flush_readings_sum") == stored + duplicates + codes["conflict"]
    flushes = total(found, "flush_readings_count")
    assert total(found, "flush_seconds_count") == flushes
    for stage in ("pack", "wait", "write"):
        assert total(found, "flush_stage_seconds_count", stage=stage) == flushes
    assert total(found, "flush_stage_seconds_sum") <= total(found, "flush_seconds_sum")
    for reading in ("newest", "middle"):
        assert total(found, "lag_seconds_count", reading=reading) == flushes
    newest = total(found, "lag_seconds_sum", reading="newest")
    assert 0 < newest <= total(found, "lag_seconds_sum", reading="middle") < 7200 * flushes
    assert total(found, "queue_readings") == total(found, "flush_failures_total") == 0
    kept = httpx.get(f"{engine.url}/v1/rejections/counts").json()["counts"]
    assert sum(count["count"] for count in kept) == rejected


def test_every_metric_is_documented_and_passes_the_lint(engine: Engine) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    body = [
        {"meterId": "M1", "kwhConsumedAc": 1, "timestamp": at},
        {"meterId": "M1", "kwhConsumedAc": 1, "timestamp": at},
        {"vehicleId": "V1", "kwhDeliveredDc": -1, "timestamp": at},
    ]
    assert httpx.post(f"{engine.url}/v1/ingest/batch", json=body).status_code == 207
    until(lambda: total(scrape(engine.url), "database_size_bytes") > 0)
    text = httpx.get(f"{engine.url}/metrics").text
    found = scrape(engine.url)
    assert total(found, "history_partitions", stream="meter") >= 3
    assert total(found, "database_size_bytes") > 1e6
    assert total(found, "pool_connections") >= 1
    assert total(found, "pool_waiting_requests") == 0
    assert total(found, "build_info") == 1
    documented = re.findall(r"^\| `(wattstream_\w+)` \| (\w+) \|", REFERENCE.read_text(), re.M)
    assert sorted(documented) == sorted(
        (name, kind) for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M)
    )
    check("metrics", text=text.encode())
