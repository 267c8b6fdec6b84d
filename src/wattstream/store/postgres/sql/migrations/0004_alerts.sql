-- Alerts with a life, what the watch remembers between looks, and events that a webhook has to hear.

CREATE TABLE alerts (
    alert_id        int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text COLLATE "C" NOT NULL,
    stream          text COLLATE "C" NOT NULL,
    device_id       int4 NOT NULL,
    opened_at       timestamptz NOT NULL,
    acknowledged_at timestamptz,
    acknowledged_by text,
    resolved_at     timestamptz,
    evidence        jsonb NOT NULL,
    resolution      jsonb,
    updated_at      timestamptz NOT NULL
);
CREATE UNIQUE INDEX alerts_one_open ON alerts (device_id, kind) WHERE resolved_at IS NULL;
CREATE INDEX alerts_device ON alerts (device_id, alert_id);
COMMENT ON COLUMN alerts.evidence IS 'What was seen at the opening; keys name their units.';
COMMENT ON COLUMN alerts.resolution IS 'What was seen when it was over.';

-- One row. A look is written only where no other look was since it was read.
CREATE TABLE alert_looks (
    only_row    bool PRIMARY KEY DEFAULT true CHECK (only_row),
    looks       int8 NOT NULL DEFAULT 0,
    looked_at   timestamptz NOT NULL DEFAULT '-infinity',
    observed_at timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO alert_looks DEFAULT VALUES;
COMMENT ON COLUMN alert_looks.observed_at IS 'Quarter-hours before it have been observed.';

CREATE TABLE alert_events (
    event_id   int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id   int8 NOT NULL,
    event      text COLLATE "C" NOT NULL CHECK (event IN ('opened', 'resolved')),
    created_at timestamptz NOT NULL,
    attempts   int4 NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL
);
CREATE INDEX alert_events_alert ON alert_events (alert_id, event_id);
COMMENT ON TABLE alert_events IS 'Openings and resolutions that the webhook has not taken yet.';

ALTER TABLE devices ADD COLUMN alert_thresholds jsonb;
CREATE INDEX devices_alert_thresholds ON devices (device_id) WHERE alert_thresholds IS NOT NULL;
COMMENT ON COLUMN devices.alert_thresholds IS 'Thresholds of its own by kind of alert; null switches a kind off.';

CREATE TABLE vehicle_drift (
    device_id int4 PRIMARY KEY,
    layout    int8 NOT NULL,
    state     bytea NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE vehicle_drift IS 'What the detector of drifts remembers of each vehicle; a state of another layout is forgotten.';

CREATE INDEX register_events_resets ON register_events (fell_at) WHERE kind = 3;
