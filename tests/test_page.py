"""The dashboard in a real browser: live, searchable, safe, and back after a restart."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from browser import opened_browser
from conftest import Server
from wattstream.settings import PREFIX
from wattstream.web.pages.meters import Work, verdict_of

ROGUE = "<img/src=x/onerror=alert(1)>"
QUARTER = timedelta(minutes=15)


def quarter_start(ago: int) -> datetime:
    """Return the start of a quarter-hour, 1: the last closed one."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    return now - timedelta(minutes=now.minute % 15) - ago * QUARTER


class Served:
    """An engine that can be started again at the same port."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._port = 0
        self.start()

    def start(self) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        environ |= {
            "WATTSTREAM_DATABASE_URL": self._conninfo,
            "WATTSTREAM_PORT": str(self._port),
            "WATTSTREAM_ALERT_INTERVAL": "1s",
        }
        command = [sys.executable, "-m", "wattstream", "serve"]
        self.process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        lines = (re.search(r"http://[\d.]+:\d+", line) for line in self.process.stderr)
        self.url = next(match[0] for match in lines if match)
        self._port = int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.stderr is not None
        with self.process.stderr as log:
            log.read()
        assert self.process.wait(timeout=20) == 0

    def send(self, *records: dict[str, Any]) -> None:
        answer = httpx.post(f"{self.url}/v1/ingest/batch", json=list(records))
        assert answer.status_code in {201, 207, 422}


def vehicle(name: str, at: datetime, **values: float) -> dict[str, Any]:
    return {"vehicleId": name, "kwhDeliveredDc": 0.2, "timestamp": at.isoformat(), **values}


def meter(name: str, at: datetime, kwh: float = 0.25) -> dict[str, Any]:
    return {"meterId": name, "kwhConsumedAc": kwh, "voltage": 230.5, "timestamp": at.isoformat()}


@pytest.fixture(scope="module")
def served(embedded: Server) -> Iterator[Served]:
    """Provide an engine with a few devices, some of them in trouble."""
    found = Served(embedded.make_database())
    now = datetime.now(UTC)
    for ago in (1, 2, 3):
        at = quarter_start(ago)
        pairs = [(meter(f"EV-{n}", at), vehicle(f"EV-{n}", at)) for n in range(10)]
        found.send(*(record for pair in pairs for record in pair))
    found.send(
        *(vehicle(f"EV-{n}", now, kwhDeliveredDc=0, soc=10 + n, batteryTemp=20) for n in range(10)),
        *(vehicle(f"FILL-{n:03}", now) for n in range(60)),
        vehicle("HOT-1", now, batteryTemp=70),
        vehicle("GONE-1", now - timedelta(hours=30)),
        vehicle(ROGUE, now, batteryTemp=71),
        {**meter("EV-1", now), "voltage": -3},
        {"meterId": ROGUE, "kwhConsumedAc": "<b>much</b>", "timestamp": now.isoformat()},
    )
    gone = f"{found.url}/v1/devices/vehicle/GONE-1"
    assert httpx.put(gone, json={"heartbeatSeconds": 1}).status_code == 200  # silent after 5 s
    yield found
    if found.process.poll() is None:
        found.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as found:
        if found is None:
            pytest.skip("no Chromium is installed: apt-get install chromium")
        yield found


@dataclass
class Watched:
    """A page with what it asked for and complained of."""

    page: Page
    url: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str, **query: str) -> Page:
        self.page.goto(self.url + path + ("?" + urlencode(query) if query else ""))
        return self.page


@pytest.fixture
def open_page(browser: Browser, served: Served) -> Iterator[Callable[..., Watched]]:
    """Return a function that opens a page; afterwards, nothing came from elsewhere or failed."""
    opened: list[Watched] = []

    def make(**options: Any) -> Watched:
        context = browser.new_context(timezone_id="Asia/Kathmandu", locale="en-GB", **options)
        context.set_default_timeout(15_000)
        page = context.new_page()
        watched = Watched(page, served.url)

        def heard(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"}:
                watched.complaints.append(message.text)

        def asked(request: Request) -> None:
            watched.asked.append(request.url)

        page.on("console", heard)
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.on("dialog", lambda dialog: watched.complaints.append(dialog.message))
        page.on("request", asked)
        opened.append(watched)
        return watched

    yield make
    for watched in opened:
        watched.page.context.close()
        elsewhere = [u for u in watched.asked if not u.startswith((watched.url, "data:", "blob:"))]
        assert elsewhere == []
        assert watched.complaints == []


def wait_for(page: Page, holds: str) -> None:
    """Wait until an expression holds; Playwright's own way evaluates it in the page."""
    until = time.monotonic() + 15
    while not page.evaluate(holds):
        assert time.monotonic() < until, holds
        page.wait_for_timeout(50)


def points(page: Page, chart: str) -> dict[str, Any]:
    """Return the x and y of a drawn chart by the name of the trace."""
    wait_for(page, f"!!document.getElementById('{chart}').data")
    found: dict[str, Any] = page.evaluate(
        f"Object.fromEntries(document.getElementById('{chart}').data"
        ".map(trace => [trace.name, [trace.x, trace.y]]))"
    )
    return found


def test_other_clients_still_get_the_list_of_endpoints(served: Served) -> None:
    for accept in (None, "*/*", "application/json", "image/png"):
        headers = {} if accept is None else {"Accept": accept}
        answer = httpx.get(served.url, headers=headers)
        assert "GET /v1/stream" in answer.json()["endpoints"]
        assert answer.headers["Vary"] == "Accept"
    shown = httpx.get(served.url, headers={"Accept": "text/html,*/*;q=0.8"})
    assert shown.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in shown.headers["Content-Security-Policy"]


def test_the_fleet_is_live_and_its_charts_are_right(
    open_page: Callable[..., Watched], served: Served
) -> None:
    page = open_page().go("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Fleet")
    energy = points(page, "energy")
    assert energy["AC drawn"][1] == pytest.approx([2.5] * 3)
    assert energy["DC delivered"][1] == pytest.approx([2.0] * 3)
    assert points(page, "efficiency")["DC ÷ AC"][1] == pytest.approx([80] * 3)
    # Kathmandu is 5:45 ahead of UTC.
    local = (quarter_start(3) + timedelta(hours=5, minutes=45)).strftime("%Y-%m-%dT%H:%M")
    assert energy["AC drawn"][0][0].startswith(local)
    devices = page.locator("[data-live=devices]")
    before = int(devices.inner_text().replace(",", ""))
    served.send(vehicle("EV-NEW", datetime.now(UTC)))
    expect(devices).to_have_text(f"{before + 1:,}", timeout=15_000)
    expect(page.locator("[data-live=heartbeatsPerSecond]")).to_have_text(re.compile(r"[\d.]+ /s"))
    assert page.locator("#losing-title ~ .scroll tbody tr").count() == 10


def test_a_chart_that_is_zoomed_offers_the_whole_day(open_page: Callable[..., Watched]) -> None:
    page = open_page().go("/")
    points(page, "energy")
    whole = page.locator("[data-reset=energy]")
    expect(whole).to_be_hidden()
    box = page.locator("#energy .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
    page.mouse.up()
    whole.click()
    expect(whole).to_be_hidden()


def test_an_operators_questions_are_answered_within_three_clicks(
    open_page: Callable[..., Watched],
) -> None:
    page = open_page().go("/")
    losing = page.locator("#losing-title ~ .scroll tbody tr").first
    expect(losing).to_contain_text("kWh")
    losing.get_by_role("link").click()
    expect(page.get_by_label("Now", exact=True)).to_contain_text("check the charger")
    page.get_by_role("link", name="Fleet").click()
    page.get_by_label("Fleet now").get_by_role("link", name=re.compile("vehicle")).click()
    gone = page.get_by_role("row").filter(has_text="GONE")
    for _ in range(50):  # it is silent 5 s after it was heard
        if gone.count():
            break
        page.wait_for_timeout(200)
        page.reload()
    expect(gone).to_contain_text("silent")
    page.get_by_role("link", name="Fleet").click()
    page.get_by_role("link", name="Is ingest healthy?").click()
    expect(page.locator(".verdict")).to_contain_text("late")  # readings of hours ago were sent
    page.locator("summary").filter(has_text="voltage_out_of_range").click()
    expect(page.get_by_text("voltage must be in [0, 2000] V, got -3")).to_be_visible()


@pytest.mark.parametrize(
    ("failures", "lag_p95_s", "word"),
    [(0, 0.2, "healthy"), (0, 301, "late"), (3, 0.2, "recovered"), (3, None, "failing"),
     (0, None, "quiet")],
)  # fmt: skip
def test_a_verdict_tells_how_ingest_is(failures: int, lag_p95_s: float | None, word: str) -> None:
    work = Work(queue=0, received=9, rejected=0, failures=failures, ack_p95_s=0.1)
    verdict = verdict_of(work, lag_p95_s)
    assert verdict.word == word
    assert ("3 flushes" in verdict.text) == (failures > 0)


def test_devices_are_searched_sorted_paged_and_live(
    open_page: Callable[..., Watched], served: Served
) -> None:
    page = open_page().go("/devices")
    rows = page.locator("#list tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Next →").click()
    expect(page.locator(".pager")).to_contain_text("51 to")
    page.get_by_role("searchbox").fill("ev-")
    expect(page.get_by_role("status").filter(has_text="ev-")).to_be_visible()
    expect(rows.first).to_contain_text("EV-0")
    page.get_by_role("link", name="Charge").click()
    expect(page.get_by_role("columnheader", name="Charge")).to_have_attribute(
        "aria-sort", "ascending"
    )
    expect(rows.first).to_contain_text("10.0 %")
    page.get_by_role("link", name="Charge").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_count(1)
    expect(rows.first).to_contain_text("EV-9")
    expect(page.get_by_role("searchbox")).to_have_value("ev-")
    row = page.locator("tr[data-id='EV-3']")
    started = time.monotonic()
    served.send(vehicle("EV-3", datetime.now(UTC), soc=77.7))
    expect(row.locator("[data-cell=soc]")).to_have_text("77.7 %")
    assert time.monotonic() - started < 15
    page.get_by_label("Shown").select_option("silent")
    page.get_by_role("searchbox").fill("gone")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("silent")
    expect(rows.first.locator("time")).to_have_text(re.compile(r"ago$"))


def test_what_a_search_does_not_find_is_said(open_page: Callable[..., Watched]) -> None:
    page = open_page().go("/devices", q="100%_\\")
    expect(page.get_by_role("status").filter(has_text="0 vehicles")).to_be_visible()


def test_a_device_has_a_page(open_page: Callable[..., Watched], served: Served) -> None:
    page = open_page().go("/device", type="vehicle", id="EV-5")
    expect(page.get_by_role("heading", level=1)).to_contain_text("EV-5")
    assert points(page, "history-energy")["DC"][1][:3] == pytest.approx([0.2] * 3)
    page.locator("[name=resolution]").select_option("raw")
    wait_for(page, "document.getElementById('history-energy').data[0].x.length == 4")
    served.send(vehicle("EV-5", datetime.now(UTC), soc=55.5))
    expect(page.locator("[data-cell=soc]")).to_have_text("55.5 %")
    page.get_by_role("link", name="EV-5").click()  # its meter, by the same id
    expect(page.get_by_label("Now", exact=True)).to_contain_text("230.5 V")
    page.get_by_role("link", name="EV-5").click()  # and back to its vehicle
    expect(page.get_by_label("Now", exact=True)).to_contain_text("55.5 %")


def test_alerts_are_acknowledged_by_nobody_elses_page(
    open_page: Callable[..., Watched], served: Served
) -> None:
    page = open_page().go("/alerts", kind="battery_hot")
    for _ in range(50):
        if page.locator("tr[data-alert]").count() == 2:
            break
        page.wait_for_timeout(200)
        page.reload()
    row = page.locator("tr[data-alert]").filter(has_text="HOT-1")
    number = row.get_attribute("data-alert")
    ack = f"{served.url}/v1/alerts/{number}/ack"
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://elsewhere.example"},
    ):
        refused = httpx.post(ack, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "cross_site")
    row.get_by_role("button", name="Acknowledge").click()
    expect(row).to_contain_text("acknowledged")
    assert httpx.get(f"{served.url}/v1/alerts/{number}").json()["state"] == "acknowledged"
    page.get_by_label("State").select_option("acknowledged")
    expect(page.locator("tr[data-alert]")).to_have_count(1)


def test_what_was_rejected_is_shown_with_why(open_page: Callable[..., Watched]) -> None:
    page = open_page().go("/ingest")
    expect(page.locator(".verdict")).to_contain_text("Readings come")
    code = page.locator("details").filter(has_text="voltage_out_of_range")
    code.evaluate("each => each.open = true")
    expect(code).to_contain_text("1 record")
    expect(code).to_contain_text("voltage must be in [0, 2000] V, got -3")
    expect(code.locator("pre")).to_contain_text('"meterId":"EV-1"')


def test_a_verdict_follows_what_happens(open_page: Callable[..., Watched]) -> None:
    watched = open_page()
    page = watched.go("/ingest")
    verdict = page.locator(".verdict")
    expect(verdict).to_contain_text("Readings come")
    away = {"error": {"code": "database_unavailable", "message": "the database is away"}}
    page.route("**/pages/ingest.json", lambda route: route.fulfill(status=503, json=away))
    expect(verdict).to_have_text("failing the database is away", timeout=15_000)
    page.unroute("**/pages/ingest.json")
    expect(verdict).to_contain_text("Readings come", timeout=15_000)
    watched.complaints.clear()  # the browser's, of the 503


def test_ids_and_records_are_text_whatever_they_say(open_page: Callable[..., Watched]) -> None:
    watched = open_page()
    page = watched.go("/devices", q=ROGUE)
    page.get_by_role("link", name=ROGUE).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(ROGUE)
    points(page, "history-energy")
    for path in ("/ingest", "/alerts?state=all"):
        watched.go(path)
        expect(page.locator("main")).to_contain_text(ROGUE)
        assert page.locator("main img, main b").count() == 0


def test_light_and_dark_follow_the_system_until_one_is_chosen(
    open_page: Callable[..., Watched],
) -> None:
    def background() -> str:
        shown: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return shown

    page = open_page(color_scheme="dark").go("/")
    dark = background()
    page.get_by_role("button", name="Switch between light and dark").click()
    light = background()
    assert light != dark
    page.reload()
    assert background() == light
    points(page, "energy")
    assert page.evaluate("document.getElementById('energy').layout.font.color") == "#16211c"


def test_a_phone_scrolls_no_page_sideways(open_page: Callable[..., Watched]) -> None:
    watched = open_page(viewport={"width": 390, "height": 844})
    device = "/device?" + urlencode({"type": "vehicle", "id": "EV-5"})
    for path in ("/", "/devices", device, "/alerts?state=all", "/ingest"):
        page = watched.go(path)
        page.wait_for_load_state("load")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_an_unknown_device_is_a_page_that_says_so(open_page: Callable[..., Watched]) -> None:
    watched = open_page()
    page = watched.go("/device", type="vehicle", id="nobody")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not Found")
    expect(page.locator("main")).to_contain_text("was ever seen")
    watched.complaints.clear()  # Chromium reports the status


def test_a_page_goes_on_after_the_engine_was_away(
    open_page: Callable[..., Watched], served: Served
) -> None:
    watched = open_page()
    page = watched.go("/device", type="vehicle", id="EV-6")
    points(page, "history-energy")
    served.stop()
    expect(page.get_by_text("Reconnecting to the engine")).to_be_visible()
    served.start()
    served.send(vehicle("EV-6", datetime.now(UTC), soc=66.6))
    expect(page.locator("[data-cell=soc]")).to_have_text("66.6 %", timeout=20_000)
    expect(page.get_by_text("Reconnecting to the engine")).to_be_hidden()
    watched.complaints.clear()  # what could not be reached meanwhile
