"""The log never stands in the way of the work."""

import subprocess
import sys
from pathlib import Path

import pytest

LOGGER = """
import sys
import structlog
from wattstream.log import configure_logging
configure_logging(sys.argv[1], "info")
for _ in range(1000):
    structlog.get_logger().warning("said in vain")
print("went on")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("form", ["console", "json"])
def test_log_on_a_full_disk_does_not_stop_what_logs(form: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LOGGER, form],
            check=False,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
        )
    assert done.stdout == "went on\n"
