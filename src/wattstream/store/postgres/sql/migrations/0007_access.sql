-- Keys of clients, sessions of browsers, what was changed by whom, and which key a refused record
-- came with.

CREATE TABLE access_keys (
    prefix         text COLLATE "C" PRIMARY KEY,
    digest         bytea NOT NULL CHECK (octet_length(digest) = 32),
    name           text NOT NULL,
    scopes         text[] NOT NULL,
    fleet          text,
    devices        text,
    requests_per_s float8,
    created_at     timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    revoked_at     timestamptz NOT NULL DEFAULT 'infinity',
    parent         text COLLATE "C" REFERENCES access_keys ON DELETE CASCADE
);
CREATE INDEX access_keys_parent ON access_keys (parent) WHERE parent IS NOT NULL;
COMMENT ON COLUMN access_keys.digest IS 'SHA-256 of the secret, which is nowhere.';
COMMENT ON COLUMN access_keys.devices IS 'Ids that it reaches; * for any characters, ? for one.';
COMMENT ON COLUMN access_keys.parent IS 'Of a session: the key that it was begun with.';

-- One row, counted up in the transaction of each change: engines compare it with what they know.
CREATE TABLE access_changes (
    only_row bool PRIMARY KEY DEFAULT true CHECK (only_row),
    changes  int8 NOT NULL DEFAULT 0
);
INSERT INTO access_changes DEFAULT VALUES;

CREATE TABLE audit (
    audit_id   int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL,
    who        text NOT NULL,
    address    text,
    act        text NOT NULL,
    detail     text,
    request_id text,
    status     int4
);
COMMENT ON TABLE audit IS 'Administrative acts, each written down before it is done.';
COMMENT ON COLUMN audit.status IS 'HTTP status of the answer; NULL where the engine ended before it.';

ALTER TABLE rejections ADD COLUMN key text COLLATE "C";
COMMENT ON COLUMN rejections.key IS 'Prefix of the key that the record came with.';
