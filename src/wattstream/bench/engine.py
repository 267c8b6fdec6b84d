"""The servers that the benchmark runs: an engine, and one that answers nothing."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psycopg

from wattstream.domain.errors import OperatorError
from wattstream.settings import PREFIX
from wattstream.store.postgres import migrate

_EMPTY = """
import asyncio, uvicorn, uvloop
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b""})
config = uvicorn.Config(app, port=PORT, loop="none", http="httptools", ws="none", lifespan="off",
                        log_level="error", access_log=False)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(uvicorn.Server(config).serve())
"""


def make_database(conninfo: str, name: str) -> str:
    """Make a migrated database on a server; return its conninfo."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    database = psycopg.conninfo.make_conninfo(conninfo, dbname=name)
    migrate(database)
    return database


class Engine(NamedTuple):
    """A running engine: its port on loopback, its process id."""

    port: int
    pid: int


@contextmanager
def run_engine(conninfo: str) -> Iterator[Engine]:
    """Run `wattstream serve` on a database; provide it."""
    command = [sys.executable, "-m", "wattstream", "serve", "--port", "0"]
    environ = {f"{PREFIX}DATABASE_URL": conninfo, f"{PREFIX}LOG_LEVEL": "error"}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stderr is not None  # noqa: S101 - it was asked for
        log = []
        for line in process.stderr:
            log.append(line)
            if match := re.search(r"ready: http://[\d.]+:(\d+)", line):
                break
        else:
            raise OperatorError("The engine did not start:\n" + "".join(log))
        try:
            yield Engine(int(match[1]), process.pid)
        finally:
            process.terminate()
            process.stderr.read()
            process.wait()


@contextmanager
def empty_server() -> Iterator[int]:
    """Run the same HTTP server with an application that reads the body and answers 201."""
    port = 20_000 + int(time.time() * 1000) % 30_000
    command = [sys.executable, "-c", _EMPTY.replace("PORT", str(port))]
    process = subprocess.Popen(command)  # noqa: S603
    try:
        time.sleep(1)
        yield port
    finally:
        process.terminate()
        process.wait()
