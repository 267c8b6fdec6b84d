"""Where readings live: the port, its backends, the schema."""
