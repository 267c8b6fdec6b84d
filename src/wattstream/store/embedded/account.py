"""The system user that PostgreSQL's programs run as, and what that user can reach."""

import os
import pwd
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from wattstream.domain.errors import EmbeddedServerError

SHARED_ROOT = Path("/var/lib/wattstream")


@dataclass(frozen=True)
class Account:
    """A system user for PostgreSQL's programs.

    Attributes:
        name: Login name, or the number as text where the user has none.
        uid: User id, never 0.
        gid: Primary group id.
        switched: True when the engine is root and its children become this user.
    """

    name: str
    uid: int
    gid: int
    switched: bool

    def run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run a program as this user until it ends; stdout holds its stderr as well.

        Ctrl-C in the terminal does not reach it.

        Raises:
            OSError: The program is missing, or this user cannot reach it.
        """
        return subprocess.run(  # noqa: S603 - the commands are our own
            command,
            cwd="/",  # the engine's own folder may be closed to this user
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
            start_new_session=True,
            umask=0o077,
            user=self.uid if self.switched else None,
            group=self.gid if self.switched else None,
            extra_groups=[] if self.switched else None,
        )

    def launch(self, command: Sequence[str | Path], output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a program as this user, beyond the reach of the terminal's Ctrl-C.

        Raises:
            OSError: The program is missing, or this user cannot reach it.
        """
        return subprocess.Popen(  # noqa: S603 - the commands are our own
            command,
            cwd="/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            user=self.uid if self.switched else None,
            group=self.gid if self.switched else None,
            extra_groups=[] if self.switched else None,
        )

    def give(self, descriptor: int) -> None:
        """Make this user the owner of an open file or folder; nothing where it is already."""
        if self.switched:
            os.fchown(descriptor, self.uid, self.gid)

    def can_enter(self, folder: Path) -> bool:
        """Return whether this user may traverse to and into a folder, by its mode bits."""
        if not self.switched:
            return True
        real = Path(os.path.realpath(folder))
        return all(self._may_traverse(step) for step in (real, *real.parents))

    def _may_traverse(self, folder: Path) -> bool:
        facts = folder.stat()
        if facts.st_uid == self.uid:
            return bool(facts.st_mode & stat.S_IXUSR)
        if facts.st_gid == self.gid:
            return bool(facts.st_mode & stat.S_IXGRP)
        return bool(facts.st_mode & stat.S_IXOTH)


def server_account(run_as: str) -> Account:
    """Return the user that the server runs as: run_as for root, else the engine's own.

    Raises:
        EmbeddedServerError: run_as is unknown, or is root, which PostgreSQL refuses.
    """
    uid = os.geteuid()
    if uid != 0:
        return Account(user_name(uid), uid, os.getegid(), switched=False)
    advice = "set WATTSTREAM_POSTGRES_USER to an ordinary system user, such as nobody"
    try:
        entry = pwd.getpwnam(run_as)
    except KeyError as error:
        raise EmbeddedServerError(
            f"PostgreSQL cannot run as {run_as!r}: there is no such user here; {advice}"
        ) from error
    if entry.pw_uid == 0:
        raise EmbeddedServerError(f"PostgreSQL refuses to run as root ({run_as!r}); {advice}")
    return Account(run_as, entry.pw_uid, entry.pw_gid, switched=True)


def user_name(uid: int) -> str:
    """Return the login name of a user id, or the number as text where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def open_shared_folder(folder: Path, account: Account) -> bool:
    """Make a root-owned folder that the account can enter; False where that is impossible."""
    try:
        folder.mkdir()
        folder.chmod(0o755)
    except FileExistsError:
        pass
    except OSError:
        return False
    facts = folder.lstat()
    safe = stat.S_ISDIR(facts.st_mode) and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return safe and facts.st_uid == os.geteuid() and account.can_enter(folder)


def _environment() -> dict[str, str]:
    """Return the environment without what would steer PostgreSQL, its messages in English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}
