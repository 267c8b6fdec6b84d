"""What guards may ask of a store: keys and sessions, and the audit log."""

from collections.abc import Sequence
from typing import Protocol

from wattstream.domain.access import Act, KeptAct, Key


class AccessStore(Protocol):
    """Where keys are kept; its methods raise StoreUnavailableError."""

    async def changes(self) -> int:
        """Return a number that every change of the keys counts up."""

    async def keys(self) -> tuple[int, list[Key]]:
        """Return all keys and sessions, oldest first, and the number of `changes` they are of."""

    async def add(self, key: Key) -> None:
        """Add a key or a session; sessions that are over are dropped."""

    async def revoke(self, prefix: str, now_us: int) -> Sequence[str]:
        """Revoke a key with its sessions, or a session.

        Returns:
            The prefixes revoked now; none where there is no such key, or it was revoked before.
        """

    async def begin_act(self, act: Act) -> int:
        """Write an act down before it is done; return its number."""

    async def end_act(self, audit_id: int, status: int) -> None:
        """Write down how an act ended."""

    async def acts(self, before: int, limit: int) -> list[KeptAct]:
        """Return up to `limit` acts with numbers below `before`, newest first."""
