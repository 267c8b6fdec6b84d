"""Records that the types of a reading refuse: taken apart field by field, to find the words."""

import json
import re

import msgspec

from wattstream.decode.records import Record, kind_of, shown
from wattstream.domain.errors import MalformedError, ReadingError
from wattstream.domain.readings import KINDS

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder of msgspec raises for bytes that it refuses."""

RECORD = msgspec.json.Decoder(Record)

DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_KEYS = Record.__struct_fields__
_Loose = msgspec.defstruct("_Loose", [(key, msgspec.Raw, msgspec.Raw(b"null")) for key in _KEYS])
_LOOSE = msgspec.json.Decoder(_Loose)
_TEXT = msgspec.json.Decoder(str)


def surrogates_apart(body: bytes, error: Exception, *, is_object: bool) -> list[bytes]:
    r"""Return the records of a body that msgspec refuses for a lone surrogate such as "\ud800".

    That is JSON by its grammar, so it costs its own record only.
    """
    if b"\\u" not in body:
        raise malformed(error) from error
    try:
        value = json.loads(body, parse_constant=_no_constant)
        records = value["records"] if is_object else value
        return [json.dumps(record).encode() for record in records]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise malformed(error) from error


def _no_constant(name: str) -> None:
    raise ValueError(name)


def malformed(error: Exception) -> MalformedError:
    """Return in words of ours what msgspec says of bytes that are not JSON."""
    if isinstance(error, RecursionError):
        return MalformedError("the body is not readable JSON: it is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return MalformedError("the body is not JSON: it is not UTF-8")
    return MalformedError(f"the body is not JSON: {error}".replace("JSON is malformed: ", ""))


def patiently(raw: bytes) -> Record:
    """Return one record.

    Raises:
        ReadingError: It is none.
    """
    try:
        return RECORD.decode(raw)
    except MALFORMED:
        pass
    try:
        return loosely(raw)
    except MalformedError as error:
        message = error.message.replace("the body", "the record")
        raise ReadingError(message, code=error.code) from error


def loosely(raw: bytes) -> Record:
    """Return a record field by field: decimal strings become numbers.

    Raises:
        MalformedError: It is not JSON.
        ReadingError: It is no object, or a field has the wrong type.
    """
    try:
        loose = _LOOSE.decode(raw)
    except msgspec.ValidationError as error:
        raise ReadingError(
            "a reading must be a JSON object; arrays go to /v1/ingest/batch", code="not_an_object"
        ) from error
    except MALFORMED as error:
        loose = _without_other_keys(raw, error)
    raws = {name: bytes(getattr(loose, name)) for name in _KEYS}
    # Only the keys of its own kind count; what else is there is ignored, whatever it holds.
    ids = {key: None if raws[key] == b"null" else "" for key in ("meterId", "vehicleId")}
    type_ = _text("type", raws["type"])
    kind = kind_of(Record(type_, ids["meterId"], ids["vehicleId"]))
    device = _text(kind.id_key, raws[kind.id_key])
    about = f" ({kind.stream} {shown(device)})" if device else ""
    numbers = {
        name: _number(name, raws[name], about)
        for name in (kind.energy_key, *(field.key for field in kind.fields))
    }
    texts = {kind.id_key: device, "timestamp": _text("timestamp", raws["timestamp"])}
    return Record(type=kind.stream.value, **texts, **numbers)  # type: ignore[arg-type]


def _without_other_keys(raw: bytes, error: Exception) -> msgspec.Struct:
    r"""Return a record that msgspec refuses, where only keys that are ignored hold a "\ud800".

    Raises:
        MalformedError: It is not JSON, or a key that counts holds one.
    """
    if b"\\u" not in raw:
        raise malformed(error) from error
    try:
        value = json.loads(raw.decode(), parse_constant=_no_constant)
        known = json.dumps({key: value[key] for key in _KEYS if key in value})
        return _LOOSE.decode(known)
    except (ValueError, TypeError, *MALFORMED):
        raise malformed(error) from error


def _text(name: str, raw: bytes) -> str | None:
    if raw == b"null":
        return None
    try:
        return _TEXT.decode(raw)
    except MALFORMED as error:
        stem = "type" if name == "type" else "timestamp" if name == "timestamp" else "id"
        raise ReadingError(
            f"{name} must be a string, got {shown(raw)}", code=f"{stem}_invalid", field=name
        ) from error


def _number(name: str, raw: bytes, about: str) -> float | None:
    if raw == b"null":
        return None
    text = raw.decode(errors="replace")
    if raw[:1] == b'"':
        text = _text(name, raw) or ""
    if DECIMAL.fullmatch(text) is None:
        stem = _stem(name)
        raise ReadingError(
            f"{name} must be a number or a decimal string, got {shown(raw)}{about}",
            code=f"{stem}_invalid",
            field=name,
        )
    return float(text)


def _stem(key: str) -> str:
    for kind in KINDS.values():
        for field in kind.fields:
            if field.key == key:
                return field.name
    return "energy"
