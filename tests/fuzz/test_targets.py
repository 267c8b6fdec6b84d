"""Every target of the fuzzer for a moment, without it: its seeds, and what words make of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_give_readings_or_a_named_error(name: str) -> None:
    for seed in [b"", *TARGETS[name].seeds]:
        TARGETS[name].check(seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=50)
@given(data=st.data())
def test_changed_seeds_give_readings_or_a_named_error(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    text = data.draw(st.sampled_from(target.seeds))[: target.max_bytes]
    for _ in range(data.draw(st.integers(1, 4))):
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        put_in = data.draw(st.sampled_from(target.words) | st.binary(max_size=8))
        text = text[:start] + put_in + text[stop:]
    target.check(text)
