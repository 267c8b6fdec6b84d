"""Bodies of one kind are decoded by a way of their own: it gives what each record gives alone."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wattstream.decode.json import Decoded, decode_array, decode_lines, decode_one
from wattstream.decode.records import Limits
from wattstream.decode.timestamps import parse, parse_one
from wattstream.decode.uniform import uniform_array, uniform_lines
from wattstream.domain.errors import MalformedError
from wattstream.domain.readings import to_rows
from wattstream.domain.units import NEVER_US

LIMITS = Limits(1_735_000_000_000_000, 1_770_640_000_000_000)
TIMES = ["2026-02-09T10:00:00Z", "2026-02-09T10:00:00.25+01:00", "2026-02-09T10:00:00", "soon"]
METER = {"meterId": "M1", "kwhConsumedAc": 0.000013, "voltage": 230, "timestamp": TIMES[0]}
VEHICLE = {
    "vehicleId": "V1",
    "kwhDeliveredDc": 12.5,
    "soc": 75,
    "batteryTemp": 24.5,
    "timestamp": TIMES[0],
}

ids = st.sampled_from(
    ["M1", "", "a b", "a\nb", "\u00e9", "\u00a0", "\x7f", "~", "x" * 128, "x" * 129]
)
numbers = st.sampled_from(
    [0, -1, 0.0000005, 99.9, 10**10, None, "2.5", "1e999", "-0", "1_0", " 1", "nan", "x", True, []]
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from([None, "meter", "vehicle", "METER", "pump", 7]),
        "meterId": ids | st.none() | st.just(7),
        "vehicleId": ids | st.none() | st.just(7),
        "kwhConsumedAc": numbers,
        "kwhDeliveredDc": numbers,
        "voltage": numbers,
        "soc": numbers,
        "batteryTemp": numbers,
        "timestamp": st.sampled_from([*TIMES, None, 7]),
        "x": st.sampled_from([None, "}\n{", "\ud800", {"meterId": [1]}]),
    },
)


@st.composite
def nearly_uniform(draw: st.DrawFn) -> list[dict[str, object]]:
    """Return records of one kind, one or two of them changed."""
    kind = draw(st.sampled_from([METER, VEHICLE]))
    records: list[dict[str, object]] = [dict(kind) for _ in range(draw(st.integers(1, 5)))]
    for _ in range(draw(st.integers(0, 2))):
        records[draw(st.integers(0, len(records) - 1))] |= draw(changes)
    return records


def verdicts(decoded: Decoded) -> list[object]:
    """Return what became of each record, as it may be compared."""
    found: dict[int, object] = {}
    for part in decoded.parts:
        for index, row in zip(part.index.tolist(), to_rows(part.readings), strict=True):
            found[index] = repr(row)
    for rejection in decoded.rejections:
        assert rejection.record == decoded.record(rejection.index)
        found[rejection.index] = (rejection.code, rejection.message, rejection.device)
    return [found[index] for index in range(decoded.received)]


def alone(text: bytes) -> object:
    try:
        return verdicts(decode_one(text, LIMITS))[0]
    except MalformedError as error:
        return (error.code, error.message.replace("the body", "the record"), None)


@given(nearly_uniform(), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_records_of_a_body_are_judged_as_each_is_alone(
    records: list[dict[str, object]], separators: tuple[str, str]
) -> None:
    texts = [json.dumps(record, separators=separators).encode() for record in records]
    expected = [alone(text) for text in texts]
    array = b"[%b]" % b",".join(texts)
    for body in (array, b'{"records":%b}' % array):
        assert verdicts(decode_array(body, LIMITS)) == expected
    assert verdicts(decode_lines(b"\n".join(texts), LIMITS)) == expected


@pytest.mark.parametrize(
    "record",
    [
        METER,
        VEHICLE,
        {**METER, "kwhConsumedAc": "0.13", "voltage": "+2.3e2"},
        {**METER, "voltage": "7"},
    ],
)
@pytest.mark.parametrize("count", [1, 3000])
def test_a_body_of_one_kind_goes_that_way(record: dict[str, object], count: int) -> None:
    nulls = dict.fromkeys([*METER, *VEHICLE, "type"])
    text = json.dumps({**nulls, **record, "x": "not ours"}).encode()
    array = b"[%b]" % b",".join([text] * count)
    envelope = b'{"records":%b}' % array
    for found in (
        uniform_array(array, is_object=False),
        uniform_array(envelope, is_object=True),
        uniform_lines(b"\n".join([text] * count) + b"\n"),
    ):
        assert found is not None
        assert len(found[1].ids) == count


@pytest.mark.parametrize(
    "change",
    [
        {"type": "vehicle"},
        {"type": "METER"},
        {"vehicleId": "V1"},
        {"meterId": None},
        {"voltage": "low"},
        {"kwhConsumedAc": None},
        {"timestamp": None},
    ],
)
def test_a_body_that_may_be_of_two_kinds_or_has_other_types_does_not(
    change: dict[str, object],
) -> None:
    records: list[dict[str, object]] = [dict(METER) for _ in range(3000)]
    records[1500] |= change
    assert uniform_array(json.dumps(records).encode(), is_object=False) is None
    assert uniform_lines(b"\n".join(json.dumps(r).encode() for r in records)) is None


ONE = json.dumps(METER).encode()


@pytest.mark.parametrize(
    ("body", "received"),
    [
        (ONE + b"\n\n" + ONE, 2),
        (ONE + b"\r\n" + ONE + b"\r\n", 2),
        (b"\n" + ONE + b"\n" + ONE + b"\n\n", 2),
        (ONE + ONE, 1),
        (ONE + b" " + ONE + b"\n" + ONE, 2),
        (ONE.replace(b", ", b",\n", 1), 2),
        (ONE + ONE.replace(b", ", b",\n", 1), 2),
        (ONE.replace(b"}", b', "x": {"y": {}\n{}}') + b"\n" + ONE, 3),
        (ONE + ONE.replace(b"{", b'{"x":\n{},', 1), 2),
        (ONE + ONE.replace(b"{", b'{"x":{}\n,', 1), 2),
        (b"\x0b" + ONE, 1),
        (ONE + b"\n\x0b", 1),
    ],
)
def test_a_record_is_a_line_whatever_stands_between_them(body: bytes, received: int) -> None:
    decoded = decode_lines(body, LIMITS)
    assert decoded.received == received
    lines = [line for line in body.split(b"\n") if line.strip()]
    assert verdicts(decoded) == [alone(line) for line in lines]


@pytest.mark.parametrize("cut", [b"]", b"[", b'"', b",", b"}", b"x", b"\n", b"\xff"])
def test_a_large_body_with_one_byte_too_many_is_what_its_records_are(cut: bytes) -> None:
    texts = [json.dumps({**METER, "meterId": f"M{i}"}).encode() for i in range(3000)]
    for row in (0, 1500, 2999):
        for place in (0, 10, len(texts[row])):
            changed = list(texts)
            changed[row] = texts[row][:place] + cut + texts[row][place:]
            body = b"\n".join(changed)
            decoded = decode_lines(body, LIMITS)
            lines = [line for line in body.split(b"\n") if line]
            assert verdicts(decoded) == [alone(line) for line in lines]


def test_an_envelope_that_is_empty_in_the_end_has_no_reading() -> None:
    body = b'{"records": [%b], "records": []}' % ONE
    decoded = decode_array(body, LIMITS)
    assert (decoded.received, decoded.parts, decoded.rejections) == (0, [], [])


@given(st.lists(st.sampled_from(TIMES), min_size=1), st.integers(1, 4))
@example(["2026-02-09T10:00:00Z"], 4)
@example(["soon"], 4)
def test_times_that_are_the_same_are_parsed_as_others_are(some: list[str], times: int) -> None:
    texts = [text for text in some for _ in range(times)]
    expected = [parse_one(text) if text.endswith(("Z", "+01:00")) else NEVER_US for text in texts]
    assert parse(texts).tolist() == expected
    assert parse([*texts, ""]).tolist() == [*expected, NEVER_US]
