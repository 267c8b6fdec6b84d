"""What a device's readings amount to, in plain Python and straight from the contract.

Nothing of the engine is used here: this is what its answers are held against.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """A device's settings; energy in micro-kWh."""

    is_register: bool = False
    modulus: int | None = None
    rated_w: int | None = None
    heartbeat_s: int = 60


@dataclass(frozen=True)
class Judged:
    """What a reading counts, in micro-kWh, and what its fall was."""

    at: int
    counted: int
    suspect: int
    fall: str | None


def judge(rules: Rules, history: list[tuple[int, int]]) -> list[Judged]:
    """Return what each (time in µs, value in micro-kWh) of a sorted history counts."""
    judged: list[Judged] = []
    for i, (at, value) in enumerate(history):
        before = history[i - 1] if i else None
        after = history[i + 1] if i + 1 < len(history) else None
        energy, since, fall = value, before, None
        if rules.is_register and before is None:
            energy = 0
        elif rules.is_register and before is not None and value < before[1]:
            energy, fall = 0, "dip" if after and after[1] >= before[1] else "reset"
            through = value + (rules.modulus or 0) - before[1]
            passes = rules.modulus is not None and before[1] < rules.modulus
            if passes and is_plausible(rules, through, at, before):
                energy, fall = through, "rollover"
        elif rules.is_register and before is not None:
            since = history[i - 2] if judged[-1].fall == "dip" else before
            energy = value - since[1]
        is_counted = is_plausible(rules, energy, at, since)
        judged.append(Judged(at, energy * is_counted, energy * (not is_counted), fall))
    return judged


def is_plausible(rules: Rules, energy: int, at: int, since: tuple[int, int] | None) -> bool:
    """Return whether that much energy can have come since a reading."""
    watts = rules.rated_w or (1_000_000 if rules.is_register else None)
    elapsed = max(at - since[0] if since else 0, rules.heartbeat_s * 1_000_000)
    return watts is None or (energy - 10_000) * 3_000_000 <= watts * elapsed
