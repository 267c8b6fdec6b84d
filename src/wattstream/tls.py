"""The engine's certificate: read at the start, and again when its files change."""

import os
import ssl
import stat
from pathlib import Path
from typing import NoReturn

import structlog

from wattstream.domain.errors import OperatorError

_log = structlog.get_logger()


class Certificate:
    """A certificate with its key.

    Attributes:
        context: For new connections; open ones keep what they began with.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read both files.

        Raises:
            OperatorError: One is missing or unreadable, or they do not belong together.
        """
        self._files = certificate, key
        self._stamps = self._stamped()
        self.context = _context(certificate, key)
        if key.stat().st_mode & stat.S_IROTH:
            _log.warning(
                "Every user of this machine can read the TLS key; `chmod 600` it", file=str(key)
            )

    def refresh(self) -> None:
        """Read the files again if they changed; while they are wrong, keep what there is."""
        stamps = self._stamped()
        if stamps == self._stamps:
            return
        # Taken before reading: a change meanwhile is seen the next time.
        self._stamps = stamps
        try:
            self.context = _context(*self._files)
        except OperatorError as error:
            _log.warning("The TLS certificate stays as it was", why=error.message)
        else:
            _log.info("The TLS certificate was read again", file=str(self._files[0]))

    def _stamped(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    for name, file in (("certificate", certificate), ("key", key)):
        try:
            with file.open("rb"):
                pass
        except OSError as error:
            raise OperatorError(
                f"The TLS {name} cannot be read: {file}: {error.strerror}. Name a PEM file that "
                f"user {os.geteuid()} can read with WATTSTREAM_TLS_{name.upper()}."
            ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])

    def no_password() -> NoReturn:
        raise OperatorError(
            f"The TLS key {key} is encrypted; give one without a password, readable by the "
            "engine's user only."
        )

    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise OperatorError(
                f"The TLS key {key} is not the key of the certificate {certificate}; the file must "
                "begin with the engine's own certificate, then those that issued it."
            ) from error
        raise OperatorError(
            f"The TLS certificate {certificate} or its key {key} is not in PEM form "
            f"({error.reason or 'unreadable'}); it begins with -----BEGIN."
        ) from error
    return context
