"""Programs that send readings to an engine: simulator and replay."""
