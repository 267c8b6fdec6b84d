"""The keys of an engine's database in memory: who holds a token, and how fast may they ask."""

import asyncio
import base64
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from wattstream.domain.access import (
    PREFIX_LENGTH,
    Act,
    KeptAct,
    Key,
    Token,
    digest_of,
    is_holder,
    parse_token,
)
from wattstream.domain.errors import WattstreamError
from wattstream.store.access_port import AccessStore

_LOOK_EVERY_S = 1.0
_BURST_S = 5.0

_log = structlog.get_logger()


@dataclass(slots=True)
class _Bucket:
    """Requests that may be made at once, refilled with time."""

    tokens: float
    at_us: int


class Keyring:
    """Knows every key; another engine's or command's change is known within a second.

    Attributes:
        is_open: Whether nobody ever made a key, so that none is asked for.
    """

    def __init__(
        self, store: AccessStore, clock_us: Callable[[], int], *, engines: int = 1
    ) -> None:
        """Prepare; `engines` share the limits of each key, an equal part each."""
        self._store = store
        self.clock_us = clock_us
        self.is_open = False
        self._engines = engines
        self._keys: dict[str, Key] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._changes: int | None = None
        self._read_at_s = -1.0
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Read the keys where they changed.

        Raises:
            StoreUnavailableError: The database does not answer; what was known stays.
        """
        began_s = time.monotonic()
        if self._changes is None or await self._store.changes() != self._changes:
            self._changes, keys = await self._store.keys()
            self._keys = {key.prefix: key for key in keys}
            self.is_open = not keys
        self._read_at_s = began_s

    async def follow(self) -> None:
        """Keep up with changes until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self._catch_up()
            except WattstreamError:
                pass  # the outage is in the log; what is known stays
            except Exception:  # noqa: BLE001 - a bug must be seen, and keys still be followed
                _log.exception("Keys were not read; trying again")

    async def _catch_up(self) -> None:
        """Read what changed up to now, together with whoever asks for it meanwhile."""
        asked_s = time.monotonic()
        async with self._lock:
            if self._read_at_s < asked_s:
                await self.load()

    async def holder(self, text: str) -> Key | None:
        """Return the key that a token is of, valid or not; None where it is of none.

        A token that is not known is looked for in the database: it may be a moment old.

        Raises:
            StoreUnavailableError: It is not known, and the database does not answer.
        """
        token = parse_token(text)
        if token is None:
            return None
        key = self._held(token)
        if key is None:
            await self._catch_up()
            key = self._held(token)
        return key

    def known_holder(self, text: str) -> Key | None:
        """Return the key that a token is of, valid or not, where that is known by now."""
        token = parse_token(text)
        return None if token is None else self._held(token)

    def _held(self, token: Token) -> Key | None:
        key = self._keys.get(token.prefix)
        return self._settled(key) if is_holder(token, key) else None

    def admits(self, key: Key | None) -> bool:
        """Return whether who was let in with a key, or without any, still would be."""
        if key is None:
            return self.is_open
        found = self._settled(self._keys.get(key.prefix))
        return found is not None and found.is_valid(self.clock_us())

    def _settled(self, key: Key | None) -> Key | None:
        """Return a session with the end of its key, where that comes sooner."""
        if key is None or key.parent is None:
            return key
        parent = self._keys.get(key.parent)
        if parent is None:
            return None
        return replace(
            key,
            expires_at_us=min(key.expires_at_us, parent.expires_at_us),
            revoked_at_us=min(key.revoked_at_us, parent.revoked_at_us),
        )

    def wait_s(self, key: Key) -> float:
        """Count a request of a key; return how long it must wait, 0 where it need not.

        A key's requests fill a bucket of a few seconds, which empties at the key's rate.
        """
        if key.requests_per_s is None:
            return 0.0
        rate = key.requests_per_s / self._engines
        most = max(1.0, rate * _BURST_S)
        now_us = self.clock_us()
        name = key.parent or key.prefix
        bucket = self._buckets.setdefault(name, _Bucket(most, now_us))
        passed_s = max(0, now_us - bucket.at_us) / 1e6
        bucket.tokens = min(most, bucket.tokens + passed_s * rate)
        bucket.at_us = now_us
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / rate
        bucket.tokens -= 1
        return 0.0

    async def begin_act(self, act: Act) -> int:
        """Write an administrative act down before it is done; return its number."""
        return await self._store.begin_act(act)

    async def end_act(self, audit_id: int, status: int) -> None:
        """Write down how an act ended."""
        await self._store.end_act(audit_id, status)

    async def acts(self, before: int, limit: int) -> list[KeptAct]:
        """Return up to `limit` acts with numbers below `before`, newest first."""
        return await self._store.acts(before, limit)

    async def begin_session(self, key: Key, lasts_us: int) -> Token:
        """Let a browser act as the holder of a key for a while; return what it sends."""
        token = new_token()
        now_us = self.clock_us()
        session = replace(
            key,
            prefix=token.prefix,
            digest=digest_of(token.secret),
            created_at_us=now_us,
            expires_at_us=min(key.expires_at_us, now_us + lasts_us),
            parent=key.prefix,
        )
        await self._store.add(session)
        return token

    async def end_session(self, session: Key) -> None:
        """Void a session."""
        await self._store.revoke(session.prefix, self.clock_us())


def new_token() -> Token:
    """Return a token that nobody has: 60 random bits name it, 256 are its secret."""
    prefix = base64.b32encode(secrets.token_bytes(8)).decode().lower()[:PREFIX_LENGTH]
    return Token(prefix, secrets.token_urlsafe(32))
