"""An iterator that runs a few items ahead of its reader, in a thread: what it waits for is waited for meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class _End:
    """Nothing more comes; or what the source raised."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def read_ahead(source: Generator[T], most: int) -> Iterator[T]:
    """The items of a generator, in their order; what it raises comes behind the items before it.

    Nothing is asked of the source before the first item is wanted. When the reader stops, early or not, the source has
    ended and is closed, the item included that it is at.

    Args:
        most: items that are ready and not yet wanted, at least 1.
    """
    ready: SimpleQueue[T | _End] = SimpleQueue()
    room = threading.Semaphore(most)
    stopped = threading.Event()

    def run() -> None:
        try:
            for item in source:
                ready.put(item)
                room.acquire()
                if stopped.is_set():
                    break
            end = _End()
        except BaseException as error:
            end = _End(error)
        source.close()
        ready.put(end)

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        room.release()
        thread.join()
