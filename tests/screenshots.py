"""Take a picture of every view, wide and on a phone, light and dark, with 1,000 simulated pairs.

make screenshots                                 # into build/screenshots
python tests/screenshots.py FOLDER --url URL     # of an engine that runs
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from browser import opened_browser

_SIZES = {"wide": (1280, 900), "phone": (390, 844)}
_PAIRS, _HOURS = 1000, 25


@contextmanager
def engine() -> Iterator[str]:
    """Run an engine on a database of its own, with devices that report; provide its URL."""
    with tempfile.TemporaryDirectory(prefix="wattstream-screenshots-") as folder:
        Path(folder).chmod(0o711)
        environ = os.environ | {
            "WATTSTREAM_DATA_DIR": f"{folder}/data",
            "WATTSTREAM_ALERT_INTERVAL": "5s",
        }
        command = [sys.executable, "-m", "wattstream"]
        with subprocess.Popen(
            [*command, "serve", "--port", "0"], env=environ, stderr=subprocess.PIPE, text=True
        ) as serving:
            assert serving.stderr is not None
            lines = (re.search(r"http://[\d.]+:\d+", line) for line in serving.stderr)
            url = next(match[0] for match in lines if match)
            simulate = [*command, "simulate", "--url", url, "--pairs", str(_PAIRS)]
            print(f"Simulating {_PAIRS:,} pairs over {_HOURS} h …")
            hours = ["--backfill-hours", str(_HOURS), "--backfill-only"]
            subprocess.run([*simulate, *hours], check=True, stderr=subprocess.DEVNULL)
            trouble(url)
            with subprocess.Popen(
                simulate, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as simulating:
                try:
                    time.sleep(65)  # each pair reports once a minute
                    yield url
                finally:
                    simulating.terminate()
                    serving.terminate()


def trouble(url: str) -> None:
    """Send what an operator looks for: refused records, a silent device, hot batteries."""
    now = datetime.now(UTC)
    ago = (now - timedelta(minutes=20)).isoformat()
    silent = {"vehicleId": "VAN-0815", "kwhDeliveredDc": 0.12, "soc": 61.5, "batteryTemp": 24}
    hot = {"vehicleId": "BUS-12", "kwhDeliveredDc": 0.3, "soc": 88, "batteryTemp": 57.5}
    records = [
        {**silent, "timestamp": ago},
        *({**hot, "vehicleId": f"BUS-{n}", "timestamp": now.isoformat()} for n in range(12, 15)),
        {"meterId": "DEPOT-7", "kwhConsumedAc": 0.2, "voltage": -3.2, "timestamp": ago},
        {"meterId": "DEPOT-7", "kwhConsumedAc": 0.2, "timestamp": ago[:19]},
        {"meterId": "DEPOT-7", "kwhConsumedAc": "much", "timestamp": ago},
        {"vehicleId": "VAN-0815", "kwhDeliveredDc": 0.2, "timestamp": ago},
        {"kwhConsumedAc": 0.2, "timestamp": ago},
    ]
    httpx.post(f"{url}/v1/ingest/batch", json=records).raise_for_status()
    httpx.put(f"{url}/v1/devices/vehicle/VAN-0815", json={"heartbeatSeconds": 10})


def take(url: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with opened_browser() as browser:
        if browser is None:
            sys.exit("No Chromium: apt-get install chromium, or playwright install chromium")
        losing = httpx.get(f"{url}/v1/analytics/alerts").json()["alerts"]
        vehicle = max(losing, key=lambda each: each["totalAc"] - each["totalDc"])["vehicleId"]
        views = {
            "fleet": "/",
            "devices": "/devices",
            "meters": "/devices?type=meter",
            "silent": "/devices?shown=silent",
            "device": f"/device?type=vehicle&id={vehicle}",
            "meter": f"/device?type=meter&id={vehicle}",
            "alerts": "/alerts?state=all",
            "ingest": "/ingest",
        }
        for size, (width, height) in _SIZES.items():
            for theme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=theme,
                    reduced_motion="reduce",  # no number is caught in the middle of a flash
                    locale="en-GB",
                    timezone_id="Europe/Paris",
                    device_scale_factor=1,
                )
                page = context.new_page()
                for name, path in views.items():
                    page.goto(url + path)
                    page.wait_for_timeout(4500)  # charts, and the first summaries
                    file = folder / f"{name}-{size}-{theme}.png"
                    page.screenshot(path=file, full_page=True)
                    spill = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    print(file, f"— wider than its window by {spill} px" if spill > 0 else "")
                context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url")
    asked = parser.parse_args()
    if asked.url:
        take(asked.url, asked.folder)
        return
    with engine() as url:
        take(url, asked.folder)


if __name__ == "__main__":
    main()
