"""A short torture, and that its judge sees what is wrong. The long one is `make torture`."""

import os
import random
import time
from collections.abc import Iterator

import pytest

from faults.check import check
from faults.kinds import FAULTS
from faults.load import Load
from faults.system import System, temporary_system
from faults.torture import Torture, drawn, possible

SEED = int(os.environ.get("WATTSTREAM_TEST_SEED", "7"))
ROUNDS = 4


@pytest.fixture
def system() -> Iterator[System]:
    with temporary_system(small_disk=False) as found:
        yield found


@pytest.mark.slow
def test_a_few_faults_break_no_promise(system: System) -> None:
    torture = Torture(system, SEED)
    for name in drawn(torture.rng, ROUNDS, possible(system, slow=False)):
        assert torture.round(name) == [], f"{name} on {system.topology}, seed {SEED}"
    assert len(torture.ledger.acknowledged()) > 1000, torture.report()


@pytest.mark.slow
def test_a_full_disk_breaks_no_promise() -> None:
    with temporary_system(small_disk=True) as system:
        if system.disk is None:
            pytest.skip("a small disk is mounted by root only")
        torture = Torture(system, SEED)
        assert torture.round("disk full") == []
        assert torture.scene.seen["disks full, with 503"] == 1


def test_every_fault_is_drawn_once_before_any_is_drawn_again() -> None:
    order = drawn(random.Random(SEED), 100, list(FAULTS))
    assert sorted(order[: len(FAULTS)]) == sorted(FAULTS)
    assert order == drawn(random.Random(SEED), 100, list(FAULTS))


_ANY = "(device_id, measured_at) = (SELECT device_id, measured_at FROM meter_history LIMIT 1)"
DAMAGES = {
    "acknowledged and lost": f"DELETE FROM meter_history WHERE {_ANY}",
    "never sent and there": "INSERT INTO meter_history SELECT device_id,"
    " minute, measured_at + interval '7 ms', 0, NULL FROM meter_history LIMIT 3",
    "has other values": f"UPDATE meter_history SET voltage_v = 1 WHERE {_ANY}",
    "quarter-hours differ from history": "UPDATE vehicle_live SET soc_count = soc_count + 1",
    "not the newest reading": "UPDATE vehicle_live SET last_ukwh = last_ukwh + 1",
    "name another minute": f"UPDATE meter_history SET minute = minute + 1 WHERE {_ANY}",
    "wrong sums of their day": "UPDATE meter_live SET day_energy_ukwh = day_energy_ukwh + 1",
    "counted wrong": "UPDATE history_days SET readings = readings + 1",
    "falls differ": "DELETE FROM register_events",
    "quarter-hours differ from the readings": "UPDATE meter_live SET energy_ukwh = energy_ukwh + 1",
    "own recomputation": "UPDATE meter_rollup SET readings = readings + 1",
}


@pytest.mark.slow
def test_the_judge_sees_every_kind_of_damage(system: System) -> None:
    torture = Torture(system, SEED)
    torture.build("embedded", ("embedded",))
    load = Load(torture.ledger, system.urls, SEED)
    time.sleep(4)
    load.stop()
    url = system.engines[0].url
    assert check(system.conninfo, torture.ledger, url)[1] == []
    unseen = []
    for words, statement in DAMAGES.items():
        with system.connection() as connection:
            assert connection.execute(statement.encode()).rowcount > 0, statement
        _, problems = check(system.conninfo, torture.ledger, url)
        unseen += [] if words in "; ".join(problems) else [f"{words}: {problems}"]
    assert unseen == []
