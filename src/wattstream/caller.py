"""Who asks: the key of the request under way, known wherever its work is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from wattstream.domain.access import WHOLE, Key, Reach


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        key: What the request came with; None where none is needed.
        address: Of the client, or None.
    """

    key: Key | None = None
    address: str | None = None

    @property
    def reach(self) -> Reach:
        """The devices that may be seen and written."""
        return WHOLE if self.key is None else self.key.reach

    @property
    def prefix(self) -> str | None:
        """Public name of the key, or of the one that the session was begun with."""
        return None if self.key is None else self.key.parent or self.key.prefix

    @property
    def who(self) -> str:
        """Who it is, for the audit log."""
        return "nobody named" if self.key is None else f"{self.prefix} {self.key.name}"


_ENGINE = Caller()
_caller: ContextVar[Caller] = ContextVar("wattstream_caller", default=_ENGINE)
caller = _caller.get
"""Return who asks; the engine itself outside of any request."""


@contextmanager
def asked_by(who: Caller) -> Iterator[None]:
    """Let it be known who asks, until the request is answered."""
    token = _caller.set(who)
    try:
        yield
    finally:
        _caller.reset(token)
