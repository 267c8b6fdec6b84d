"""Attack an engine under load, and compare what its clients feel. `make attack` runs it.

Each round measures the load alone, then beside every attack. What counts is the median, over the
rounds, of p99 under the attack by p99 of the same round without.
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from attacks.kinds import ATTACKS, EXPECTED
from attacks.load import ANSWERS, SINGLES, Load, Measured
from faults.system import Engine
from wattstream.settings import PREFIX

RATIO_LIMIT = 2.0
MEMORY_LIMIT_MB = 400.0
_SETTLE_S = 2.0
_TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Seen:
    """One stretch of load, with an attack beside it or without.

    Attributes:
        measured: By the clients.
        answers: What the attackers got.
        peak_mb: Largest resident memory of the engine's process.
    """

    measured: Measured
    answers: Counter[str]
    peak_mb: float

    def problems(self, name: str) -> list[str]:
        """Return what is wrong, whatever the times are."""
        odd = set(self.answers) - EXPECTED.get(name, set()) - {"503", "closed", "under way"}
        return [
            *(f"{name}: others saw {what} {n} times" for what, n in self.measured.failures.items()),
            *(f"{name}: attackers got {what}" for what in sorted(odd)),
            *([f"{name}: {self.peak_mb:.0f} MB"] if self.peak_mb > MEMORY_LIMIT_MB else []),
        ]


@contextmanager
def temporary_engine(*flags: str) -> Iterator[Engine]:
    """Provide a running engine on its own PostgreSQL."""
    folder = Path(tempfile.mkdtemp(prefix="wattstream-attacks-"))
    folder.chmod(0o711)
    environ = {f"{PREFIX}DATA_DIR": str(folder / "data")}
    engine = Engine(folder, folder / "engine.log", environ, *flags)
    try:
        engine.start()
        yield engine
        engine.end(signal.SIGTERM)
    finally:
        if engine.is_running:
            engine.end(signal.SIGKILL)
        rmtree(folder)


async def stretch(engine: Engine, name: str, seconds: float, scale: float = 1.0) -> Seen:
    """Load an engine for some time beside an attack, or beside none where there is none so named.

    Args:
        engine: The engine.
        name: Of the attack.
        seconds: How long.
        scale: Of the number of attackers.
    """
    load = Load(engine.port)
    await load.introduce()
    attacking = None
    if name in ATTACKS:
        # Another process: its work must not slow the clients that measure.
        attacking = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "attacks.kinds", name, str(engine.port), str(seconds), str(scale),
            stdout=asyncio.subprocess.PIPE, cwd=_TESTS,
        )  # fmt: skip
        assert attacking.stdout is not None
        assert await attacking.stdout.readline() == b"ready\n"
    _begin_peak(engine.pid)
    measured = await load.run(seconds)
    answers: Counter[str] = Counter()
    if attacking is not None:
        output, _ = await attacking.communicate()
        answers = Counter(json.loads(output))
    return Seen(measured, answers, _peak_mb(engine.pid))


def _begin_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


async def _rounds(engine: Engine, rounds: int, seconds: float, names: list[str]) -> list[dict]:
    seen: dict[str, list[Seen]] = {name: [] for name in ["none", *names]}
    await stretch(engine, "none", seconds)  # plans, caches, partitions
    for _ in range(rounds):
        for name, found in seen.items():
            found.append(await stretch(engine, name, seconds))
            print(f"  {name}: {dict(found[-1].answers)}", file=sys.stderr, flush=True)
            await asyncio.sleep(_SETTLE_S)
    return [_row(name, found, seen["none"]) for name, found in seen.items()]


def _row(name: str, found: list[Seen], alone: list[Seen]) -> dict:
    row: dict = {"attack": name, "problems": sorted({p for s in found for p in s.problems(name)})}
    for kind in (SINGLES, ANSWERS):
        p99s = [one.measured.p99_ms(kind) for one in found]
        ratios = [p / a.measured.p99_ms(kind) for p, a in zip(p99s, alone, strict=True)]
        row[f"{kind}_p99_ms"] = round(statistics.median(p99s), 2)
        row[f"{kind}_ratio"] = ratio = round(statistics.median(ratios), 2)
        if ratio > RATIO_LIMIT:
            row["problems"].append(f"{name}: p99 of a {kind} is {ratio} times as long")
    row["peak_mb"] = round(max(one.peak_mb for one in found), 1)
    row["attackers_got"] = dict(sum((one.answers for one in found), Counter()))
    return row


def _print(rows: list[dict]) -> None:
    print(
        f"{'attack':22} {'single p99':>12} {'ratio':>6} {'answer p99':>12} {'ratio':>6} {'MB':>6}"
    )
    for row in rows:
        print(
            f"{row['attack']:22} {row['single_p99_ms']:9.1f} ms {row['single_ratio']:6.2f} "
            f"{row['answer_p99_ms']:9.1f} ms {row['answer_ratio']:6.2f} {row['peak_mb']:6.0f}  "
            + ", ".join(f"{what} × {n:,}" for what, n in sorted(row["attackers_got"].items()))
        )


def main() -> int:
    """Run; print a table; return 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=14.0, help="of each attack in a round")
    parser.add_argument("--only", action="append", choices=list(ATTACKS), help="only this attack")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with temporary_engine() as engine:
        names = options.only or list(ATTACKS)
        rows = asyncio.run(_rounds(engine, options.rounds, options.seconds, names))
    problems = [problem for row in rows for problem in row["problems"]]
    if options.json:
        print(json.dumps({"rows": rows, "problems": problems}, indent=1))
    else:
        _print(rows)
        print("every bound held" if not problems else f"BROKEN: {'; '.join(problems)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
