-- name: live_states
SELECT array_agg(device_id), array_agg(last_at), array_agg(received_at), array_agg(heartbeat_s),
    {field_aggregates}
FROM (SELECT * FROM {stream}_live ORDER BY device_id) AS devices

-- name: quarter_hours
-- The closed quarter-hours of every device that reported since, and those that are open still.
SELECT array_agg(device_id), array_agg(bucket_at), {sum_aggregates}
FROM (
    SELECT r.*
    FROM {stream}_live AS l,
    LATERAL (
        SELECT device_id, bucket_at, {sum_names} FROM {stream}_rollup
        WHERE device_id = l.device_id
            AND bucket_at >= %(start_at)s::timestamptz AND bucket_at < %(end_at)s::timestamptz
        OFFSET 0
    ) AS r
    WHERE l.last_at >= %(start_at)s::timestamptz
    UNION ALL
    SELECT device_id, bucket_at, {sum_names} FROM {stream}_live
    WHERE bucket_at >= %(start_at)s::timestamptz AND bucket_at < %(end_at)s::timestamptz
    ORDER BY device_id, bucket_at
) AS quarters

-- name: drift
SELECT array_agg(device_id), coalesce(string_agg(state, ''), '')
FROM (SELECT * FROM vehicle_drift WHERE layout = %(layout)s ORDER BY device_id) AS states

-- name: keep_drift
-- The states of all devices come as one value, one after the other.
INSERT INTO vehicle_drift (device_id, layout, state)
SELECT device_id, %(layout)s, substring(%(states)s::bytea FROM ((place - 1) * %(size)s + 1)::int4 FOR %(size)s)
FROM unnest(%(device_id)s::int4[]) WITH ORDINALITY AS u(device_id, place)
ON CONFLICT (device_id) DO UPDATE SET layout = excluded.layout, state = excluded.state

-- name: resets
-- The newest reset of each device since a time. A fall that no reading follows may be a dip still.
SELECT array_agg(device_id), array_agg(fell_at), array_agg(ukwh), array_agg(before_ukwh)
FROM (
    SELECT DISTINCT ON (e.device_id) e.*
    FROM register_events AS e JOIN {stream}_live AS l USING (device_id)
    WHERE e.kind = 3 AND e.fell_at > %(since)s::timestamptz AND e.fell_at < l.last_at
    ORDER BY e.device_id, e.fell_at DESC
) AS newest
