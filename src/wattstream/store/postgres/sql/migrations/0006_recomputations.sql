-- Changed rules of devices whose history is too large to be recomputed while others wait. Until a
-- row is gone, its device counts by its old rules.

CREATE TABLE recomputations (
    device_id    int4 PRIMARY KEY,
    stream       text COLLATE "C" NOT NULL,
    energy_mode  int2 NOT NULL,
    modulus_ukwh int8 NOT NULL,
    rated_w      int8 NOT NULL,
    heartbeat_s  int4 NOT NULL,
    progress     float8 NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
    requested_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE recomputations IS 'Rules that a device gets once its history is recomputed, and how far that is.';
