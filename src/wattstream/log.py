"""How the engine's log looks: for people on a console, or one JSON object a line.

A line of a request bears the request's id, taken from its `X-Request-ID` or made here.
"""

import io
import itertools
import logging
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from typing import TextIO, cast

import structlog

_HEADER = b"x-request-id"
# What may stand in a log and in a header as it is: a client must not write lines of our log.
_SANE = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}").fullmatch
_request_id: ContextVar[str | None] = ContextVar("wattstream_request_id", default=None)
_process = os.urandom(5).hex().encode()
_count = itertools.count(1)


def request_id() -> str | None:
    """Return the id of the request under way, or None."""
    return _request_id.get()


def begin_request(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Give the request of this task its id, and return it.

    Args:
        headers: Of the request, names in lower case.

    Returns:
        What the client sent as `X-Request-ID` where that is 1 to 128 plain characters, else a new
        one.
    """
    for name, value in headers:
        if name == _HEADER and _SANE(value) is not None:
            _request_id.set(value.decode())
            return value
    made = new_request_id()
    _request_id.set(made.decode())
    return made


def new_request_id() -> bytes:
    """Return an id that no other request of any engine has."""
    return b"%s-%x" % (_process, next(_count))


def _add_request_id(
    logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    request_id = _request_id.get()
    if request_id is not None:
        event["request_id"] = request_id
    return event


class _Output(io.TextIOBase):
    """Standard error, but work goes on where it cannot be written: full disk, reader gone."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def configure_logging(form: str, level_name: str) -> None:
    """Send all logs to standard error; what cannot be written is dropped.

    Args:
        form: "console" or "json".
        level_name: Least severe level that is shown, such as "info".
    """
    level = logging.getLevelNamesMapping()[level_name.upper()]
    in_json = form == "json"
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks are plain: local variables may hold secrets, and whole batches.
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if in_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    if in_json:
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Output())),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=last)
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    # A pipeline that is given up says so; what it means is handled where it was begun.
    logging.getLogger("psycopg").addFilter(
        lambda record: "error ignored terminating" not in record.getMessage()
    )
