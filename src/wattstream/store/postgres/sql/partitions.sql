-- name: lock
SELECT pg_advisory_xact_lock(hashtext('wattstream partitions'))

-- name: exists
SELECT to_regclass(%(partition)s) IS NOT NULL

-- name: create
CREATE TABLE {partition} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)

-- name: attach
ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES FROM ({start}) TO ({stop})

-- name: days
SELECT right(inhrelid::regclass::text, 8) FROM pg_inherits
WHERE inhparent = to_regclass(%(parent)s)
