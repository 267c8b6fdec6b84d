"""Backups taken under load and restored: what was acknowledged before is there, and exact."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from test_cli import run
from test_process import Load, Process, assert_holds, folder, serving
from wattstream.domain.errors import EmbeddedServerError
from wattstream.store.embedded import EmbeddedPostgres
from wattstream.store.embedded.backup import back_up, restore

__all__ = ["folder"]


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of an engine's fresh, idle database; tests copy what they break."""
    data, target = (tmp_path_factory.mktemp("backup") / name for name in ("data", "kept"))
    for parent in (data.parent, *data.parent.parents[:3]):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/tmp"):
            parent.chmod(0o711)
    server = EmbeddedPostgres(data)
    server.start()
    server.stop()
    back_up(data, target, "nobody")
    return target


@pytest.mark.slow
def test_backup_under_load_restores_to_exact_totals(folder: Path) -> None:
    with serving(folder) as engine:
        load = Load(engine.url)
        time.sleep(2)
        before = list(load.acknowledged)
        code, text = run(folder, "backup", "kept")
        during = len(load.acknowledged)
        load.stop()
        assert code == 0, text
        assert engine.is_running
    assert len(before) > 100
    assert during > len(before), "the load stood still, so nothing was proven"
    assert "100%" in text
    assert (folder / "kept").stat().st_mode & 0o777 == 0o700
    assert (folder / "kept/password").stat().st_mode & 0o777 == 0o600
    again = folder / "again"
    again.mkdir()

    code, text = run(again, "restore", str(folder / "kept"))

    assert code == 0, text
    with serving(again) as restored:
        assert_holds(again, restored.url, before)
    (again / "wattstream-data/password").unlink()
    code, text = run(again, "restore", str(folder / "kept"))
    assert code == 1
    assert "empty data folder only" in " ".join(text.split())


@pytest.mark.slow
def test_backup_of_a_stopped_engine_starts_the_server_for_it(folder: Path) -> None:
    Process(folder).end(15)

    code, text = run(folder, "backup", "kept")

    assert code == 0, text
    assert run(folder, "restore", "kept", "--data-dir", "other")[0] == 0
    with serving(folder, "--data-dir", "other") as restored:
        assert restored.url


def test_damaged_backup_is_refused_and_leaves_nothing(
    backup: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = folder / "kept"
    shutil.copytree(backup, kept)
    with (kept / "postgres/global/1260").open("r+b") as file:
        file.write(b"damage")

    with pytest.raises(EmbeddedServerError, match="pg_verifybackup ended"):
        restore(kept, folder / "data", "nobody")

    assert "1260" in capfd.readouterr().err
    assert not (folder / "data").exists()


def test_backup_that_does_not_start_leaves_nothing(backup: Path, folder: Path) -> None:
    kept, data = folder / "kept", folder / "data"
    shutil.copytree(backup, kept)
    (kept / "password").write_text("another")
    data.mkdir()

    with pytest.raises(EmbeddedServerError, match="password"):
        restore(kept, data, "nobody")

    assert list(data.iterdir()) == []


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda at: back_up(at / "none", at / "kept", "nobody"), "holds no database to back up"),
        (lambda at: restore(at, at / "data", "nobody"), "is not a backup"),
    ],
)
def test_folders_of_another_kind_are_named(
    folder: Path, act: Callable[[Path], object], words: str
) -> None:
    with pytest.raises(EmbeddedServerError, match=words):
        act(folder)


def test_backup_never_touches_a_filled_folder(folder: Path, backup: Path) -> None:
    (folder / "data").mkdir()
    shutil.copytree(backup / "postgres", folder / "data/postgres")
    (folder / "kept").mkdir()
    (folder / "kept/file").touch()

    with pytest.raises(EmbeddedServerError, match="copy cannot be made: "):
        back_up(folder / "data", folder / "kept/file/below", "nobody")
    with pytest.raises(EmbeddedServerError, match="kept is not empty"):
        back_up(folder / "data", folder / "kept", "nobody")


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_server_of_ones_own_is_not_backed_up(tmp_path: Path, command: str) -> None:
    url = "postgresql://u:zzcret@127.0.0.1/x"
    code, text = run(tmp_path, command, "kept", WATTSTREAM_DATABASE_URL=url)
    assert code == 1
    assert "pg_dump" in text
    assert "zzcret" not in text
