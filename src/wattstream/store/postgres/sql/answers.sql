-- name: latest
SELECT last_at, received_at, last_ukwh, delta_ukwh, {fields}
FROM {stream}_live WHERE device_id = %(device_id)s

-- name: window
-- Whole buckets, the closed ones from the rollup and the open one from the live row; then the
-- readings of the buckets that an edge cuts, each with the two readings before it. Where the closed
-- ones are just the day that the live row sums, that is read instead.
WITH d AS (
    SELECT coalesce(bool_and(
        bucket_at = %(end_at)s::timestamptz
        AND bucket_at - {day_length} = %(start_at)s::timestamptz
    ), false) AS is_day
    FROM {stream}_warm WHERE device_id = %(device_id)s
)
SELECT total.*, left_carry.*, left_raw.*, right_carry.*, right_raw.*
FROM (
    SELECT coalesce(sum(energy_ukwh), 0), coalesce(sum(suspect_ukwh), 0),
        coalesce(sum(readings), 0)::int8{measured_sums}
    FROM (
        SELECT {sum_names} FROM {stream}_rollup
        WHERE device_id = %(device_id)s AND bucket_at >= %(start_at)s AND bucket_at < %(end_at)s
            AND NOT (SELECT is_day FROM d)
        UNION ALL
        SELECT {day_columns} FROM {stream}_warm
        WHERE device_id = %(device_id)s AND (SELECT is_day FROM d)
        UNION ALL
        SELECT {sum_names} FROM {stream}_live
        WHERE device_id = %(device_id)s AND bucket_at >= %(start_at)s AND bucket_at < %(end_at)s
    ) AS buckets
) AS total
LEFT JOIN LATERAL (
    SELECT coalesce(before1_at, '-infinity'), coalesce(before1_ukwh, 0),
        coalesce(before2_at, '-infinity'), coalesce(before2_ukwh, 0)
    FROM {stream}_rollup WHERE device_id = %(device_id)s AND bucket_at = %(left_at)s
    UNION ALL
    SELECT before1_at, before1_ukwh, before2_at, before2_ukwh
    FROM {stream}_warm WHERE device_id = %(device_id)s AND bucket_at = %(left_at)s
) AS left_carry ON true
CROSS JOIN LATERAL (
    SELECT array_agg(measured_at), array_agg(energy_ukwh), {field_aggregates}
    FROM (
        SELECT * FROM {stream}_history
        WHERE minute = ANY(%(left_minutes)s::int4[]) AND device_id = %(device_id)s
            AND measured_at >= %(left_at)s AND measured_at < %(left_end_at)s
        ORDER BY measured_at
    ) AS raw
) AS left_raw
LEFT JOIN LATERAL (
    SELECT coalesce(before1_at, '-infinity'), coalesce(before1_ukwh, 0),
        coalesce(before2_at, '-infinity'), coalesce(before2_ukwh, 0)
    FROM {stream}_rollup WHERE device_id = %(device_id)s AND bucket_at = %(right_at)s
    UNION ALL
    SELECT before1_at, before1_ukwh, before2_at, before2_ukwh
    FROM {stream}_warm WHERE device_id = %(device_id)s AND bucket_at = %(right_at)s
) AS right_carry ON true
CROSS JOIN LATERAL (
    SELECT array_agg(measured_at), array_agg(energy_ukwh), {field_aggregates}
    FROM (
        SELECT * FROM {stream}_history
        WHERE minute = ANY(%(right_minutes)s::int4[]) AND device_id = %(device_id)s
            AND measured_at >= %(right_at)s AND measured_at < %(right_end_at)s
        ORDER BY measured_at
    ) AS raw
) AS right_raw

-- name: span
-- The first and last reading of a range, in the first and last quarter-hours that hold any: of one
-- that the range cuts, all may lie outside, and then the next has it. OFFSET 0: one index range a
-- quarter-hour.
SELECT min(measured_at), max(measured_at)
FROM (
    (SELECT bucket_at FROM {stream}_rollup
     WHERE device_id = %(device_id)s AND bucket_at >= %(bucket_at)s AND bucket_at < %(end_at)s
     ORDER BY bucket_at LIMIT 2)
    UNION
    (SELECT bucket_at FROM {stream}_rollup
     WHERE device_id = %(device_id)s AND bucket_at >= %(bucket_at)s AND bucket_at < %(end_at)s
     ORDER BY bucket_at DESC LIMIT 2)
    UNION
    (SELECT bucket_at FROM {stream}_warm
     WHERE device_id = %(device_id)s AND bucket_at >= %(bucket_at)s AND bucket_at < %(end_at)s)
) AS held,
LATERAL (
    SELECT measured_at FROM {stream}_history
    WHERE minute = ANY({minutes_of_bucket}) AND device_id = %(device_id)s
        AND measured_at >= bucket_at AND measured_at < bucket_at + interval '15 minutes'
        AND measured_at >= %(start_at)s AND measured_at < %(end_at)s
    OFFSET 0
) AS h

-- name: sums_within
-- What devices sum over whole buckets, each over a range of its own, in the order asked.
SELECT array_agg(energy_ukwh), array_agg(readings)
FROM (
    SELECT sums.energy_ukwh, sums.readings
    FROM unnest(%(device_id)s::int4[], %(start_at)s::timestamptz[], %(end_at)s::timestamptz[])
        WITH ORDINALITY AS u(id, start_at, end_at, place),
    LATERAL (
        SELECT coalesce(sum(energy_ukwh), 0)::int8 AS energy_ukwh,
            coalesce(sum(readings), 0)::int8 AS readings
        FROM (
            SELECT energy_ukwh, readings FROM {stream}_rollup
            WHERE device_id = u.id AND bucket_at >= u.start_at AND bucket_at < u.end_at
            UNION ALL
            SELECT energy_ukwh, readings FROM {stream}_live
            WHERE device_id = u.id AND bucket_at >= u.start_at AND bucket_at < u.end_at
        ) AS buckets
    ) AS sums
    ORDER BY place
) AS asked

-- name: bucket_readings
-- The readings of some buckets with the place of each, from 0, sorted. OFFSET 0: one index range
-- a bucket.
SELECT array_agg(place), array_agg(measured_at), array_agg(energy_ukwh), {field_aggregates}
FROM (
    SELECT u.place - 1 AS place, h.*
    FROM unnest(%(device_id)s::int4[], %(bucket_at)s::timestamptz[])
        WITH ORDINALITY AS u(id, bucket_at, place),
    LATERAL (
        SELECT * FROM {stream}_history
        WHERE minute = ANY({minutes_of_bucket}) AND device_id = u.id
            AND measured_at >= u.bucket_at AND measured_at < u.bucket_at + interval '15 minutes'
            AND measured_at >= %(first_at)s AND measured_at < %(last_at)s
        OFFSET 0
    ) AS h
    ORDER BY u.place, h.measured_at
) AS raw

-- name: bucket_carry
-- The rules of the devices of some buckets, and the two readings before each, in the order asked.
SELECT {rule_aggregates}
FROM (
    SELECT l.device_id, {rule_names}, {carry_values}
    FROM unnest(%(device_id)s::int4[], %(bucket_at)s::timestamptz[])
        WITH ORDINALITY AS u(id, bucket_at, place)
    JOIN {stream}_warm AS l ON l.device_id = u.id
    LEFT JOIN LATERAL (
        SELECT * FROM {stream}_rollup AS b
        WHERE b.device_id = u.id AND b.bucket_at = u.bucket_at
        OFFSET 0
    ) AS r ON true
    ORDER BY u.place
) AS devices

-- name: device_count
SELECT count(*) FROM devices WHERE stream = '{stream}'

-- name: days
SELECT day::text, sum(readings)::int8, min(first_at), max(last_at)
FROM history_days WHERE stream = '{stream}' GROUP BY day ORDER BY day

-- name: newest
SELECT max(last_at) FROM history_days
WHERE stream = '{stream}' AND day = (SELECT max(day) FROM history_days WHERE stream = '{stream}')

-- name: rejection_count
SELECT coalesce(sum(rejections), 0)::int8 FROM rejection_counts WHERE stream = '{stream}'
