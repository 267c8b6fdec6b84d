"""Keys, sessions and the audit log in PostgreSQL."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from wattstream.domain.access import Act, KeptAct, Key, Reach, Scope
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.connections import Connection, Worker

Result = TypeVar("Result")


class PostgresAccess:
    """An AccessStore on a connection of its own, so that no answer has to wait for another.

    Args:
        worker: Reads and writes; it is closed by its owner.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def changes(self) -> int:
        """Return a number that every change of the keys counts up."""
        return await self._run(_changes)

    async def keys(self) -> tuple[int, list[Key]]:
        """Return all keys and sessions, oldest first, and the number of `changes` they are of."""
        return await self._run(_keys)

    async def add(self, key: Key) -> None:
        """Add a key or a session; sessions that are over are dropped."""
        await self._run(partial(_add, key))

    async def revoke(self, prefix: str, now_us: int) -> Sequence[str]:
        """Revoke a key with its sessions, or a session; return the prefixes revoked now."""
        return await self._run(partial(_revoke, prefix, now_us))

    async def begin_act(self, act: Act) -> int:
        """Write an act down before it is done; return its number."""
        params = {
            "at": arrays.time_param(act.at_us),
            "who": act.who,
            "address": act.address,
            "act": act.act,
            "detail": act.detail,
            "request_id": act.request_id,
        }
        ((audit_id,),) = await self._run(partial(_fetch, "begin_act", params))
        return int(audit_id)

    async def end_act(self, audit_id: int, status: int) -> None:
        """Write down how an act ended."""
        await self._run(partial(_fetch, "end_act", {"audit_id": audit_id, "status": status}))

    async def acts(self, before: int, limit: int) -> list[KeptAct]:
        """Return up to `limit` acts with numbers below `before`, newest first."""
        rows = await self._run(partial(_fetch, "acts", {"before": before, "limit": limit}))
        return [KeptAct(number, Act(*act), status) for number, *act, status in rows]

    async def _run(self, work: Callable[[Connection], Result]) -> Result:
        return await self._worker.run(work)


def _fetch(name: str, params: dict[str, Any], connection: Connection) -> list[Any]:
    cursor = connection.execute(statements.load("access")[name], params, binary=True)
    return cursor.fetchall() if cursor.description else []


def _changes(connection: Connection) -> int:
    ((changes,),) = _fetch("changes", {}, connection)
    return int(changes)


def _keys(connection: Connection) -> tuple[int, list[Key]]:
    # The number first: a change in between is read again, never missed.
    changes = _changes(connection)
    return changes, [_key(row) for row in _fetch("keys", {}, connection)]


def _key(row: Sequence[Any]) -> Key:
    prefix, digest, name, scopes, fleet, devices, *rest = row
    reach = Reach(fleet, devices)
    return Key(prefix, bytes(digest), name, frozenset(map(Scope, scopes)), reach, *rest)


def _add(key: Key, connection: Connection) -> None:
    with connection.transaction():
        _fetch("changed", {}, connection)
        _fetch("drop_sessions", {"now": arrays.time_param(key.created_at_us)}, connection)
        params = {
            "prefix": key.prefix,
            "digest": key.digest,
            "name": key.name,
            "scopes": sorted(key.scopes),
            "fleet": key.reach.fleet,
            "devices": key.reach.devices,
            "created_at": arrays.time_param(key.created_at_us),
            "expires_at": arrays.time_param(key.expires_at_us),
            "requests_per_s": key.requests_per_s,
            "parent": key.parent,
        }
        _fetch("add", params, connection)


def _revoke(prefix: str, now_us: int, connection: Connection) -> list[str]:
    params = {"prefix": prefix, "now": arrays.time_param(now_us)}
    with connection.transaction():
        _fetch("changed", {}, connection)
        return [found for (found,) in _fetch("revoke", params, connection)]
