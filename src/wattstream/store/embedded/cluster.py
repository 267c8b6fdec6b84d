"""The data folder: its lock, its password, and the PostgreSQL cluster that belongs to it."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from pathlib import Path

import structlog

from wattstream.domain.errors import EmbeddedServerError
from wattstream.store.embedded.account import SHARED_ROOT, Account, open_shared_folder, user_name
from wattstream.store.embedded.binaries import Binaries
from wattstream.store.embedded.postmaster import end_leftover, end_orphans

SUPERUSER = "wattstream"
_OTHER_FOLDER = "choose another folder with WATTSTREAM_DATA_DIR"
_MAX_SOCKET_PATH_BYTES = 107
_SOCKET_NAME = ".s.PGSQL.5432"
_UNFINISHED = ".wattstream-initdb-"

log = structlog.get_logger(__name__)


def prepare_data_dir(data_dir: Path, account: Account) -> None:
    """Make the data folder if it is missing, and refuse one that another user began.

    Raises:
        EmbeddedServerError: What is in the folder belongs to another user.
    """
    if not data_dir.exists():
        data_dir.mkdir(parents=True)
        # The server's user passes through a folder of root; an ordinary user shares nothing.
        data_dir.chmod(0o711 if account.switched else 0o700)
    for path in (data_dir / "engine.lock", data_dir / "password"):
        _check_owner(path, os.geteuid())
    _check_owner(data_dir / "postgres", account.uid)


def lock_data_dir(data_dir: Path) -> int:
    """Lock the data folder and return the descriptor that holds the lock until it is closed.

    Raises:
        EmbeddedServerError: Another engine holds it.
    """
    path = data_dir / "engine.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        holder = os.read(descriptor, 20).decode().strip() or "unknown"
        os.close(descriptor)
        raise EmbeddedServerError(
            f"the data folder {data_dir} is in use by the engine with pid {holder}; stop that "
            f"engine, or {_OTHER_FOLDER}"
        ) from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def lock_cluster(cluster: Path) -> int:
    """Lock an existing cluster and return the descriptor that holds the lock until it is closed.

    Two data folders can lead to one cluster, when one with a symbolic link was copied.

    Raises:
        EmbeddedServerError: Another engine holds it.
    """
    descriptor = os.open(cluster, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise EmbeddedServerError(
            f"the cluster {cluster} is in use by an engine with another data folder; stop that "
            f"engine, or {_OTHER_FOLDER}"
        ) from error
    return descriptor


def place_cluster(data_dir: Path, account: Account) -> Path:
    """Return where the cluster is, or where to create it; the caller holds the folder's lock.

    It is `postgres` in the data folder. Where the account cannot enter that folder, `postgres`
    becomes a symbolic link to a folder outside, and an existing cluster moves there.

    Raises:
        EmbeddedServerError: The account cannot reach the cluster, and it cannot be moved.
    """
    link = data_dir / "postgres"
    if link.is_symlink():
        cluster = Path(os.path.realpath(link))
        if not cluster.parent.is_dir():
            raise EmbeddedServerError(
                f"{link} points at {cluster}, which is gone; restore it, or remove the link to "
                "begin with an empty database"
            )
    elif account.can_enter(data_dir):
        return link
    else:
        cluster = _move_out(data_dir, account)
    if not account.can_enter(cluster.parent):
        raise EmbeddedServerError(
            f"user {account.name} cannot enter {cluster.parent}, where PostgreSQL keeps its data; "
            f"let that user through, or {_OTHER_FOLDER}"
        )
    return cluster


def load_password(data_dir: Path, cluster: Path) -> str:
    """Return the superuser's password, made and kept (mode 0600) before the cluster is.

    Raises:
        EmbeddedServerError: There is a cluster, but its password is gone.
    """
    path = data_dir / "password"
    if not path.exists():
        if cluster.exists():
            raise EmbeddedServerError(
                f"the password of the database in {cluster} is gone: {path} is missing; restore "
                f"that file, or delete {cluster} to begin with an empty database"
            )
        partial = data_dir / "password.new"
        partial.unlink(missing_ok=True)
        write_new(partial, secrets.token_urlsafe(32), None)
        partial.replace(path)
    return path.read_text().strip()


def clear_unfinished(cluster: Path) -> None:
    """Remove what interrupted initdbs left beside the cluster's place."""
    for leftover in cluster.parent.glob(f"{_UNFINISHED}{cluster.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def create_cluster(
    cluster: Path, binaries: Binaries, account: Account, password: str, private_folder: Path
) -> None:
    """Run initdb beside the cluster's place and rename, so that an interrupted one leaves none.

    Args:
        cluster: Where it goes; must not exist.
        binaries: Programs that the account can run.
        account: The owner to be.
        password: Of the superuser.
        private_folder: A folder of the account, for the moment that initdb reads the password.

    Raises:
        EmbeddedServerError: initdb failed; the message holds its last lines.
    """
    # A name of its own: the initdb of an engine that was killed may still be writing.
    partial = cluster.with_name(f"{_UNFINISHED}{cluster.name}-{secrets.token_hex(4)}")
    make_private_folder(partial, account)
    password_file = private_folder / "initdb-password"
    password_file.unlink(missing_ok=True)
    try:
        write_new(password_file, password, account)
        done = account.run(
            [
                binaries.bin_dir / "initdb",
                f"--pgdata={partial}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--data-checksums",
                "--encoding=UTF8",
                "--locale=C",
                "--no-instructions",
            ]
        )
    except BaseException:
        end_orphans(partial)  # initdb has ended, and what it ran would write on
        raise
    finally:
        password_file.unlink(missing_ok=True)
    if done.returncode != 0:
        raise EmbeddedServerError(
            f"PostgreSQL could not create its files in {partial}; initdb said:\n"
            + "\n".join(done.stdout.splitlines()[-10:])
        )
    partial.rename(cluster)


def folder_major(cluster: Path) -> int | None:
    """Return the major version that made a cluster, or None where there is no cluster yet.

    Raises:
        EmbeddedServerError: The folder holds something else.
    """
    if not cluster.exists():
        return None
    try:
        return int((cluster / "PG_VERSION").read_text())
    except (FileNotFoundError, ValueError) as error:
        raise EmbeddedServerError(
            f"{cluster} is not a folder of PostgreSQL: its PG_VERSION is missing or unreadable; "
            f"restore it, or {_OTHER_FOLDER}"
        ) from error


def socket_folder(data_dir: Path, account: Account) -> Path:
    """Make and return the account's private folder for the socket, cleared of old ones.

    It is `run` in the data folder, or a short one below /tmp where a socket's path would be too
    long, the account cannot get there, or libpq would split the path.

    Raises:
        EmbeddedServerError: The folder exists and belongs to another user.
    """
    folder = data_dir / "run"
    fits = len(os.fsencode(folder / _SOCKET_NAME)) <= _MAX_SOCKET_PATH_BYTES
    plain = re.fullmatch(r"[\w/.+@ -]+", str(folder)) is not None
    if not (fits and plain and account.can_enter(data_dir)):
        # TMPDIR may itself be long, or closed to the account.
        folder = Path("/tmp", f"wattstream-{_digest(data_dir)}-{account.uid}")  # noqa: S108
    make_private_folder(folder, account)
    for leftover in folder.glob(f"{_SOCKET_NAME}*"):
        leftover.unlink()
    return folder


def make_private_folder(folder: Path, account: Account) -> None:
    """Make a folder of the account with mode 0700, or give it back that mode.

    Raises:
        EmbeddedServerError: It exists and belongs to another user, or is no folder.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        owner = os.fstat(descriptor).st_uid
        if owner not in {account.uid, os.geteuid()}:
            raise EmbeddedServerError(
                f"{folder} belongs to user {user_name(owner)}, but {account.name} needs it; "
                f"remove it, or {_OTHER_FOLDER}"
            )
        os.fchmod(descriptor, 0o700)
        account.give(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, text: str, account: Account | None) -> None:
    """Write a new file, mode 0600, for the account or for the engine's own user.

    Never through a link: root writes into folders of a user that it does not trust.

    Raises:
        FileExistsError: There is something of that name.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if account is not None:
            account.give(descriptor)
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _move_out(data_dir: Path, account: Account) -> Path:
    link = data_dir / "postgres"
    home = SHARED_ROOT / _digest(data_dir)
    if not (open_shared_folder(SHARED_ROOT, account) and open_shared_folder(home, account)):
        raise EmbeddedServerError(
            f"user {account.name}, whom PostgreSQL runs as, cannot enter {data_dir}, and "
            f"{SHARED_ROOT} is not a writable folder of root; let that user through, or "
            f"{_OTHER_FOLDER}"
        )
    cluster = home / "postgres"
    if link.exists():
        _move(link, cluster)
    elif cluster.exists() and not (data_dir / "password").exists():
        raise EmbeddedServerError(
            f"{cluster} holds the database of an earlier {data_dir} whose password is gone; "
            f"restore {data_dir / 'password'}, or delete {home} to begin with an empty database"
        )
    link.symlink_to(cluster)
    log.info(
        "PostgreSQL's files are kept outside the data folder, which its user cannot enter",
        data_dir=str(data_dir),
        cluster=str(cluster),
        user=account.name,
    )
    return cluster


def _move(link: Path, cluster: Path) -> None:
    lock = lock_cluster(link)
    try:
        end_leftover(link)
        link.rename(cluster)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.ENOTEMPTY}:
            raise
        raise EmbeddedServerError(
            f"PostgreSQL's user can no longer enter {link}, and it cannot be renamed to {cluster} "
            f"({error.strerror}); open the folders above it to that user, or move it there by hand"
        ) from error
    finally:
        os.close(lock)


def _check_owner(path: Path, uid: int) -> None:
    try:
        owner = path.stat().st_uid
    except FileNotFoundError:
        return
    except PermissionError:  # a folder above it is closed to us, hence another user's
        owner = path.parent.stat().st_uid
    if owner != uid:
        raise EmbeddedServerError(
            f"{path} belongs to user {user_name(owner)}, but this start needs {user_name(uid)} to "
            f"own it; start the engine as before (same user, same WATTSTREAM_POSTGRES_USER), or "
            f"{_OTHER_FOLDER}"
        )


def _digest(data_dir: Path) -> str:
    return hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
