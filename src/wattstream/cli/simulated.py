"""Simulated devices beside an engine: `serve --simulate N`."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def simulated_devices(pairs: int) -> Iterator[Callable[[str], None]]:
    """Provide a function that starts devices against an engine's URL; end them on leaving.

    They run in a process of their own, so they do not share the engine's interpreter.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(url: str) -> None:
        if pairs:
            command = [sys.executable, "-m", "wattstream", "simulate", "--url", url]
            command += ["--pairs", str(pairs)]
            started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))  # noqa: S603

    try:
        yield start
    finally:
        for process in started:
            process.terminate()
            process.wait(timeout=10)
