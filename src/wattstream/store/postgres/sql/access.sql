-- name: changes
SELECT changes FROM access_changes

-- name: changed
UPDATE access_changes SET changes = changes + 1

-- name: keys
SELECT prefix, digest, name, scopes, fleet, devices, created_at, expires_at, revoked_at,
    requests_per_s, parent
FROM access_keys
ORDER BY created_at, prefix

-- name: add
INSERT INTO access_keys
    (prefix, digest, name, scopes, fleet, devices, created_at, expires_at, requests_per_s, parent)
VALUES (%(prefix)s, %(digest)s, %(name)s, %(scopes)s::text[], %(fleet)s, %(devices)s,
    %(created_at)s::timestamptz, %(expires_at)s::timestamptz, %(requests_per_s)s, %(parent)s)

-- name: drop_sessions
-- Sessions that are over; keys stay, so that a name in the audit log is never another's.
DELETE FROM access_keys
WHERE parent IS NOT NULL AND least(expires_at, revoked_at) < %(now)s::timestamptz

-- name: revoke
UPDATE access_keys SET revoked_at = %(now)s::timestamptz
WHERE (prefix = %(prefix)s OR parent = %(prefix)s) AND revoked_at = 'infinity'
RETURNING prefix

-- name: begin_act
INSERT INTO audit (at, who, address, act, detail, request_id)
VALUES (%(at)s::timestamptz, %(who)s, %(address)s, %(act)s, %(detail)s, %(request_id)s)
RETURNING audit_id

-- name: end_act
UPDATE audit SET status = %(status)s WHERE audit_id = %(audit_id)s

-- name: acts
SELECT audit_id, at, who, address, act, detail, request_id, status
FROM audit
WHERE audit_id < %(before)s
ORDER BY audit_id DESC
LIMIT %(limit)s
