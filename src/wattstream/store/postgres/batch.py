"""The readings of a flush as rows sorted by device and time, and the verdict of each."""

from dataclasses import dataclass

import numpy as np

from wattstream.domain.readings import Kind, Readings
from wattstream.domain.rollup import Runs
from wattstream.domain.rows import begins
from wattstream.domain.units import Bool, Float64, Int64, Rows
from wattstream.store.port import Values, Verdict, Written
from wattstream.store.postgres.blocks import blocks_of


class Batch:
    """The rows of a flush, sorted by device and time, and what becomes of each.

    Attributes:
        devices: Keys of its devices, ascending, int64[m].
        blocks: Numbers of their blocks, ascending, int64[k].
        place: Place of each device in the rows of these blocks, int64[m].
        seg: Position of each row's device among them, int64[n].
        late: How many rows are not newer than their devices' newest.
    """

    def __init__(self, kind: Kind, readings: Readings, key: Int64) -> None:
        order = np.lexsort((readings.at_us, key))
        self._kind = kind
        self._order = order
        self.key = key[order]
        self.at_us = readings.at_us[order]
        self.ukwh = readings.energy_ukwh[order]
        self.values = readings.values[order]
        starts = begins(self.key)
        self.devices = self.key[starts]
        self.blocks, self.place = blocks_of(self.devices)
        self.seg = np.cumsum(starts) - 1
        same = (np.diff(self.key) == 0) & (np.diff(self.at_us) == 0)
        # The sort is stable: of one reading sent twice, the first to arrive comes first.
        self.is_first: Bool = np.concatenate([[True], ~same])
        self.is_stored = self.is_first.copy()
        self.late = 0
        self._verdicts = np.zeros(len(order), np.int8)
        self._standing: dict[int, Values] = {}

    def is_new(self, live: Rows) -> Bool:
        """Return which rows are newer than their devices' newest."""
        return np.asarray(self.at_us > live["last_at"][self.seg])

    def settle(self, held: "Held") -> None:
        """Give every row its verdict, given the first rows that history already holds."""
        if len(held.rows) == 0 and self.is_first.all():
            return  # what is usual: all new
        first_of = np.flatnonzero(self.is_first)[np.cumsum(self.is_first) - 1]
        ukwh, values = self.ukwh.copy(), self.values.copy()
        ukwh[held.rows], values[held.rows] = held.ukwh, held.values
        ukwh, values = ukwh[first_of], values[first_of]
        alike = (self.values == values) | (np.isnan(self.values) & np.isnan(values))
        is_same = (self.ukwh == ukwh) & alike.all(axis=1)
        self.is_stored[held.rows] = False
        self._verdicts = np.where(is_same, Verdict.DUPLICATE, Verdict.CONFLICT).astype(np.int8)
        self._verdicts[self.is_stored] = Verdict.STORED
        self._standing = {
            row: Values(int(ukwh[row]), tuple(values[row].tolist()))
            for row in np.flatnonzero(self._verdicts == Verdict.CONFLICT).tolist()
        }

    def runs(self, rows: Int64, live: Rows) -> tuple[Int64, Runs]:
        """Return some rows as one run a device, with copies of the devices' live rows.

        Returns:
            Positions of the devices in `live`, and the runs; their carry is not set.
        """
        seg = self.seg[rows]
        starts = begins(seg)
        devices, device = seg[starts], live.take(seg[starts])
        run = np.cumsum(starts) - 1
        return devices, Runs(
            self._kind,
            run,
            self.at_us[rows],
            self.ukwh[rows],
            self.values[rows],
            device,
            carry=device,
        )

    def all_runs(self, live: Rows) -> Runs:
        """Return all rows as one run a device."""
        return Runs(
            self._kind, self.seg, self.at_us, self.ukwh, self.values, device=live, carry=live
        )

    def outcome(self) -> Written:
        """Return the verdicts in the order of arrival."""
        verdicts = np.empty_like(self._verdicts)
        verdicts[self._order] = self._verdicts
        standing = {int(self._order[row]): held for row, held in self._standing.items()}
        return Written(verdicts, standing, late=self.late)


@dataclass(frozen=True, slots=True)
class Held:
    """Readings that history already holds: rows of the batch, and the values that stand."""

    rows: Int64
    ukwh: Int64
    values: Float64
