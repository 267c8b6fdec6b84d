-- name: neighbours
-- The closed buckets that late readings may touch: their own, and the next two that exist. Each
-- holds the two readings before it.
SELECT array_agg(device_id), {bucket_aggregates}
FROM (
    SELECT DISTINCT ON (device_id, bucket_at) r.*
    FROM unnest(%(device_id)s::int4[], %(bucket_at)s::timestamptz[]) AS u(late_id, late_at),
    LATERAL (
        SELECT * FROM {stream}_rollup
        WHERE device_id = late_id AND bucket_at >= late_at ORDER BY bucket_at LIMIT 3
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
        WHERE minute = ANY({minutes_of_bucket}) AND device_id = id
            AND measured_at >= bucket_at AND measured_at < bucket_at + interval '15 minutes'
            AND measured_at BETWEEN %(first_at)s AND %(last_at)s
        OFFSET 0
    ) AS h
    ORDER BY h.device_id, h.measured_at
) AS raw

-- name: raw_range
-- The readings of some devices in a range, sorted. Looked for in every quarter-hour: what the
-- rollup says is what is to be checked.
SELECT array_agg(device_id), array_agg(measured_at), array_agg(energy_ukwh), {field_aggregates}
FROM (
    SELECT h.*
    FROM unnest(%(device_id)s::int4[]) AS u(id),
    (
        SELECT generate_series(
            date_bin('15 minutes', greatest(min(first_at), %(start_at)s), '2000-01-01Z'),
            least(max(last_at), %(end_at)s),
            interval '15 minutes'
        ) AS bucket_at
        FROM history_days WHERE stream = '{stream}' HAVING min(first_at) IS NOT NULL
    ) AS q,
    LATERAL (
        SELECT * FROM {stream}_history
        WHERE minute = ANY({minutes_of_bucket}) AND device_id = id
            AND measured_at >= bucket_at AND measured_at < bucket_at + interval '15 minutes'
            AND measured_at >= %(start_at)s AND measured_at < %(end_at)s
        OFFSET 0
    ) AS h
    ORDER BY h.device_id, h.measured_at
) AS raw

-- name: before_range
-- The two readings before a range, newest first within a device, looked for backwards through
-- the quarter-hours: rows of a series come in its order, a LATERAL join keeps it, and LIMIT ends it.
SELECT array_agg(device_id), array_agg(measured_at), array_agg(energy_ukwh)
FROM unnest(%(device_id)s::int4[]) AS u(id),
LATERAL (
    SELECT h.*
    FROM (
        SELECT generate_series(
            date_bin('15 minutes', least(max(last_at), %(start_at)s), '2000-01-01Z'),
            min(first_at) - interval '15 minutes',
            interval '-15 minutes'
        ) AS bucket_at
        FROM history_days WHERE stream = '{stream}' HAVING min(first_at) IS NOT NULL
    ) AS q,
    LATERAL (
        SELECT device_id, measured_at, energy_ukwh FROM {stream}_history
        WHERE minute = ANY({minutes_of_bucket}) AND device_id = id
            AND measured_at >= bucket_at AND measured_at < bucket_at + interval '15 minutes'
            AND measured_at < %(start_at)s
        ORDER BY measured_at DESC
    ) AS h
    LIMIT 2
) AS before

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
SELECT array_agg(device_id ORDER BY device_id) FROM {stream}_warm

-- name: held_range
SELECT min(first_at), max(last_at) FROM history_days WHERE stream = '{stream}'
