"""Keys as values, and kept: tokens, reaches, a keyring that follows what others change."""

import asyncio
import re
import string

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Server
from wattstream.domain.access import (
    PREFIX_LENGTH,
    WHOLE,
    Key,
    Reach,
    Scope,
    Token,
    digest_of,
    is_holder,
    parse_token,
)
from wattstream.domain.readings import Stream
from wattstream.domain.units import MICRO
from wattstream.query.keyring import Keyring, new_token
from wattstream.store.postgres import PostgresStore

NOW = 1_700_000_000 * MICRO
IDS = st.text("ab-_%*?\\é", min_size=1, max_size=6)


def key_of(token: Token, **facts: object) -> Key:
    usual = {"name": "k", "scopes": frozenset({Scope.READ}), "reach": WHOLE, "created_at_us": NOW}
    return Key(token.prefix, digest_of(token.secret), **{**usual, **facts})  # type: ignore[arg-type]


def test_a_token_holds_256_random_bits_and_is_read_back() -> None:
    tokens = {str(new_token()) for _ in range(100)}
    assert len(tokens) == 100
    for text in tokens:
        assert str(parse_token(text)) == text
        assert re.fullmatch(rf"wattstream_[a-z2-7]{{{PREFIX_LENGTH}}}_[\w-]{{43}}", text)


@given(st.text(string.printable, max_size=90))
def test_any_text_is_a_token_or_none(text: str) -> None:
    found = parse_token(text)
    assert found is None or str(found) == text


def test_only_the_whole_secret_holds_a_key() -> None:
    token = new_token()
    key = key_of(token)
    assert is_holder(token, key)
    other = "A" if token.secret[-1] != "A" else "B"
    assert not is_holder(Token(token.prefix, token.secret[:-1] + other), key)
    assert not is_holder(token, None)
    assert token.secret.encode() not in key.digest


def test_a_key_ends_when_it_expires_or_is_revoked_and_not_a_microsecond_before() -> None:
    token = new_token()
    assert key_of(token).is_valid(2**62)
    assert key_of(token, expires_at_us=NOW + 2).is_valid(NOW + 1)
    assert not key_of(token, expires_at_us=NOW + 2).is_valid(NOW + 2)
    assert not key_of(token, revoked_at_us=NOW + 2).is_valid(NOW + 2)


def test_scopes_stand_alone_but_admin_may_do_all() -> None:
    token = new_token()
    for scope in Scope:
        key = key_of(token, scopes=frozenset({scope}))
        assert {each for each in Scope if key.allows(each)} == (
            set(Scope) if scope is Scope.ADMIN else {scope}
        )


@given(st.text("ab-_%*?\\é", min_size=1, max_size=5).filter(lambda p: p.count("*") <= 4), IDS)
def test_a_pattern_admits_what_its_signs_say(pattern: str, external_id: str) -> None:
    def matches(p: str, text: str) -> bool:
        if not p:
            return not text
        if p[0] == "*":
            return any(matches(p[1:], text[at:]) for at in range(len(text) + 1))
        return bool(text) and p[0] in {"?", text[0]} and matches(p[1:], text[1:])

    assert Reach(devices=pattern).admits(external_id, None) == matches(pattern, external_id)


def test_postgresql_finds_the_devices_that_a_reach_admits(embedded: Server) -> None:
    conninfo = embedded.make_database()
    ids = ["a", "ab", "a-b", "a_b", "a%b", "a\\b", "axb", "b-a", "é-a", "A"]
    with psycopg.connect(conninfo) as connection:
        for number, external_id in enumerate(ids):
            connection.execute(
                "INSERT INTO devices (device_id, stream, external_id, fleet)"
                " VALUES (%s, 'meter', %s, %s)",
                [number + 1, external_id, "x" if number % 2 else None],
            )
    reaches = [
        Reach(fleet, pattern)
        for fleet in (None, "x", "y")
        for pattern in (None, "a*", "a?b", "*a", "a_b", "a%b", "a\\b", "?-*", "**")
    ]

    async def found() -> list[list[int]]:
        store = PostgresStore(conninfo, read_connections=1)
        await store.open()
        try:
            async with store.snapshot() as snapshot:
                return [(await snapshot.reached(Stream.METER, reach)).tolist() for reach in reaches]
        finally:
            await store.close()

    for reach, keys in zip(reaches, asyncio.run(found()), strict=True):
        expected = [
            number
            for number, external_id in enumerate(ids, 1)
            if reach.admits(external_id, None if number % 2 else "x")
        ]
        assert keys == expected, reach


@pytest.fixture
def database(embedded: Server) -> str:
    return embedded.make_database()


def test_a_keyring_follows_keys_made_and_revoked_by_another(database: str) -> None:
    async def main() -> None:
        stores = [PostgresStore(database, read_connections=1) for _ in range(2)]
        ours, theirs = (Keyring(store.access, lambda: NOW + 1) for store in stores)
        await ours.load()
        await theirs.load()
        assert ours.is_open
        token = new_token()
        key = key_of(token)
        await stores[1].access.add(key)
        assert await ours.holder(str(token)) == key  # looked for, as it was not known
        assert not ours.is_open
        session = await theirs.begin_session(key, 60 * MICRO)
        held = await ours.holder(str(session))
        assert held is not None
        assert held.parent == key.prefix
        assert (held.scopes, held.reach) == (key.scopes, key.reach)
        gone = await stores[1].access.revoke(key.prefix, NOW)
        assert set(gone) == {key.prefix, held.prefix}
        await ours.load()
        assert not ours.admits(key)
        assert not ours.admits(held)
        assert not ours.admits(None), "revoking the last key does not open the engine"
        for store in stores:
            await store.close()

    asyncio.run(main())


def test_keys_are_read_again_only_where_they_changed(database: str) -> None:
    async def main() -> None:
        store = PostgresStore(database, read_connections=1)
        token = new_token()
        await store.access.add(key_of(token))
        keyring = Keyring(store.access, lambda: NOW)
        await keyring.load()
        with psycopg.connect(database) as connection:
            connection.execute("DELETE FROM access_keys")
            connection.commit()
            assert await keyring.holder(str(new_token())) is None
            assert await keyring.holder(str(token)) is not None
            connection.execute("UPDATE access_changes SET changes = changes + 1")
            connection.commit()
        await keyring.load()
        assert await keyring.holder(str(token)) is None
        await store.close()

    asyncio.run(main())


def test_a_rate_lets_a_burst_through_and_then_its_rate() -> None:
    now_us = [NOW]
    keyring = Keyring(None, lambda: now_us[0], engines=2)  # type: ignore[arg-type]
    key = key_of(new_token(), requests_per_s=20.0)  # 10 a second of this engine
    assert [keyring.wait_s(key) for _ in range(50)] == [0.0] * 50
    assert keyring.wait_s(key) == pytest.approx(0.1)
    session = key_of(new_token(), requests_per_s=20.0, parent=key.prefix)
    assert keyring.wait_s(session) > 0, "sessions share the limit of their key"
    now_us[0] += 300_000
    assert [keyring.wait_s(key) > 0 for _ in range(4)] == [False, False, False, True]
    now_us[0] -= 10 * MICRO  # a clock put back takes nothing away
    assert keyring.wait_s(key) > 0


def test_sessions_that_are_over_are_dropped_and_keys_stay(database: str) -> None:
    async def main() -> None:
        store = PostgresStore(database, read_connections=1)
        now_us = [NOW]
        keyring = Keyring(store.access, lambda: now_us[0])
        token = new_token()
        key = key_of(token, expires_at_us=NOW + 10 * MICRO)
        await store.access.add(key)
        await keyring.begin_session(key, MICRO)
        now_us[0] += 3600 * MICRO
        await store.access.add(key_of(new_token(), created_at_us=now_us[0]))
        _, keys = await store.access.keys()
        assert [each.parent for each in keys] == [None, None]
        await store.close()

    asyncio.run(main())
