"""History of many devices taken from an engine into one file, in constant memory."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from wattstream.client.archive import Archive
from wattstream.client.credentials import authorization
from wattstream.client.sender import KEY_STATUSES, message_of, no_engine, no_key, retry_after_s
from wattstream.domain.errors import OperatorError
from wattstream.domain.readings import Stream

_TIMEOUT = httpx.Timeout(120, connect=5)
_PATIENCE_S = 30.0
_WAIT_S = 0.5
_PAGE = 1000
# A request names so many devices that a fiftieth of all are done at a time, and its URL passes
# through any proxy.
_STEPS = 50
_MOST_DEVICES = 100
_MOST_URL = 6000


@dataclass(frozen=True, slots=True)
class Range:
    """What is taken of every device.

    Attributes:
        start: Inclusive, RFC 3339.
        end: Exclusive, RFC 3339.
        resolution: raw, 15m, 1h or 1d.
    """

    start: str
    end: str
    resolution: str


class Exporter:
    """Asks one engine."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Prepare to ask the engine at `url`, with the key that it may ask for."""
        self._url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=self._url, timeout=_TIMEOUT, headers=authorization(key)
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def devices(self, stream: Stream) -> list[str]:
        """Return the ids of all devices of a stream.

        Raises:
            OperatorError: The engine is away.
        """
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            wanted = {"type": str(stream), "after": after, "limit": str(_PAGE)}
            with self._answer("/v1/devices", wanted, "application/json") as response:
                response.read()
                page = response.json()
            found += [device["id"] for device in page["devices"]]
            after = page["next"]
        return found

    def export(
        self,
        stream: Stream,
        ids: Sequence[str],
        wanted: Range,
        archive: Archive,
        *,
        on_rows: Callable[[int], None],
        on_devices: Callable[[int], None],
    ) -> None:
        """Write the history of devices, at least one, one after the other.

        Args:
            stream: Of all of them.
            ids: In this order.
            wanted: Of each.
            archive: Where it goes; it is finished at the end.
            on_rows: Called with the rows of each piece.
            on_devices: Called with the devices that are done.

        Raises:
            OperatorError: The engine is away, broke off, or refuses what is asked.
        """
        same = {"start": wanted.start, "end": wanted.end, "resolution": wanted.resolution}
        for group in _groups(ids):
            params = {**same, "id": group}
            with self._answer(f"/v1/history/{stream}", params, archive.accept) as response:
                try:
                    for rows in archive.write(response.iter_bytes()):
                        on_rows(rows)
                except httpx.TransportError as error:
                    raise OperatorError(
                        f"{self._url} broke off in the middle; its log says why. "
                        "Nothing is kept: run the same command again."
                    ) from error
            on_devices(len(group))
        archive.finish()

    @contextmanager
    def _answer(
        self, path: str, params: Mapping[str, str | Sequence[str]], accept: str
    ) -> Iterator[httpx.Response]:
        """Ask until there is a successful answer; wait for an engine that is away or busy."""
        request = self._client.build_request("GET", path, params=params, headers={"Accept": accept})
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            wait_s = _WAIT_S
            try:
                response = self._client.send(request, stream=True)
            except httpx.TransportError as error:
                if time.monotonic() > deadline:
                    raise no_engine(self._url, error) from error
            else:
                try:
                    if response.is_success:
                        yield response
                        return
                    response.read()
                    if response.status_code in KEY_STATUSES:
                        raise no_key(self._url, response)
                    if response.status_code not in (429, 503) or time.monotonic() > deadline:
                        raise OperatorError(f"{self._url} refuses: {message_of(response)}")
                    wait_s = max(wait_s, retry_after_s(response))
                finally:
                    response.close()
            time.sleep(wait_s)


def _groups(ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield devices in parts, each for one request."""
    most = max(1, min(_MOST_DEVICES, len(ids) // _STEPS))
    group: list[str] = []
    size = 0
    for name in ids:
        # An octet of UTF-8 becomes up to three characters of a URL.
        length = len("&id=") + 3 * len(name.encode())
        if group and (len(group) == most or size + length > _MOST_URL):
            yield group
            group, size = [], 0
        group.append(name)
        size += length
    if group:
        yield group
