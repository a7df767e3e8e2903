"""Forests that were tampered with are refused or harmless, and never a crash: each run is a process of its own.

`make fuzz` (or `RED10TEST_FUZZ=10000`, a number of forests) runs the long form.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from modelstore import kernel

LONG = int(os.environ.get("RED10TEST_FUZZ", "0"))


def fuzz(how: str, seed: int, count: int) -> tuple[int, int, int]:
    """Mutations, and of those with a right checksum how many were refused and how many scored."""
    kernel.warm()
    done = subprocess.run(
        [sys.executable, "-m", "tests.modelstore.fuzz_forests", how, str(seed), str(count)],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stderr[-3000:]}"
    mutations, refused, scored = map(int, done.stdout.split())
    return mutations, refused, scored


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_random_mutations_are_refused_or_harmless(seed: int) -> None:
    mutations, refused, scored = fuzz("random", seed, max(600, LONG // 4))
    assert mutations == refused + scored
    assert refused > mutations / 10
    assert scored > mutations / 20, "mutations that are all refused say nothing about scoring"


@pytest.mark.timeout(3600)
def test_every_single_bit_flip_is_refused_or_harmless() -> None:
    mutations, refused, scored = fuzz("flips", 11, max(2, LONG // 500))
    assert mutations == refused + scored
    assert min(refused, scored) > mutations / 20


@pytest.mark.timeout(3600)
def test_every_cut_and_every_extension_is_refused() -> None:
    mutations, _, scored = fuzz("cuts", 12, max(5, LONG // 100))
    assert scored == 0
    assert mutations > 1000


def test_reading_one_word_too_many_would_be_seen() -> None:
    program = """
import numpy as np
from tests.modelstore.fuzz_forests import Guarded
words = Guarded(100).put(np.arange(25, dtype=np.int32))
assert words.sum() == 300
np.lib.stride_tricks.as_strided(words, (26,), words.strides).sum()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode < 0, "the page behind the array can be read"
