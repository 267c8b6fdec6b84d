-- The key of history begins with the quarter-hour: what devices report now goes into a few pages
-- of a day's index side by side, instead of one page a device. The new column takes the place
-- that was padding before.

DO $$
DECLARE
    stream text;
    fields text;
    day record;
BEGIN
    FOR stream, fields IN
        VALUES ('meter', 'voltage_v float8'),
            ('vehicle', 'soc_percent float8, battery_temp_c float8')
    LOOP
        EXECUTE format('ALTER TABLE %1$s_history RENAME TO %1$s_history_before', stream);
        EXECUTE format('ALTER INDEX %1$s_history_pkey RENAME TO %1$s_history_before_pkey', stream);
        EXECUTE format(
            'CREATE TABLE %s_history (
                device_id   int4 NOT NULL,
                quarter     int4 NOT NULL,
                measured_at timestamptz NOT NULL,
                energy_ukwh int8 NOT NULL,
                %s,
                PRIMARY KEY (quarter, device_id, measured_at)
            ) PARTITION BY RANGE (measured_at)', stream, fields);
        FOR day IN
            -- With those that somebody has detached: they come back when they are needed.
            SELECT oid::regclass AS old, relname AS name, relname || '_new' AS new,
                pg_get_expr(relpartbound, oid) AS bounds
            FROM pg_class, (
                SELECT oid AS parent, relnamespace AS schema FROM pg_class
                WHERE oid = format('%s_history_before', stream)::regclass
            ) AS before
            WHERE relkind = 'r' AND (
                oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = parent)
                OR relnamespace = schema AND relname ~ format('^%s_history_[0-9]{8}$', stream)
            )
            ORDER BY relname
        LOOP
            EXECUTE format(
                'CREATE TABLE %I (LIKE %s_history INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                day.new, stream);
            EXECUTE format(
                'INSERT INTO %I (device_id, quarter, measured_at, energy_ukwh, %2$s)
                SELECT device_id, floor(extract(epoch FROM measured_at) / 900), measured_at,
                    energy_ukwh, %2$s
                FROM %3$s', day.new, replace(fields, ' float8', ''), day.old);
            EXECUTE format('DROP TABLE %s', day.old);
            EXECUTE format('ALTER TABLE %I RENAME TO %I', day.new, day.name);
            IF day.bounds IS NOT NULL THEN
                EXECUTE format(
                    'ALTER TABLE %s_history ATTACH PARTITION %I %s', stream, day.name, day.bounds);
            END IF;
        END LOOP;
        IF EXISTS (
            SELECT FROM pg_inherits WHERE inhparent = format('%s_history_before', stream)::regclass
        ) THEN
            RAISE EXCEPTION '%_history has a partition that is no plain table; detach it first',
                stream;
        END IF;
        EXECUTE format('DROP TABLE %s_history_before', stream);
        EXECUTE format(
            'COMMENT ON COLUMN %s_history.quarter IS %L', stream,
            'Quarter-hours from 1970 to measured_at, rounded down; the key begins with it.');
        EXECUTE format(
            'COMMENT ON COLUMN %s_history.energy_ukwh IS %L', stream,
            CASE stream WHEN 'meter' THEN 'AC' ELSE 'DC' END
                || ' energy as sent, micro-kWh: of the heartbeat, or a register.');
    END LOOP;
END
$$;
