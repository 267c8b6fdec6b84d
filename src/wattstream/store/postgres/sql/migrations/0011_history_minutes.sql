-- The key of history begins with the minute instead of the quarter-hour: what devices report now
-- goes to the end of a day's index. A conversion to the same type writes a table anew, with all of
-- its partitions.

DO $$
DECLARE
    stream text;
    one record;
BEGIN
    FOREACH stream IN ARRAY ARRAY['meter', 'vehicle'] LOOP
        FOR one IN
            -- With those that somebody has detached, which come back when they are needed, and
            -- then get their key.
            SELECT c.oid::regclass AS history, k.conname AS key
            FROM pg_class AS c
            LEFT JOIN pg_constraint AS k ON k.conrelid = c.oid AND k.contype = 'p'
            WHERE c.oid = format('%s_history', stream)::regclass
                OR c.relname ~ format('^%s_history_[0-9]{8}$', stream)
                AND c.relkind = 'r' AND NOT c.relispartition
                AND c.relnamespace = (
                    SELECT relnamespace FROM pg_class
                    WHERE oid = format('%s_history', stream)::regclass
                )
        LOOP
            IF one.key IS NOT NULL THEN
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', one.history, one.key);
            END IF;
            EXECUTE format(
                'ALTER TABLE %s ALTER COLUMN quarter TYPE int4
                USING floor(extract(epoch FROM measured_at) / 60)::int4', one.history);
            EXECUTE format('ALTER TABLE %s RENAME COLUMN quarter TO minute', one.history);
            IF one.key IS NOT NULL THEN
                EXECUTE format(
                    'ALTER TABLE %s ADD CONSTRAINT %I PRIMARY KEY (minute, device_id, measured_at)',
                    one.history, one.key);
            END IF;
        END LOOP;
        EXECUTE format(
            'COMMENT ON COLUMN %s_history.minute IS %L', stream,
            'Minutes from 1970 to measured_at, rounded down; the key begins with it.');
    END LOOP;
END
$$;
