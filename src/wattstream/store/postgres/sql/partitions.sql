-- name: lock
SELECT pg_advisory_xact_lock(hashtext('wattstream partitions'))

-- name: exists
-- Asked of the catalog's rows: to_regclass may answer from a cache older than the lock.
SELECT EXISTS (
    SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = %(parent)s::regclass AND relname = %(partition)s
)

-- name: create
-- There is one already where somebody has detached the day: it comes back with its readings.
CREATE TABLE IF NOT EXISTS {partition} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)

-- name: attach
ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES FROM ({start}) TO ({stop})
