-- name: of_vehicle
-- The links that name a vehicle; or, where none does, the meter of the same id that none names.
WITH v AS (
    SELECT device_id FROM devices WHERE stream = 'vehicle' AND external_id = %(external_id)s
)
SELECT is_twin, start_at, end_at, d.device_id, d.external_id, d.fleet, d.time_zone, d.alert_thresholds,
    m.energy_mode, m.modulus_ukwh, m.rated_w, m.heartbeat_s
FROM (
    SELECT false AS is_twin, link_id, meter_id, start_at, end_at
    FROM links WHERE vehicle_id = (SELECT device_id FROM v)
    UNION ALL
    SELECT true, 0, device_id, '-infinity', 'infinity'
    FROM devices AS twin
    WHERE %(same_id)s AND twin.stream = 'meter' AND twin.external_id = %(external_id)s
        AND NOT EXISTS (SELECT FROM links WHERE vehicle_id = (SELECT device_id FROM v))
        AND NOT EXISTS (SELECT FROM links WHERE meter_id = twin.device_id)
) AS l
JOIN devices AS d ON d.device_id = l.meter_id
JOIN meter_warm AS m ON m.device_id = l.meter_id
ORDER BY l.start_at, l.link_id

-- name: named
SELECT device_id, external_id FROM devices WHERE device_id = ANY(%(device_id)s::int4[])

-- name: list
SELECT l.link_id, m.external_id, v.external_id, l.start_at, l.end_at
FROM links AS l
JOIN devices AS m ON m.device_id = l.meter_id
JOIN devices AS v ON v.device_id = l.vehicle_id
WHERE l.link_id > %(after)s
    AND (%(meter)s::text IS NULL OR m.external_id = %(meter)s)
    AND (%(vehicle)s::text IS NULL OR v.external_id = %(vehicle)s)
ORDER BY l.link_id
LIMIT %(limit)s

-- name: one
SELECT l.link_id, m.external_id, v.external_id, l.start_at, l.end_at
FROM links AS l
JOIN devices AS m ON m.device_id = l.meter_id
JOIN devices AS v ON v.device_id = l.vehicle_id
WHERE l.link_id = %(link_id)s

-- name: overlapped
-- The earliest other link of a meter that overlaps a range.
SELECT link_id FROM links
WHERE meter_id = %(meter_id)s AND link_id <> %(link_id)s
    AND start_at < %(end_at)s AND end_at > %(start_at)s
ORDER BY start_at
LIMIT 1

-- name: add
INSERT INTO links (meter_id, vehicle_id, start_at, end_at)
VALUES (%(meter_id)s, %(vehicle_id)s, %(start_at)s, %(end_at)s)
RETURNING link_id

-- name: lock
SELECT meter_id, start_at FROM links WHERE link_id = %(link_id)s FOR UPDATE

-- name: set_end
UPDATE links SET end_at = %(end_at)s WHERE link_id = %(link_id)s

-- name: delete
DELETE FROM links WHERE link_id = %(link_id)s
