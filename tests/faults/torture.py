"""Round after round: load, a fault, and the promises checked. `make torture` runs a hundred.

The seed decides the order of faults, how the system is built, and what is sent. When exactly a
process dies within a flush is the machine's.
"""

import argparse
import random
import secrets
import signal
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import httpx

from faults.check import check, modulus_of
from faults.fleet import REGISTERS, STREAMS
from faults.kinds import FAULTS, Scene
from faults.load import Ledger, Load
from faults.system import System, temporary_system, until

_LONG_OUTAGE_S = 60.0
_RECOVERY_LIMIT_S = 15.0
"""Promised are 5 s; a machine may be slow, so only a multiple is a failure."""


class Torture:
    """Rounds on one system; everything that was ever sent is checked after each."""

    def __init__(self, system: System, seed: int) -> None:
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        base_us = int((midnight - timedelta(days=60)).timestamp()) * 1_000_000
        self.seed = seed
        self.rng = random.Random(seed)
        self.ledger = Ledger(base_us)
        self.system = system
        self.faults: Counter[str] = Counter()
        self.topologies: Counter[str] = Counter()
        self.scene = Scene(system, self.ledger, self.rng, Counter(), [])
        self.rounds = self.readings = 0

    def round(self, name: str, outage_s: float = 3.0) -> list[str]:
        """Run one fault under load; return every mismatch and every wrong answer."""
        fault, scene = FAULTS[name], self.scene
        self.build(self.rng.choice(fault.topologies), fault.topologies)
        scene.outage_s = outage_s
        load = Load(self.ledger, self.system.urls, self.rng.randrange(2**32))
        try:
            began = time.monotonic()
            until(lambda: self.ledger.acknowledged_s > began, "the load runs")
            time.sleep(self.rng.uniform(0.2, 1.0))
            fault.act(scene)
            scene.mend()
            time.sleep(self.rng.uniform(0.2, 0.8))
        finally:
            load.stop()
        self.readings, problems = check(
            self.system.conninfo, self.ledger, self.system.engines[0].url
        )
        problems += self.ledger.problems
        self.ledger.problems = []
        self.rounds += 1
        self.faults[name] += 1
        self.topologies[self.system.topology] += 1
        return problems

    def build(self, topology: str, fitting: tuple[str, ...]) -> None:
        """Keep the system as it is where that fits, most of the time: a restart takes seconds."""
        if self.system.topology in fitting and self.rng.random() < 0.7:
            return
        is_first = not self.system.topology
        self.system.become(topology)
        if is_first:
            for stream in STREAMS:
                for device in range(REGISTERS):
                    modulus = modulus_of(device)
                    rules = {"energyMode": "register"}
                    rules |= {"registerModulusKwh": modulus / 1e6} if modulus else {}
                    url = f"{self.system.engines[0].url}/v1/devices/{stream}/T-{device}"
                    httpx.put(url, json=rules).raise_for_status()

    def report(self) -> str:
        """Return what was done, for people."""
        recoveries = self.scene.recoveries_s
        slowest = f"{max(recoveries):.1f} s" if recoveries else "not measured"
        lines = [
            f"rounds {self.rounds}, readings sent {len(self.ledger.sent()):,}, acknowledged "
            f"{len(self.ledger.acknowledged()):,}, held {self.readings:,}, seed {self.seed}",
            f"faults: {_counted(self.faults)}",
            f"systems: {_counted(self.topologies)}",
            f"seen: {_counted(self.scene.seen) or 'nothing else'}",
            f"answers: {_counted(self.ledger.answers)}",
            f"database back to next acknowledgement, slowest of {len(recoveries)}: {slowest}",
        ]
        return "\n".join(lines)


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items()))


def drawn(rng: random.Random, rounds: int, names: list[str]) -> list[str]:
    """Return that many faults: all of them in a random order, then all again in another."""
    found: list[str] = []
    while len(found) < rounds:
        found += rng.sample(names, len(names))
    return found[:rounds]


def possible(system: System, *, slow: bool) -> list[str]:
    """Return the faults that this machine and user can bring about."""
    return [
        name
        for name, fault in FAULTS.items()
        if (slow or not fault.is_slow) and (name != "disk full" or system.disk is not None)
    ]


def main() -> int:
    """Run; print a line a round and a report; return 1 at the first broken promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="as printed by an earlier run")
    parser.add_argument("--only", action="append", choices=sorted(FAULTS), help="only this fault")
    options = parser.parse_args()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    problems: list[str] = []
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    with temporary_system(small_disk=True) as system:
        torture = Torture(system, seed)
        names = options.only or possible(system, slow=True)
        if system.disk is None:
            print("skipped: disk full (a small disk is mounted by root only)")
        order = drawn(torture.rng, options.rounds, names)
        for number, name in enumerate(order, 1):
            began = time.monotonic()
            # In a run of many rounds, the last outage is a long one.
            is_long = options.rounds >= 50 and name not in order[number:]
            try:
                problems = torture.round(name, _LONG_OUTAGE_S if is_long else 3.0)
            except AssertionError as error:
                problems = [f"{error}"]
            print(
                f"{number:4} {name:26} {system.topology:9} {time.monotonic() - began:5.1f} s  "
                f"held {torture.readings:9,}  {'; '.join(problems) or 'ok'}",
                flush=True,
            )
            if asked:
                break  # after a whole round, and with a report
            if problems:
                print(f"the engines' log ends with:\n{system.log.read_text()[-6000:]}")
                break
        slow = [s for s in torture.scene.recoveries_s if s > _RECOVERY_LIMIT_S]
        if slow:
            problems.append(f"recoveries took {slow} s")
        print(torture.report())
    print("every promise held" if not problems else f"BROKEN: {'; '.join(problems)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
