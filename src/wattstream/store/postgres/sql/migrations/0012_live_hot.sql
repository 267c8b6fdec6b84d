-- What every heartbeat changes moves to rows of eight devices, so that a flush of many devices
-- writes an eighth as many; what changes with a quarter-hour, or by hand, stays a row a device.
-- Together they are what the live rows were: *_live becomes a view of both.

-- Sessions take keys in runs, so that eight of one stream share a row, also where both register.
ALTER TABLE devices ALTER COLUMN device_id SET CACHE 64;
SELECT setval(
    pg_get_serial_sequence('devices', 'device_id'),
    (
        SELECT greatest(
            max(device_id), pg_sequence_last_value(pg_get_serial_sequence('devices', 'device_id')), 0
        ) / 64 * 64 + 63
        FROM devices
    )
);

-- Times are microseconds since 2000, as PostgreSQL has them inside; it takes integers faster.
CREATE FUNCTION hot_number(at timestamptz) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN at = '-infinity' THEN '-9223372036854775808'::int8
        ELSE (extract(epoch FROM at - timestamptz '2000-01-01 00:00Z') * 1000000)::int8 END
$$;
CREATE FUNCTION hot_time(number int8) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN number = '-9223372036854775808'::int8 THEN '-infinity'
        ELSE timestamptz '2000-01-01 00:00Z' + number * interval '1 microsecond' END
$$;

ALTER TABLE meter_live RENAME TO meter_warm;
ALTER INDEX meter_live_pkey RENAME TO meter_warm_pkey;
CREATE TABLE meter_hot (
    block   int4 PRIMARY KEY,
    version int8 NOT NULL,
    numbers int8[] NOT NULL,
    fields  float8[] NOT NULL,
    CONSTRAINT meter_hot_readings_check CHECK (greatest(
        numbers[1][9], numbers[2][9], numbers[3][9], numbers[4][9],
        numbers[5][9], numbers[6][9], numbers[7][9], numbers[8][9]) <= 9000)
) WITH (fillfactor = 50);
INSERT INTO meter_hot (block, version, numbers, fields)
SELECT block, max(coalesce(version, 0)),
    array_agg(ARRAY[hot_number(coalesce(last_at, '-infinity')),
        hot_number(coalesce(received_at, '-infinity')),
        hot_number(coalesce(prev_at, '-infinity')), coalesce(last_ukwh, 0),
        coalesce(delta_ukwh, 0), coalesce(prev_ukwh, 0), coalesce(energy_ukwh, 0), coalesce(suspect_ukwh, 0), coalesce(readings, 0),
        coalesce(voltage_sum_micro, 0), coalesce(voltage_count, 0)] ORDER BY slot),
    array_agg(ARRAY[coalesce(voltage_v, 'NaN')] ORDER BY slot)
FROM (SELECT DISTINCT device_id >> 3 AS block FROM meter_warm) AS blocks
CROSS JOIN generate_series(0, 7) AS slot
LEFT JOIN meter_warm ON device_id = block * 8 + slot
GROUP BY block;

ALTER TABLE vehicle_live RENAME TO vehicle_warm;
ALTER INDEX vehicle_live_pkey RENAME TO vehicle_warm_pkey;
CREATE TABLE vehicle_hot (
    block   int4 PRIMARY KEY,
    version int8 NOT NULL,
    numbers int8[] NOT NULL,
    fields  float8[] NOT NULL,
    CONSTRAINT vehicle_hot_readings_check CHECK (greatest(
        numbers[1][9], numbers[2][9], numbers[3][9], numbers[4][9],
        numbers[5][9], numbers[6][9], numbers[7][9], numbers[8][9]) <= 9000)
) WITH (fillfactor = 50);
INSERT INTO vehicle_hot (block, version, numbers, fields)
SELECT block, max(coalesce(version, 0)),
    array_agg(ARRAY[hot_number(coalesce(last_at, '-infinity')),
        hot_number(coalesce(received_at, '-infinity')),
        hot_number(coalesce(prev_at, '-infinity')), coalesce(last_ukwh, 0),
        coalesce(delta_ukwh, 0), coalesce(prev_ukwh, 0), coalesce(energy_ukwh, 0), coalesce(suspect_ukwh, 0), coalesce(readings, 0),
        coalesce(soc_sum_micro, 0), coalesce(soc_count, 0),
        coalesce(battery_temp_sum_micro, 0), coalesce(battery_temp_count, 0)] ORDER BY slot),
    array_agg(ARRAY[coalesce(soc_percent, 'NaN'), coalesce(battery_temp_c, 'NaN')] ORDER BY slot)
FROM (SELECT DISTINCT device_id >> 3 AS block FROM vehicle_warm) AS blocks
CROSS JOIN generate_series(0, 7) AS slot
LEFT JOIN vehicle_warm ON device_id = block * 8 + slot
GROUP BY block;

ALTER TABLE meter_warm
    DROP COLUMN last_at, DROP COLUMN last_ukwh, DROP COLUMN voltage_v, DROP COLUMN received_at,
    DROP COLUMN delta_ukwh, DROP COLUMN prev_at, DROP COLUMN prev_ukwh, DROP COLUMN energy_ukwh,
    DROP COLUMN suspect_ukwh, DROP COLUMN readings, DROP COLUMN voltage_sum_micro,
    DROP COLUMN voltage_count, DROP COLUMN version;
ALTER TABLE vehicle_warm
    DROP COLUMN last_at, DROP COLUMN last_ukwh, DROP COLUMN soc_percent,
    DROP COLUMN battery_temp_c, DROP COLUMN received_at, DROP COLUMN delta_ukwh,
    DROP COLUMN prev_at, DROP COLUMN prev_ukwh, DROP COLUMN energy_ukwh, DROP COLUMN suspect_ukwh,
    DROP COLUMN readings, DROP COLUMN soc_sum_micro, DROP COLUMN soc_count,
    DROP COLUMN battery_temp_sum_micro, DROP COLUMN battery_temp_count, DROP COLUMN version;

-- Never moved out of their row, and of no use to the planner.
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT hot, name FROM unnest(ARRAY['meter_hot', 'vehicle_hot']) AS hot,
            unnest(ARRAY['numbers', 'fields']) AS name
    LOOP
        EXECUTE format(
            'ALTER TABLE %I ALTER %I SET STORAGE PLAIN, ALTER %I SET STATISTICS 0',
            one.hot, one.name, one.name);
    END LOOP;
END
$$;

CREATE VIEW meter_live AS
SELECT
    device_id, energy_mode, heartbeat_s, day_readings, day_voltage_count, modulus_ukwh, rated_w,
    day_energy_ukwh, day_suspect_ukwh, day_voltage_sum_micro,
    before1_at, before1_ukwh, before2_at, before2_ukwh, bucket_at, version,
    hot_time(numbers[(device_id & 7) + 1][1]) AS last_at,
    hot_time(numbers[(device_id & 7) + 1][2]) AS received_at,
    hot_time(numbers[(device_id & 7) + 1][3]) AS prev_at,
    numbers[(device_id & 7) + 1][4] AS last_ukwh,
    numbers[(device_id & 7) + 1][5] AS delta_ukwh,
    numbers[(device_id & 7) + 1][6] AS prev_ukwh,
    numbers[(device_id & 7) + 1][7] AS energy_ukwh,
    numbers[(device_id & 7) + 1][8] AS suspect_ukwh,
    numbers[(device_id & 7) + 1][9]::int4 AS readings,
    numbers[(device_id & 7) + 1][10] AS voltage_sum_micro,
    numbers[(device_id & 7) + 1][11]::int4 AS voltage_count,
    nullif(fields[(device_id & 7) + 1][1], 'NaN') AS voltage_v
FROM meter_warm JOIN meter_hot ON block = device_id >> 3;

CREATE VIEW vehicle_live AS
SELECT
    device_id, energy_mode, heartbeat_s, day_readings, day_soc_count, day_battery_temp_count,
    modulus_ukwh, rated_w, day_energy_ukwh, day_suspect_ukwh, day_soc_sum_micro,
    day_battery_temp_sum_micro,
    before1_at, before1_ukwh, before2_at, before2_ukwh, bucket_at, version,
    hot_time(numbers[(device_id & 7) + 1][1]) AS last_at,
    hot_time(numbers[(device_id & 7) + 1][2]) AS received_at,
    hot_time(numbers[(device_id & 7) + 1][3]) AS prev_at,
    numbers[(device_id & 7) + 1][4] AS last_ukwh,
    numbers[(device_id & 7) + 1][5] AS delta_ukwh,
    numbers[(device_id & 7) + 1][6] AS prev_ukwh,
    numbers[(device_id & 7) + 1][7] AS energy_ukwh,
    numbers[(device_id & 7) + 1][8] AS suspect_ukwh,
    numbers[(device_id & 7) + 1][9]::int4 AS readings,
    numbers[(device_id & 7) + 1][10] AS soc_sum_micro,
    numbers[(device_id & 7) + 1][11]::int4 AS soc_count,
    numbers[(device_id & 7) + 1][12] AS battery_temp_sum_micro,
    numbers[(device_id & 7) + 1][13]::int4 AS battery_temp_count,
    nullif(fields[(device_id & 7) + 1][1], 'NaN') AS soc_percent,
    nullif(fields[(device_id & 7) + 1][2], 'NaN') AS battery_temp_c
FROM vehicle_warm JOIN vehicle_hot ON block = device_id >> 3;

-- An UPDATE of the view: what is rarely changed, and not by a flush. Hot columns, rules and the other
-- warm columns are each written only where it changes one, for nothing locks what it has read. A row
-- that gets no version of its own gets a new one, for the engines that have it in memory.
CREATE FUNCTION write_meter_live() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE
    slot int := (OLD.device_id & 7) + 1;
BEGIN
    UPDATE meter_hot SET version = CASE
        WHEN NEW.version = OLD.version THEN (random() * 9e18)::int8 ELSE NEW.version END
    WHERE block = OLD.device_id >> 3;
    IF ROW(
        NEW.last_at, NEW.received_at, NEW.prev_at, NEW.last_ukwh, NEW.delta_ukwh, NEW.prev_ukwh,
        NEW.energy_ukwh, NEW.suspect_ukwh, NEW.readings, NEW.voltage_sum_micro, NEW.voltage_count,
        NEW.voltage_v
    ) IS DISTINCT FROM ROW(
        OLD.last_at, OLD.received_at, OLD.prev_at, OLD.last_ukwh, OLD.delta_ukwh, OLD.prev_ukwh,
        OLD.energy_ukwh, OLD.suspect_ukwh, OLD.readings, OLD.voltage_sum_micro, OLD.voltage_count,
        OLD.voltage_v
    ) THEN
        UPDATE meter_hot SET
            numbers[slot][1] = hot_number(NEW.last_at),
            numbers[slot][2] = hot_number(NEW.received_at),
            numbers[slot][3] = hot_number(NEW.prev_at),
            numbers[slot][4] = NEW.last_ukwh,
            numbers[slot][5] = NEW.delta_ukwh,
            numbers[slot][6] = NEW.prev_ukwh,
            numbers[slot][7] = NEW.energy_ukwh,
            numbers[slot][8] = NEW.suspect_ukwh,
            numbers[slot][9] = NEW.readings,
            numbers[slot][10] = NEW.voltage_sum_micro,
            numbers[slot][11] = NEW.voltage_count,
            fields[slot][1] = coalesce(NEW.voltage_v, 'NaN')
        WHERE block = OLD.device_id >> 3;
    END IF;
    IF ROW(
        NEW.energy_mode, NEW.heartbeat_s, NEW.modulus_ukwh, NEW.rated_w
    ) IS DISTINCT FROM ROW(
        OLD.energy_mode, OLD.heartbeat_s, OLD.modulus_ukwh, OLD.rated_w
    ) THEN
        UPDATE meter_warm SET
            energy_mode = NEW.energy_mode,
            heartbeat_s = NEW.heartbeat_s,
            modulus_ukwh = NEW.modulus_ukwh,
            rated_w = NEW.rated_w
        WHERE device_id = OLD.device_id;
    END IF;
    IF ROW(
        NEW.day_readings, NEW.day_voltage_count, NEW.day_energy_ukwh, NEW.day_suspect_ukwh,
        NEW.day_voltage_sum_micro, NEW.before1_at, NEW.before1_ukwh, NEW.before2_at,
        NEW.before2_ukwh, NEW.bucket_at
    ) IS DISTINCT FROM ROW(
        OLD.day_readings, OLD.day_voltage_count, OLD.day_energy_ukwh, OLD.day_suspect_ukwh,
        OLD.day_voltage_sum_micro, OLD.before1_at, OLD.before1_ukwh, OLD.before2_at,
        OLD.before2_ukwh, OLD.bucket_at
    ) THEN
        UPDATE meter_warm SET
            day_readings = NEW.day_readings,
            day_voltage_count = NEW.day_voltage_count,
            day_energy_ukwh = NEW.day_energy_ukwh,
            day_suspect_ukwh = NEW.day_suspect_ukwh,
            day_voltage_sum_micro = NEW.day_voltage_sum_micro,
            before1_at = NEW.before1_at,
            before1_ukwh = NEW.before1_ukwh,
            before2_at = NEW.before2_at,
            before2_ukwh = NEW.before2_ukwh,
            bucket_at = NEW.bucket_at
        WHERE device_id = OLD.device_id;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER write INSTEAD OF UPDATE ON meter_live
FOR EACH ROW EXECUTE FUNCTION write_meter_live();

CREATE FUNCTION write_vehicle_live() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE
    slot int := (OLD.device_id & 7) + 1;
BEGIN
    UPDATE vehicle_hot SET version = CASE
        WHEN NEW.version = OLD.version THEN (random() * 9e18)::int8 ELSE NEW.version END
    WHERE block = OLD.device_id >> 3;
    IF ROW(
        NEW.last_at, NEW.received_at, NEW.prev_at, NEW.last_ukwh, NEW.delta_ukwh, NEW.prev_ukwh,
        NEW.energy_ukwh, NEW.suspect_ukwh, NEW.readings, NEW.soc_sum_micro, NEW.soc_count,
        NEW.battery_temp_sum_micro, NEW.battery_temp_count, NEW.soc_percent, NEW.battery_temp_c
    ) IS DISTINCT FROM ROW(
        OLD.last_at, OLD.received_at, OLD.prev_at, OLD.last_ukwh, OLD.delta_ukwh, OLD.prev_ukwh,
        OLD.energy_ukwh, OLD.suspect_ukwh, OLD.readings, OLD.soc_sum_micro, OLD.soc_count,
        OLD.battery_temp_sum_micro, OLD.battery_temp_count, OLD.soc_percent, OLD.battery_temp_c
    ) THEN
        UPDATE vehicle_hot SET
            numbers[slot][1] = hot_number(NEW.last_at),
            numbers[slot][2] = hot_number(NEW.received_at),
            numbers[slot][3] = hot_number(NEW.prev_at),
            numbers[slot][4] = NEW.last_ukwh,
            numbers[slot][5] = NEW.delta_ukwh,
            numbers[slot][6] = NEW.prev_ukwh,
            numbers[slot][7] = NEW.energy_ukwh,
            numbers[slot][8] = NEW.suspect_ukwh,
            numbers[slot][9] = NEW.readings,
            numbers[slot][10] = NEW.soc_sum_micro,
            numbers[slot][11] = NEW.soc_count,
            numbers[slot][12] = NEW.battery_temp_sum_micro,
            numbers[slot][13] = NEW.battery_temp_count,
            fields[slot][1] = coalesce(NEW.soc_percent, 'NaN'),
            fields[slot][2] = coalesce(NEW.battery_temp_c, 'NaN')
        WHERE block = OLD.device_id >> 3;
    END IF;
    IF ROW(
        NEW.energy_mode, NEW.heartbeat_s, NEW.modulus_ukwh, NEW.rated_w
    ) IS DISTINCT FROM ROW(
        OLD.energy_mode, OLD.heartbeat_s, OLD.modulus_ukwh, OLD.rated_w
    ) THEN
        UPDATE vehicle_warm SET
            energy_mode = NEW.energy_mode,
            heartbeat_s = NEW.heartbeat_s,
            modulus_ukwh = NEW.modulus_ukwh,
            rated_w = NEW.rated_w
        WHERE device_id = OLD.device_id;
    END IF;
    IF ROW(
        NEW.day_readings, NEW.day_soc_count, NEW.day_battery_temp_count, NEW.day_energy_ukwh,
        NEW.day_suspect_ukwh, NEW.day_soc_sum_micro, NEW.day_battery_temp_sum_micro,
        NEW.before1_at, NEW.before1_ukwh, NEW.before2_at, NEW.before2_ukwh, NEW.bucket_at
    ) IS DISTINCT FROM ROW(
        OLD.day_readings, OLD.day_soc_count, OLD.day_battery_temp_count, OLD.day_energy_ukwh,
        OLD.day_suspect_ukwh, OLD.day_soc_sum_micro, OLD.day_battery_temp_sum_micro,
        OLD.before1_at, OLD.before1_ukwh, OLD.before2_at, OLD.before2_ukwh, OLD.bucket_at
    ) THEN
        UPDATE vehicle_warm SET
            day_readings = NEW.day_readings,
            day_soc_count = NEW.day_soc_count,
            day_battery_temp_count = NEW.day_battery_temp_count,
            day_energy_ukwh = NEW.day_energy_ukwh,
            day_suspect_ukwh = NEW.day_suspect_ukwh,
            day_soc_sum_micro = NEW.day_soc_sum_micro,
            day_battery_temp_sum_micro = NEW.day_battery_temp_sum_micro,
            before1_at = NEW.before1_at,
            before1_ukwh = NEW.before1_ukwh,
            before2_at = NEW.before2_at,
            before2_ukwh = NEW.before2_ukwh,
            bucket_at = NEW.bucket_at
        WHERE device_id = OLD.device_id;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER write INSTEAD OF UPDATE ON vehicle_live
FOR EACH ROW EXECUTE FUNCTION write_vehicle_live();

COMMENT ON VIEW meter_live IS 'A row a meter: rules, last day, newest reading (last_, prev_) and open quarter-hour.';
COMMENT ON TABLE meter_warm IS 'Of each meter what changes with a quarter-hour, or by hand.';
COMMENT ON TABLE meter_hot IS 'Of eight meters, device_id >> 3, what each heartbeat changes; the lock of these devices. Columns of the arrays are named by the view meter_live.';
COMMENT ON COLUMN meter_hot.version IS 'A new random number with every change of these devices.';
COMMENT ON VIEW vehicle_live IS 'A row a vehicle: rules, last day, newest reading (last_, prev_) and open quarter-hour.';
COMMENT ON TABLE vehicle_warm IS 'Of each vehicle what changes with a quarter-hour, or by hand.';
COMMENT ON TABLE vehicle_hot IS 'Of eight vehicles, device_id >> 3, what each heartbeat changes; the lock of these devices. Columns of the arrays are named by the view vehicle_live.';
COMMENT ON COLUMN vehicle_hot.version IS 'A new random number with every change of these devices.';
