"""The attacks: each sends what no client should, over and over, until it is told to stop."""

import asyncio
import gzip
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

import zstandard

from wattstream.limits import raise_open_files

BATCH = "/v1/ingest/batch"
_PIECE = bytes(65_536)
_GIGABYTE = 10**9
_PAUSE_S = 0.05
"""Between two attempts of one attacker; without it, this would be a test of how many requests a
second an attacker can send, which a limit of requests answers, not one of size."""


class Attacker:
    """One client with bad intentions.

    Attributes:
        answers: How many attempts got which status; "closed" for none, "under way" at the end.
    """

    def __init__(self, port: int, answers: Counter[str]) -> None:
        self.answers = answers
        self._port = port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def send(
        self, head: str, pieces: Callable[[asyncio.StreamWriter], Awaitable[None]]
    ) -> str:
        """Send a request on a connection of its own; return its answer, or as much as came."""
        with suppress(OSError):
            reader, writer = await self.connect()
            writer.write(head.encode())
            sending = asyncio.ensure_future(pieces(writer))
            answer = b""
            try:
                async with asyncio.timeout(60):
                    answer = await reader.readuntil(b"}}")
            except (asyncio.IncompleteReadError, TimeoutError) as error:
                answer = getattr(error, "partial", b"")
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                writer.transport.abort()
                self.answers[answer[9:12].decode() or "closed"] += 1
            return answer.decode()
        self.answers["closed"] += 1
        return ""

    async def post(self, body: bytes, *headers: str) -> str:
        """Post a body to the batch endpoint."""

        async def write(writer: asyncio.StreamWriter) -> None:
            writer.write(body)
            await writer.drain()

        return await self.send(_head(f"Content-Length: {len(body)}", *headers), write)


Attack = Callable[[Attacker], Awaitable[None]]


def _head(*headers: str) -> str:
    lines = [f"POST {BATCH} HTTP/1.1", "Host: attacked", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""])


def _repeated(*bodies: tuple[bytes, str]) -> Attack:
    async def attack(attacker: Attacker) -> None:
        for body, header in bodies:
            await attacker.post(body, *filter(None, [header]))
            await asyncio.sleep(_PAUSE_S)

    return attack


async def _endless(attacker: Attacker) -> None:
    async def stream(writer: asyncio.StreamWriter) -> None:
        for _ in range(_GIGABYTE // len(_PIECE)):
            writer.write(_PIECE)
            await writer.drain()

    async def chunks(writer: asyncio.StreamWriter) -> None:
        for _ in range(_GIGABYTE // len(_PIECE)):
            writer.write(b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE))
            await writer.drain()

    await attacker.send(_head(f"Content-Length: {_GIGABYTE}"), stream)
    await asyncio.sleep(_PAUSE_S)
    await attacker.send(_head("Transfer-Encoding: chunked"), chunks)
    await asyncio.sleep(_PAUSE_S)


async def _stubborn(attacker: Attacker) -> None:
    """Go on sending a gigabyte after the answer."""
    with suppress(OSError):
        _, writer = await attacker.connect()
        writer.write(_head(f"Content-Length: {_GIGABYTE}").encode())
        try:
            async with asyncio.timeout(20):
                for _ in range(_GIGABYTE // len(_PIECE)):
                    writer.write(_PIECE)
                    await writer.drain()
        except TimeoutError:
            attacker.answers["still taken"] += 1
        finally:
            writer.transport.abort()
    attacker.answers["closed"] += 1


async def _slow_head(attacker: Attacker) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        for number in range(600):
            await asyncio.sleep(0.5)
            writer.write(b"X-%d: y\r\n" % number)

    await attacker.send(_head()[:-2], trickle)


async def _slow_body(attacker: Attacker) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        for _ in range(600):
            await asyncio.sleep(0.5)
            writer.write(b" ")

    await attacker.send(_head("Content-Length: 100000"), trickle)


async def _idle(attacker: Attacker) -> None:
    with suppress(OSError):
        reader, writer = await attacker.connect()
        try:
            await reader.read()  # until the engine has enough of it
        finally:
            writer.transport.abort()
    attacker.answers["closed"] += 1
    await asyncio.sleep(random.uniform(0, 2))


def _bombs() -> Attack:
    zeros = bytes(2**27)
    layered = gzip.compress(gzip.compress(zeros, 1))
    many = gzip.compress(bytes(2**20)) * 2000
    # Each frame is a block of 128 KiB in a few bytes.
    frames = zstandard.compress(bytes(2**17)) * 100_000
    return _repeated(
        (gzip.compress(zeros, 9), "Content-Encoding: gzip"),
        (zstandard.compress(zeros), "Content-Encoding: zstd"),
        (layered, "Content-Encoding: gzip"),
        (many, "Content-Encoding: gzip"),
        (frames, "Content-Encoding: zstd"),
    )


def _deep() -> Attack:
    depth = 100_000
    now = datetime.now(UTC).isoformat()
    reading = json.dumps({"meterId": "deep", "kwhConsumedAc": 1, "timestamp": now})[:-1]
    arrays = f'{reading}, "x": {"[" * depth}{"]" * depth}}}'.encode()
    objects = f'{reading}, "x": {(chr(123) + chr(34) + "a" + chr(34) + ":") * depth}1'
    objects_body = f"[{objects}{'}' * depth}}}]".encode()
    return _repeated(
        (b"[" + arrays + b"]", ""), (objects_body, ""), (b"[" * depth + b"]" * depth, "")
    )


def _tiny() -> Attack:
    million = 10**6
    return _repeated(
        (b"[" + b"{}," * (million - 1) + b"{}]", ""),
        (b"[" + b"1," * (million - 1) + b"1]", ""),
        (b"[" + b'{"meterId":"a"},' * (million - 1) + b"{}]", ""),
        (gzip.compress(b"[" + b"{}," * (million - 1) + b"{}]"), "Content-Encoding: gzip"),
    )


ATTACKS: dict[str, tuple[int, Callable[[], Attack]]] = {
    "zip bomb": (2, _bombs),
    "1 GB body": (4, lambda: _endless),
    "1 GB body, stubborn": (4, lambda: _stubborn),
    "100,000 deep": (4, _deep),
    "million tiny records": (2, _tiny),
    "idle connections": (5000, lambda: _idle),
    "slow headers": (500, lambda: _slow_head),
    "slow bodies": (500, lambda: _slow_body),
}
"""How many attackers at once, and what each does again and again."""
EXPECTED = {
    "zip bomb": {"413", "400"},
    "1 GB body": {"413"},
    "1 GB body, stubborn": set(),
    "100,000 deep": {"400"},
    "million tiny records": {"413"},
    "idle connections": set(),
    "slow headers": {"408"},
    "slow bodies": {"408"},
}
"""What attackers may get, besides 503 and a connection that is closed."""


async def attack(name: str, port: int, seconds: float, scale: float = 1.0) -> Counter[str]:
    """Say that all is prepared, attack an engine for some time, return what attackers got."""
    count, make = ATTACKS[name]
    answers: Counter[str] = Counter()
    once = make()
    print("ready", flush=True)

    async def again_and_again() -> None:
        attacker = Attacker(port, answers)
        try:
            while True:
                await once(attacker)
        except asyncio.CancelledError:
            answers["under way"] += 1
            raise

    attackers = [asyncio.create_task(again_and_again()) for _ in range(max(1, int(count * scale)))]
    await asyncio.sleep(seconds)
    for each in attackers:
        each.cancel()
    await asyncio.gather(*attackers, return_exceptions=True)
    return answers


def main() -> None:
    """Attack as told by the command line, behind everything else that wants to run."""
    os.nice(19)  # an attacker's own work is done on another machine
    name, port, seconds, scale = sys.argv[1:]
    print(json.dumps(asyncio.run(attack(name, int(port), float(seconds), float(scale)))))


if __name__ == "__main__":
    raise_open_files()
    main()
