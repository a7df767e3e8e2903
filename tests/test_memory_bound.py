"""More ticks than Redis has room for: its memory is kept to, nothing is lost. (`python -m benchmarks memory` sends ten
million.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.memory import run
from tests.conftest import binary_of


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["embedded", "system"])
def test_memory_is_kept_to_and_everything_arrives(kind: str) -> None:
    found = run(2_500_000, maxmemory_mb=40, pause_s=0.5, server=Path(binary_of(kind)))
    assert found.counted == found.ticks
    assert found.throttled_s > 0.2, "2.5 million ticks take 65 MB: the publisher must have been held back"
    assert found.greatest_mb < 40, "and Redis never refused anything"
