"""Signing in with a real browser: the page asks for a key, shows its reach, and ends with it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, expect

from browser import opened_browser
from conftest import Server
from test_page import Served, meter, quarter_start, vehicle


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as found:
        if found is None:
            pytest.skip("no Chromium is installed: apt-get install chromium")
        yield found


def command(conninfo: str, *arguments: str) -> str:
    """Return what `wattstream …` prints, with a database of ours."""
    done = subprocess.run(
        [sys.executable, "-m", "wattstream", *arguments, "--database-url", conninfo],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_browser_signs_in_sees_its_fleet_and_is_led_out(
    browser: Browser, embedded: Server
) -> None:
    conninfo = embedded.make_database()
    served = Served(conninfo)
    try:
        for fleet in ("north", "south"):
            for stream in ("meter", "vehicle"):
                path = f"{served.url}/v1/devices/{stream}/{fleet}-1"
                assert httpx.put(path, json={"fleet": fleet}).status_code == 201
            at = quarter_start(1)
            served.send(meter(f"{fleet}-1", at, 0.3), vehicle(f"{fleet}-1", at))
        token = command(
            conninfo, "keys", "create", "--name", "shown", "--scope", "read", "--fleet", "north"
        )
        until_s = time.monotonic() + 10  # until the engine has heard of the key
        while httpx.get(f"{served.url}/v1/devices").status_code != 401:
            assert time.monotonic() < until_s
            time.sleep(0.05)
        page = browser.new_context().new_page()
        page.set_default_timeout(15_000)
        complaints: list[str] = []
        page.on(
            "console",
            lambda said: (
                complaints.append(said.text) if said.type in {"error", "warning"} else None
            ),
        )
        page.goto(f"{served.url}/devices?type=vehicle")
        expect(page).to_have_title("Sign in · Wattstream")
        page.get_by_label("Key with the scope").fill(token[:-1] + "*")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not known")
        assert [("401" in text) for text in complaints] == [True]
        complaints.clear()
        page.get_by_label("Key with the scope").fill(token)
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(f"{served.url}/devices?type=vehicle")
        expect(page.locator("#list")).to_contain_text("north-1")
        assert "south" not in page.content()
        page.get_by_role("link", name="Fleet", exact=True).click()
        expect(page.locator("main")).to_contain_text("0.3")
        assert "south" not in page.content()
        page.get_by_role("link", name="Alerts", exact=True).click()
        page.get_by_role("link", name="Devices", exact=True).click()
        page.get_by_role("link", name="north-1").click()
        expect(page.locator("h1")).to_contain_text("north-1")
        assert complaints == []
        command(conninfo, "keys", "revoke", token.split("_")[1])
        expect(page).to_have_title("Sign in · Wattstream", timeout=30_000)
        with psycopg.connect(conninfo) as connection:
            acts = connection.execute("SELECT act FROM audit ORDER BY audit_id").fetchall()
        assert [act for (act,) in acts][-3:] == [
            f"create key {token.split('_')[1]} shown",
            "sign in",
            f"revoke key {token.split('_')[1]}",
        ], json.dumps(acts)
    finally:
        served.stop()
