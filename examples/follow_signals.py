"""Print every signal, those that exist first, until Ctrl-C. Needs a running `red10 up`, or RED10_STREAMS_URL."""

from red10 import Subscriber

for signal in Subscriber(kind="signals", since="start"):
    print(signal.ts, signal.series, signal.side, signal.position, f"at {signal.price}", flush=True)
