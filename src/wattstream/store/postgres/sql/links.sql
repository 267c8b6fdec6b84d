-- name: of_vehicle
SELECT l.meter_id, d.external_id, l.start_at, l.end_at
FROM links AS l JOIN devices AS d ON d.device_id = l.meter_id
WHERE l.vehicle_id = %(device_id)s
ORDER BY l.start_at, l.link_id

-- name: twin
SELECT d.device_id, d.external_id FROM devices AS d
WHERE d.stream = 'meter' AND d.external_id = %(external_id)s
    AND NOT EXISTS (SELECT FROM links WHERE meter_id = d.device_id)

-- name: all
SELECT v.external_id, v.device_id, m.device_id, m.external_id, l.start_at, l.end_at
FROM links AS l
JOIN devices AS v ON v.device_id = l.vehicle_id
JOIN devices AS m ON m.device_id = l.meter_id
ORDER BY v.external_id, l.start_at, l.link_id

-- name: all_twins
SELECT v.external_id, v.device_id, m.device_id, m.external_id
FROM devices AS v JOIN devices AS m ON m.stream = 'meter' AND m.external_id = v.external_id
WHERE v.stream = 'vehicle'
    AND NOT EXISTS (SELECT FROM links WHERE vehicle_id = v.device_id)
    AND NOT EXISTS (SELECT FROM links WHERE meter_id = m.device_id)
