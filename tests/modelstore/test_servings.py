"""Reading many serving blocks at once gives what reading them one by one gives, errors included."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstore.errors import BadModel
from modelstore.manifest import DAY_SLOTS, NaiveKind, Serving
from modelstore.servings import decode_servings


def block(seed: int, features: int, kind: NaiveKind) -> bytes:
    random = np.random.default_rng(seed)
    size = {NaiveKind.MEAN: 1, NaiveKind.TIME_OF_DAY: DAY_SLOTS}.get(kind, 0)
    low = random.normal(size=features).astype(np.float32)
    low[random.random(features) < 0.3] = np.nan
    return Serving(seed, random.bytes(8), low, low + 1, kind, random.normal(size=size).astype(np.float32)).encode()


def plain(serving: Serving | BadModel) -> object:
    if isinstance(serving, BadModel):
        return str(serving)
    arrays = [part.tobytes() for part in (serving.low, serving.high, serving.naive_table)]
    return serving.trained_through, serving.features, serving.naive, arrays


def one_by_one(blob: bytes) -> Serving | BadModel:
    try:
        return Serving.decode(blob)
    except BadModel as error:
        return error


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_many_at_once_are_read_as_one_by_one(data: st.DataObject) -> None:
    blobs = []
    for seed in range(data.draw(st.integers(0, 6))):
        blob = bytearray(block(seed, data.draw(st.integers(0, 3)), data.draw(st.sampled_from(NaiveKind))))
        for _ in range(data.draw(st.integers(0, 2))):
            at = data.draw(st.integers(0, min(40, len(blob) - 1)))
            blob[at] = data.draw(st.integers(0, 255))
        blobs.append(bytes(blob[: data.draw(st.sampled_from([len(blob), len(blob) - 4, 3]))]))
    assert [plain(found) for found in decode_servings(blobs)] == [plain(one_by_one(blob)) for blob in blobs]


def test_a_table_that_is_no_number_is_refused_and_limits_may_be_missing() -> None:
    sound = block(1, 2, NaiveKind.MEAN)
    nan = np.float32(np.nan).tobytes()
    found = decode_servings([sound[:28] + nan + sound[32:], sound[:32] + nan + sound[36:]])
    assert isinstance(found[0], BadModel)
    assert isinstance(found[1], Serving)
