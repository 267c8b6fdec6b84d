"""When the vehicles of a simulated fleet charge: what delays of alerts are counted in."""

import numpy as np

from wattstream.domain.units import BUCKET_US, Bool, Int64

_LEAST_UKWH = 10_000  # in a quarter-hour: 40 W


class Sessions:
    """Collects, quarter-hour by quarter-hour, which vehicles charge."""

    def __init__(self) -> None:
        self._start_us: list[int] = []
        self._is_charging: list[Bool] = []

    def add(self, bucket_us: int, dc_ukwh: Int64) -> None:
        """Add what each vehicle took in a quarter-hour, in the order of time."""
        self._start_us.append(bucket_us)
        self._is_charging.append(dc_ukwh >= _LEAST_UKWH)

    def least_a_day(self) -> float:
        """Return the sessions a day of the vehicle that charges most rarely."""
        ends = np.diff(np.array(self._is_charging).astype(np.int8), axis=0) < 0
        days = len(self._start_us) * BUCKET_US / 86_400e6
        return float(ends.sum(axis=0).min()) / days

    def end_us(self, pair: int, since_us: int, count: int) -> int | None:
        """Return the end of the `count`-th session that takes anything after a time.

        One that is under way then is the first. None where the record ends before.
        """
        charging = np.array([is_charging[pair] for is_charging in self._is_charging])
        starts = np.array(self._start_us)
        charging &= starts + BUCKET_US > since_us
        ends = np.flatnonzero(charging[:-1] & ~charging[1:])
        return int(starts[ends[count - 1]]) + BUCKET_US if len(ends) >= count else None
