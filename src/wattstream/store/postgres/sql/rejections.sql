-- name: keep
-- Counted in one order, so that two engines wait in no circle.
WITH kept AS (
    INSERT INTO rejections
        (rejected_at, key, stream, external_id, code, message, field, record, conflict)
    SELECT %(rejected_at)s::timestamptz, %(key)s::text, unnest(%(stream)s::text[]), unnest(%(device)s::text[]),
        unnest(%(code)s::text[]), unnest(%(message)s::text[]), unnest(%(field)s::text[]),
        unnest(%(record)s::bytea[]), unnest(%(conflict)s::text[])::json
    RETURNING stream, code, size_bytes
)
INSERT INTO rejection_counts AS c (stream, code, slot, rejections, last_at, held_bytes)
SELECT coalesce(stream, ''), code, pg_backend_pid() %% 16, count(*), %(rejected_at)s::timestamptz,
    sum(size_bytes)
FROM kept
GROUP BY coalesce(stream, ''), code
ORDER BY coalesce(stream, '') COLLATE "C", code COLLATE "C"
ON CONFLICT (stream, code, slot) DO UPDATE SET
    rejections = c.rejections + excluded.rejections,
    last_at = greatest(c.last_at, excluded.last_at),
    held_bytes = c.held_bytes + excluded.held_bytes

-- name: prune_lock
-- One engine prunes at a time: what is too much is counted in the statement after this one.
SELECT pg_try_advisory_xact_lock(7300115870002)

-- name: prune
-- The oldest of a part: those that are too old, and those that make too much.
WITH oldest AS (
    SELECT rejection_id, rejected_at,
        sum(size_bytes) OVER (ORDER BY rejected_at, rejection_id) - size_bytes AS before_bytes
    FROM (
        SELECT rejection_id, rejected_at, size_bytes FROM rejections
        ORDER BY rejected_at, rejection_id LIMIT %(rows)s
    ) AS part
), held AS (
    SELECT coalesce(sum(held_bytes), 0) AS bytes FROM rejection_counts
), gone AS (
    DELETE FROM rejections AS r USING oldest AS o, held AS h
    WHERE r.rejection_id = o.rejection_id
        AND (o.rejected_at < %(oldest_at)s::timestamptz OR o.before_bytes < h.bytes - %(max_bytes)s)
    RETURNING r.stream, r.code, r.size_bytes
), counted AS (
    INSERT INTO rejection_counts AS c (stream, code, slot, rejections, held_bytes)
    SELECT coalesce(stream, ''), code, pg_backend_pid() %% 16, 0, -sum(size_bytes)
    FROM gone
    GROUP BY coalesce(stream, ''), code
    ORDER BY coalesce(stream, '') COLLATE "C", code COLLATE "C"
    ON CONFLICT (stream, code, slot) DO UPDATE SET held_bytes = c.held_bytes + excluded.held_bytes
)
SELECT count(*) FROM gone

-- name: list
SELECT rejection_id, rejected_at, stream, external_id, code, message, field, record, conflict, key
FROM rejections
WHERE rejection_id > %(after)s
    AND (%(code)s::text IS NULL OR code = %(code)s)
    AND (%(of_stream)s::text IS NULL OR stream = %(of_stream)s)
    AND (%(device)s::text IS NULL OR external_id = %(device)s)
    AND rejected_at >= %(start_at)s::timestamptz AND rejected_at < %(end_at)s::timestamptz
ORDER BY rejection_id
LIMIT %(limit)s

-- name: list_newest
SELECT rejection_id, rejected_at, stream, external_id, code, message, field, record, conflict, key
FROM rejections
WHERE rejection_id < %(after)s
    AND (%(code)s::text IS NULL OR code = %(code)s)
    AND (%(of_stream)s::text IS NULL OR stream = %(of_stream)s)
    AND (%(device)s::text IS NULL OR external_id = %(device)s)
    AND rejected_at >= %(start_at)s::timestamptz AND rejected_at < %(end_at)s::timestamptz
ORDER BY rejection_id DESC
LIMIT %(limit)s

-- name: counts
SELECT stream, code, sum(rejections)::int8, max(last_at)
FROM rejection_counts GROUP BY stream, code ORDER BY stream, code
