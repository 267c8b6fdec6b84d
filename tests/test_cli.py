"""Commands and their messages: what to do next, and never a secret or a trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wattstream.settings import PREFIX


def run(tmp_path: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run a command in an empty folder; return its exit code and all that it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    done = subprocess.run(
        [sys.executable, "-m", "wattstream", *arguments],
        check=False,
        cwd=tmp_path,
        env=environ | variables | {"COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "",
        "serve",
        "simulate",
        "replay",
        "migrate",
        "doctor",
        "settings",
        "bench",
        "backup",
        "restore",
    ],
)
def test_every_command_has_help_and_examples(tmp_path: Path, command: str) -> None:
    code, text = run(tmp_path, *command.split(), "--help")
    assert code == 0
    assert "Example" in text or not command


def test_doctor_finds_a_sound_machine_sound(tmp_path: Path) -> None:
    code, text = run(tmp_path, "doctor", "--port", "0")
    assert code == 0, text
    assert text.count("✓") == 7
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["doctor", "migrate", "serve"])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:se%zzcret@127.0.0.1/x", "postgresql://user:password@host"),
        ("postgresql://u:p@zzcret@127.0.0.1/x", "does not answer"),
        ("postgresql://u:zzcret@127.0.0.1:1/x", "Connection refused"),
        ("zzcret", "postgresql://user:password@host"),
    ],
)
def test_a_wrong_database_url_is_explained_without_its_password(
    tmp_path: Path, command: str, url: str, words: str
) -> None:
    code, text = run(tmp_path, command, WATTSTREAM_DATABASE_URL=url, WATTSTREAM_PORT="0")
    assert code == 1
    assert words in text
    assert "zzcret" not in text


def test_doctor_names_every_problem_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, text = run(tmp_path, "doctor", "--host", "203.0.113.1", "--data-dir", "file")
    assert code == 1
    assert text.count("✗") == 2
    assert "WATTSTREAM_DATA_DIR" in text
    assert "WATTSTREAM_PORT" in text


def test_doctor_names_a_limit_of_open_files_that_is_too_low(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 1000; exec "$0" -m wattstream doctor --port 0', sys.executable],
        check=False,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    assert "may open 1,000 at once" in done.stdout
    assert "LimitNOFILE" in done.stdout


def test_brackets_in_a_value_are_shown_as_they_are(tmp_path: Path) -> None:
    code, text = run(tmp_path, "settings", WATTSTREAM_PORT="[/x]")
    assert code == 1
    assert "WATTSTREAM_PORT='[/x]'" in text


def test_settings_are_listed_without_secrets(tmp_path: Path) -> None:
    code, text = run(tmp_path, "settings", WATTSTREAM_DATABASE_URL="postgresql://u:zzcret@h/x")
    assert code == 0
    assert "WATTSTREAM_MAX_PAST" in text
    assert "(set)" in text
    assert "zzcret" not in text
