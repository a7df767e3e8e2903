"""Warming makes ready what real work calls: afterwards nothing is left to compile."""

from __future__ import annotations

import numpy as np
import pytest

from consumers import bars
from consumers.warm import warm_kernels
from modelstore import kernel_native, native


def test_after_warming_no_kernel_is_left_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    warm_kernels()
    monkeypatch.delattr(native, "compile_function")
    for routine in (bars.ADD_TICKS, kernel_native.SCORE, kernel_native.FIRST_BAD):
        assert repr(routine).endswith("ready)")
    builder = bars.BarBuilder([1_000_000_000, 60_000_000_000], 5)
    slots = np.full(100, builder.add_symbol("SPY"), np.int64)
    ts = np.arange(100, dtype=np.int64) * 500_000_000
    price = np.linspace(10.0, 11.0, 100)
    closed, _ = builder.add_ticks(
        slots, ts, price, price, 3, ts.astype(np.uint64), np.zeros(100, np.uint64), np.zeros(100, np.int32)
    )
    assert len(closed) == 49
