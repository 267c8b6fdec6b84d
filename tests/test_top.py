"""`wattstream top`: what it shows is what the engine says."""

import os
import pty
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime

import httpx
import pytest

from conftest import Engine
from wattstream.client.counters import Counters


def top(*arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "wattstream", "top", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={"COLUMNS": "160", "PATH": ""},
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def shown(text: str, name: str) -> str:
    found = re.search(rf"{re.escape(name)}  +(.*?) +│", text)
    assert found is not None, text
    return found[1]


def test_a_frame_shows_the_fleet_and_what_was_refused(engine: Engine) -> None:
    empty = top("--once", "--url", engine.url)
    assert shown(empty, "Efficiency") == "–"
    assert "No device is silent." in empty
    at = datetime.now(UTC).isoformat()
    records = [
        {"meterId": "[red]E1", "kwhConsumedAc": 10, "timestamp": at},
        {"vehicleId": "[red]E1", "kwhDeliveredDc": 9, "timestamp": at},
        {"meterId": "E2", "kwhConsumedAc": -1, "timestamp": at},
        {"meterId": "E2", "timestamp": at},
        {"meterId": "E3", "timestamp": at},
    ]
    assert httpx.post(f"{engine.url}/v1/ingest/batch", json=records).status_code == 207
    text = top("--once", "--url", engine.url)
    assert (shown(text, "Meters"), shown(text, "Vehicles")) == ("1", "1")
    assert (shown(text, "AC"), shown(text, "DC")) == ("10.0 kWh", "9.0 kWh")
    assert shown(text, "Efficiency") == "90.0%"
    assert shown(text, "energy_missing") == "2  (+0)"
    assert shown(text, "energy_out_of_range") == "1  (+0)"
    assert shown(text, "Queue") == "0 readings"


def test_without_an_engine_one_frame_is_an_error_that_says_so() -> None:
    assert "No engine answers at http://127.0.0.1:9" in " ".join(
        top("--once", "--url", "http://127.0.0.1:9", status=1).split()
    )


def test_ctrl_c_ends_it_and_gives_the_terminal_back(engine: Engine) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "wattstream", "top", "--every", "0.5", "--url", engine.url],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={"COLUMNS": "160", "LINES": "50", "TERM": "xterm", "PATH": ""},
    )
    os.close(theirs)
    seen = b""
    is_told = False
    try:
        while True:
            seen += os.read(ours, 65536)
            if seen.count(b"Efficiency") >= 2 and not is_told:
                is_told = True
                process.send_signal(signal.SIGINT)
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=30) == 0
    assert b"\x1b[?1049h" in seen  # the alternate screen was taken,
    assert seen.rindex(b"\x1b[?1049l") > seen.rindex(b"Efficiency")  # and given back
    assert b"Traceback" not in seen


SCRAPE = """
# TYPE wattstream_x counter
wattstream_x_total{code="a",stream="m"} 3.0
wattstream_x_total{code="b",stream="m"} 10.0
wattstream_x_total{code="a",stream="v"} 4.0
# TYPE wattstream_s histogram
wattstream_s_bucket{le="1.0"} 10.0
wattstream_s_bucket{le="2.0"} 30.0
wattstream_s_bucket{le="+Inf"} 40.0
wattstream_s_sum 70.0
wattstream_s_count 40.0
"""


def test_counters_are_summed_and_compared() -> None:
    counters = Counters.parse(SCRAPE)
    assert counters.total("x_total") == 17
    assert counters.by("x_total", "code") == {"b": 10, "a": 7}
    later = Counters.parse(SCRAPE.replace('"b",stream="m"} 10', '"b",stream="m"} 12'))
    assert later.since(counters).by("x_total", "code") == {"b": 2, "a": 0}
    assert counters.since(later).total("x_total") == 17  # the engine began anew


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 0.0), (0.125, 0.5), (0.25, 1.0), (0.5, 1.5), (0.99, 2.0)]
)
def test_a_quantile_is_linear_within_its_bucket(share: float, expected: float) -> None:
    assert Counters.parse(SCRAPE).quantile("s", share) == pytest.approx(expected)


def test_a_histogram_that_saw_nothing_has_no_quantile() -> None:
    counters = Counters.parse(SCRAPE)
    assert counters.quantile("other", 0.5) is None
    assert counters.since(counters).quantile("s", 0.5) is None
