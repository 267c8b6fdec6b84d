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
            SELECT relname AS name, pg_get_expr(relpartbound, oid) AS bounds FROM pg_class
            WHERE relkind = 'r' AND relname ~ format('^%s_history_[0-9]{8}$', stream)
                AND relnamespace = (
                    SELECT relnamespace FROM pg_class
                    WHERE oid = format('%s_history_before', stream)::regclass
                )
            ORDER BY relname
        LOOP
            EXECUTE format('ALTER TABLE %1$I RENAME TO %1$s_before', day.name);
            EXECUTE format('ALTER INDEX IF EXISTS %1$s_pkey RENAME TO %1$s_before_pkey', day.name);
            EXECUTE format(
                'CREATE TABLE %I (LIKE %s_history INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                day.name, stream);
            EXECUTE format(
                'INSERT INTO %1$I (device_id, quarter, measured_at, energy_ukwh, %2$s)
                SELECT device_id, floor(extract(epoch FROM measured_at) / 900), measured_at,
                    energy_ukwh, %2$s
                FROM %1$s_before', day.name, replace(fields, ' float8', ''));
            EXECUTE format('DROP TABLE %s_before', day.name);
            IF day.bounds IS NOT NULL THEN
                EXECUTE format(
                    'ALTER TABLE %s_history ATTACH PARTITION %I %s', stream, day.name, day.bounds);
            END IF;
        END LOOP;
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
