"""What writes to the log: tick publisher, replay, sample data."""
