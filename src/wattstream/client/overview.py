"""How an engine and its fleet are, asked again and again."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from wattstream.client.counters import Counters
from wattstream.client.credentials import authorization
from wattstream.client.sender import KEY_STATUSES, message_of, no_engine, no_key
from wattstream.domain.errors import OperatorError

SHOWN_SILENT = 10
_TIMEOUT = httpx.Timeout(10, connect=3)
# What changes with every heartbeat is asked for each time, the rest less often.
_FLEET_EVERY_S = 10.0
_PAGE, _MOST_PAGES = 1000, 5


@dataclass(frozen=True, slots=True)
class Silent:
    """A device with an open alert for silence, and how long nothing was heard of it, s."""

    type: str
    id: str
    quiet_s: float


@dataclass(slots=True)
class Fleet:
    """The fleet over its usual window of a day.

    Attributes:
        devices: How many, by type.
        ac_kwh: None without meters.
        efficiency: Fraction; None where it is not known.
        silent: Longest first.
        silent_count: How many there are; at least so many where there are very many.
    """

    devices: dict[str, int] = field(default_factory=dict)
    ac_kwh: float | None = None
    dc_kwh: float = 0.0
    efficiency: float | None = None
    silent: list[Silent] = field(default_factory=list)
    silent_count: int = 0


@dataclass(frozen=True, slots=True)
class Overview:
    """One look.

    Attributes:
        fleet: As of the last seconds.
        counters: Since the engine's start.
        lately: What was counted since the look before, or a second ago.
        passed_s: How long that is.
    """

    fleet: Fleet
    counters: Counters
    lately: Counters
    passed_s: float

    def rate(self, name: str) -> float:
        """Return how much a counter rose a second."""
        return self.lately.total(name) / self.passed_s


class Observer:
    """Looks at one engine."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Prepare to ask the engine at `url`, with the key that it may ask for."""
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, timeout=_TIMEOUT, headers=authorization(key))
        self._fleet = Fleet()
        self._fleet_due_s = 0.0
        self._before: tuple[float, Counters] | None = None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def look(self) -> Overview:
        """Return how things are; the first look takes a second, for rates need two.

        Raises:
            OperatorError: No engine answers, or it cannot.
        """
        if self._before is None:
            self._before = self._scrape()
            time.sleep(1)
        if time.monotonic() >= self._fleet_due_s:
            self._fleet = self._ask_fleet()
            self._fleet_due_s = time.monotonic() + _FLEET_EVERY_S
        (before_s, before), (now_s, now) = self._before, self._scrape()
        self._before = now_s, now
        return Overview(self._fleet, now, now.since(before), max(now_s - before_s, 1e-3))

    def _scrape(self) -> tuple[float, Counters]:
        text = self._get("/metrics").text
        try:
            return time.monotonic(), Counters.parse(text)
        except ValueError as error:
            raise OperatorError(f"{self.url} is not a Wattstream engine.") from error

    def _ask_fleet(self) -> Fleet:
        stats = self._get("/v1/analytics/stats").json()
        fleet = self._get("/v1/analytics/fleet").json()
        silent = self._silent()
        return Fleet(
            {kind: held["devices"] for kind, held in stats.items()},
            fleet["totalAc"],
            fleet["totalDc"],
            fleet["efficiency"],
            silent[:SHOWN_SILENT],
            len(silent),
        )

    def _silent(self) -> list[Silent]:
        """Return silent devices, the longest first."""
        found: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            wanted = {"state": "open", "kind": "silent", "limit": str(_PAGE), **after}
            page = self._get("/v1/alerts", **wanted).json()
            found += page["alerts"]
            if page["next"] is None:
                break
            after = {"after": str(page["next"])}
        now = datetime.now(UTC)
        quiet = [
            Silent(
                alert["type"],
                alert["id"],
                (now - datetime.fromisoformat(alert["evidence"]["lastReceivedAt"])).total_seconds(),
            )
            for alert in found
        ]
        return sorted(quiet, key=lambda device: -device.quiet_s)

    def _get(self, path: str, **params: str) -> httpx.Response:
        try:
            response = self._client.get(path, params=params)
        except httpx.TransportError as error:
            raise no_engine(self.url, error) from error
        if response.status_code in KEY_STATUSES:
            raise no_key(self.url, response)
        if not response.is_success:
            raise OperatorError(f"{self.url} cannot answer {path}: {message_of(response)}")
        return response
