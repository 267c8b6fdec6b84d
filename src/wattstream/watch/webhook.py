"""Openings and resolutions told to a URL: signed, in order, until they are taken or a day old."""

import asyncio
import hashlib
import hmac
import json
from typing import Any

import httpx
import structlog

import wattstream
from wattstream.domain.units import DAY_US, MICRO, rfc3339
from wattstream.store.alert_port import AlertStore, Event

SIGNATURE = "X-Wattstream-Signature"
_AT_ONCE = 8
_TIMEOUT_S = 10.0  # less than the first pause before another attempt
_GIVE_UP_US = DAY_US

_log = structlog.get_logger()


class Webhook:
    """Posts events to a URL. Every event arrives at least once; its `eventId` tells a repeat.

    Args:
        store: Keeps events until they are taken, also while no engine runs.
        url: Where to post.
        secret: Key of the signature.
    """

    def __init__(self, store: AlertStore, url: str, secret: str) -> None:
        self._store = store
        self._url = url
        self._secret = secret.encode()
        self._client = httpx.AsyncClient(
            timeout=_TIMEOUT_S, headers={"User-Agent": f"wattstream/{wattstream.__version__}"}
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def deliver(self, now_us: int) -> int:
        """Post every event that is due; return how many were taken.

        Raises:
            StoreUnavailableError: The database is away.
        """
        taken = 0
        while events := await self._store.claim_events(now_us, _AT_ONCE):
            failures = await asyncio.gather(*(self._post(event, now_us) for event in events))
            for event, failure in zip(events, failures, strict=True):
                if failure is None:
                    taken += 1
                    await self._store.drop_event(event.event_id)
                elif now_us - event.created_at_us >= _GIVE_UP_US:
                    await self._store.drop_event(event.event_id)
                    _log.error(
                        "The webhook did not take an event for a day; it is given up",
                        event_id=event.event_id,
                        alert_id=event.alert.alert_id,
                        why=failure,
                    )
            if any(failures):
                missed = sum(failure is not None for failure in failures)
                why = next(failure for failure in failures if failure)
                _log.warning("The webhook did not take events; they wait", events=missed, why=why)
                break
        return taken

    async def _post(self, event: Event, now_us: int) -> str | None:
        """Post an event; return why it was not taken, or None."""
        body = json.dumps(_payload(event), ensure_ascii=False).encode()
        headers = {
            "Content-Type": "application/json",
            SIGNATURE: signature(self._secret, now_us // MICRO, body),
        }
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                self._client.stream("POST", self._url, content=body, headers=headers) as answer,
            ):
                return None if answer.is_success else f"HTTP status {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            return type(error).__name__  # its text may hold the URL, and with it a secret


def signature(secret: bytes, at_s: int, body: bytes) -> str:
    """Return the header that proves who sent a body, and when.

    Args:
        secret: Key.
        at_s: Time of the attempt, seconds since 1970.
        body: As sent.
    """
    digest = hmac.new(secret, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def _payload(event: Event) -> dict[str, Any]:
    alert = event.alert
    shown: dict[str, Any] = {
        "alertId": alert.alert_id,
        "kind": alert.kind,
        "type": alert.stream,
        "id": alert.device,
        "openedAt": rfc3339(alert.opened_at_us),
        "evidence": alert.evidence,
    }
    # The opening tells the same however late it is told.
    if event.name == "resolved" and alert.resolved_at_us is not None:
        shown["resolvedAt"] = rfc3339(alert.resolved_at_us)
        shown["resolution"] = alert.resolution
    return {
        "eventId": event.event_id,
        "event": event.name,
        "at": rfc3339(event.created_at_us),
        "alert": shown,
    }
