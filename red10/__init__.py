"""Red10: streaming machine learning on Redis. The public names; importing them loads neither numba, Faust nor XGBoost.

    from red10 import TickPublisher, Subscriber

    with TickPublisher() as publisher:
        publisher.publish("SPY", price=412.35, size=100)

    for signal in Subscriber(kind="signals", since="start"):
        print(signal.series, signal.side, signal.price)

Without a URL in the settings both attach to the embedded Redis of a running `red10 up`.
"""

from modelstore.exported import load_export
from modelstore.search import Query
from modelstore.store import ModelStore
from producers.publisher import AsyncTickPublisher, TickPublisher
from streams.errors import Red10Error
from streams.subscribe import AsyncSubscriber, Subscriber

__all__ = [
    "AsyncSubscriber",
    "AsyncTickPublisher",
    "ModelStore",
    "Query",
    "Red10Error",
    "Subscriber",
    "TickPublisher",
    "load_export",
]
