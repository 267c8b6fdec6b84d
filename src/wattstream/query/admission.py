"""Which devices a key may write."""

import time
from collections.abc import Sequence

from wattstream.domain.access import Reach
from wattstream.domain.readings import Stream
from wattstream.store.port import Records

_KNOWN_S = 10.0


class Admission:
    """Tells which devices a key may write; a changed fleet label is known after ten seconds."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._known: dict[tuple[Stream, Reach], tuple[float, set[str]]] = {}

    async def admitted(self, reach: Reach, stream: Stream, ids: Sequence[str]) -> set[str]:
        """Return what holds those of some outside ids that are within a reach, and others."""
        kind, now_s = (stream, reach), time.monotonic()
        if kind not in self._known or now_s >= self._known[kind][0]:
            self._known = {of: each for of, each in self._known.items() if now_s < each[0]}
            self._known[kind] = (now_s + _KNOWN_S, set())
        known = self._known[kind][1]
        if not known.issuperset(ids):
            found = {name for name in set(ids) - known if reach.admits_id(name)}
            if reach.fleet is not None and found:
                async with self._records.snapshot() as snapshot:
                    found = await snapshot.of_fleet(stream, reach.fleet, sorted(found))
            known |= found
        return known
