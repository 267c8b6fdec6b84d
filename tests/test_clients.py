"""Simulator and replay against a real engine, checked by sums over history."""

import json
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from conftest import Engine, shared_data

EXACT = 10**6


def wattstream(engine: Engine, *arguments: object, status: int = 0) -> str:
    """Run a command of the command line against the engine; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "wattstream", *map(str, arguments), "--url", engine.url],
        check=False,
        capture_output=True,
        text=True,
        env={"COLUMNS": "200", "PATH": ""},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def counts(output: str) -> dict[str, int]:
    """Return the numbers of the final table."""
    rows = [line.strip("┃│ ") for line in output.splitlines() if line[:1] in "┃│"]
    names, values = ([cell.strip() for cell in row.replace("┃", "│").split("│")] for row in rows)
    return {
        name: int(value.replace(",", ""))
        for name, value in zip(names[:-1], values[:-1], strict=True)
    }


def sql(engine: Engine, statement: str, *params: object) -> Any:
    with psycopg.connect(engine.conninfo) as connection:
        row = connection.execute(statement.encode(), params).fetchone()
    assert row is not None
    return row[0] if len(row) == 1 else row


def held_ukwh(engine: Engine, meter: str) -> int:
    """Return the energy that rollups and live state hold for a meter, micro-kWh."""
    return int(
        sql(
            engine,
            "SELECT sum(energy_ukwh) FROM (SELECT device_id, energy_ukwh FROM meter_rollup"
            " UNION ALL SELECT device_id, energy_ukwh FROM meter_live) AS b"
            " JOIN devices USING (device_id) WHERE external_id = %s AND stream = 'meter'",
            meter,
        )
    )


def test_a_real_house_is_replayed_exactly_and_only_once(engine: Engine, tmp_path: Path) -> None:
    house = shared_data("uci_meter.jsonl")
    first = wattstream(engine, "replay", house, "--mode", "register", "--shift-to-now")
    assert counts(first)["Stored"] == 2880
    assert held_ukwh(engine, "uci-house-1") == 58_202_834
    shift = first.split("--shift-by ")[1].split()[0]
    again = wattstream(engine, "replay", house, "--mode", "register", "--shift-by", shift)
    assert counts(again) | {"Requests": 0} == {
        "Sent": 2880, "Stored": 0, "Duplicates": 2880, "Rejected": 0, "Requests": 0, "Retries": 0,
    }  # fmt: skip
    lines = house.read_text().replace("uci-house-1", "shuffled").splitlines()
    random.Random(1).shuffle(lines)
    shuffled = tmp_path / "shuffled.jsonl"
    shuffled.write_text("\n".join(lines))
    arguments = ("--mode", "register", "--shift-by", shift, "--batch", "50", "--connections", "4")
    wattstream(engine, "replay", shuffled, *arguments)
    assert held_ukwh(engine, "shuffled") == 58_202_834


def test_both_sides_of_a_real_charge_are_replayed_with_one_clock_corrected(engine: Engine) -> None:
    meter, vehicle = shared_data("gueni_charger_meter.jsonl"), shared_data("gueni_vehicle.jsonl")
    output = wattstream(
        engine, "replay", meter, vehicle, "--mode", "register", "--shift-to-now",
        "--clock-offset", "gueni-dc-1=-7195",
    )  # fmt: skip
    assert counts(output)["Stored"] == 22 + 26
    assert held_ukwh(engine, "gueni-dc-1") == 5_443_621
    first, last = sql(
        engine,
        "SELECT (SELECT min(measured_at) FROM meter_history),"
        " (SELECT max(measured_at) FROM vehicle_history)",
    )
    assert abs((last - first).total_seconds()) < 3600


def gueni(engine: Engine, path: str, vehicle: str = "gueni-ev-1", **params: str) -> Any:
    answer = httpx.get(f"{engine.url}/v1/analytics/{path}/{vehicle}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def link_gueni(engine: Engine) -> None:
    link = {"meterId": "gueni-dc-1", "vehicleId": "gueni-ev-1", "start": "2026-01-01T00:00:00Z"}
    assert httpx.post(f"{engine.url}/v1/links", json=link).status_code == 201


def test_a_wrong_clock_is_told_shown_and_corrected_by_hand_only(engine: Engine) -> None:
    files = shared_data("gueni_charger_meter.jsonl"), shared_data("gueni_vehicle.jsonl")
    replay = ("replay", *files, "--mode", "register", "--shift-to-now")
    wattstream(engine, *replay)
    link_gueni(engine)
    (pair,) = gueni(engine, "clock")["meters"]
    assert (pair["meterId"], pair["state"], pair["reason"]) == ("gueni-dc-1", "known", None)
    assert pair["offsetSeconds"] == pytest.approx(7195, abs=15)
    assert pair["uncertaintySeconds"] <= 60
    assert pair["quality"] > 0.95

    # The charger's hour holds none of the vehicle's, or its last reading only, and the reverse.
    first, last = sql(engine, "SELECT min(measured_at), max(measured_at) FROM meter_history")
    car_first, car_last = sql(
        engine, "SELECT min(measured_at), max(measured_at) FROM vehicle_history"
    )
    after = last + timedelta(seconds=1)
    assert car_last < first
    for start, end, status, totals, reason in (
        (first, after, "no_data", (5.443621, 0), "the vehicle sent no reading"),
        (car_last, after, "ok", (5.443621, 0.000085), "the other sent no reading"),
        (car_first, first, "ok", (0, 5.353832), "the vehicle's meters sent no reading"),
        (car_first, first + timedelta(minutes=2), "ok", (0.23232, 5.353832),
         "the other sent no reading"),
    ):  # fmt: skip
        answer = gueni(engine, "performance", start=start.isoformat(), end=end.isoformat())
        assert (answer["totalAc"], answer["totalDc"]) == totals
        assert (answer["efficiency"], answer["status"]) == (None, status)
        assert reason in answer["reason"]
    assert gueni(engine, "clock", end=first.isoformat())["meters"][0]["state"] == "unknown"


def test_a_clock_corrected_at_replay_gives_the_efficiency_of_the_charge(engine: Engine) -> None:
    files = shared_data("gueni_charger_meter.jsonl"), shared_data("gueni_vehicle.jsonl")
    replay = ("replay", *files, "--mode", "register", "--shift-to-now")
    wattstream(engine, *replay, "--clock-offset", "gueni-dc-1=-7195")
    link_gueni(engine)
    first, last = sql(
        engine,
        "SELECT least(m.first, v.first), greatest(m.last, v.last) FROM"
        " (SELECT min(measured_at) AS first, max(measured_at) AS last FROM meter_history) AS m,"
        " (SELECT min(measured_at) AS first, max(measured_at) AS last FROM vehicle_history) AS v",
    )
    assert last - first < timedelta(hours=1)
    whole = {"start": first.isoformat(), "end": (last + timedelta(seconds=1)).isoformat()}
    answer = gueni(engine, "performance", **whole)
    assert answer["efficiency"] == pytest.approx(0.98, abs=0.01)
    assert (answer["status"], answer["acSource"]) == ("ok", "link")
    (pair,) = gueni(engine, "clock")["meters"]
    assert pair["offsetSeconds"] == pytest.approx(0, abs=15)


def test_csv_and_decimal_strings_are_replayed_and_bad_lines_named(
    engine: Engine, tmp_path: Path
) -> None:
    at = datetime.now(UTC).replace(microsecond=123456).isoformat()
    csv = tmp_path / "a.csv"
    csv.write_text(
        "meterId,kwhConsumedAc,voltage,timestamp\n"
        f"C1,0.005433,,{at}\nC1,much,230,{at}\nC2,1e-3,230.5,{at}\n"
    )
    lines = tmp_path / "b.jsonl"
    lines.write_text(f'{{"meterId":"C3","kwhConsumedAc":"7","timestamp":"{at}"}}\n\n{{nope\n')
    output = wattstream(engine, "replay", csv, lines, status=1)
    assert counts(output)["Stored"] == 3
    assert counts(output)["Rejected"] == 2
    assert f"{csv}:3: kwhConsumedAc must be a number" in output
    assert f"{lines}:3: the record is not JSON" in output
    assert held_ukwh(engine, "C1") == 5433
    stored = sql(engine, "SELECT max(measured_at) FROM meter_history")
    assert stored.microsecond == 123456


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "nowhere.jsonl"], "nowhere.jsonl"),
        (["replay", __file__], "must end in .jsonl"),
        (["replay", "FILE", "--shift-to-now", "--shift-by", "5"], "exclude each other"),
        (["replay", "FILE", "--clock-offset", "x"], "ID=SECONDS"),
        (["replay", "FILE", "--clock-offset", "ghost=5"], "ghost"),
        (["replay", "FILE", "--shift-by", "soon"], "not a number of seconds"),
        (["simulate", "--pairs", "0"], "--pairs"),
    ],
)
def test_wrong_use_is_explained(arguments: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"meterId":"M","kwhConsumedAc":1,"timestamp":"2026-01-01T00:00:00Z"}')
    done = subprocess.run(
        [sys.executable, "-m", "wattstream", *(str(file) if a == "FILE" else a for a in arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={"COLUMNS": "200", "PATH": ""},
    )
    assert done.returncode in (1, 2)
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def brute_force(engine: Engine, name: str, start: datetime, end: datetime) -> tuple[Any, ...]:
    """Return AC, DC in micro-kWh, readings and the mean temperature, by scanning history."""
    ac, meter_readings = sql(
        engine,
        "SELECT coalesce(sum(energy_ukwh), 0)::int8, count(*) FROM meter_history"
        " JOIN devices USING (device_id)"
        " WHERE external_id = %s AND measured_at >= %s AND measured_at < %s",
        name, start, end,
    )  # fmt: skip
    dc, vehicle_readings, temperature = sql(
        engine,
        "SELECT coalesce(sum(energy_ukwh), 0)::int8, count(*),"
        " sum(round(battery_temp_c::numeric * 1000000)) / count(battery_temp_c) / 1000000"
        " FROM vehicle_history JOIN devices USING (device_id)"
        " WHERE external_id = %s AND measured_at >= %s AND measured_at < %s",
        name, start, end,
    )  # fmt: skip
    return ac, dc, meter_readings, vehicle_readings, temperature


def assert_performance_is_exact(engine: Engine, names: list[str], hours: float) -> None:
    rng = random.Random(3)
    now = datetime.now(UTC)
    with httpx.Client(base_url=engine.url) as client:
        for name in names:
            start = now - timedelta(hours=hours) * rng.random()
            end = start + (now - start) * rng.random() + timedelta(seconds=1)
            answer = client.get(
                f"/v1/analytics/performance/{name}",
                params={"start": start.isoformat(), "end": end.isoformat()},
            ).json()
            ac, dc, meter, vehicle, temperature = brute_force(engine, name, start, end)
            assert answer["totalAc"] == ac / EXACT
            assert answer["totalDc"] == dc / EXACT
            assert answer["readings"] == {"vehicle": vehicle, "meter": meter}
            assert answer["efficiency"] == (dc / ac if ac and vehicle else None)
            assert answer["avgBatteryTemp"] == (
                pytest.approx(float(temperature), rel=1e-15) if vehicle else None
            )


@pytest.mark.parametrize(
    ("pairs", "hours"), [(40, 5), pytest.param(1000, 24, marks=pytest.mark.slow)]
)
def test_a_simulated_fleet_is_answered_exactly_whatever_is_late_or_repeated(
    engine: Engine, pairs: int, hours: int
) -> None:
    run = ("simulate", "--pairs", pairs, "--backfill-hours", hours, "--backfill-only")
    output = wattstream(engine, *run, "--prefix", "A-")
    assert counts(output)["Stored"] == counts(output)["Sent"] == pairs * hours * 60 * 2
    shares = ("--late-share", 0.1, "--duplicate-share", 0.1, "--out-of-order-share", 0.3)
    output = wattstream(engine, *run, *shares, "--prefix", "B-", "--batch", 700)
    assert counts(output)["Duplicates"] > 0
    names = random.Random(2).sample([f"{n:06d}" for n in range(1, pairs + 1)], 20)
    assert_performance_is_exact(engine, [f"{p}-{name}" for name in names for p in "AB"], hours)
    alike = sql(
        engine,
        "SELECT count(*) FROM (SELECT substr(external_id, 2) AS pair, measured_at, energy_ukwh"
        " FROM meter_history JOIN devices USING (device_id)"
        " GROUP BY 1, 2, 3 HAVING count(*) = 2) AS same",
    )
    # The two runs may start in different minutes: all readings but those of a few agree.
    assert alike >= pairs * (hours * 60 - 3)
    repair = httpx.post(f"{engine.url}/v1/analytics/refresh", timeout=120).json()
    assert repair["bucketsRepaired"] == 0
    assert repair["bucketsChecked"] >= pairs * 2 * hours * 4 * 0.9


def test_live_heartbeats_come_one_by_one_until_stopped(engine: Engine) -> None:
    output = wattstream(engine, "simulate", "--pairs", "60", "--duration", "3", "--single")
    found = counts(output)
    assert found["Stored"] == found["Requests"] == found["Sent"] >= 6
    stats = httpx.get(f"{engine.url}/v1/analytics/stats").json()
    assert stats["meter"]["readings"] == stats["vehicle"]["readings"] == found["Sent"] / 2
    assert json.dumps(stats).count("rejections") == 2
