-- name: register
INSERT INTO devices (stream, external_id)
SELECT '{stream}', id FROM unnest(%(ids)s::text[]) AS u(id) ORDER BY id COLLATE "C"
ON CONFLICT (stream, external_id) DO NOTHING

-- name: keys
SELECT external_id, device_id FROM devices
WHERE stream = '{stream}' AND external_id = ANY(%(ids)s::text[])
ORDER BY external_id

-- name: block_keys
-- Of all devices in the blocks of some, which will report as well, if they have all their rows.
SELECT external_id, device_id FROM devices JOIN {stream}_warm USING (device_id)
WHERE stream = '{stream}' AND device_id = ANY(ARRAY(
        SELECT generate_series(first, first + 7)
        FROM (
            SELECT DISTINCT device_id >> 3 << 3 AS first FROM devices
            WHERE stream = '{stream}' AND external_id = ANY(%(ids)s::text[])
        ) AS blocks
    ))
    AND EXISTS (SELECT FROM {stream}_hot WHERE block = device_id >> 3)

-- name: make_hot
INSERT INTO {stream}_hot (block, version, numbers, fields)
SELECT block, 0, %(numbers)s::int8[], %(fields)s::float8[]
FROM (SELECT DISTINCT id >> 3 AS block FROM unnest(%(device_id)s::int4[]) AS u(id)) AS blocks
ORDER BY block
ON CONFLICT (block) DO NOTHING

-- name: make_warm
INSERT INTO {stream}_warm (device_id)
SELECT id FROM unnest(%(device_id)s::int4[]) AS u(id) ORDER BY id
ON CONFLICT (device_id) DO NOTHING

-- name: describe
UPDATE devices
SET fleet = %(fleet)s, time_zone = %(time_zone)s, alert_thresholds = %(alert_thresholds)s::jsonb
WHERE device_id = %(device_id)s

-- name: device
SELECT d.device_id, d.external_id, d.fleet, d.time_zone, d.alert_thresholds,
    l.energy_mode, l.modulus_ukwh, l.rated_w, l.heartbeat_s
FROM devices AS d JOIN {stream}_warm AS l USING (device_id)
WHERE d.stream = '{stream}' AND d.external_id = %(external_id)s

-- name: keyed
SELECT d.device_id, d.external_id, d.fleet, d.time_zone, d.alert_thresholds,
    l.energy_mode, l.modulus_ukwh, l.rated_w, l.heartbeat_s
FROM devices AS d JOIN {stream}_warm AS l USING (device_id)
WHERE d.device_id = ANY(%(device_id)s::int4[])

-- name: devices
SELECT d.device_id, d.external_id, d.fleet, d.time_zone, d.alert_thresholds,
    l.energy_mode, l.modulus_ukwh, l.rated_w, l.heartbeat_s
FROM devices AS d JOIN {stream}_warm AS l USING (device_id)
WHERE d.stream = '{stream}' AND d.external_id > %(after)s
ORDER BY d.external_id
LIMIT %(limit)s

-- name: labelled
SELECT fleet, array_agg(device_id ORDER BY device_id) FROM devices
WHERE stream = '{stream}' GROUP BY fleet

-- name: reached
SELECT array_agg(device_id ORDER BY device_id) FROM devices
WHERE stream = '{stream}'
    AND (%(fleet)s::text IS NULL OR fleet = %(fleet)s)
    AND (%(pattern)s::text IS NULL OR external_id LIKE %(pattern)s)

-- name: of_fleet
SELECT external_id FROM devices
WHERE stream = '{stream}' AND external_id = ANY(%(ids)s::text[]) AND fleet = %(fleet)s
