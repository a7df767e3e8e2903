"""A publisher process: publishes its whole feed from the start, at a pace, and records outside Redis what was taken.

    python -m tests.chaos.publisher FEED_JSON RECORD START RATE

The settings come from the environment. Killed at any time and started again, it says the same from the beginning; the
log passes over what it has. The record gets a line for each call that returned: how many ticks are certainly taken.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import islice
from pathlib import Path
from typing import cast

import orjson

from producers.publisher import TickPublisher
from streams.append import PublishError
from streams.publish import Blocks
from streams.settings import load_settings
from tests.chaos.feed import Feed


def publish(feed: Feed, record: Path, start: float, rate: float) -> int:
    """Publish all of it; the exit code: 0, or 3 if publishing stopped before its end."""
    settings, origins = load_settings()
    file = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    ticks, done = feed.ticks(), 0
    blocks = cast(Blocks, feed.blocks)
    with TickPublisher(settings, origins=origins, publisher=feed.name, blocks=blocks) as publisher:
        while chunk := list(islice(ticks, feed.chunk)):
            time.sleep(max(0.0, start + (done + len(chunk)) / rate - time.monotonic()))
            try:
                publisher.publish_many(chunk)
            except PublishError as error:
                os.write(file, orjson.dumps({"stopped": str(error)}) + b"\n")
                return 3
            done += len(chunk)
            os.write(file, orjson.dumps({"taken": done}) + b"\n")
        ending = {"done": done, "resets": publisher.numbering.resets, "gaps": publisher.numbering.gaps}
    os.write(file, orjson.dumps(ending) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(publish(Feed.from_json(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
