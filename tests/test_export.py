"""`wattstream export`: the file holds what the engine holds, or is not there."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pyarrow.parquet as parquet
from typer.testing import CliRunner

from conftest import Engine
from wattstream.cli.main import app
from wattstream.client.export import _groups

BASE = (datetime.now(UTC) - timedelta(hours=3)).replace(minute=0, second=0, microsecond=0)
METERS = ["M,1", 'M"2', "電-3", "M4"]


def command(url: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "wattstream", "export", *map(str, arguments), "--url", url]


def export(url: str, *arguments: object, status: int = 0, **environ: str) -> str:
    done = subprocess.run(
        command(url, *arguments),
        check=False,
        capture_output=True,
        text=True,
        env={"COLUMNS": "300", "PATH": ""} | environ,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def fill(engine: Engine, minutes: int = 90) -> list[dict[str, Any]]:
    """Send readings of some meters; every third has no voltage."""
    sent = [
        {
            "meterId": name,
            "kwhConsumedAc": round(0.01 * minute + 0.001 * number, 6),
            "timestamp": (BASE + timedelta(minutes=minute)).isoformat().replace("+00:00", "Z"),
        }
        | ({} if minute % 3 == 0 else {"voltage": 230.5})
        for number, name in enumerate(METERS)
        for minute in range(minutes)
    ]
    answer = httpx.post(f"{engine.url}/v1/ingest/batch", json=sent)
    assert answer.status_code == 201, answer.text
    return sent


def span() -> tuple[str, ...]:
    return ("--start", BASE.isoformat(), "--end", (BASE + timedelta(hours=2)).isoformat())


def test_csv_and_parquet_hold_every_reading_of_all_devices(engine: Engine, tmp_path: Path) -> None:
    sent = fill(engine)
    told = export(engine.url, "meter", tmp_path / "a.csv", *span())
    assert f"{len(sent)} rows, devices: 4" in told
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {
        (row["meterId"], row["timestamp"]): (row["kwhConsumedAc"], row.get("voltage"))
        for row in sent
    }
    assert len(rows) == len(sent)
    assert {
        (row["id"], row["timestamp"]): (
            float(row["kwhConsumedAc"]),
            float(row["voltage"]) if row["voltage"] else None,
        )
        for row in rows
    } == expected

    export(engine.url, "meter", tmp_path / "a.parquet", *span())
    table = parquet.read_table(tmp_path / "a.parquet")
    assert len(table) == len(sent)
    assert str(table.schema.field("timestamp").type) == "timestamp[us, tz=UTC]"
    assert table.schema.field("voltage").metadata[b"unit"] == b"V"
    assert table.schema.metadata[b"type"] == b"meter"
    assert table.schema.metadata[b"resolution"] == b"raw"

    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        name = str(tmp_path / "a.parquet")
        found = database.execute(
            "SELECT id, epoch_us(timestamp), kwhConsumedAc, voltage FROM read_parquet(?)", [name]
        ).fetchall()
        columns = database.execute("DESCRIBE SELECT * FROM read_parquet(?)", [name]).fetchall()
        units = database.execute(
            "SELECT decode(value) FROM parquet_kv_metadata(?) WHERE decode(key) = 'units'", [name]
        ).fetchone()
    assert {
        (device, datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")): values
        for device, at, *values in found
    } == {key: list(values) for key, values in expected.items()}
    assert {name: kind for name, kind, *_ in columns} == {
        "id": "VARCHAR",
        "timestamp": "TIMESTAMP WITH TIME ZONE",
        "kwhConsumedAc": "DOUBLE",
        "voltage": "DOUBLE",
        "energyKwh": "DOUBLE",
        "suspectKwh": "DOUBLE",
    }
    assert units is not None
    assert json.loads(units[0]) == {
        "kwhConsumedAc": "kWh", "voltage": "V", "energyKwh": "kWh", "suspectKwh": "kWh",
    }  # fmt: skip


def test_chosen_devices_come_in_their_order_and_by_the_hour(engine: Engine, tmp_path: Path) -> None:
    fill(engine)
    chosen = ("--id", "電-3", "--id", "M,1", "--id", "電-3", "--resolution", "1h")
    export(engine.url, "meter", tmp_path / "h.parquet", *chosen, *span())
    table = parquet.read_table(tmp_path / "h.parquet")
    assert table["id"].to_pylist() == ["電-3", "電-3", "M,1", "M,1"]
    assert table["readings"].to_pylist() == [60, 30, 60, 30]
    assert str(table.schema.field("readings").type) == "int64"


def test_a_range_without_readings_is_an_empty_file_that_opens(
    engine: Engine, tmp_path: Path
) -> None:
    fill(engine)
    never = ("--start", "2020-01-01T00:00:00Z", "--end", "2020-01-02T00:00:00Z")
    export(engine.url, "meter", tmp_path / "none.parquet", *never)
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0
    export(engine.url, "meter", tmp_path / "none.csv", *never)
    header = "id,timestamp,kwhConsumedAc,voltage,energyKwh,suspectKwh"
    assert (tmp_path / "none.csv").read_text().splitlines() == [header]


def test_what_cannot_be_exported_is_explained_and_leaves_nothing(
    engine: Engine, tmp_path: Path
) -> None:
    fill(engine, minutes=1)
    (tmp_path / "there.csv").write_text("mine")
    for arguments, status, message in (
        (("meter", "x.txt"), 2, "must end in .csv or .parquet"),
        (("meter", "there.csv"), 2, "exists; add --overwrite"),
        (("meter", "no/such/x.csv"), 1, "No such file or directory"),
        (("meter", "x.csv", "--id", "ghost"), 1, "ghost"),
        (("meter", "x.csv", "--start", "2026-02-01T00:00:00"), 1, "offset"),
        (("meter", "x.csv", "--end", "soon"), 2, "'soon' is not a time"),
        (("meter", "x.csv", "--resolution", "2h"), 2, "'2h' is not one of"),
        (("vehicle", "x.csv"), 1, "knows no vehicle yet"),
        (("toaster", "x.csv"), 2, "'toaster' is not one of"),
    ):
        kind, name, *more = arguments
        done = CliRunner(env={"COLUMNS": "300"}).invoke(
            app, ["export", kind, str(tmp_path / name), *more, "--url", engine.url]
        )
        told = f"{done.output} {done.exception}"
        assert done.exit_code == status, told
        assert message in " ".join(told.replace("│", " ").split())
        assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]
    assert (tmp_path / "there.csv").read_text() == "mine"


class _BreaksOff(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"8\r\nid,a\nM,1\r\n")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def test_an_answer_that_breaks_off_is_no_file(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _BreaksOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{server.server_port}"
        told = export(there, "meter", tmp_path / "x.csv", "--id", "M", status=1)
        server.shutdown()
    assert "broke off in the middle" in " ".join(told.split())
    assert not list(tmp_path.iterdir())


def test_overwrite_replaces_a_file_only_by_a_whole_one(engine: Engine, tmp_path: Path) -> None:
    fill(engine, minutes=1)
    file = tmp_path / "x.csv"
    file.write_text("old")
    export(engine.url, "meter", file, "--overwrite", "--id", "ghost", status=1)
    assert file.read_text() == "old"
    export(engine.url, "meter", file, "--overwrite", *span())
    assert len(file.read_text().splitlines()) == 1 + len(METERS)


def test_parquet_without_its_library_names_the_command(engine: Engine, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "pyarrow.py").write_text("raise ImportError('not installed')")
    told = export(engine.url, "meter", tmp_path / "x.parquet", status=1, PYTHONPATH=str(blocked))
    assert "pip install 'wattstream[parquet]'" in told
    assert [path.name for path in tmp_path.iterdir()] == ["blocked"]


def test_an_export_that_is_stopped_leaves_no_file_under_its_name(
    engine: Engine, tmp_path: Path
) -> None:
    several = [
        {"meterId": f"S{n}", "kwhConsumedAc": 1, "timestamp": BASE.isoformat()} for n in range(5000)
    ]
    assert httpx.post(f"{engine.url}/v1/ingest/batch", json=several).status_code == 201
    for form, number, status in (
        ("csv", signal.SIGINT, 130),
        ("parquet", signal.SIGINT, 130),
        ("csv", signal.SIGKILL, -signal.SIGKILL),
    ):
        file = tmp_path / f"x.{form}"
        with subprocess.Popen(
            command(engine.url, "meter", file, *span()), stderr=subprocess.PIPE
        ) as process:
            while not list(tmp_path.iterdir()):
                assert process.poll() is None
                time.sleep(0.01)
            os.kill(process.pid, number)
            assert process.wait(timeout=30) == status
        left = [path.name for path in tmp_path.iterdir()]
        assert file.name not in left
        assert number is signal.SIGKILL or not left


def test_devices_are_asked_for_in_parts_that_fit_a_url() -> None:
    for ids in (["M"], [f"M{n}" for n in range(12_345)], ["電" * 128] * 300):
        groups = list(_groups(ids))
        assert [name for group in groups for name in group] == ids
        assert max(map(len, groups)) <= 100
        url = max(len("".join(f"&id={name}" for name in g).encode()) for g in groups)
        assert url <= 6000
