"""Who may do what: keys, their scopes, and how far each reaches.

A token is `wattstream_<prefix>_<secret>`. The prefix names the key and is no secret; of the
secret, 256 random bits, only its SHA-256 is kept.
"""

import enum
import hashlib
import hmac
import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from wattstream.domain.links import FOREVER_US

TOKEN_START = "wattstream"  # noqa: S105 - what every token begins with
PREFIX_LENGTH = 12
MAX_STARS = 4
"""Stars in a pattern of ids: matching takes longer with each."""
_TOKEN = re.compile(rf"{TOKEN_START}_([a-z2-7]{{{PREFIX_LENGTH}}})_([A-Za-z0-9_-]{{43}})")
_NO_DIGEST = bytes(32)


class Scope(enum.StrEnum):
    """What a key lets its holder do."""

    INGEST = "ingest"  # send readings
    READ = "read"  # see what is held
    ADMIN = "admin"  # change devices, links and alerts; and all of the above


@dataclass(frozen=True, slots=True)
class Reach:
    """The devices that a key is bound to; all that is named must hold.

    Attributes:
        fleet: Those with this fleet label; None: of any, or of none.
        devices: Those whose id matches, `*` for any characters and `?` for one; None: any id.
    """

    fleet: str | None = None
    devices: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it holds every device."""
        return self.fleet is None and self.devices is None

    def admits(self, external_id: str, fleet: str | None) -> bool:
        """Return whether it holds a device of this id and label."""
        return self.admits_id(external_id) and self.fleet in {None, fleet}

    def admits_id(self, external_id: str) -> bool:
        """Return whether a device of this id can be within it, whatever its label."""
        return self.devices is None or _matcher(self.devices).fullmatch(external_id) is not None

    def __str__(self) -> str:
        """Return it as people read it."""
        parts = [] if self.fleet is None else [f"fleet {self.fleet!r}"]
        parts += [] if self.devices is None else [f"devices {self.devices!r}"]
        return " and ".join(parts) or "all devices"


WHOLE = Reach()


@cache
def _matcher(pattern: str) -> re.Pattern[str]:
    signs = {"*": ".*", "?": "."}
    return re.compile("".join(signs.get(sign, re.escape(sign)) for sign in pattern), re.DOTALL)


@dataclass(frozen=True, slots=True)
class Key:
    """A key, or the session of a browser that signed in with one.

    Attributes:
        prefix: Its public name.
        digest: SHA-256 of its secret, 32 bytes.
        name: What it is for, in its maker's words.
        created_at_us: Microseconds, as the next two.
        expires_at_us: From then on it is void; FOREVER_US: never.
        revoked_at_us: Since then it is void; FOREVER_US: it is not.
        requests_per_s: Most requests a second, or None for no limit.
        parent: Prefix of the key that a session was begun with; None for a key.
    """

    prefix: str
    digest: bytes
    name: str
    scopes: frozenset[Scope]
    reach: Reach
    created_at_us: int
    expires_at_us: int = FOREVER_US
    revoked_at_us: int = FOREVER_US
    requests_per_s: float | None = None
    parent: str | None = None

    def is_valid(self, now_us: int) -> bool:
        """Return whether it may be used at a time."""
        return now_us < self.expires_at_us and now_us < self.revoked_at_us

    def allows(self, scope: Scope) -> bool:
        """Return whether it lets its holder do that."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class Token(NamedTuple):
    """A token in its parts."""

    prefix: str
    secret: str

    def __str__(self) -> str:
        """Return what its holder sends."""
        return f"{TOKEN_START}_{self.prefix}_{self.secret}"


def parse_token(text: str) -> Token | None:
    """Return a token in its parts, or None where the text is none."""
    match = _TOKEN.fullmatch(text)
    return None if match is None else Token(match[1], match[2])


def digest_of(secret: str) -> bytes:
    """Return what is kept of a secret: 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).digest()


def is_holder(token: Token, key: Key | None) -> bool:
    """Return whether a token is of a key, in a time that does not tell how near it is."""
    kept = _NO_DIGEST if key is None else key.digest
    return hmac.compare_digest(digest_of(token.secret), kept) and key is not None


@dataclass(frozen=True, slots=True)
class Act:
    """An administrative act.

    Attributes:
        at_us: When it was asked for, microseconds.
        who: Prefix and name of the key, or who else.
        address: Of the client, or None.
        act: Method and path, or command.
        detail: The body, or what else was asked for; None for nothing.
        request_id: Of the request, or None.
    """

    at_us: int
    who: str
    address: str | None
    act: str
    detail: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class KeptAct:
    """An act as listed.

    Attributes:
        audit_id: Rising.
        status: HTTP status of its answer; None where the engine ended before that.
    """

    audit_id: int
    act: Act
    status: int | None
