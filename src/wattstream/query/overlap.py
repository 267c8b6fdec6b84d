"""Whether two sides of a vehicle's energy were there at the same time."""

from collections.abc import Sequence

from wattstream.domain.units import BUCKET_US
from wattstream.query.window import Range, WindowSums, window_totals
from wattstream.store.port import Snapshot

_AROUND_US = BUCKET_US
_ENOUGH = 0.5


async def is_witnessed(
    snapshot: Snapshot,
    counted: Sequence[Range],
    energy_ukwh: int,
    others: Sequence[tuple[Range, WindowSums]],
) -> bool:
    """Return whether at least half of some devices' energy was counted while others reported.

    Others report from the first of their readings to the last, and a quarter-hour around. Where
    they do not, their energy cannot be held against it: a clock or a link is wrong, or the range
    holds one side only.

    Args:
        snapshot: Where the readings are.
        counted: The devices that counted energy.
        energy_ukwh: How much it was, micro-kWh.
        others: The devices on the other side, and what they sum.
    """
    spans = [
        span
        for other, sums in others
        if (span := sums.span or await snapshot.span(*other)) is not None
    ]
    if not spans:
        return False
    since_us = min(first_us for first_us, _ in spans) - _AROUND_US
    until_us = max(last_us for _, last_us in spans) + _AROUND_US
    if all(since_us <= start_us and end_us <= until_us for _, start_us, end_us in counted):
        return True
    seen = await window_totals(
        snapshot,
        [
            (device, max(start_us, since_us), min(end_us, until_us))
            for device, start_us, end_us in counted
        ],
    )
    return sum(total.energy_ukwh for total in seen) >= _ENOUGH * energy_ukwh
