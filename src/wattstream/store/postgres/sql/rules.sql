-- name: pending
SELECT energy_mode, modulus_ukwh, rated_w, heartbeat_s, progress
FROM recomputations WHERE device_id = %(device_id)s

-- name: pending_of
SELECT device_id, energy_mode, modulus_ukwh, rated_w, heartbeat_s, progress
FROM recomputations WHERE device_id = ANY(%(device_id)s::int4[])

-- name: put_pending
INSERT INTO recomputations (device_id, stream, energy_mode, modulus_ukwh, rated_w, heartbeat_s)
VALUES (
    %(device_id)s, '{stream}', %(energy_mode)s, %(modulus_ukwh)s, %(rated_w)s, %(heartbeat_s)s
)
ON CONFLICT (device_id) DO UPDATE SET
    energy_mode = excluded.energy_mode, modulus_ukwh = excluded.modulus_ukwh,
    rated_w = excluded.rated_w, heartbeat_s = excluded.heartbeat_s, progress = 0

-- name: delete_pending
DELETE FROM recomputations WHERE device_id = %(device_id)s

-- name: set_progress
UPDATE recomputations SET progress = %(progress)s WHERE device_id = %(device_id)s

-- name: waiting
-- Devices that wait, oldest request first.
SELECT device_id, stream FROM recomputations ORDER BY requested_at, device_id

-- name: try_lock
-- One engine recomputes a device. The first number keeps these locks apart from others.
SELECT pg_try_advisory_lock(730011587, %(device_id)s)

-- name: unlock
SELECT pg_advisory_unlock(730011587, %(device_id)s)

-- name: closed_counts
-- The closed buckets of a device from a start on, with their readings.
SELECT array_agg(bucket_at), array_agg(readings)
FROM (
    SELECT bucket_at, readings FROM {stream}_rollup
    WHERE device_id = %(device_id)s AND bucket_at >= %(start_at)s
    ORDER BY bucket_at
) AS closed

-- name: set_rules
UPDATE {stream}_live
SET energy_mode = %(energy_mode)s, modulus_ukwh = %(modulus_ukwh)s, rated_w = %(rated_w)s,
    heartbeat_s = %(heartbeat_s)s, version = %(version)s
WHERE device_id = %(device_id)s
