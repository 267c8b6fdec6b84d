-- Falls of registers, kept as events. They are a pure function of history and of the devices' rules,
-- and are written under the lock of the device's live row, as rollups are.

CREATE TABLE register_events (
    device_id   int4 NOT NULL,
    fell_at     timestamptz NOT NULL,
    ukwh        int8 NOT NULL,
    before_at   timestamptz NOT NULL,
    before_ukwh int8 NOT NULL,
    kind        int2 NOT NULL CHECK (kind BETWEEN 1 AND 3),
    PRIMARY KEY (device_id, fell_at)
);
COMMENT ON TABLE register_events IS 'Readings of register devices below the reading before them.';
COMMENT ON COLUMN register_events.kind IS '1 rollover, 2 dip, 3 reset.';
