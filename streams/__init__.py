"""The log: settings, keys, records, codec, publish and read, leases, the commit script, the Faust app and channel."""
