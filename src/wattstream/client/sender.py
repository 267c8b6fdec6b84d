"""Batches of readings to an engine over HTTP, several at a time, sent again until answered."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from wattstream.client.credentials import authorization
from wattstream.domain.errors import OperatorError

KEY_STATUSES = frozenset({401, 403})
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
_TIMEOUT = httpx.Timeout(60, connect=5)


@dataclass(frozen=True, slots=True)
class Batch:
    """One request.

    Attributes:
        body: A JSON array of readings, or NDJSON, or one reading.
        size: Readings in it.
        path: Endpoint.
        content_type: Of the body.
        origins: Where each record comes from, for messages; empty where that does not matter.
    """

    body: bytes
    size: int
    path: str = "/v1/ingest/batch"
    content_type: str = "application/json"
    origins: tuple[str, ...] = ()


@dataclass(slots=True)
class Totals:
    """What became of the readings sent so far.

    Attributes:
        retries: Requests sent again, which is safe: a reading is counted once.
        errors: First message by code.
        ack_s: Seconds to the answer of the latest requests.
    """

    sent: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    requests: int = 0
    retries: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    errors: dict[str, str] = field(default_factory=dict)
    ack_s: list[float] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float:
        """Return a percentile of the latest answers' times, ms; 0 where there are none."""
        ordered = sorted(self.ack_s)
        return 1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


class Sender:
    """Sends batches; `totals` is up to date at any time."""

    def __init__(
        self, url: str, *, connections: int, key: str | None = None, patience_s: float = 10.0
    ) -> None:
        """Prepare to send to the engine at `url`.

        Args:
            url: Base URL, such as http://127.0.0.1:8000.
            connections: Requests under way at once.
            key: What the engine may ask for.
            patience_s: How long the engine may be away before the sender gives up.
        """
        self.totals = Totals()
        self._url = url.rstrip("/")
        self._connections = connections
        self._patience_s = patience_s
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.AsyncClient(
            base_url=self._url, limits=limits, timeout=_TIMEOUT, headers=authorization(key)
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send_all(
        self, batches: AsyncIterable[Batch], on_answer: Callable[[int], None] = lambda _: None
    ) -> None:
        """Send batches as fast as they are answered, in their order of start.

        Args:
            batches: Taken only as fast as they can be sent.
            on_answer: Called with the readings of each answered request.

        Raises:
            OperatorError: The engine is away for longer than the sender's patience, or does
                not take such requests.
        """
        room = asyncio.Semaphore(self._connections)

        async def send(batch: Batch) -> None:
            try:
                await self.send(batch)
                on_answer(batch.size)
            finally:
                room.release()

        try:
            async with asyncio.TaskGroup() as tasks:
                async for batch in batches:
                    await room.acquire()
                    tasks.create_task(send(batch))
        except* OperatorError as group:
            raise group.exceptions[0] from None

    async def send(self, batch: Batch) -> None:
        """Send one batch until it is answered."""
        started = time.monotonic()
        wait_s = _FIRST_WAIT_S
        while True:
            sent = time.perf_counter()
            try:
                response = await self._client.post(
                    batch.path, content=batch.body, headers={"Content-Type": batch.content_type}
                )
            except httpx.TransportError as error:
                if time.monotonic() - started > self._patience_s:
                    raise no_engine(self._url, error) from error
            else:
                if response.status_code in KEY_STATUSES and b"device_forbidden" not in (
                    response.content
                ):
                    raise no_key(self._url, response)
                if response.status_code not in (429, 503):
                    self._count(batch, response, time.perf_counter() - sent)
                    return
                started = time.monotonic()
                wait_s = max(wait_s, retry_after_s(response))
            self.totals.retries += 1
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def put(self, path: str, body: dict[str, object]) -> None:
        """Change a setting at the engine.

        Raises:
            OperatorError: The engine is away or refuses it; the message says why.
        """
        try:
            response = await self._client.put(path, json=body)
        except httpx.TransportError as error:
            raise no_engine(self._url, error) from error
        if response.status_code in KEY_STATUSES:
            raise no_key(self._url, response)
        if not response.is_success:
            raise OperatorError(f"{self._url}{path} refused {body}: {message_of(response)}")

    async def check(self) -> None:
        """Return when the engine answers; wait for it up to the sender's patience.

        Raises:
            OperatorError: No engine answers at the URL.
        """
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                response = await self._client.get("/v1/health/live")
            except httpx.TransportError as error:
                if time.monotonic() > deadline:
                    raise no_engine(self._url, error) from error
                await asyncio.sleep(0.3)
                continue
            if response.is_success:
                return
            raise OperatorError(f"{self._url} is not a Wattstream engine.")

    def _count(self, batch: Batch, response: httpx.Response, ack_s: float) -> None:
        totals = self.totals
        totals.requests += 1
        totals.sent += batch.size
        totals.ack_s.append(ack_s)
        del totals.ack_s[:-2000]
        answer = _json(response)
        if "received" in answer:
            totals.stored += answer["stored"]
            totals.duplicates += answer["duplicates"]
            totals.rejected += answer["rejected"]
            for error in answer["errors"]:
                origin = batch.origins[error["index"]] if batch.origins else ""
                self._note(error["code"], f"{origin}{error['message']}")
            totals.codes["others"] += answer["rejected"] - len(answer["errors"])
        elif response.is_success:
            totals.stored += answer["stored"]
            totals.duplicates += not answer["stored"]
        else:
            totals.rejected += batch.size
            self._note(str(response.status_code), message_of(response), batch.size)

    def _note(self, code: str, message: str, count: int = 1) -> None:
        self.totals.codes[code] += count
        self.totals.errors.setdefault(code, message)


def no_key(url: str, response: httpx.Response) -> OperatorError:
    """Return the error for an engine that asks for another key."""
    return OperatorError(
        f"{url} refuses: {message_of(response)}\n"
        "The key that is sent is WATTSTREAM_KEY; `wattstream keys create` makes one."
    )


def no_engine(url: str, error: httpx.TransportError) -> OperatorError:
    """Return the error for an engine that does not answer."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return OperatorError(
            f"The certificate at {url} is not trusted here, or is not for that name ({error}). "
            "Name the PEM file of its authority with the variable SSL_CERT_FILE."
        )
    return OperatorError(
        f"No engine answers at {url}; start one with `wattstream serve`, "
        "or name another with --url."
    )


def retry_after_s(response: httpx.Response) -> float:
    """Return how long an engine that is busy asks to wait, s; 0 where it does not say."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def _json(response: httpx.Response) -> Any:
    try:
        return msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        return {}


def message_of(response: httpx.Response) -> str:
    """Return status and words of an answer that is no success."""
    answer = _json(response)
    error = answer.get("error") if isinstance(answer, dict) else None
    text = error.get("message") if isinstance(error, dict) else response.text[:200]
    return f"{response.status_code} {text}"
