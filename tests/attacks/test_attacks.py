"""Every attack for a moment: others are answered, memory is bounded. Times are `make attack`'s."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from attacks.kinds import ATTACKS
from attacks.run import stretch, temporary_engine
from faults.system import Engine

SCALE = {"idle connections": 0.1, "slow headers": 0.1, "slow bodies": 0.1}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with temporary_engine("--header-timeout", "1s", "--body-timeout", "2s") as one:
        yield one


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ATTACKS))
def test_others_are_answered_during_an_attack(engine: Engine, name: str) -> None:
    seen = asyncio.run(stretch(engine, name, 1.5, SCALE.get(name, 1.0)))
    assert seen.problems(name) == []
    assert sum(seen.answers.values()) > 0, "the attack took place"
    assert httpx.get(f"{engine.url}/v1/health", timeout=30).status_code == 200
