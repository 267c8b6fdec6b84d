"""Every target of the fuzzer: what is called with any bytes, where it begins, and its words."""

import base64
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import zstandard

from fuzz import edges, readings
from fuzz.readings import NOW_US
from wattstream.settings import Settings

_AT = "2026-02-09T10:00:00Z"
_METER = {"meterId": "M-1", "kwhConsumedAc": 15.2, "voltage": 230, "timestamp": _AT}
_VEHICLE = {
    "type": "vehicle",
    "vehicleId": "V-é",
    "kwhDeliveredDc": "12.5",
    "soc": 75.5,
    "batteryTemp": None,
    "timestamp": "2026-02-09T11:00:00.123456+01:00",
}
_TEXTS = [json.dumps(record).encode() for record in (_METER, _VEHICLE, {**_METER, "voltage": -1})]
_STRANGE = [
    b'{"meterId":"\\ud800"}',
    b"{}",
    b"[1e400,-0,null,true]",
    b"\xef\xbb\xbf{}",
    b"[" * 2000,
]
_KEYS = [b'"%s":' % key for key in (b"meterId", b"vehicleId", b"timestamp", b"type", b"records")]
_KEYS += [b'"%s":' % key for key in (b"kwhConsumedAc", b"kwhDeliveredDc", b"voltage", b"soc")]
_VALUES = [b'"meter"', b'"VEHICLE"', b"1e308", b"-0.0", b'"1e400"', b"null", b"\\ud800", b"\\u0000"]
_TIMES = [
    _AT.encode(),
    b"2026-02-09 11:00:00.123456789+01:00\n2024-02-29T23:59:59.9z",
    b"0001-01-01T00:00:00+23:59\n9999-12-31T23:59:59-23:59\n2026-02-30T00:00:00Z",
    b"2026-02-08T24:00:00Z\n2026-02-09T11:00:00+01:70\n2026-02-09T10:00:60Z",
]
_CURSORS = [
    base64.urlsafe_b64encode(
        msgspec.json.encode(["raw", NOW_US - 10**9, NOW_US, "M-1", NOW_US - 5])
    ),
    base64.urlsafe_b64encode(b'["1h",-9223372036854775808,9223372036854775807,"M-1",1]'),
]


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Attributes:
        check: Called with any bytes; what it raises is a fault.
        seeds: Where the fuzzer begins.
        words: What it may try to put in.
        max_bytes: Longest input.
    """

    check: Callable[[bytes], None]
    seeds: list[bytes]
    words: list[bytes]
    max_bytes: int = 4096


TARGETS = {
    "encoding": Target(
        readings.encoding,
        [
            b"\0" + gzip.compress(b"[]", mtime=0),
            b"\1" + zstandard.compress(b"[]"),
            b"\4\0\0[{}]",
            b"\0" + 2 * gzip.compress(bytes(10**6), mtime=0),
            b"\1" + zstandard.compress(bytes(10**7)),
        ],
        [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"],
        1 << 14,
    ),
    "array": Target(
        readings.array,
        [b"[" + b",".join(_TEXTS) + b"]", b'{"records":[' + _TEXTS[0] + b"]}", b"[]", *_STRANGE],
        [*_KEYS, *_VALUES],
    ),
    "lines": Target(
        readings.lines, [b"\n".join(_TEXTS), b"\r\n\n".join(_TEXTS), *_STRANGE], [*_KEYS, *_VALUES]
    ),
    "one": Target(readings.one, [*_TEXTS, *_STRANGE], [*_KEYS, *_VALUES], 1024),
    "timestamps": Target(readings.timestamps, _TIMES, [b"T", b"Z", b"+01:00", b"-23:59"], 512),
    "ids": Target(
        readings.ids,
        [
            "M-1\u00e9".encode(),
            b"a b\xff\xffc",
            b"x" * 129,
            "\u200b\ufeff\u00a0\U000e0001".encode(),
        ],
        [b"\xc2\xa0", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\xff"],
        1024,
    ),
    "query": Target(
        edges.query,
        [
            b"\n".join([_TIMES[0], b"2026-02-10T00:00:00 01:00", cursor, b"85"])
            for cursor in _CURSORS
        ],
        [b"nan", b"inf", b"9999-12-31T23:59:59Z", b"0001-01-01T00:00:00Z", b"1e-320"],
        1024,
    ),
    "accept": Target(
        edges.accept,
        [b"text/csv;q=0.5, application/json", b"*/*;q=0", b"text/*, a/b; x=y; q=1.000"],
        [b"q=", b"*/*", b"application/", b"text/csv", b"0.001"],
        1024,
    ),
    "headers": Target(
        edges.headers,
        [
            b"req-1\n00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\na=1,b=2\n"
            b"application/json; charset=utf-8",
            b"\r\x00\n00-0-0-00\n=,=\napplication/x-ndjson",
        ],
        [b"charset=", b"+json", b"utf-8", b"ff-"],
        1024,
    ),
    "settings": Target(
        edges.settings,
        [
            b"PORT=9000\nMAX_PAST=400d\nMAX_BODY=2MiB\nLOG_LEVEL=debug",
            b"WEBHOOK_URL=https://u:" + b"s" * 40 + b"@x\nDATABASE_URL=postgresql://u:p@x/y",
            b"PROT=1\nEFFICIENCY_THRESHOLD=nan\nWORKERS=1e3\nLINK_SAME_ID=maybe\nDATA_DIR=\x01",
        ],
        [name.upper().encode() + b"=" for name in Settings.model_fields] + [b"KiB", b"min"],
        512,
    ),
}
