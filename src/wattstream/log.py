"""How the engine's log looks: for people on a console, or one JSON object a line."""

import io
import logging
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog


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
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if in_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    exceptions: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info] if in_json else []
    )
    structlog.configure(
        processors=[*shared, *exceptions, last],
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
