from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modelstore.errors import BadModel
from modelstore.manifest import NAIVE_TABLE, NaiveKind, Serving

FEATURES = b"features"


def serving(kind: NaiveKind, features: int = 3, seed: int = 0) -> Serving:
    random = np.random.default_rng(seed)
    low = random.normal(size=features).astype(np.float32)
    if features:
        low[0] = np.nan
    table = random.normal(size=NAIVE_TABLE[kind]).astype(np.float32)
    return Serving(seed - 5, FEATURES, low, low + 1, kind, table)


@pytest.mark.parametrize("kind", NaiveKind)
@pytest.mark.parametrize("features", [0, 1, 30])
def test_a_serving_block_reads_back_as_it_was(kind: NaiveKind, features: int) -> None:
    written = serving(kind, features, seed=features)
    read = Serving.decode(written.encode())
    assert (read.trained_through, read.features, read.naive) == (written.trained_through, FEATURES, kind)
    for name in ("low", "high", "naive_table"):
        assert getattr(read, name).tobytes() == getattr(written, name).tobytes()
    assert read.encode() == written.encode()


def test_a_block_without_a_naive_forecast_is_no_change() -> None:
    low = np.zeros(2, np.float32)
    read = Serving.decode(Serving(1, FEATURES, low, low).encode())
    assert read.naive == NaiveKind.NO_CHANGE
    assert len(read.naive_table) == 0


@pytest.mark.parametrize(
    ("at", "form", "value", "said"),
    [
        (0, "4s", b"R10X", "begins with"),
        (4, "H", 1, "format 1"),
        (6, "H", 4, "length"),
        (24, "B", 4, "kind 4"),
        (24, "B", 0, "no_change"),
        (24, "B", 3, "time_of_day"),
        (25, "B", 1, "length"),
        (26, "H", 0, "length"),
        (28, "f", np.nan, "mean"),
        (28, "f", np.inf, "mean"),
    ],
)
def test_a_block_that_contradicts_itself_is_refused(at: int, form: str, value: object, said: str) -> None:
    blob = bytearray(serving(NaiveKind.MEAN).encode())
    struct.pack_into("<" + form, blob, at, value)
    with pytest.raises(BadModel, match=said):
        Serving.decode(bytes(blob))


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(NaiveKind), cut=st.integers(0, 1300), extra=st.binary(max_size=8))
def test_a_block_of_another_length_is_refused(kind: NaiveKind, cut: int, extra: bytes) -> None:
    whole = serving(kind).encode()
    blob = whole[:cut] + extra
    assume(len(blob) != len(whole))
    with pytest.raises(BadModel):
        Serving.decode(blob)
