"""Streams of history written to a file: CSV as it comes, Arrow as Parquet."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from wattstream.domain.errors import OperatorError

_ROW_GROUP = 131_072  # rows; a block of the engine has 10,000, which is few for a column store


class Archive(Protocol):
    """A file that takes the bodies of several answers, one after the other.

    Attributes:
        accept: The form of body that it takes.
    """

    accept: str

    def write(self, body: Iterator[bytes]) -> Iterator[int]:
        """Write a body to its end; yield the rows of each piece."""

    def finish(self) -> None:
        """Write what stands after all rows."""


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Provide a file that has its name only once it is whole; what fails leaves nothing.

    Raises:
        OperatorError: It cannot be made.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        file = part.open("xb")
    except OSError as error:
        raise OperatorError(f"Cannot write to {path.parent}: {error.strerror}.") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OperatorError(f"Cannot write {path}: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)


class CsvArchive:
    """CSV: the bodies as they come, with the header of the first alone."""

    accept = "text/csv"

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._has_header = False

    def write(self, body: Iterator[bytes]) -> Iterator[int]:
        """Write a body to its end; yield the rows of each piece."""
        head = b""
        for piece in body:  # up to the end of the header
            head += piece
            if b"\n" in head:
                break
        header, newline, rest = head.partition(b"\n")
        if not self._has_header:
            self._file.write(header + newline)
            self._has_header = True
        yield self._write(rest)
        for piece in body:
            yield self._write(piece)

    def _write(self, piece: bytes) -> int:
        """Write a piece and return its rows: no cell of ours holds the end of a line."""
        self._file.write(piece)
        return piece.count(b"\n")

    def finish(self) -> None:
        """Do nothing: CSV has no end mark."""


class ParquetArchive:
    """Parquet with the types of the Arrow streams; units are in the schema's metadata.

    The key `units` of the file's metadata has them by column as JSON, for readers that do not
    show the metadata of fields.
    """

    accept = "application/vnd.apache.arrow.stream"

    def __init__(self, file: BinaryIO) -> None:
        """Take a file.

        Raises:
            OperatorError: pyarrow is not installed.
        """
        self._pa, self._parquet = _pyarrow()
        self._file = file
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._rows = 0

    def write(self, body: Iterator[bytes]) -> Iterator[int]:
        """Write a body to its end; yield the rows of each piece."""
        source = io.BufferedReader(_Body(body), 1024**2)
        batches = self._pa.ipc.open_stream(source)
        if self._writer is None:
            self._open(batches.schema)
        for batch in batches:
            self._waiting.append(batch)
            self._rows += batch.num_rows
            if self._rows >= _ROW_GROUP:
                self._flush()
            yield batch.num_rows
        source.read()  # a body that was cut off fails here

    def finish(self) -> None:
        """Write the rows that wait, and the footer."""
        if self._writer is not None:
            self._flush()
            self._writer.close()

    def _open(self, schema: Any) -> None:
        units = {
            field.name: field.metadata[b"unit"].decode()
            for field in schema
            if field.metadata and b"unit" in field.metadata
        }
        whole = schema.with_metadata({**(schema.metadata or {}), "units": json.dumps(units)})
        self._writer = self._parquet.ParquetWriter(self._file, whole, compression="zstd")

    def _flush(self) -> None:
        table = self._pa.Table.from_batches(self._waiting).cast(self._writer.schema)
        self._writer.write_table(table, row_group_size=_ROW_GROUP)
        self._waiting.clear()
        self._rows = 0


class _Body(io.RawIOBase):
    """A body as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _pyarrow() -> tuple[Any, Any]:
    try:
        # An optional extra, without types.
        import pyarrow  # type: ignore[import-untyped]  # noqa: PLC0415
        import pyarrow.parquet  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise OperatorError(
            "Parquet needs pyarrow: pip install 'wattstream[parquet]'. CSV works without."
        ) from error
    return pyarrow, pyarrow.parquet
