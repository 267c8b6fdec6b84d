"""Single requests under load, by `wrk`, a C client; and the empty answer they are held against."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from wattstream.domain.errors import OperatorError

# Each request is a reading of its own: the thread's number and a counter make the time unique.
_SCRIPT = """
local threads = 0
function setup(thread) thread:set("id", threads); threads = threads + 1 end
local n = 0
function request()
  n = n + 1
  local device = (n * 7919) % 10000
  local body = string.format(
    '{"meterId":"W%d-%05d","kwhConsumedAc":0.123456,"voltage":230.1,"timestamp":"START.%06dZ"}',
    id, device, n % 1000000)
  return wrk.format("POST", "/v1/ingest", {["Content-Type"] = "application/json"}, body)
end
"""


@dataclass(frozen=True, slots=True)
class Singles:
    """What wrk measured: requests a second, p50 and p99 in ms, answers that were no 2xx."""

    rate: float
    p50_ms: float
    p99_ms: float
    failures: int


def is_installed() -> bool:
    """Return whether wrk is on this machine."""
    return shutil.which("wrk") is not None


def run_wrk(port: int, connections: int, seconds: int, start: str, folder: Path) -> Singles:
    """Send single readings for some seconds.

    Args:
        port: Of the engine, or of whatever answers POSTs.
        connections: Requests under way at once.
        seconds: Duration.
        start: Time of the readings up to the second, such as 2026-02-09T10:00:00.
        folder: Where the script of requests is written.
    """
    script = folder / "singles.lua"
    script.write_text(_SCRIPT.replace("START", start))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "30s"]
    done = subprocess.run(  # noqa: S603
        [*command, "-s", str(script), f"http://127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        check=False,
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if rate is None:
        raise OperatorError(f"wrk failed: {done.stdout}{done.stderr}")
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    return Singles(
        float(rate[1]),
        _latency_ms(done.stdout, 50),
        _latency_ms(done.stdout, 99),
        int(errors[1]) if errors else 0,
    )


def _latency_ms(text: str, percentile: int) -> float:
    match = re.search(rf"^\s+{percentile}%\s+([\d.]+)(us|ms|s)\s*$", text, re.MULTILINE)
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    return float(match[1]) * scale[match[2]] if match else float("nan")
