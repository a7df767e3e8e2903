"""What runs ahead keeps the order, passes errors on, and ends with its reader."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from modelstore.read_ahead import read_ahead


class Source:
    """Numbers below a limit; remembers how far it came and that it was closed."""

    def __init__(self, limit: int, fails_at: int | None = None) -> None:
        self.made = self.closed = 0
        self._limit, self._fails_at = limit, fails_at
        self.enough = threading.Event()

    def __call__(self) -> Generator[int]:
        try:
            for number in range(self._limit):
                if number == self._fails_at:
                    raise ValueError("broken")
                self.made += 1
                if self.made == 4:
                    self.enough.set()
                yield number
        finally:
            self.closed += 1


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "read-ahead"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_all_items_come_in_their_order(count: int) -> None:
    source = Source(count)
    assert list(read_ahead(source(), 2)) == list(range(count))
    assert source.closed == 1
    assert not threads()


def test_an_error_comes_behind_the_items_before_it() -> None:
    source = Source(9, fails_at=5)
    seen: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        seen.extend(read_ahead(source(), 2))
    assert seen == [0, 1, 2, 3, 4]
    assert not threads()


def test_it_runs_ahead_and_not_without_bounds() -> None:
    source = Source(100)
    items = read_ahead(source(), 3)
    assert source.made == 0, "nothing before the first is wanted"
    assert next(items) == 0
    assert source.enough.wait(10), "three more, although nobody asked for them"
    assert source.made <= 5
    items.close()  # type: ignore[attr-defined]
    assert source.made <= 6
    assert source.closed == 1
    assert not threads()


def test_a_reader_that_goes_away_ends_it() -> None:
    source = Source(100)
    items = read_ahead(source(), 1)
    next(items)
    del items
    assert source.closed == 1
    assert not threads()
