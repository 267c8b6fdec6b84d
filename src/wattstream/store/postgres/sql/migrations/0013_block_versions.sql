-- A block gets a new version as well when a row of one of its devices is made or removed, also by
-- hand: engines keep whole blocks in memory.
CREATE FUNCTION renew_blocks() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    hot text;
BEGIN
    FOREACH hot IN ARRAY TG_ARGV LOOP
        EXECUTE format(
            'UPDATE %I AS h SET version = (random() * 9e18)::int8
             FROM (
                 SELECT block FROM %I
                 WHERE block IN (SELECT device_id >> 3 FROM changed) ORDER BY block FOR UPDATE
             ) AS locked
             WHERE h.block = locked.block',
            hot, hot);
    END LOOP;
    RETURN NULL;
END
$$;
CREATE TRIGGER made AFTER INSERT ON meter_warm REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION renew_blocks('meter_hot');
CREATE TRIGGER made AFTER INSERT ON vehicle_warm REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION renew_blocks('vehicle_hot');
CREATE TRIGGER removed AFTER DELETE ON meter_warm REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION renew_blocks('meter_hot');
CREATE TRIGGER removed AFTER DELETE ON vehicle_warm REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION renew_blocks('vehicle_hot');
CREATE TRIGGER made AFTER INSERT ON devices REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION renew_blocks('meter_hot', 'vehicle_hot');
CREATE TRIGGER removed AFTER DELETE ON devices REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION renew_blocks('meter_hot', 'vehicle_hot');
