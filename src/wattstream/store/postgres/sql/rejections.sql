-- name: keep
INSERT INTO rejections (rejected_at, stream, external_id, code, message, field, record)
VALUES (%(rejected_at)s, %(stream)s, %(device)s, %(code)s, %(message)s, %(field)s, %(record)s)

-- name: count
INSERT INTO rejection_counts AS c (stream, code, slot, rejections)
VALUES (%(stream)s, %(code)s, pg_backend_pid() %% 16, %(rejections)s)
ON CONFLICT (stream, code, slot) DO UPDATE SET rejections = c.rejections + excluded.rejections

-- name: list
SELECT rejection_id, rejected_at, stream, external_id, code, message, field, record
FROM rejections
WHERE rejection_id > %(after)s
ORDER BY rejection_id
LIMIT %(limit)s
