-- name: neighbours
-- The closed buckets that late readings touch: the one before, for the two readings before
-- them; their own; and the next two that exist, which hold the next two readings.
SELECT array_agg(device_id), {bucket_aggregates}
FROM (
    SELECT DISTINCT ON (device_id, bucket_at) r.*
    FROM unnest(%(device_id)s::int4[], %(bucket_at)s::timestamptz[]) AS u(late_id, late_at),
    LATERAL (
        (SELECT * FROM {stream}_rollup
         WHERE device_id = late_id AND bucket_at < late_at ORDER BY bucket_at DESC LIMIT 1)
        UNION ALL
        (SELECT * FROM {stream}_rollup
         WHERE device_id = late_id AND bucket_at >= late_at ORDER BY bucket_at LIMIT 3)
    ) AS r
    ORDER BY device_id, bucket_at
) AS touched

-- name: raw_buckets
-- The readings of some buckets, sorted. OFFSET 0, here and below: one index range a row.
SELECT array_agg(device_id), array_agg(measured_at), array_agg(energy_ukwh), {field_aggregates}
FROM (
    SELECT h.*
    FROM unnest(%(device_id)s::int4[], %(bucket_at)s::timestamptz[]) AS u(id, bucket_at),
    LATERAL (
        SELECT * FROM {stream}_history
        WHERE device_id = id AND measured_at >= bucket_at
            AND measured_at < bucket_at + interval '15 minutes'
            AND measured_at BETWEEN %(first_at)s AND %(last_at)s
        OFFSET 0
    ) AS h
    ORDER BY h.device_id, h.measured_at
) AS raw

-- name: raw_range
-- The readings of some devices in a range, sorted.
SELECT array_agg(device_id), array_agg(measured_at), array_agg(energy_ukwh), {field_aggregates}
FROM (
    SELECT h.*
    FROM unnest(%(device_id)s::int4[]) AS u(id),
    LATERAL (
        SELECT * FROM {stream}_history
        WHERE device_id = id AND measured_at >= %(start_at)s AND measured_at < %(end_at)s
        OFFSET 0
    ) AS h
    ORDER BY h.device_id, h.measured_at
) AS raw

-- name: before_range
-- The two readings before a range, newest first within a device.
SELECT array_agg(device_id), array_agg(measured_at), array_agg(energy_ukwh)
FROM unnest(%(device_id)s::int4[]) AS u(id),
LATERAL (
    SELECT device_id, measured_at, energy_ukwh FROM {stream}_history
    WHERE device_id = id AND measured_at < %(start_at)s ORDER BY measured_at DESC LIMIT 2
) AS h

-- name: closed_range
-- The rollup rows of some devices in a range, sorted.
SELECT array_agg(device_id), {bucket_aggregates}
FROM (
    SELECT r.*
    FROM unnest(%(device_id)s::int4[]) AS u(id),
    LATERAL (
        SELECT * FROM {stream}_rollup
        WHERE device_id = id AND bucket_at >= %(start_at)s AND bucket_at < %(end_at)s
        OFFSET 0
    ) AS r
    ORDER BY r.device_id, r.bucket_at
) AS closed

-- name: device_ids
SELECT array_agg(device_id ORDER BY device_id) FROM {stream}_live

-- name: held_range
SELECT min(first_at), max(last_at) FROM history_days WHERE stream = '{stream}'

-- name: set_rules
UPDATE {stream}_live
SET energy_mode = %(energy_mode)s, modulus_ukwh = %(modulus_ukwh)s, rated_w = %(rated_w)s,
    heartbeat_s = %(heartbeat_s)s, version = %(version)s
WHERE device_id = %(device_id)s

-- name: held_falls
-- The register events of some devices in ranges, both ends included.
SELECT array_agg(device_id), array_agg(fell_at), array_agg(ukwh), array_agg(before_at),
    array_agg(before_ukwh), array_agg(kind)
FROM (
    SELECT e.*
    FROM unnest(
        %(device_id)s::int4[], %(first_at)s::timestamptz[], %(last_at)s::timestamptz[]
    ) AS u(id, first_at, last_at),
    LATERAL (
        SELECT * FROM register_events
        WHERE device_id = id AND fell_at BETWEEN first_at AND last_at
        OFFSET 0
    ) AS e
) AS events

-- name: delete_falls
DELETE FROM register_events AS e
USING unnest(%(device_id)s::int4[], %(fell_at)s::timestamptz[]) AS u(device_id, fell_at)
WHERE e.device_id = u.device_id AND e.fell_at = u.fell_at
