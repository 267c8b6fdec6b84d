"""Outside ids to device keys, with new devices registered on the way."""

from typing import Any

import numpy as np
import psycopg

from wattstream.domain.readings import Stream
from wattstream.domain.rollup import empty_live
from wattstream.domain.units import Int64
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.blocks import BLOCK_DEVICES, hot_params


class DeviceKeys:
    """The keys of one stream's devices, cached once their registration is committed."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._keys: dict[str, int] = {}
        self._sql = statements.load("registry", stream)

    def resolve(self, connection: psycopg.Connection[Any], ids: list[str]) -> Int64:
        """Return the key of each id, int64[n]; unknown ones are registered and committed first.

        Registration is a transaction of its own, in the order of ids: two engines that meet
        the same new devices wait for each other, and never in a circle.
        """
        key = self.known(ids)
        if key is None:
            wanted = sorted({device for device in ids if device not in self._keys})
            found = connection.execute(self._sql["block_keys"], {"ids": wanted})
            self._keys.update(found.fetchall())
            if new := [device for device in wanted if device not in self._keys]:
                self.register(connection, new)
            key = self.known(ids)
        assert key is not None  # noqa: S101 - they are registered now
        return key

    def made(self, connection: psycopg.Connection[Any], device: str) -> int:
        """Return the key of a device as the registry has it now; one that is new is made."""
        found = connection.execute(self._sql["keys"], {"ids": [device]}).fetchone()
        if found is None:
            self.register(connection, [device])
            return self._keys[device]
        return int(found[1])

    def known(self, ids: list[str]) -> Int64 | None:
        """Return the key of each id, int64[n], or None where one is not cached."""
        try:
            return np.fromiter(map(self._keys.__getitem__, ids), np.int64, len(ids))
        except KeyError:
            return None

    def forget(self) -> None:
        """Drop the cache, as after a restore that changed the registry."""
        self._keys.clear()

    def register(self, connection: psycopg.Connection[Any], new: list[str]) -> None:
        """Make devices with their empty live rows, in a transaction of its own."""
        with connection.transaction():
            connection.execute(self._sql["register"], {"ids": new})
            found = connection.execute(self._sql["keys"], {"ids": new}).fetchall()
            key = arrays.PgArray(np.array([row[1] for row in found], np.int32))
            empty = hot_params(empty_live(self._stream, BLOCK_DEVICES), self._stream)
            connection.execute(self._sql["make_hot"], {"device_id": key, **empty})
            connection.execute(self._sql["make_warm"], {"device_id": key})
        self._keys.update(found)
