-- name: versions
-- A number that changes with what is shown of a device; the version is that of eight.
SELECT array_agg(device_id),
    array_agg(hash_record_extended(
        (last_at, received_at, last_ukwh, delta_ukwh, {fields}, {rule_names}), 0)),
    array_agg(received_at)
FROM {stream}_live AS l

-- name: silent
received_at > '-infinity' AND received_at <= %(now)s::timestamptz
    - l.heartbeat_s * interval '1 s'
    * coalesce((d.alert_thresholds ->> 'silent')::float8, %(silent)s::float8)

-- name: live_row
l.device_id, d.external_id, d.fleet, d.time_zone, d.alert_thresholds,
    l.energy_mode, l.modulus_ukwh, l.rated_w, l.heartbeat_s,
    l.last_at, l.received_at, l.last_ukwh, l.delta_ukwh, {fields}

-- name: live_keyed
SELECT {live_row}
FROM {stream}_live AS l JOIN devices AS d USING (device_id)
WHERE l.device_id = ANY(%(device_id)s::int4[]) AND l.last_at > '-infinity'

-- name: live_named
SELECT {live_row}
FROM {stream}_live AS l JOIN devices AS d USING (device_id)
WHERE d.stream = '{stream}' AND d.external_id = ANY(%(ids)s::text[]) AND l.last_at > '-infinity'

-- name: found
FROM {stream}_live AS l JOIN devices AS d USING (device_id)
WHERE (%(within)s::int4[] IS NULL OR l.device_id = ANY(%(within)s::int4[]))
    AND (%(pattern)s::text IS NULL OR d.external_id ILIKE %(pattern)s OR d.fleet ILIKE %(pattern)s)
    AND (%(shown)s::text = 'all' OR ({silent}) = (%(shown)s = 'silent'))

-- name: search
-- One list serves every column: numbers are turned by the sign, ids have two expressions.
SELECT {silent}, (l.day_energy_ukwh + l.energy_ukwh)::int8, {live_row}
{found}
ORDER BY %(sign)s::int * CASE %(sort)s::text
        WHEN 'heard' THEN extract(epoch FROM l.received_at)::float8
        WHEN 'energy' THEN (l.day_energy_ukwh + l.energy_ukwh)::float8
        WHEN 'field1' THEN (ARRAY[{fields}])[1]
        WHEN 'field2' THEN (ARRAY[{fields}])[2]
    END NULLS LAST,
    CASE WHEN %(sort)s = 'id' AND %(sign)s < 0 THEN d.external_id END DESC,
    d.external_id
LIMIT %(limit)s OFFSET %(offset)s

-- name: search_count
SELECT count(*)
{found}

-- name: reported
SELECT count(*), count(*) FILTER (WHERE {silent}),
    percentile_disc(0.5) WITHIN GROUP (ORDER BY lag_s), percentile_disc(0.95) WITHIN GROUP (ORDER BY lag_s)
FROM (
    SELECT *, CASE WHEN received_at > %(now)s::timestamptz - interval '5 minutes'
        THEN extract(epoch FROM received_at - last_at)::float8 END AS lag_s
    FROM {stream}_live
) AS l JOIN devices AS d USING (device_id)
WHERE (%(within)s::int4[] IS NULL OR l.device_id = ANY(%(within)s::int4[]))

-- name: tallies
SELECT (SELECT coalesce(sum(readings), 0)::int8 FROM history_days WHERE %(within)s::int4[] IS NULL),
    (SELECT coalesce(sum(rejections), 0)::int8 FROM rejection_counts WHERE %(within)s::int4[] IS NULL),
    count(*), count(*) FILTER (WHERE acknowledged_at IS NULL)
FROM alerts AS l
WHERE resolved_at IS NULL
    AND (%(within)s::int4[] IS NULL OR l.device_id = ANY(%(within)s::int4[]))

-- name: quarter_sums
SELECT bucket_at, sum(energy_ukwh)
FROM (
    SELECT r.bucket_at, r.energy_ukwh
    FROM {stream}_live AS l,
    LATERAL (
        SELECT bucket_at, energy_ukwh FROM {stream}_rollup
        WHERE device_id = l.device_id
            AND bucket_at >= %(start_at)s::timestamptz AND bucket_at < %(end_at)s::timestamptz
        OFFSET 0
    ) AS r
    WHERE l.last_at >= %(start_at)s::timestamptz
        AND (%(within)s::int4[] IS NULL OR l.device_id = ANY(%(within)s::int4[]))
    UNION ALL
    SELECT bucket_at, energy_ukwh FROM {stream}_live AS l
    WHERE bucket_at >= %(start_at)s::timestamptz AND bucket_at < %(end_at)s::timestamptz
        AND (%(within)s::int4[] IS NULL OR l.device_id = ANY(%(within)s::int4[]))
) AS quarters
GROUP BY bucket_at ORDER BY bucket_at
