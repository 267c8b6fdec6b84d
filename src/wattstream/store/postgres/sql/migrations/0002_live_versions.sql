-- Live rows get a version, so that a writer may keep them in memory and notice when somebody else
-- changed one; and the sums of their last day, so that an answer over all devices reads one row each.

ALTER TABLE meter_live
    ADD COLUMN day_energy_ukwh int8 NOT NULL DEFAULT 0,
    ADD COLUMN day_suspect_ukwh int8 NOT NULL DEFAULT 0,
    ADD COLUMN day_readings int4 NOT NULL DEFAULT 0,
    ADD COLUMN day_voltage_sum_micro int8 NOT NULL DEFAULT 0,
    ADD COLUMN day_voltage_count int4 NOT NULL DEFAULT 0,
    ADD COLUMN version int8 NOT NULL DEFAULT 0;
COMMENT ON COLUMN meter_live.version IS 'A new random number with every change of the row.';
COMMENT ON COLUMN meter_live.day_energy_ukwh IS 'Sum of the closed quarter-hours in [bucket_at - 23:45, bucket_at), micro-kWh; so are the other day columns.';
UPDATE meter_live AS l
SET day_energy_ukwh = d.energy_ukwh,
    day_suspect_ukwh = d.suspect_ukwh,
    day_readings = d.readings,
    day_voltage_sum_micro = d.voltage_sum_micro,
    day_voltage_count = d.voltage_count
FROM (
    SELECT device_id,
        sum(r.energy_ukwh) AS energy_ukwh,
        sum(r.suspect_ukwh) AS suspect_ukwh,
        sum(r.readings) AS readings,
        sum(r.voltage_sum_micro) AS voltage_sum_micro,
        sum(r.voltage_count) AS voltage_count
    FROM meter_live AS o JOIN meter_rollup AS r USING (device_id)
    WHERE r.bucket_at >= o.bucket_at - interval '23:45' AND r.bucket_at < o.bucket_at
    GROUP BY device_id
) AS d
WHERE d.device_id = l.device_id;

ALTER TABLE vehicle_live
    ADD COLUMN day_energy_ukwh int8 NOT NULL DEFAULT 0,
    ADD COLUMN day_suspect_ukwh int8 NOT NULL DEFAULT 0,
    ADD COLUMN day_readings int4 NOT NULL DEFAULT 0,
    ADD COLUMN day_soc_sum_micro int8 NOT NULL DEFAULT 0,
    ADD COLUMN day_soc_count int4 NOT NULL DEFAULT 0,
    ADD COLUMN day_battery_temp_sum_micro int8 NOT NULL DEFAULT 0,
    ADD COLUMN day_battery_temp_count int4 NOT NULL DEFAULT 0,
    ADD COLUMN version int8 NOT NULL DEFAULT 0;
COMMENT ON COLUMN vehicle_live.version IS 'A new random number with every change of the row.';
COMMENT ON COLUMN vehicle_live.day_energy_ukwh IS 'Sum of the closed quarter-hours in [bucket_at - 23:45, bucket_at), micro-kWh; so are the other day columns.';
UPDATE vehicle_live AS l
SET day_energy_ukwh = d.energy_ukwh,
    day_suspect_ukwh = d.suspect_ukwh,
    day_readings = d.readings,
    day_soc_sum_micro = d.soc_sum_micro,
    day_soc_count = d.soc_count,
    day_battery_temp_sum_micro = d.battery_temp_sum_micro,
    day_battery_temp_count = d.battery_temp_count
FROM (
    SELECT device_id,
        sum(r.energy_ukwh) AS energy_ukwh,
        sum(r.suspect_ukwh) AS suspect_ukwh,
        sum(r.readings) AS readings,
        sum(r.soc_sum_micro) AS soc_sum_micro,
        sum(r.soc_count) AS soc_count,
        sum(r.battery_temp_sum_micro) AS battery_temp_sum_micro,
        sum(r.battery_temp_count) AS battery_temp_count
    FROM vehicle_live AS o JOIN vehicle_rollup AS r USING (device_id)
    WHERE r.bucket_at >= o.bucket_at - interval '23:45' AND r.bucket_at < o.bucket_at
    GROUP BY device_id
) AS d
WHERE d.device_id = l.device_id;
