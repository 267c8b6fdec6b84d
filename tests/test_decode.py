"""JSON to columns: any bytes give readings or one named error."""

import gzip
import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from wattstream.decode.count import check_array
from wattstream.decode.encoding import decompress
from wattstream.decode.json import Decoded, decode_array, decode_lines, decode_one
from wattstream.decode.records import Limits, TakesLongError
from wattstream.decode.timestamps import parse, parse_one
from wattstream.domain.errors import MalformedError, TooLargeError, UnsupportedError
from wattstream.domain.readings import Stream
from wattstream.domain.units import NEVER_US, to_us

NOW = to_us(datetime(2026, 2, 9, 10, tzinfo=UTC))
LIMITS = Limits(NOW - 400 * 86_400_000_000, NOW + 600_000_000)
METER = {
    "meterId": "M1",
    "kwhConsumedAc": 15.2,
    "voltage": 230,
    "timestamp": "2026-02-09T10:00:00Z",
}
VEHICLE = {
    "vehicleId": "V1",
    "soc": 75,
    "kwhDeliveredDc": 12.5,
    "batteryTemp": 36,
    "timestamp": "2026-02-09T10:00:00Z",
}


def decode(*records: object) -> Decoded:
    return decode_array(json.dumps(records).encode(), LIMITS)


def code_of(record: object) -> str:
    """Return why a record is refused; alone, in an array and as a line it is the same."""
    text = json.dumps(record).encode()
    alone = decode_one(text, LIMITS)
    others = [decode_array(b"[%b]" % text, LIMITS), decode_lines(text, LIMITS)]
    for decoded in (alone, *others):
        assert not decoded.parts, "the record was not refused"
        (rejection,) = decoded.rejections
        assert rejection.record == text
        assert rejection.code == alone.rejections[0].code
        assert rejection.message == alone.rejections[0].message
    return alone.rejections[0].code


def test_both_kinds_are_recognised_and_keep_their_places() -> None:
    decoded = decode(METER, VEHICLE, {**METER, "meterId": "M2"})
    assert decoded.received == 3
    meters, vehicles = decoded.parts
    assert meters.readings.stream is Stream.METER
    assert meters.readings.ids == ["M1", "M2"]
    assert meters.index.tolist() == [0, 2]
    assert meters.readings.energy_ukwh.tolist() == [15_200_000] * 2
    assert meters.readings.at_us.tolist() == [NOW] * 2
    assert meters.readings.values.tolist() == [[230.0]] * 2
    assert vehicles.readings.ids == ["V1"]
    assert vehicles.readings.values.tolist() == [[75.0, 36.0]]


@pytest.mark.parametrize("kind", ["meter", "METER", "Meter"])
def test_type_decides_in_any_case(kind: str) -> None:
    both = {**METER, **VEHICLE, "type": kind}
    assert decode(both).parts[0].readings.ids == ["M1"]
    assert decode({**both, "vehicleId": 7, "soc": "many"}).parts[0].readings.ids == ["M1"]


def test_unknown_keys_and_keys_of_the_other_kind_are_ignored() -> None:
    decoded = decode({**METER, "soc": "no number", "batteryTemp": [], "x": {"y": [1, None]}})
    assert decoded.parts[0].readings.ids == ["M1"]


def test_decimal_strings_are_numbers() -> None:
    decoded = decode({**METER, "kwhConsumedAc": "0.005433", "voltage": "2.4315e2"}, METER)
    assert decoded.parts[0].readings.energy_ukwh.tolist() == [5433, 15_200_000]
    assert decoded.parts[0].readings.values.tolist() == [[243.15], [230.0]]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"type": "pump"}, "type_unknown"),
        ({"type": 7}, "type_invalid"),
        ({"type": "vehicle"}, "id_missing"),
        ({"meterId": None}, "id_missing"),
        ({"vehicleId": "V1"}, "id_ambiguous"),
        ({"meterId": ""}, "id_invalid"),
        ({"meterId": "a b"}, "id_invalid"),
        ({"meterId": "a\u00a0b"}, "id_invalid"),
        ({"meterId": "a\u0000"}, "id_invalid"),
        ({"meterId": "a\n"}, "id_invalid"),
        ({"meterId": "a\x7f"}, "id_invalid"),
        ({"meterId": "x" * 129}, "id_invalid"),
        ({"meterId": 5}, "id_invalid"),
        ({"kwhConsumedAc": None}, "energy_missing"),
        ({"kwhConsumedAc": True}, "energy_invalid"),
        ({"kwhConsumedAc": "NaN"}, "energy_invalid"),
        ({"kwhConsumedAc": "Infinity"}, "energy_invalid"),
        ({"kwhConsumedAc": "1_0"}, "energy_invalid"),
        ({"kwhConsumedAc": "٣"}, "energy_invalid"),
        ({"kwhConsumedAc": ""}, "energy_invalid"),
        ({"kwhConsumedAc": {}}, "energy_invalid"),
        ({"kwhConsumedAc": -0.000001}, "energy_out_of_range"),
        ({"kwhConsumedAc": 1_000_000_000.1}, "energy_out_of_range"),
        ({"kwhConsumedAc": "1e400"}, "energy_out_of_range"),
        ({"voltage": -3.2}, "voltage_out_of_range"),
        ({"voltage": 2000.5}, "voltage_out_of_range"),
        ({"voltage": False}, "voltage_invalid"),
        ({"timestamp": None}, "timestamp_missing"),
        ({"timestamp": 1_770_631_200}, "timestamp_invalid"),
        ({"timestamp": "yesterday"}, "timestamp_invalid"),
        ({"timestamp": "2026-02-30T10:00:00Z"}, "timestamp_invalid"),
        ({"timestamp": "2026-02-09T10:00:60Z"}, "timestamp_invalid"),
        ({"timestamp": "2026-02-08T24:00:00Z"}, "timestamp_invalid"),
        ({"timestamp": "2026-02-09T11:00:00+01:70"}, "timestamp_invalid"),
        ({"timestamp": "2026-02-09T10:00:00+24:00"}, "timestamp_invalid"),
        ({"timestamp": "2026-02-09T10:00:00"}, "timestamp_without_offset"),
        ({"timestamp": "2026-02-09T10:10:00.000001Z"}, "timestamp_in_future"),
        ({"timestamp": "2025-01-05T09:59:59.999999Z"}, "timestamp_too_old"),
    ],
)
def test_a_broken_rule_has_its_code(change: dict[str, object], code: str) -> None:
    assert code_of({**METER, **change}) == code


@pytest.mark.parametrize("record", [1, "x", None, [], [METER], True])
def test_what_is_no_object_is_refused_alone(record: object) -> None:
    assert code_of(record) == "not_an_object"
    assert len(decode(METER, record).parts[0].readings) == 1


def test_limits_of_ranges_are_inside() -> None:
    decoded = decode(
        {**METER, "kwhConsumedAc": 0, "voltage": 0, "timestamp": "2026-02-09T10:10:00Z"},
        {**METER, "kwhConsumedAc": 10**9, "voltage": 2000, "timestamp": "2025-01-05T10:00:00Z"},
        {**METER, "meterId": "x" * 128},
    )
    assert not decoded.rejections
    assert decoded.parts[0].readings.energy_ukwh.tolist()[1] == 10**15


def test_messages_name_the_limits_the_value_and_the_device() -> None:
    (rejection,) = decode({**METER, "voltage": -3.2}).rejections
    assert rejection.message == "voltage must be in [0, 2000] V, got -3.2 (meter M1)"
    assert rejection.field == "voltage"
    assert (rejection.stream, rejection.device) == (Stream.METER, "M1")


def test_one_bad_record_costs_only_itself() -> None:
    records: list[object] = [{**METER, "meterId": f"M{i}"} for i in range(5000)]
    records[1234] = {**METER, "kwhConsumedAc": "much"}
    decoded = decode(*records)
    assert [rejection.index for rejection in decoded.rejections] == [1234]
    assert len(decoded.parts[0].readings) == 4999


def test_a_body_is_taken_apart_once_however_many_records_are_refused() -> None:
    decoded = decode(METER, {**METER, "voltage": -1}, {**METER, "voltage": -2})
    assert decoded.record(1) is decoded.record(1)
    assert [json.loads(r.record)["voltage"] for r in decoded.rejections] == [-1, -2]


def test_bytes_that_are_no_utf8_cost_only_their_record() -> None:
    good = json.dumps(METER).encode()
    decoded = decode_array(b'[%b,{"meterId":"\xff"},%b]' % (good, good), LIMITS)
    assert [rejection.index for rejection in decoded.rejections] == [1]
    assert decoded.rejections[0].record == b'{"meterId":"\xff"}'


def test_half_a_surrogate_pair_costs_only_its_record() -> None:
    decoded = decode(METER, {**METER, "meterId": "\ud800"}, METER)
    assert [(r.index, r.code) for r in decoded.rejections] == [(1, "malformed_json")]
    assert decoded.parts[0].index.tolist() == [0, 2]


@pytest.mark.parametrize(
    "other", [{"note": "\ud800"}, {"\udfff": 1}, {"x": [{"y": "\udc00\ud800"}]}]
)
def test_half_a_surrogate_pair_in_a_key_that_is_ignored_costs_nothing(
    other: dict[str, object],
) -> None:
    for number in (36.2, "36.2"):
        text = json.dumps({**METER, **other, "voltage": number}).encode()
        for decoded in (
            decode_one(text, LIMITS),
            decode_array(b"[%b]" % text, LIMITS),
            decode_lines(text, LIMITS),
        ):
            assert decoded.rejections == []
            (part,) = decoded.parts
            assert part.readings.ids == ["M1"]
            assert part.readings.values.tolist() == [[36.2]]
    for wrong in (b"NaN", b"1]"):
        text = json.dumps({**other, "z": 0}).encode().replace(b'"z": 0', b'"z": %b' % wrong)
        with pytest.raises(MalformedError):
            decode_one(text, LIMITS)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1,",
        b"[NaN]",
        b'{"records": 5}',
        b"{}",
        b"7",
        b'"x"',
        b"[" * 100_000,
        b'[{"x":' + b"[" * 100_000,
        b"[] []",
        b"\xff\xfe[\x00]\x00",
    ],
)
def test_an_array_that_is_none_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_array(body, LIMITS)


def test_a_line_that_is_not_json_is_a_rejected_record() -> None:
    good = json.dumps(METER).encode()
    deep = b'{"x":' + b"[" * 100_000
    decoded = decode_lines(b"\n\r\n".join([good, b"{", deep, good + b"\r"]) + b"\n\n", LIMITS)
    assert decoded.received == 4
    assert [(r.index, r.code) for r in decoded.rejections] == [
        (1, "malformed_json"),
        (2, "malformed_json"),
    ]
    assert decoded.parts[0].index.tolist() == [0, 3]


def test_half_a_record_on_each_of_two_lines_is_no_reading() -> None:
    first, second = json.dumps(METER).encode().split(b", ", 1)
    assert len(decode_lines(first + b"\n" + second, LIMITS).rejections) == 2


def test_a_byte_order_mark_is_skipped() -> None:
    body = b"\xef\xbb\xbf" + json.dumps([METER]).encode()
    assert len(decode_array(body, LIMITS).parts) == 1
    assert len(decode_one(b"\xef\xbb\xbf" + json.dumps(METER).encode(), LIMITS).parts) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
messy = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["meter", "vehicle", "METER", "x"]) | json_values,
        "meterId": st.text(max_size=4) | json_values,
        "vehicleId": st.text(max_size=4) | json_values,
        "kwhConsumedAc": st.floats(-1, 2e9) | json_values,
        "kwhDeliveredDc": st.floats(-1, 2e9) | json_values,
        "voltage": st.floats(-1, 3000) | json_values,
        "soc": st.floats(-1, 101) | json_values,
        "batteryTemp": st.floats(-99, 199) | json_values,
        "timestamp": st.sampled_from(
            ["2026-02-09T10:00:00Z", "2026-02-09T10:00:00.123456789+01:00", "2026-02-09T10:00:00"]
        )
        | json_values,
    },
)


@given(st.lists(messy, max_size=6))
def test_columns_single_records_and_lines_agree(records: list[dict[str, object]]) -> None:
    texts = [json.dumps(record).encode() for record in records]
    lines = decode_lines(b"\n".join(texts), LIMITS)
    singles: list[Decoded | None] = []
    for text in texts:
        try:
            singles.append(decode_one(text, LIMITS))
        except MalformedError:
            singles.append(None)
    assert lines.received == len(records)
    refused = {rejection.index: rejection.code for rejection in lines.rejections}
    rows = {
        int(index): (part.readings.ids[row], int(part.readings.energy_ukwh[row]))
        for part in lines.parts
        for row, index in enumerate(part.index)
    }
    for i, single in enumerate(singles):
        if single is None:
            assert refused[i] == "malformed_json"
        elif single.rejections:
            assert refused[i] == single.rejections[0].code
        else:
            readings = single.parts[0].readings
            assert rows[i] == (readings.ids[0], int(readings.energy_ukwh[0]))


@given(st.binary(max_size=200))
@example(b'[{"meterId":"\\ud800"}]')
@example(b'{"records":[{"meterId":"\\ud800"}]}')
def test_any_bytes_give_readings_or_a_named_error(body: bytes) -> None:
    for decoder in (decode_one, decode_array, decode_lines):
        try:
            decoded = decoder(body, LIMITS)
        except MalformedError:
            continue
        else:
            stored = sum(len(part.readings) for part in decoded.parts)
            assert decoded.received == stored + len(decoded.rejections)


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.integers(-23 * 60, 23 * 60),
    st.integers(0, 9),
)
def test_timestamps_keep_microseconds_and_offsets(
    moment: datetime, offset: int, digits: int
) -> None:
    zone = timezone(timedelta(minutes=offset))
    text = moment.strftime("%Y").zfill(4) + moment.strftime("-%m-%dT%H:%M:%S")
    fraction = f"{moment.microsecond:06d}789"[:digits]
    text += f".{fraction}" if digits else ""
    sign = "-" if offset < 0 else "+"
    text += f"{sign}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
    kept = int(fraction[:6].ljust(6, "0")) if digits else 0
    expected = to_us(moment.replace(microsecond=kept, tzinfo=zone))
    assert parse_one(text) == expected
    assert parse([text]).tolist() == [expected]
    assert parse([text, ""]).tolist() == [expected, NEVER_US]


@given(
    st.lists(
        st.from_regex(
            r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{0,9})?([Zz]|[+-]\d\d:\d\d)?", fullmatch=True
        )
        | st.text(max_size=30)
    )
)
def test_columns_of_timestamps_agree_with_single_ones(texts: list[str]) -> None:
    def one(text: str) -> int:
        try:
            return parse_one(text)
        except ValueError:
            return NEVER_US

    assert parse(texts).tolist() == [one(text) for text in texts]


def test_times_of_several_days_keep_their_own() -> None:
    days = ["2024-02-29", "2024-03-01", "2026-02-28", "2026-02-29", "2026-12-31"]
    for end in ("Z", ".5Z", "+01:00"):
        texts = [f"{day}T23:59:5{i}{end}" for i, day in enumerate(days)]
        expected = [NEVER_US if "26-02-29" in text else parse_one(text) for text in texts]
        assert parse(texts).tolist() == expected


@given(st.decimals(0, 10**9, places=6))
def test_energy_is_exact_to_the_micro_kwh(energy: object) -> None:
    expected = int(energy * 10**6)  # type: ignore[operator]
    for value in (str(energy), float(str(energy))):
        decoded = decode({**METER, "kwhConsumedAc": value})
        assert decoded.parts[0].readings.energy_ukwh.tolist() == [expected]


@given(st.floats(-60, 150))
def test_measurements_come_through_unchanged(temperature: float) -> None:
    decoded = decode({**VEHICLE, "batteryTemp": temperature, "soc": None})
    soc, back = decoded.parts[0].readings.values[0].tolist()
    assert math.isnan(soc)
    assert back == temperature


def _large(count: int, **change: object) -> list[dict[str, object]]:
    return [{**METER, "meterId": f"M{i}", "x": "},{" * (i % 50), **change} for i in range(count)]


@pytest.mark.parametrize("change", [{}, {"voltage": "230"}, {"voltage": []}])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_large_array_is_what_its_records_are_as_lines(
    change: dict[str, object], indent: int | None
) -> None:
    records = _large(8000, **change)
    lines = decode_lines(b"\n".join(json.dumps(record).encode() for record in records), LIMITS)
    for whole in (records, {"records": records}):
        decoded = decode_array(json.dumps(whole, indent=indent).encode(), LIMITS)
        assert decoded.received == lines.received == 8000
        assert [r.code for r in decoded.rejections] == [r.code for r in lines.rejections]
        assert len(decoded.parts) == len(lines.parts)
        for part, other in zip(decoded.parts, lines.parts, strict=True):
            assert part.readings.ids == other.readings.ids
            assert part.index.tolist() == other.index.tolist()


@pytest.mark.parametrize("cut", [b"]", b"[", b'"', b",", b"}", b"x"])
def test_a_large_array_that_is_broken_anywhere_is_malformed(cut: bytes) -> None:
    body = json.dumps(_large(6000)).encode()
    for place in (1, len(body) // 2, len(body) - 1):
        middle = place if place in {1, len(body) - 1} else body.find(b'}, {"meterId"', place) + 1
        with pytest.raises(MalformedError):
            decode_array(body[:middle] + cut + body[middle:], LIMITS)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"{}," * 100_000 + b"{}]",
        b"[" + b"1," * 200_000 + b"1]",
        b'{"records": [' + b"{}," * 100_000 + b"{}]}",
        b'[{"x": [' + b"1," * 2_000_000 + b"1]}]",
    ],
    ids=["objects", "numbers", "envelope", "values"],
)
def test_more_records_than_allowed_are_refused_whole(body: bytes) -> None:
    limits = Limits(LIMITS.oldest_us, LIMITS.newest_us, max_records=100_000)
    with pytest.raises(TooLargeError, match=r"at most [0-9]+ (records|values)") as caught:
        decode_array(body, limits)
    assert caught.value.code == "too_many_records"


def test_records_are_counted_to_the_end_of_a_long_body() -> None:
    body = b'["' + b"x" * 300_000 + b'",' + b"{}," * 100_000
    check_array(body + b"1]", max_records=100_000)
    with pytest.raises(TooLargeError, match="at most 100000 records"):
        check_array(body + b"{}]", max_records=100_000)


def test_more_lines_than_allowed_are_refused_empty_ones_too() -> None:
    limits = Limits(LIMITS.oldest_us, LIMITS.newest_us, max_records=10)
    for body in (b"{}\n" * 11, b"\n" * 11):
        with pytest.raises(TooLargeError, match="at most 10 records"):
            decode_lines(body, limits)
    assert decode_lines(b"{}\n" * 10, limits).received == 10


def test_whoever_has_little_time_is_told_that_it_takes_long() -> None:
    limits = Limits(LIMITS.oldest_us, LIMITS.newest_us, max_patient=2)
    good = json.dumps(METER).encode()
    for wrong in (b"{}", b"1", good.replace(b"15.2", b"-1"), good.replace(b"230", b'"low"')):
        for decoder, mark in ((decode_array, b","), (decode_lines, b"\n")):
            body = mark.join([wrong] * 3)
            with pytest.raises(TakesLongError):
                decoder(b"[" + body + b"]" if mark == b"," else body, limits)


@pytest.mark.parametrize("wrong", [b"1", b'{"meterId": 7}', b'{"meterId": "m"}', b"{}"])
def test_what_takes_long_gives_way_every_few_records(wrong: bytes) -> None:
    turns = []
    limits = Limits(LIMITS.oldest_us, LIMITS.newest_us, give_way=lambda: turns.append(1))
    assert len(decode_array(b"[" + b",".join([wrong] * 5_000) + b"]", limits).rejections) == 5_000
    assert len(turns) >= 5_000


def test_encodings_are_undone() -> None:
    body = b"x" * 1000
    members = gzip.compress(body[:400]) + gzip.compress(body[400:])
    frames = zstandard.compress(body[:400]) + zstandard.compress(body[400:])
    assert decompress(body, "", 10) == body
    assert decompress(members, "gzip", 1000) == body
    assert decompress(frames, "zstd", 1000) == body


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_refused_before_it_grows(encoding: str) -> None:
    small = bytes(50_000_000)
    bomb = gzip.compress(small) if encoding == "gzip" else zstandard.compress(small)
    with pytest.raises(TooLargeError, match="1000000 bytes"):
        decompress(bomb, encoding, 1_000_000)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@given(st.binary(max_size=60), st.integers(1, 12))
def test_broken_encodings_are_malformed(encoding: str, garbage: bytes, cut: int) -> None:
    body = b"some readings" * 20
    whole = gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)
    for broken in (whole[:-cut], whole + b"\x00garbage", b"\x01" + garbage):
        with pytest.raises(MalformedError):
            decompress(broken, encoding, 10_000)


def test_other_encodings_are_not_supported() -> None:
    with pytest.raises(UnsupportedError, match="gzip or zstd"):
        decompress(b"", "br", 10)
