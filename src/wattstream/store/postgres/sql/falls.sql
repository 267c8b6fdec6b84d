-- name: put
INSERT INTO register_events (device_id, fell_at, ukwh, before_at, before_ukwh, kind)
SELECT unnest(%(device_id)s::int4[]), unnest(%(fell_at)s::timestamptz[]), unnest(%(ukwh)s::int8[]),
    unnest(%(before_at)s::timestamptz[]), unnest(%(before_ukwh)s::int8[]),
    unnest(%(kind)s::int2[])
ON CONFLICT (device_id, fell_at) DO UPDATE SET
    ukwh = excluded.ukwh, before_at = excluded.before_at,
    before_ukwh = excluded.before_ukwh, kind = excluded.kind

-- name: held
-- The register events of some devices in ranges, both ends included.
SELECT array_agg(device_id), array_agg(fell_at), array_agg(ukwh), array_agg(before_at),
    array_agg(before_ukwh), array_agg(kind)
FROM (
    SELECT e.*
    FROM unnest(
        %(device_id)s::int4[], %(first_at)s::timestamptz[], %(last_at)s::timestamptz[]
    ) AS u(id, first_at, last_at),
    LATERAL (
        SELECT * FROM register_events
        WHERE device_id = id AND fell_at BETWEEN first_at AND last_at
        OFFSET 0
    ) AS e
) AS events

-- name: delete
DELETE FROM register_events AS e
USING unnest(%(device_id)s::int4[], %(fell_at)s::timestamptz[]) AS u(device_id, fell_at)
WHERE e.device_id = u.device_id AND e.fell_at = u.fell_at

-- name: list
SELECT fell_at, ukwh, before_at, before_ukwh, kind
FROM register_events
WHERE device_id = %(device_id)s AND fell_at > %(after)s
ORDER BY fell_at
LIMIT %(limit)s
