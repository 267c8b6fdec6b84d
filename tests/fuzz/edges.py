"""What stands beside a body: queries, headers, settings."""

import re

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fuzz.readings import NOW_US, named
from wattstream.domain.errors import RequestError, SettingsError
from wattstream.domain.links import FOREVER_US
from wattstream.domain.readings import Stream
from wattstream.domain.units import NEVER_US, rfc3339
from wattstream.inputs.http import is_ndjson
from wattstream.log import begin_request
from wattstream.query.history import Resolution
from wattstream.settings import PREFIX, SECRET, load
from wattstream.traces import _parent
from wattstream.web.history import _Asked, _range
from wattstream.web.negotiation import preferred
from wattstream.web.parameters import fraction, open_range, optional_range, time_range
from wattstream.web.stream import _since

_OFFERED = ("application/json", "text/csv", "application/vnd.apache.arrow.stream")
_SEARCHED_SECRET = 40


def query(data: bytes) -> None:
    """Read ranges, thresholds, cursors and event ids as a query names them."""
    start, end, cursor, number = (data.decode(errors="replace").split("\n") + [""] * 3)[:4]
    for begin, stop in ((start, end), (start, None), (None, end)):
        for read in (time_range, open_range):
            try:
                found = read(begin, stop, NOW_US)
            except RequestError as error:
                named(error)
                continue
            for at_us in found:
                assert at_us is None or rfc3339(at_us)
        try:
            start_us, end_us = optional_range(begin, stop)
        except RequestError as error:
            named(error)
            continue
        assert NEVER_US <= start_us < end_us <= FOREVER_US
    for resolution in Resolution:
        asked = _Asked(Stream.METER, resolution=resolution, cursor=cursor)
        try:
            start_us, end_us, place = _range(NOW_US, asked, ["M-1"])
        except RequestError as error:
            named(error)
            continue
        assert place is not None
        assert place.external_id == "M-1"
        assert start_us <= place.at_us <= end_us
        assert start_us < end_us
        assert rfc3339(start_us) != rfc3339(end_us)
    try:
        _since(number)
    except RequestError as error:
        named(error)
    try:
        assert 0 < fraction(float(number)) <= 1
    except RequestError as error:
        named(error)
    except ValueError:  # of float(): no number, which FastAPI refuses
        pass


def accept(data: bytes) -> None:
    """Choose a form of an answer; a form that is not offered changes nothing."""
    header = data.decode("latin-1")
    try:
        chosen = preferred(header, _OFFERED)
    except RequestError as error:
        named(error)
        chosen = ""
    else:
        assert chosen in _OFFERED
    if header.strip():
        try:
            assert preferred(f"{header},none/none", _OFFERED) == chosen
        except RequestError:
            assert chosen == ""


def headers(data: bytes) -> None:
    """Read the headers that a request may bring: its id, its trace, its type."""
    request_id, traceparent, tracestate, content_type = (data.split(b"\n") + [b""] * 3)[:4]
    given = begin_request([(b"x-request-id", request_id)])
    assert re.fullmatch(rb"[!-~]{1,128}", given)
    TraceContextTextMapPropagator().extract(
        _parent([(b"traceparent", traceparent), (b"tracestate", tracestate), (b"x", b"\xff")])
    )
    for is_batch in (False, True):
        try:
            assert not is_ndjson(content_type, is_batch=is_batch) or is_batch
        except RequestError as error:
            named(error)


def settings(data: bytes) -> None:
    """Read an environment; what is secret is in no message."""
    lines = [line.partition("=") for line in data.decode(errors="surrogateescape").split("\n")]
    environ = {f"{PREFIX}{name}": value for name, _, value in lines}
    try:
        load({}, environ)
    except SettingsError as error:
        told = str(error)
    else:
        return
    assert all(line.isprintable() for line in told.split("\n")), told
    for name in SECRET:
        variable = f"{PREFIX}{name.upper()}"
        value = environ.get(variable, "")
        others = [text for key, text in environ.items() if key != variable]
        if len(value) >= _SEARCHED_SECRET and not any(
            value in text for text in (*others, *environ)
        ):
            assert value not in told
