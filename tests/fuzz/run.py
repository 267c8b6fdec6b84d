"""Fuzz every decoder, each in a process of its own, guided by what code its inputs reach.

What an input breaks is kept in build/fuzz/<target>-crash…, and is tried again by
`python -m fuzz.run --target <target> --input <file>`. Inputs that reached something new are kept
in build/fuzz/<target>/, where the next run begins.
"""

import argparse
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

_FOLDER = Path("build/fuzz")
_INPUT_LIMIT_S = 5
_ALLOCATION_LIMIT_MB = 256
_MEMORY_LIMIT_MB = 4096
# The fuzzer itself grows with every exception, by kilobytes an input: a new process goes on where
# the one before ended.
_PROCESS_S = 100


def main() -> int:
    """Run; print a line a target; return 1 where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--seed", type=int, help="as printed by an earlier run")
    parser.add_argument("--input", type=Path, help="try one input on --target, without the fuzzer")
    options = parser.parse_args()
    from fuzz.targets import TARGETS  # noqa: PLC0415 - parsed options first: this imports the engine

    if options.target not in (None, *TARGETS):
        parser.error(f"--target is one of {', '.join(TARGETS)}")
    if options.input is not None:
        TARGETS[options.target].check(options.input.read_bytes())
        return 0
    seed = options.seed or 1 + secrets.randbelow(10**6)
    print(f"seed {seed}, {options.seconds} s each", flush=True)
    failed = [
        name
        for name in ([options.target] if options.target else TARGETS)
        if not _run(name, options.seconds, seed)
    ]
    print(f"FOUND: {', '.join(failed)}" if failed else "nothing found")
    return 1 if failed else 0


def _run(name: str, seconds: int, seed: int) -> bool:
    """Fuzz one target and say what came of it."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    log = _FOLDER / f"{name}.log"
    tried = peak_mb = code = 0
    for start in range(0, seconds, _PROCESS_S):
        some_s = min(_PROCESS_S, seconds - start)
        with log.open("wb") as output:
            code = subprocess.run(
                [sys.executable, "-m", "fuzz.one", name, str(_FOLDER), *_flags(name, some_s, seed)],
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        text = log.read_text(errors="replace")
        tried += _stat(text, "number_of_executed_units")
        peak_mb = max(peak_mb, _stat(text, "peak_rss_mb"))
        if code != 0:
            break
        seed += 1
    print(
        f"{name:12} {time.monotonic() - began:6.1f} s  {tried:12,} inputs  {peak_mb:4} MB  "
        f"{'ok' if code == 0 else f'FOUND, see {log}'}",
        flush=True,
    )
    if code != 0:
        print("\n".join(text.splitlines()[-40:]))
    return code == 0


def _stat(text: str, name: str) -> int:
    """Return one of the figures that the fuzzer prints at its end; 0 where it did not."""
    found = re.search(rf"stat::{name}:\s*(\d+)", text)
    return int(found[1]) if found else 0


def _flags(name: str, seconds: int, seed: int) -> list[str]:
    # Source: llvm.org/docs/LibFuzzer.html, "Options".
    return [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-timeout={_INPUT_LIMIT_S}",
        f"-malloc_limit_mb={_ALLOCATION_LIMIT_MB}",
        f"-rss_limit_mb={_MEMORY_LIMIT_MB}",
        f"-artifact_prefix={_FOLDER}/{name}-",
        "-print_final_stats=1",
    ]


if __name__ == "__main__":
    sys.exit(main())
