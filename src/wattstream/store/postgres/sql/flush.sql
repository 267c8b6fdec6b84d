-- name: lock
-- The lock comes before every other read of the flush; a later statement sees what its
-- holder before us committed. Locked in one order, so flushes cannot deadlock.
SELECT {live_aggregates}
FROM (
    SELECT {live_names} FROM {stream}_live
    WHERE device_id = ANY(%(device_id)s::int4[])
    ORDER BY device_id
    FOR UPDATE
) AS locked

-- name: existing
-- Which of these readings history already holds, by position, and with which values.
-- OFFSET 0 makes it one index lookup a reading: with statistics of an hour ago the planner
-- takes a range of today for empty, and reads all of it for each reading.
SELECT array_agg(position::int8), array_agg(energy_ukwh), {field_aggregates}
FROM unnest(%(device_id)s::int4[], %(measured_at)s::timestamptz[])
    WITH ORDINALITY AS u(id, at, position),
LATERAL (
    SELECT * FROM {stream}_history
    WHERE device_id = id AND measured_at = at
        AND measured_at BETWEEN %(first_at)s AND %(last_at)s
    OFFSET 0
) AS h

-- name: copy_history
COPY {stream}_history (device_id, measured_at, energy_ukwh, {fields}) FROM STDIN (FORMAT BINARY)

-- name: insert_history
INSERT INTO {stream}_history (device_id, measured_at, energy_ukwh, {fields})
SELECT device_id, measured_at, energy_ukwh, {field_nulls}
FROM unnest(
    %(device_id)s::int4[], %(measured_at)s::timestamptz[], %(energy_ukwh)s::int8[], {field_arrays}
) AS u(device_id, measured_at, energy_ukwh, {fields})

-- name: update_live
UPDATE {stream}_live AS l SET {state_assignments}
FROM unnest(%(device_id)s::int4[], {state_arrays}) AS u(device_id, {state_names})
WHERE l.device_id = u.device_id

-- name: put_buckets
INSERT INTO {stream}_rollup AS r (device_id, {bucket_names})
SELECT device_id, {bucket_values}
FROM unnest(%(device_id)s::int4[], {bucket_arrays}) AS u(device_id, {bucket_names})
ON CONFLICT (device_id, bucket_at) DO UPDATE SET {bucket_replaced}

-- name: add_buckets
INSERT INTO {stream}_rollup AS r (device_id, {bucket_names})
SELECT device_id, {bucket_values}
FROM unnest(%(device_id)s::int4[], {bucket_arrays}) AS u(device_id, {bucket_names})
ON CONFLICT (device_id, bucket_at) DO UPDATE SET {bucket_added}

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
