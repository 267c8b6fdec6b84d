"""Links between meters and vehicles, made and changed; an exclusion constraint holds the rule."""

import psycopg

from wattstream.domain.errors import NotFoundError, ReadingError
from wattstream.domain.links import KeptLink, OverlapError
from wattstream.domain.units import rfc3339
from wattstream.store.postgres import arrays, statements
from wattstream.store.postgres.connections import Connection

_NEW = 0  # no link has this id


def add(
    connection: Connection, meter_key: int, vehicle_key: int, *, start_us: int, end_us: int
) -> int:
    """Make a link and return its id, or raise OverlapError."""
    params = {
        "meter_id": meter_key,
        "vehicle_id": vehicle_key,
        "start_at": arrays.time_param(start_us),
        "end_at": arrays.time_param(end_us),
    }
    while True:
        try:
            row = connection.execute(statements.load("links")["add"], params).fetchone()
        except psycopg.errors.ExclusionViolation:
            # Where the link in the way is gone by now, there is room for this one.
            _refuse_overlap(connection, _NEW, meter_key, start_us, end_us)
        else:
            assert row is not None  # noqa: S101 - an insert returns its row
            return int(row[0])


def end(connection: Connection, *, link_id: int, end_us: int) -> KeptLink:
    """Set the end of a link and return it; raises NotFoundError, ReadingError, OverlapError."""
    sql = statements.load("links")
    params = {"link_id": link_id, "end_at": arrays.time_param(end_us)}
    while True:
        meter_key, start_us = 0, 0
        try:
            with connection.transaction():
                found = connection.execute(sql["lock"], params, binary=True).fetchone()
                if found is None:
                    raise _unknown(link_id)
                meter_key, start_us = found
                if end_us <= start_us:
                    raise ReadingError(
                        f"end must be after the link's start, {rfc3339(start_us)}",
                        code="range_empty",
                        field="end",
                    )
                connection.execute(sql["set_end"], params)
        except psycopg.errors.ExclusionViolation:
            _refuse_overlap(connection, link_id, meter_key, start_us, end_us)
        else:
            kept = _kept(connection, link_id)
            if kept is None:
                raise _unknown(link_id)
            return kept


def delete(connection: Connection, *, link_id: int) -> None:
    """Remove a link, or raise NotFoundError."""
    deleted = connection.execute(statements.load("links")["delete"], {"link_id": link_id})
    if deleted.rowcount == 0:
        raise _unknown(link_id)


def _refuse_overlap(
    connection: Connection, link_id: int, meter_key: int, start_us: int, end_us: int
) -> None:
    """Raise OverlapError for the link in the way, where it is still there."""
    limits = {"start_at": arrays.time_param(start_us), "end_at": arrays.time_param(end_us)}
    row = connection.execute(
        statements.load("links")["overlapped"],
        {"meter_id": meter_key, "link_id": link_id, **limits},
    ).fetchone()
    kept = None if row is None else _kept(connection, row[0])
    if kept is not None:
        raise OverlapError(kept)


def _kept(connection: Connection, link_id: int) -> KeptLink | None:
    row = connection.execute(
        statements.load("links")["one"], {"link_id": link_id}, binary=True
    ).fetchone()
    return None if row is None else KeptLink(*row)


def _unknown(link_id: int) -> NotFoundError:
    return NotFoundError(f"there is no link {link_id}", code="link_unknown")
