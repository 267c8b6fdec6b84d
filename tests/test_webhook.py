"""The webhook against a real web server: signed, in order, again until it is taken."""

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from test_watch import MINUTE, NOW, opened, vehicle
from wattstream.domain.units import DAY_US, MICRO
from wattstream.watch import Watch, Webhook

SECRET = "a secret of the tests"
Json = dict[str, Any]


class Receiver:
    """A web server that takes posts, or refuses them."""

    def __init__(self) -> None:
        self.bodies: list[Json] = []
        self.signatures: list[tuple[str, bytes]] = []
        self.status = 200
        received = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.bodies.append(json.loads(body))
                received.signatures.append((self.headers["X-Wattstream-Signature"], body))
                self.send_response(received.status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


def is_signed(signature: str, body: bytes, at_us: int) -> bool:
    """Return whether a receiver that follows the documentation would believe a post."""
    parts = dict(part.split("=", 1) for part in signature.split(","))
    wanted = hmac.new(SECRET.encode(), f"{parts['t']}.".encode() + body, hashlib.sha256)
    return parts["t"] == str(at_us // MICRO) and parts["v1"] == wanted.hexdigest()


def test_an_event_is_tried_until_it_is_taken_and_in_order(
    conninfo: str, receiver: Receiver
) -> None:
    async def main() -> None:
        async with opened(conninfo) as store:
            watch = Watch(store.alerts, notify=True)
            await vehicle(store, "V", NOW - MINUTE, NOW, 0.0, temp_c=60)
            await watch.look(NOW)
            await vehicle(store, "V", NOW, NOW + MINUTE, 0.0, temp_c=20)
            await watch.look(NOW + 1)
            receiver.status = 503
            times = [0, 14, 15, 44, 45]
            for seconds in times:
                # A new one each time: nothing rests on what an engine has in memory.
                webhook = Webhook(store.alerts, receiver.url, SECRET)
                assert await webhook.deliver(NOW + 1 + seconds * MICRO) == 0
                await webhook.close()
            assert len(receiver.bodies) == 3  # after 0, 15 and 30 seconds more
            receiver.status = 204
            webhook = Webhook(store.alerts, receiver.url, SECRET)
            late = NOW + 1 + 200 * MICRO
            assert await webhook.deliver(late) == 2
            assert await webhook.deliver(late + DAY_US) == 0
            await webhook.close()
            events = [(body["eventId"], body["event"]) for body in receiver.bodies]
            first = events[0][0]
            assert events == [(first, "opened")] * 4 + [(events[-1][0], "resolved")]
            assert receiver.bodies[0] == receiver.bodies[3]
            assert is_signed(*receiver.signatures[-1], late)
            assert len({signature for signature, _ in receiver.signatures[:4]}) == 4

    asyncio.run(main())


def test_an_event_that_nobody_takes_is_given_up_after_a_day(
    conninfo: str, receiver: Receiver
) -> None:
    async def main() -> None:
        async with opened(conninfo) as store:
            await vehicle(store, "V", NOW - MINUTE, NOW, 0.0, temp_c=60)
            await Watch(store.alerts, notify=True).look(NOW)
            receiver.stop()
            webhook = Webhook(store.alerts, receiver.url, SECRET)
            assert await webhook.deliver(NOW) == 0
            assert await webhook.deliver(NOW + DAY_US - 1) == 0
            assert await store.alerts.claim_events(NOW + DAY_US, 10) == []  # put off for an hour
            assert await webhook.deliver(NOW + DAY_US + DAY_US // 24) == 0
            assert await store.alerts.claim_events(NOW + 3 * DAY_US, 10) == []
            await webhook.close()

    asyncio.run(main())


def test_nothing_waits_for_a_webhook_that_is_not_set(conninfo: str) -> None:
    async def main() -> None:
        async with opened(conninfo) as store:
            await vehicle(store, "V", NOW - MINUTE, NOW, 0.0, temp_c=60)
            await Watch(store.alerts).look(NOW)
            assert await store.alerts.claim_events(NOW, 10) == []

    asyncio.run(main())
