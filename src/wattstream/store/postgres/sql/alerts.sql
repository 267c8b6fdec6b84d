-- name: last_look
SELECT looks, looked_at, observed_at FROM alert_looks

-- name: open
SELECT array_agg(alert_id), array_agg(kind), array_agg(device_id)
FROM alerts WHERE resolved_at IS NULL

-- name: thresholds
SELECT device_id, alert_thresholds FROM devices WHERE alert_thresholds IS NOT NULL

-- name: list
SELECT a.alert_id, a.kind, a.stream, d.external_id, a.opened_at, a.acknowledged_at,
    a.acknowledged_by, a.resolved_at, a.evidence, a.resolution
FROM alerts AS a JOIN devices AS d USING (device_id)
WHERE a.alert_id < %(before)s
    AND CASE %(state)s::text
        WHEN 'open' THEN a.resolved_at IS NULL AND a.acknowledged_at IS NULL
        WHEN 'acknowledged' THEN a.resolved_at IS NULL AND a.acknowledged_at IS NOT NULL
        WHEN 'resolved' THEN a.resolved_at IS NOT NULL
        ELSE true
    END
    AND (%(kind)s::text IS NULL OR a.kind = %(kind)s)
    AND (%(stream)s::text IS NULL OR a.stream = %(stream)s)
    AND (%(device)s::text IS NULL OR d.external_id = %(device)s)
ORDER BY a.alert_id DESC
LIMIT %(limit)s

-- name: one
SELECT a.alert_id, a.kind, a.stream, d.external_id, a.opened_at, a.acknowledged_at,
    a.acknowledged_by, a.resolved_at, a.evidence, a.resolution
FROM alerts AS a JOIN devices AS d USING (device_id)
WHERE a.alert_id = %(alert_id)s

-- name: count_look
-- The row is the lock of a look; where another look was meanwhile, nothing is updated.
UPDATE alert_looks
SET looks = looks + 1, looked_at = %(now)s, observed_at = %(observed_at)s
WHERE looks = %(number)s

-- name: open_all
WITH opened AS (
    INSERT INTO alerts (kind, stream, device_id, opened_at, evidence, updated_at)
    SELECT kind, stream, device_id, %(now)s::timestamptz, evidence::jsonb, %(now)s::timestamptz
    FROM (
        SELECT unnest(%(kind)s::text[]) AS kind, unnest(%(stream)s::text[]) AS stream,
            unnest(%(device_id)s::int4[]) AS device_id, unnest(%(evidence)s::text[]) AS evidence
    ) AS u
    ON CONFLICT (device_id, kind) WHERE resolved_at IS NULL DO NOTHING
    RETURNING alert_id
)
INSERT INTO alert_events (alert_id, event, created_at, due_at)
SELECT alert_id, 'opened', %(now)s::timestamptz, %(now)s::timestamptz
FROM opened WHERE %(notify)s
ORDER BY alert_id

-- name: resolve_all
WITH resolved AS (
    UPDATE alerts AS a
    SET resolved_at = %(now)s::timestamptz, resolution = u.evidence::jsonb,
        updated_at = %(now)s::timestamptz
    FROM (
        SELECT unnest(%(alert_id)s::int8[]) AS alert_id, unnest(%(evidence)s::text[]) AS evidence
    ) AS u
    WHERE a.alert_id = u.alert_id AND a.resolved_at IS NULL
    RETURNING a.alert_id
)
INSERT INTO alert_events (alert_id, event, created_at, due_at)
SELECT alert_id, 'resolved', %(now)s::timestamptz, %(now)s::timestamptz
FROM resolved WHERE %(notify)s
ORDER BY alert_id

-- name: acknowledge
UPDATE alerts
SET acknowledged_at = %(now)s, acknowledged_by = %(by)s, updated_at = %(now)s
WHERE alert_id = %(alert_id)s AND acknowledged_at IS NULL AND resolved_at IS NULL

-- name: claim_events
-- An event is put off before it is sent: what ends the engine meanwhile does not end the event.
WITH due AS (
    SELECT event_id FROM alert_events AS e
    WHERE due_at <= %(now)s AND NOT EXISTS (
        SELECT FROM alert_events AS o WHERE o.alert_id = e.alert_id AND o.event_id < e.event_id
    )
    ORDER BY event_id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE alert_events AS e
    SET attempts = attempts + 1,
        due_at = %(now)s::timestamptz + least(interval '15 s' * 2 ^ attempts, interval '1 hour')
    FROM due
    WHERE e.event_id = due.event_id
    RETURNING e.event_id, e.event, e.created_at, e.attempts, e.alert_id
)
SELECT e.event_id, e.event, e.created_at, e.attempts,
    a.alert_id, a.kind, a.stream, d.external_id, a.opened_at, a.acknowledged_at,
    a.acknowledged_by, a.resolved_at, a.evidence, a.resolution
FROM claimed AS e JOIN alerts AS a USING (alert_id) JOIN devices AS d USING (device_id)
ORDER BY e.event_id

-- name: drop_event
DELETE FROM alert_events WHERE event_id = %(event_id)s
