-- Live rows with the columns that every heartbeat changes side by side and last: PostgreSQL logs
-- an update from the first byte that differs to the last. Those that may be null end the row.

ALTER TABLE meter_live RENAME TO meter_live_before;
ALTER INDEX meter_live_pkey RENAME TO meter_live_before_pkey;
CREATE TABLE meter_live (
    device_id             int4 PRIMARY KEY,
    energy_mode           int2 NOT NULL DEFAULT 0,
    heartbeat_s           int4 NOT NULL DEFAULT 60,
    day_readings          int4 NOT NULL DEFAULT 0,
    day_voltage_count     int4 NOT NULL DEFAULT 0,
    modulus_ukwh          int8 NOT NULL DEFAULT 0,
    rated_w               int8 NOT NULL DEFAULT 0,
    day_energy_ukwh       int8 NOT NULL DEFAULT 0,
    day_suspect_ukwh      int8 NOT NULL DEFAULT 0,
    day_voltage_sum_micro int8 NOT NULL DEFAULT 0,
    prev_at               timestamptz NOT NULL DEFAULT '-infinity',
    prev_ukwh             int8 NOT NULL DEFAULT 0,
    before1_at            timestamptz NOT NULL DEFAULT '-infinity',
    before1_ukwh          int8 NOT NULL DEFAULT 0,
    before2_at            timestamptz NOT NULL DEFAULT '-infinity',
    before2_ukwh          int8 NOT NULL DEFAULT 0,
    bucket_at             timestamptz NOT NULL DEFAULT '-infinity',
    suspect_ukwh          int8 NOT NULL DEFAULT 0,
    version               int8 NOT NULL DEFAULT 0,
    received_at           timestamptz NOT NULL DEFAULT '-infinity',
    last_at               timestamptz NOT NULL DEFAULT '-infinity',
    last_ukwh             int8 NOT NULL DEFAULT 0,
    delta_ukwh            int8 NOT NULL DEFAULT 0,
    energy_ukwh           int8 NOT NULL DEFAULT 0,
    voltage_sum_micro     int8 NOT NULL DEFAULT 0,
    voltage_count         int4 NOT NULL DEFAULT 0,
    readings              int4 NOT NULL DEFAULT 0 CHECK (readings <= 9000),
    voltage_v             float8
) WITH (fillfactor = 50);
INSERT INTO meter_live (
    device_id, energy_mode, heartbeat_s, day_readings, day_voltage_count, modulus_ukwh,
    rated_w, day_energy_ukwh, day_suspect_ukwh, day_voltage_sum_micro, prev_at, prev_ukwh,
    before1_at, before1_ukwh, before2_at, before2_ukwh, bucket_at, suspect_ukwh, version,
    received_at, last_at, last_ukwh, delta_ukwh, energy_ukwh, voltage_sum_micro,
    voltage_count, readings, voltage_v
)
SELECT
    device_id, energy_mode, heartbeat_s, day_readings, day_voltage_count, modulus_ukwh,
    rated_w, day_energy_ukwh, day_suspect_ukwh, day_voltage_sum_micro, prev_at, prev_ukwh,
    before1_at, before1_ukwh, before2_at, before2_ukwh, bucket_at, suspect_ukwh, version,
    received_at, last_at, last_ukwh, delta_ukwh, energy_ukwh, voltage_sum_micro,
    voltage_count, readings, voltage_v
FROM meter_live_before;
DROP TABLE meter_live_before;
COMMENT ON TABLE meter_live IS 'Rules, last day, newest reading (last_, prev_) and open quarter-hour of each meter.';
COMMENT ON COLUMN meter_live.version IS 'A new random number with every change of the row.';
COMMENT ON COLUMN meter_live.day_energy_ukwh IS 'Sum of the closed quarter-hours in [bucket_at - 23:45, bucket_at), micro-kWh; so are the other day columns.';

ALTER TABLE vehicle_live RENAME TO vehicle_live_before;
ALTER INDEX vehicle_live_pkey RENAME TO vehicle_live_before_pkey;
CREATE TABLE vehicle_live (
    device_id                  int4 PRIMARY KEY,
    energy_mode                int2 NOT NULL DEFAULT 0,
    heartbeat_s                int4 NOT NULL DEFAULT 60,
    day_readings               int4 NOT NULL DEFAULT 0,
    day_soc_count              int4 NOT NULL DEFAULT 0,
    day_battery_temp_count     int4 NOT NULL DEFAULT 0,
    modulus_ukwh               int8 NOT NULL DEFAULT 0,
    rated_w                    int8 NOT NULL DEFAULT 0,
    day_energy_ukwh            int8 NOT NULL DEFAULT 0,
    day_suspect_ukwh           int8 NOT NULL DEFAULT 0,
    day_soc_sum_micro          int8 NOT NULL DEFAULT 0,
    day_battery_temp_sum_micro int8 NOT NULL DEFAULT 0,
    prev_at                    timestamptz NOT NULL DEFAULT '-infinity',
    prev_ukwh                  int8 NOT NULL DEFAULT 0,
    before1_at                 timestamptz NOT NULL DEFAULT '-infinity',
    before1_ukwh               int8 NOT NULL DEFAULT 0,
    before2_at                 timestamptz NOT NULL DEFAULT '-infinity',
    before2_ukwh               int8 NOT NULL DEFAULT 0,
    bucket_at                  timestamptz NOT NULL DEFAULT '-infinity',
    suspect_ukwh               int8 NOT NULL DEFAULT 0,
    version                    int8 NOT NULL DEFAULT 0,
    received_at                timestamptz NOT NULL DEFAULT '-infinity',
    last_at                    timestamptz NOT NULL DEFAULT '-infinity',
    last_ukwh                  int8 NOT NULL DEFAULT 0,
    delta_ukwh                 int8 NOT NULL DEFAULT 0,
    energy_ukwh                int8 NOT NULL DEFAULT 0,
    soc_sum_micro              int8 NOT NULL DEFAULT 0,
    battery_temp_sum_micro     int8 NOT NULL DEFAULT 0,
    soc_count                  int4 NOT NULL DEFAULT 0,
    battery_temp_count         int4 NOT NULL DEFAULT 0,
    readings                   int4 NOT NULL DEFAULT 0 CHECK (readings <= 9000),
    soc_percent                float8,
    battery_temp_c             float8
) WITH (fillfactor = 50);
INSERT INTO vehicle_live (
    device_id, energy_mode, heartbeat_s, day_readings, day_soc_count,
    day_battery_temp_count, modulus_ukwh, rated_w, day_energy_ukwh, day_suspect_ukwh,
    day_soc_sum_micro, day_battery_temp_sum_micro, prev_at, prev_ukwh, before1_at,
    before1_ukwh, before2_at, before2_ukwh, bucket_at, suspect_ukwh, version, received_at,
    last_at, last_ukwh, delta_ukwh, energy_ukwh, soc_sum_micro, battery_temp_sum_micro,
    soc_count, battery_temp_count, readings, soc_percent, battery_temp_c
)
SELECT
    device_id, energy_mode, heartbeat_s, day_readings, day_soc_count,
    day_battery_temp_count, modulus_ukwh, rated_w, day_energy_ukwh, day_suspect_ukwh,
    day_soc_sum_micro, day_battery_temp_sum_micro, prev_at, prev_ukwh, before1_at,
    before1_ukwh, before2_at, before2_ukwh, bucket_at, suspect_ukwh, version, received_at,
    last_at, last_ukwh, delta_ukwh, energy_ukwh, soc_sum_micro, battery_temp_sum_micro,
    soc_count, battery_temp_count, readings, soc_percent, battery_temp_c
FROM vehicle_live_before;
DROP TABLE vehicle_live_before;
COMMENT ON TABLE vehicle_live IS 'Rules, last day, newest reading (last_, prev_) and open quarter-hour of each vehicle.';
COMMENT ON COLUMN vehicle_live.version IS 'A new random number with every change of the row.';
COMMENT ON COLUMN vehicle_live.day_energy_ukwh IS 'Sum of the closed quarter-hours in [bucket_at - 23:45, bucket_at), micro-kWh; so are the other day columns.';
