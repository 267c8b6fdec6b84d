-- Refused records: found by time, device and code; both values of a conflict; how much is held, so
-- that a bound costs no scan. Sizes are those of the texts, and 128 bytes for the rest of a row.

ALTER TABLE rejections
    ADD COLUMN conflict json,
    ADD COLUMN size_bytes int4 NOT NULL GENERATED ALWAYS AS (
        128 + octet_length(record) + octet_length(message)
        + coalesce(octet_length(external_id), 0) + coalesce(octet_length(conflict::text), 0)
    ) STORED;
COMMENT ON COLUMN rejections.conflict IS 'Of a conflict: {"kept", "got"}, values by the keys of a reading.';
CREATE INDEX rejections_at ON rejections (rejected_at, rejection_id);
CREATE INDEX rejections_device ON rejections (external_id, rejection_id);
CREATE INDEX rejections_code ON rejections (code, rejection_id);

ALTER TABLE rejection_counts
    ADD COLUMN last_at timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN held_bytes int8 NOT NULL DEFAULT 0;
COMMENT ON COLUMN rejection_counts.held_bytes IS 'size_bytes of those still held, in sum over the slots.';
INSERT INTO rejection_counts AS c (stream, code, slot, rejections, last_at, held_bytes)
SELECT coalesce(stream, ''), code, 0, 0, max(rejected_at), sum(size_bytes)
FROM rejections GROUP BY 1, 2
ON CONFLICT (stream, code, slot) DO UPDATE SET
    last_at = excluded.last_at, held_bytes = excluded.held_bytes;
