"""Faults on the command line: which are wanted, and the file that tells the truth about them."""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import typer

from wattstream.client.faults import FAULTS
from wattstream.domain.alerts import AlertKind

_WANTED = re.compile(r"(\w+)=(\d+(?:\.\d+)?)(%?)")


def wanted(flags: Iterable[str], pairs: int) -> dict[AlertKind, int]:
    """Return how many pairs get which fault, from flags such as ``silent=5`` or ``silent=2%``.

    Raises:
        typer.BadParameter: A flag is not understood, or there are more faults than pairs.
    """
    counts: dict[AlertKind, int] = {}
    for flag in flags:
        match = _WANTED.fullmatch(flag)
        if match is None or match[1] not in FAULTS or (not match[3] and "." in match[2]):
            raise typer.BadParameter(
                f"{flag!r} is not KIND=N or KIND=N%, with one of {', '.join(FAULTS)}"
            )
        count = round(float(match[2]) / 100 * pairs) if match[3] else int(match[2])
        kind = AlertKind(match[1])
        counts[kind] = counts.get(kind, 0) + count
    if sum(counts.values()) > pairs:
        raise typer.BadParameter(
            f"{sum(counts.values())} faults for {pairs} pairs; a pair has at most one"
        )
    return counts


def write_truth(path: Path, lines: Iterable[dict[str, object]]) -> None:
    """Write one line of JSON a fault.

    Raises:
        typer.BadParameter: The file cannot be written.
    """
    try:
        path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror}") from error
