-- name: reach
-- Where wanted readings lie, by the rollup, so that only the partitions that hold them are read:
-- the first quarter-hour at or after a given one, with the two readings before it; and the one by
-- whose end the limit is reached, null where it is not.
SELECT f.*, (
    SELECT bucket_at
    FROM (
        SELECT bucket_at,
            sum(readings) OVER (ORDER BY bucket_at ROWS UNBOUNDED PRECEDING) AS total
        FROM {stream}_rollup
        WHERE device_id = %(device_id)s AND bucket_at > f.bucket_at AND bucket_at < %(end_at)s
    ) AS r
    WHERE total >= %(limit)s
    ORDER BY bucket_at
    LIMIT 1
)
FROM (
    SELECT bucket_at, coalesce(before1_at, '-infinity'), coalesce(before1_ukwh, 0),
        coalesce(before2_at, '-infinity'), coalesce(before2_ukwh, 0)
    FROM (
        (SELECT bucket_at, {carry_names} FROM {stream}_rollup
         WHERE device_id = %(device_id)s AND bucket_at >= %(bucket_at)s
         ORDER BY bucket_at LIMIT 1)
        UNION ALL
        (SELECT bucket_at, {carry_names} FROM {stream}_warm
         WHERE device_id = %(device_id)s AND bucket_at >= %(bucket_at)s)
    ) AS next
    ORDER BY bucket_at
    LIMIT 1
) AS f

-- name: readings
-- Up to two readings before the start within its quarter-hour, newest first; then those wanted,
-- from the quarter-hours that hold any. OFFSET 0: one index range a quarter-hour.
SELECT before.*, wanted.*
FROM (
    SELECT array_agg(measured_at), array_agg(energy_ukwh)
    FROM (
        SELECT measured_at, energy_ukwh FROM {stream}_history
        WHERE minute = ANY(%(minutes)s::int4[]) AND device_id = %(device_id)s
            AND measured_at >= %(bucket_at)s AND measured_at < %(start_at)s
        ORDER BY measured_at DESC
        LIMIT 2
    ) AS raw
) AS before,
(
    SELECT array_agg(measured_at), array_agg(energy_ukwh), {field_aggregates}
    FROM (
        SELECT h.*
        FROM (
            SELECT bucket_at FROM {stream}_rollup
            WHERE device_id = %(device_id)s
                AND bucket_at >= %(bucket_at)s AND bucket_at < %(end_at)s
            UNION ALL
            SELECT bucket_at FROM {stream}_warm
            WHERE device_id = %(device_id)s
                AND bucket_at >= %(bucket_at)s AND bucket_at < %(end_at)s
        ) AS held,
        LATERAL (
            SELECT * FROM {stream}_history
            WHERE minute = ANY({minutes_of_bucket}) AND device_id = %(device_id)s
                AND measured_at >= bucket_at AND measured_at < bucket_at + interval '15 minutes'
                AND measured_at >= %(start_at)s AND measured_at < %(end_at)s
            OFFSET 0
        ) AS h
        ORDER BY measured_at
        LIMIT %(limit)s
    ) AS raw
) AS wanted

-- name: quarters
-- The first quarter-hours of a range, closed or open.
SELECT array_agg(bucket_at), {sum_aggregates}
FROM (
    SELECT *
    FROM (
        (SELECT bucket_at, {sum_names} FROM {stream}_rollup
         WHERE device_id = %(device_id)s AND bucket_at >= %(start_at)s AND bucket_at < %(end_at)s
         ORDER BY bucket_at LIMIT %(limit)s)
        UNION ALL
        (SELECT bucket_at, {sum_names} FROM {stream}_live
         WHERE device_id = %(device_id)s AND bucket_at >= %(start_at)s AND bucket_at < %(end_at)s)
    ) AS buckets
    ORDER BY bucket_at
    LIMIT %(limit)s
) AS quarters
