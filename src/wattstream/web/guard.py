"""Who may pass: every request is asked for its key here, before anything is done for it.

What an endpoint needs follows from its method and path alone, so one that is new is never open by
mistake: reading needs `read`, changing needs `admin`, and only what is named here needs less.
"""

import re
from collections.abc import Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from wattstream.caller import Caller
from wattstream.domain.access import Key, Scope
from wattstream.domain.errors import (
    ForbiddenError,
    RateLimitedError,
    UnauthorizedError,
    WattstreamError,
)
from wattstream.domain.units import rfc3339
from wattstream.query.keyring import Keyring

INGEST_PATHS = frozenset({"/v1/ingest", "/v1/ingest/batch"})
LOGIN_PATH = "/login"
LOGOUT_PATH = "/logout"
COOKIE = "wattstream_session"
# What tells nothing of what is held: probes, the way in, and the documentation.
_OPEN = frozenset(
    {"/v1/health", "/v1/health/live", LOGIN_PATH, LOGOUT_PATH, "/openapi.json", "/docs"}
)
_OPEN_BELOW = ("/static/", "/static-offline-docs/", "/docs/")
# What is about the whole engine, and cannot be cut to some of its devices.
_WHOLE = frozenset(
    {
        "/metrics",
        "/v1/analytics/stats",
        "/v1/analytics/refresh",
        "/v1/rejections/counts",
        "/v1/audit",
        "/ingest",
        "/pages/ingest.json",
    }
)
_ADMIN = frozenset({"/v1/audit"})
_ADDRESS = re.compile(r"[0-9.]+|\[[0-9a-f:.%]+\](:[0-9]*)?")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

_NOBODY = Caller()

_Scope = MutableMapping[str, Any]


def needed(method: str, path: str) -> Scope | None:
    """Return the scope that a request needs; None where it needs no key."""
    if path in _OPEN or path.startswith(_OPEN_BELOW):
        return None
    if path in INGEST_PATHS:
        return Scope.INGEST
    return Scope.READ if method in _READING and path not in _ADMIN else Scope.ADMIN


def is_act(method: str, path: str) -> bool:
    """Return whether a request is an administrative act, which is written down."""
    return method not in _READING and needed(method, path) is Scope.ADMIN


class Guard:
    """Lets requests pass that come with a key for what they want."""

    def __init__(self, keyring: Keyring, *, is_public: bool = True) -> None:
        """Take the keys; not `is_public`: without any, only this machine is to be answered."""
        self._keyring = keyring
        self._is_public = is_public

    async def admit(self, scope: _Scope) -> Caller:
        """Return who asks.

        Raises:
            UnauthorizedError: A key is needed, and there is none that is valid.
            ForbiddenError: The key does not allow it; or, where no key is asked for, a browser was
                led here by a name of another site.
            RateLimitedError: The key's requests come too fast.
            StoreUnavailableError: The key is not known, and the database does not answer.
        """
        address = scope["client"][0] if scope.get("client") else None
        if self._keyring.is_open:
            if not self._is_public:
                _check_local(scope["headers"])
            return Caller(None, address)
        wanted = needed(scope["method"], scope["path"])
        headers = scope["headers"]
        text = _sent(headers)
        if wanted is None:
            return Caller(await self._known(text), address)
        if text is None:
            raise UnauthorizedError(
                "a key is needed: send it as `Authorization: Bearer wattstream_…`; "
                "`wattstream keys create` makes one, and a browser signs in at /login"
            )
        key = self.valid(await self._keyring.holder(text))
        _check_allowed(key, wanted, scope["path"])
        if (wait_s := self._keyring.wait_s(key)) > 0:
            raise RateLimitedError(
                f"the key {key.name!r} allows {key.requests_per_s:g} requests a second",
                retry_after_s=max(1, round(wait_s)),
            )
        return Caller(key, address)

    def writer(self, authorization: bytes | None) -> Caller | None:
        """Return who writes readings of any device, as far as is known at once.

        That counts as a request of the key. Where it is not known, `admit` finds out, or says why.

        Args:
            authorization: The header of that name, or None.
        """
        if self._keyring.is_open:
            return _NOBODY
        token = None if authorization is None else _bearer(authorization)
        key = None if token is None else self._keyring.known_holder(token)
        is_admitted = (
            key is not None
            and key.is_valid(self._keyring.clock_us())
            and key.allows(Scope.INGEST)
            and key.reach.is_whole
            and self._keyring.wait_s(key) == 0
        )
        return Caller(key) if is_admitted else None

    def valid(self, key: Key | None) -> Key:
        """Return a key that is known and valid.

        Raises:
            UnauthorizedError: It is not.
        """
        if key is None:
            raise UnauthorizedError(
                "the key is not known here; `wattstream keys list` shows which are",
                code="key_unknown",
            )
        if not key.is_valid(self._keyring.clock_us()):
            is_revoked = key.revoked_at_us <= key.expires_at_us
            ended_us = min(key.revoked_at_us, key.expires_at_us)
            verb = "was revoked" if is_revoked else "expired"
            raise UnauthorizedError(
                f"the key {key.name!r} {verb} at {rfc3339(ended_us)}; "
                "`wattstream keys create` makes another",
                code="key_revoked" if is_revoked else "key_expired",
            )
        return key

    async def _known(self, text: str | None) -> Key | None:
        """Return a key that is shown where none is needed, if it is valid."""
        if text is None:
            return None
        try:
            return self.valid(await self._keyring.holder(text))
        except WattstreamError:
            return None


def _check_local(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Check that a request does not come by a name that the whole world may point at this machine.

    A page of another site that lets its name resolve to 127.0.0.1 (DNS rebinding) is this engine's
    own page, as browsers see it. Public names have a dot, and are no addresses.

    Raises:
        ForbiddenError: It does.
    """
    host = next((value for name, value in headers if name == b"host"), b"")
    name = host.decode("latin-1").lower().removesuffix(".")
    if "[" not in name:
        name = name.partition(":")[0].removesuffix(".")
    if "." in name and not name.endswith(".localhost") and not _ADDRESS.fullmatch(name):
        raise ForbiddenError(
            f"without keys, only requests to this machine's own names are answered, not to "
            f"{name[:100]!r}: use localhost or the address, make a key with `wattstream keys "
            "create`, or set WATTSTREAM_ALLOW_OPEN=yes",
            code="host_unknown",
        )


def _check_allowed(key: Key, wanted: Scope, path: str) -> None:
    """Check that a key allows what a request wants.

    Raises:
        ForbiddenError: It does not.
    """
    if not key.allows(wanted):
        has = ", ".join(sorted(key.scopes))
        raise ForbiddenError(
            f"this needs a key with the scope {wanted}, and {key.name!r} has {has}",
            code="scope_missing",
        )
    if path in _WHOLE and not key.reach.is_whole:
        raise ForbiddenError(
            f"{path} is about all devices, and the key {key.name!r} is bound to {key.reach}",
            code="key_bound",
        )


def _sent(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the token that a request came with, or None.

    Raises:
        UnauthorizedError: It came with a header that holds none.
    """
    cookies = None
    for name, value in headers:
        if name == b"authorization":
            token = _bearer(value)
            if token is None:
                raise UnauthorizedError(
                    "Authorization must be `Bearer wattstream_…`", code="key_unknown"
                )
            return token
        if name == b"cookie":
            cookies = value.decode("latin-1")
    if cookies is None or COOKIE not in cookies:
        return None
    try:
        found = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _bearer(authorization: bytes) -> str | None:
    """Return the token of a header, or None where it holds none."""
    scheme, _, token = authorization.decode("latin-1").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
