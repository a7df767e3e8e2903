"""Print the signals since the last run: the position is kept in a file. Needs `red10 up`, or RED10_STREAMS_URL."""

import json
import sys
from pathlib import Path

from red10 import Subscriber

kept = Path(sys.argv[1] if len(sys.argv) > 1 else "signals.position.json")
since = json.loads(kept.read_text()) if kept.exists() else "start"
with Subscriber(kind="signals", since=since, follow=False) as subscriber:
    for signal in subscriber:
        print(signal.ts, signal.series, signal.side, signal.position, flush=True)
        # Kept after the signal was handled: a crash in between repeats one signal and leaves none out.
        kept.write_text(json.dumps(subscriber.position))
