"""What it takes to look on: five pages in a browser while 20,000 devices report each minute.

make watched                       # prints a table, and writes build/watched.json
python tests/watched.py --quick    # a shorter history, fewer rounds: rough figures

It exits with 1 where a limit is not met.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx
from playwright.sync_api import Browser, Page
from rich.console import Console
from rich.table import Table

from browser import opened_browser
from wattstream.bench.beats import BEATS_A_MINUTE, beats
from wattstream.bench.engine import Engine, run_engine
from wattstream.bench.history import external_id, grow, system_clock_us
from wattstream.bench.memory import cpu_s
from wattstream.bench.payloads import DEVICES
from wattstream.bench.viewers import LEAST_RATIO, five_viewers, measure_viewers, watching
from wattstream.domain.units import rfc3339
from wattstream.log import configure_logging
from wattstream.store.embedded import EmbeddedPostgres
from wattstream.store.postgres import migrate

FIRST_PAINT_S, UPDATE_S = 2.0, 3.0
# No heartbeat of the load is one of this device, or it would replace a value before it is shown.
_WATCHED = external_id(DEVICES - 1)
_PAGES = {
    "fleet": "/",
    "vehicles": "/devices?order=desc",
    "meters": "/devices?type=meter",
    "a vehicle": f"/device?type=vehicle&id={_WATCHED}",
    "ingest": "/ingest",
}
_ROW = f'#list tr[data-id="{_WATCHED}"]'
_SHOWN = {
    "a vehicle": "[data-cell=soc]",
    "vehicles": f"{_ROW} [data-cell=soc]",
    "ingest": "[data-live=rejections]",
}
"""Where each page shows a value that is new."""
_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
_OBSERVE = """(selector) => {
  const element = document.querySelector(selector);
  window.seenAt = {};
  new MutationObserver(() => { window.seenAt[element.textContent] ??= Date.now(); })
    .observe(element, { childList: true, characterData: true, subtree: true });
}"""


@dataclass(frozen=True)
class Figure:
    """A line of the result; `limit` is that of `value`: at most, or of a ratio, at least."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.unit == "ratio" else self.value <= self.limit


Say = Callable[[Figure], None]


def paints(browser: Browser, url: str, say: Say) -> dict[str, Page]:
    """Open the pages, each as another person would, with nothing cached."""
    opened: dict[str, Page] = {}
    took: dict[str, float] = {}
    for name, path in _PAGES.items():
        page = opened[name] = browser.new_context(
            viewport={"width": 1280, "height": 900}
        ).new_page()
        page.goto(url + path)
        page.wait_for_function(_PAINT)
        took[name] = page.evaluate(_PAINT) / 1000
        assert page.evaluate("document.visibilityState") == "visible"  # else it would not listen
    each = ", ".join(f"{name} {seconds:.2f}" for name, seconds in took.items())
    say(Figure("first paint, median of the pages", median(took.values()), "s", FIRST_PAINT_S, each))
    say(Figure("first paint, worst", max(took.values()), "s", FIRST_PAINT_S))
    return opened


def updates(pages: dict[str, Page], url: str, trials: int, say: Say) -> None:
    """Send heartbeats, and see when a page shows what they say."""
    with httpx.Client(base_url=url) as client:
        for name, selector in _SHOWN.items():
            page = pages[name]
            page.evaluate(_OBSERVE, selector)
            took = []
            for trial in range(trials):
                time.sleep(random.random())  # at any moment between two looks
                soc = 10 + trial / 10
                at = rfc3339(system_clock_us())
                record = {"vehicleId": _WATCHED, "timestamp": at, "kwhDeliveredDc": 0.1, "soc": soc}
                text = f"{soc:.1f} %"
                if name == "ingest":
                    text = f"{int(page.inner_text(selector).replace(',', '')) + 1:,}"
                    assert client.post("/v1/ingest", json=record | {"soc": 101}).status_code == 422
                else:
                    assert client.post("/v1/ingest", json=record).status_code == 201
                sent_s = time.time()
                page.wait_for_function("(text) => text in window.seenAt", arg=text)
                took.append(page.evaluate("(text) => window.seenAt[text]", text) / 1000 - sent_s)
            what = "422 to the count of rejections" if name == "ingest" else "201 to the value"
            note = f"{trials} times, median {median(took):.2f} s; 20,000 devices report meanwhile"
            say(Figure(f"{what}, page {name}, worst", max(took), "s", UPDATE_S, note))


def share(engine: Engine, postmaster_pid: int, seconds: float) -> float:
    """Return the CPU that an engine and its database take, % of one core."""
    before_s, started = cpu_s(engine.pid, postmaster_pid), time.perf_counter()
    time.sleep(seconds)
    return 100 * (cpu_s(engine.pid, postmaster_pid) - before_s) / (time.perf_counter() - started)


def look_on(engine: Engine, postmaster_pid: int, say: Say, *, is_quick: bool) -> None:
    """Measure pages beside heartbeats."""
    url, seconds = f"http://127.0.0.1:{engine.port}", 10.0 if is_quick else 30.0
    ids = [external_id(number) for number in range(DEVICES)]
    cpu = "engine and PostgreSQL beside 20,000 heartbeats a minute"
    with beats(engine.port, DEVICES - 1) as beaten:
        say(Figure(f"{cpu}, no page", share(engine, postmaster_pid, seconds), "% of a core"))
        with watching(engine.port, five_viewers(ids, ids)):
            held = share(engine, postmaster_pid, seconds)
        note = "by plain clients that ask for the same"
        say(Figure(f"{cpu}, five pages held", held, "% of a core", note=note))
        with opened_browser() as browser:
            assert browser is not None
            pages = paints(browser, url, say)
            watched = share(engine, postmaster_pid, seconds)
            say(Figure(f"{cpu}, five pages in Chromium", watched, "% of a core"))
            updates(pages, url, 5 if is_quick else 20, say)
    note = f"{60 * beaten[0].rate:,.0f} a minute came through, of {BEATS_A_MINUTE:,}"
    say(Figure("a heartbeat's 201 meanwhile, p99", beaten[0].at(0.99), "s", note=note))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("build/watched.json"))
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    configure_logging("console", "error")
    figures: list[Figure] = []
    console = Console()

    def say(figure: Figure) -> None:
        figures.append(figure)
        console.print(
            f"{figure.what}: {figure.value:,.2f} {figure.unit}", highlight=False, soft_wrap=True
        )

    with opened_browser() as browser:
        if browser is None:
            sys.exit("No Chromium: apt-get install chromium, or playwright install chromium")
    folder = Path(tempfile.mkdtemp(prefix="wattstream-watched-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder)
    try:
        server.start()
        conninfo = server.superuser_conninfo  # the benchmark asks where the data lies
        assert server.pid is not None
        migrate(conninfo)
        hours = 1 if asked.quick else 24
        fleet = f"{2 * DEVICES:,} devices with {hours} h of history"
        console.print(f"{os.cpu_count()} cores; {fleet} …", highlight=False)
        grow(conninfo, DEVICES, hours * 60 * 2 * DEVICES)
        with run_engine(conninfo) as engine:
            look_on(engine, server.pid, say, is_quick=asked.quick)
        rounds = 3 if asked.quick else 11
        ratio = measure_viewers(
            conninfo,
            server.pid,
            run_engine,
            lambda row: say(Figure(row.case, row.rate, "readings/s", note=row.note)),
            rounds=rounds,
        )
        note = f"median of {rounds} rounds, one engine; pages held by plain clients"
        say(Figure("ingest rate, five pages open to none", ratio, "ratio", LEAST_RATIO, note))
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    table = Table("What", "", "Limit", "")
    for figure in figures:
        limit = "" if figure.limit is None else f"{figure.limit:g}"
        value = (
            f"{figure.value:,.2f} {figure.unit}"
            if figure.value < 1000
            else f"{figure.value:,.0f} {figure.unit}"
        )
        table.add_row(
            figure.what, value if figure.is_met else f"[red]{value}[/]", limit, figure.note
        )
    console.print(table)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    sys.exit(not all(figure.is_met for figure in figures))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
