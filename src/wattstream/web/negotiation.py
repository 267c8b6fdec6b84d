"""Which of the forms of an answer a client wants.

Source: RFC 9110, sections 12.4.2 and 12.5.1.
"""

import re
from collections.abc import Sequence

from wattstream.domain.errors import NotAcceptableError

_RANGE = re.compile(r"\s*([^\s;,/]+)/([^\s;,/]+)\s*(?:;(.*))?", re.DOTALL)
_WEIGHT = re.compile(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*", re.IGNORECASE)


def preferred(accept: str | None, offered: Sequence[str]) -> str:
    """Return the media type of `offered` that an Accept header prefers; of equals, the first.

    Parameters other than `q` are passed over, and so are ranges that cannot be read.

    Raises:
        NotAcceptableError: It takes none of them.
    """
    if not (accept or "").strip():
        return offered[0]
    ranges = _ranges(accept or "")
    weights = [_weight(media, ranges) for media in offered]
    if max(weights) == 0:
        raise NotAcceptableError(
            f"this answer comes as {', '.join(offered)}; Accept has {ascii(accept)[:100]}"
        )
    return offered[weights.index(max(weights))]


def _ranges(accept: str) -> dict[str, float]:
    """Return the weight of each media range, in lower case."""
    found = {}
    for part in accept.split(","):
        if (match := _RANGE.fullmatch(part)) is None:
            continue
        weight = 1.0
        for parameter in (match[3] or "").split(";"):
            if parameter.strip().lower().startswith("q"):
                given = _WEIGHT.fullmatch(parameter)
                weight = float(given[1]) if given else 0.0
        found[f"{match[1]}/{match[2]}".lower()] = weight
    return found


def _weight(media: str, ranges: dict[str, float]) -> float:
    """Return the weight of the most precise range that holds a media type, 0 for none."""
    kind = media.partition("/")[0]
    return next((ranges[r] for r in (media, f"{kind}/*", "*/*") if r in ranges), 0.0)
