"""One target under the fuzzer: `python -m fuzz.one <target> <folder> [libFuzzer's options]`."""

import hashlib
import sys
from pathlib import Path

import atheris

# What is imported here is instrumented, so that the fuzzer sees which inputs reach new code.
with atheris.instrument_imports(include=["wattstream"]):
    from fuzz.targets import TARGETS, Target


def main() -> None:
    """Fuzz until an option of libFuzzer ends it; leaves by itself, with 0 where all was well."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    target = TARGETS[name]
    corpus, words = folder / name, folder / f"{name}.dict"
    _write(target, corpus, words)
    options = [*sys.argv[3:], f"-max_len={target.max_bytes}", f"-dict={words}", str(corpus)]
    atheris.Setup([sys.argv[0], *options], target.check)
    atheris.Fuzz()


def _write(target: Target, corpus: Path, words: Path) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
    words.write_text("".join(f'"{word}"\n' for word in escaped))


if __name__ == "__main__":
    main()
