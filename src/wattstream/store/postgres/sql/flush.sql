-- name: lock
-- The lock comes before every other read of the flush; a later statement sees what its
-- holder before us committed. Locked in one order, so flushes cannot deadlock.
SELECT array_agg(version)
FROM (
    SELECT version FROM {stream}_hot
    WHERE block = ANY(%(block)s::int4[])
    ORDER BY block
    FOR UPDATE
) AS locked

-- name: live
SELECT array_agg(version), {live_aggregates}
FROM (
    SELECT version, {live_names} FROM {stream}_live
    WHERE device_id = ANY(%(device_id)s::int4[])
    ORDER BY device_id
) AS live

-- name: plan_anew
-- Lookups in history are planned with their times, so that partitions are pruned.
SET LOCAL plan_cache_mode = force_custom_plan

-- name: existing
-- Which of these readings history already holds, by position, and with which values.
-- OFFSET 0 makes it one index lookup a reading: with statistics of an hour ago the planner
-- takes a range of today for empty, and reads all of it for each reading.
SELECT array_agg(position::int8), array_agg(energy_ukwh), {field_aggregates}
FROM unnest(%(minute)s::int4[], %(device_id)s::int4[], %(measured_at)s::timestamptz[])
    WITH ORDINALITY AS u(of_minute, id, at, position),
LATERAL (
    SELECT * FROM {stream}_history
    WHERE minute = of_minute AND device_id = id AND measured_at = at
        AND measured_at BETWEEN %(first_at)s AND %(last_at)s
    OFFSET 0
) AS h

-- name: copy_history
COPY {stream}_history (device_id, minute, measured_at, energy_ukwh, {fields})
FROM STDIN (FORMAT BINARY)

-- name: insert_history
INSERT INTO {stream}_history (device_id, minute, measured_at, energy_ukwh, {fields})
SELECT device_id, minute, measured_at, energy_ukwh, {field_nulls}
FROM (
    SELECT unnest(%(device_id)s::int4[]) AS device_id,
        unnest(%(minute)s::int4[]) AS minute,
        unnest(%(measured_at)s::timestamptz[]) AS measured_at,
        unnest(%(energy_ukwh)s::int8[]) AS energy_ukwh, {field_rows}
) AS u

-- name: update_hot
-- What readings change, of whole blocks, the parameters being all of their devices in order.
UPDATE {stream}_hot AS h
SET version = %(version)s,
    numbers = (%(numbers)s::int8[])[first : first + 7][1 : {hot_numbers}],
    fields = (%(fields)s::float8[])[first : first + 7][1 : {hot_fields}]
FROM (
    SELECT unnest(%(block)s::int4[]) AS block, unnest(%(read_version)s::int8[]) AS read_version,
        generate_series(1, 8 * %(blocks)s::int4, 8) AS first
) AS u
WHERE h.block = u.block AND h.version = u.read_version

-- name: update_warm
-- The rest of live rows whose blocks are locked. The day's sums lose what left the day at its
-- start, [left_from_at, left_to_at); what joined it is added.
UPDATE {stream}_warm AS l
SET {warm_assignments},
    {day_changes}
FROM (
    SELECT unnest(%(device_id)s::int4[]) AS device_id,
        unnest(%(left_from_at)s::timestamptz[]) AS left_from_at,
        unnest(%(left_to_at)s::timestamptz[]) AS left_to_at, {warm_rows}
) AS u,
LATERAL (
    SELECT {bucket_sums}
    FROM {stream}_rollup AS r
    WHERE u.left_from_at < u.left_to_at AND r.device_id = u.device_id
        AND r.bucket_at >= u.left_from_at AND r.bucket_at < u.left_to_at
) AS x
WHERE l.device_id = u.device_id

-- name: update_live
-- All that readings make of live rows but the sums of their days; their blocks are locked.
UPDATE {stream}_live AS l
SET version = %(version)s, {state_assignments}
FROM (SELECT unnest(%(device_id)s::int4[]) AS device_id, {state_rows}) AS u
WHERE l.device_id = u.device_id

-- name: put_buckets
INSERT INTO {stream}_rollup AS r (device_id, {bucket_names})
SELECT device_id, {bucket_values}
FROM (SELECT unnest(%(device_id)s::int4[]) AS device_id, {bucket_rows}) AS u
ON CONFLICT (device_id, bucket_at) DO UPDATE SET {bucket_replaced}

-- name: add_buckets
INSERT INTO {stream}_rollup AS r (device_id, {bucket_names})
SELECT device_id, {bucket_values}
FROM (SELECT unnest(%(device_id)s::int4[]) AS device_id, {bucket_rows}) AS u
ON CONFLICT (device_id, bucket_at) DO UPDATE SET {bucket_added}

-- name: mend_days
-- The day's sums of some devices from their rollups, where they differ. Rows are locked already.
WITH mended AS (
    UPDATE {stream}_live AS l
    SET version = %(version)s, {day_values}
    FROM unnest(%(device_id)s::int4[]) AS u(device_id),
    LATERAL (
        SELECT {bucket_sums}
        FROM {stream}_live AS o JOIN {stream}_rollup AS r ON r.device_id = o.device_id
        WHERE o.device_id = u.device_id AND o.bucket_at > '-infinity'
            AND r.bucket_at >= o.bucket_at - {day_length} AND r.bucket_at < o.bucket_at
    ) AS d
    WHERE l.device_id = u.device_id AND ({day_names}) IS DISTINCT FROM ({day_sums})
    RETURNING l.device_id
)
SELECT array_agg(device_id) FROM mended

-- name: delete_buckets
DELETE FROM {stream}_rollup AS r
USING unnest(%(device_id)s::int4[], %(bucket_at)s::timestamptz[]) AS u(device_id, bucket_at)
WHERE r.device_id = u.device_id AND r.bucket_at = u.bucket_at

-- name: count_days
INSERT INTO history_days AS h (stream, day, slot, readings, first_at, last_at)
SELECT '{stream}', (first_at AT TIME ZONE 'UTC')::date, pg_backend_pid() %% 16,
    readings, first_at, last_at
FROM unnest(%(readings)s::int8[], %(first_at)s::timestamptz[], %(last_at)s::timestamptz[])
    AS u(readings, first_at, last_at)
ORDER BY first_at
ON CONFLICT (stream, day, slot) DO UPDATE SET
    readings = h.readings + excluded.readings,
    first_at = least(h.first_at, excluded.first_at),
    last_at = greatest(h.last_at, excluded.last_at)
