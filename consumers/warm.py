"""Makes the kernels' machine code ahead of its first use: `python -m consumers.warm`.

Each kernel is loaded, and compiled before that if its machine code is missing or older than its source
(`modelstore.native`). So this saves the first worker some seconds, and nothing depends on it.
"""

from __future__ import annotations

from consumers.bars import ADD_TICKS
from modelstore import kernel


def warm_kernels() -> None:
    """Compile, or load from the disk, every kernel that a scorer uses."""
    kernel.warm()
    ADD_TICKS.load()


if __name__ == "__main__":
    warm_kernels()
