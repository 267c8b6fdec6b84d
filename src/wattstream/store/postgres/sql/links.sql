-- name: of_vehicle
-- The links that name a vehicle; or, where none does, the meter of the same id that none names.
WITH v AS (
    SELECT device_id FROM devices WHERE stream = 'vehicle' AND external_id = %(external_id)s
)
SELECT is_twin, start_at, end_at, d.device_id, d.external_id, d.fleet, d.time_zone,
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
JOIN meter_live AS m ON m.device_id = l.meter_id
ORDER BY l.start_at, l.link_id

-- name: all
SELECT array_agg(vehicle_id), array_agg(meter_id), array_agg(start_at), array_agg(end_at),
    array_agg(is_twin::int4)
FROM (
    SELECT vehicle_id, meter_id, start_at, end_at, false AS is_twin FROM links
    UNION ALL
    SELECT v.device_id, m.device_id, '-infinity', 'infinity', true
    FROM devices AS v JOIN devices AS m ON m.stream = 'meter' AND m.external_id = v.external_id
    WHERE %(same_id)s AND v.stream = 'vehicle'
        AND NOT EXISTS (SELECT FROM links WHERE vehicle_id = v.device_id)
        AND NOT EXISTS (SELECT FROM links WHERE meter_id = m.device_id)
) AS l

-- name: named
SELECT device_id, external_id FROM devices WHERE device_id = ANY(%(device_id)s::int4[])
