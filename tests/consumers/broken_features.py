"""A feature set with a bug, as users may write one."""

from __future__ import annotations

from dataclasses import dataclass

from consumers.history import BarWindow


@dataclass(frozen=True)
class Raises:
    name: str = "raises"
    version: int = 1
    window: int = 2
    columns: tuple[str, ...] = ("one",)

    def __call__(self, bars: BarWindow) -> list[float]:
        return [len(bars) / 0]


RAISES = Raises()
