"""A feature set that goes by the price: very high prices kill the trainer, very low ones take until they are let go."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from consumers.history import CLOSE, BarWindow

DEADLY, SLOW = 1e6, 1e-6


@dataclass(frozen=True)
class Deadly:
    name: str = "deadly"
    version: int = 1
    window: int = 2
    columns: tuple[str, ...] = ("change",)

    def __call__(self, bars: BarWindow) -> list[float]:
        close = bars.values[:, CLOSE]
        if close[-1] > DEADLY:
            # The parent of a training process is the trainer, which then has no chance to say anything.
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        if close[-1] < SLOW:
            note, go = Path(os.environ["TEST_STARTED"]), Path(os.environ["TEST_GO"])
            note.touch()
            while not go.exists():
                time.sleep(0.02)
        return [float(close[-1] / close[0])]


DEADLY_SET = Deadly()
