"""What operators run: the `red10` command, the embedded Redis, the demo, alerts."""
