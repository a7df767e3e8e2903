"""Publish ten ticks, a second of event time apart. Needs a running `red10 up`, or RED10_STREAMS_URL."""

import time

from red10 import TickPublisher

with TickPublisher() as publisher:
    start = time.time_ns() - 10_000_000_000
    for second in range(10):
        entry = publisher.publish("DEMO", price=100 + second / 4, size=1, ts=start + second * 1_000_000_000)
        print("DEMO", entry)
