-- name: size
SELECT pg_database_size(current_database())

-- name: partitions
SELECT parent.relname::text, count(*)
FROM pg_inherits JOIN pg_class AS parent ON parent.oid = inhparent
WHERE inhparent IN ('meter_history'::regclass, 'vehicle_history'::regclass)
GROUP BY 1
