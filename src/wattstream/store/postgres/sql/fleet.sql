-- name: versions
SELECT array_agg(block), array_agg(version) FROM {stream}_hot

-- name: days
-- Of some devices, the day that the live row sums with the open quarter-hour, and where that begins.
SELECT array_agg(device_id), array_agg(bucket_at), {open_day_aggregates}
FROM {stream}_live JOIN devices USING (device_id)
WHERE device_id = ANY(%(device_id)s::int4[])

-- name: closed
-- What devices sum over closed quarter-hours, each over a range of its own, in the order asked.
SELECT {sum_aggregates}
FROM (
    SELECT sums.*
    FROM unnest(%(device_id)s::int4[], %(start_at)s::timestamptz[], %(end_at)s::timestamptz[])
        WITH ORDINALITY AS u(id, start_at, end_at, place),
    LATERAL (
        SELECT {closed_sums} FROM {stream}_rollup AS r
        WHERE r.device_id = u.id AND r.bucket_at >= u.start_at AND r.bucket_at < u.end_at
    ) AS sums
    ORDER BY place
) AS asked

-- name: links
SELECT array_agg(vehicle_id), array_agg(meter_id), array_agg(start_at), array_agg(end_at)
FROM links

-- name: twins
-- Vehicles and meters of the same id.
SELECT array_agg(v.device_id), array_agg(m.device_id)
FROM devices AS v JOIN devices AS m ON m.external_id = v.external_id
WHERE v.stream = 'vehicle' AND m.stream = 'meter'
