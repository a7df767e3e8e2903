"""The forest format: what is written can be read, and what was tampered with is refused or harmless."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstore import kernel_native, kernel_numpy
from modelstore.errors import BadModel
from modelstore.forest import Forest
from modelstore.forest_format import (
    HEADER,
    MAX_FEATURES,
    BadForest,
    Transform,
    float_keys,
    record_words,
    row_keys,
    seal,
)
from modelstore.forest_table import ForestTable
from modelstore.kernel import ForestPack
from modelstore.trees import Trees, encode_forest
from tests.modelstore.boosters import random_blob, random_trees, rows_of, walk

FEATURES, OUTPUTS, TREES = 6, 2, 4
#: Of each tree of the sparse forest.
SPLITS, NODES = 16, 33
#: Where the body begins.
BODY_AT = 32 + 8 * OUTPUTS
NODES_AT = BODY_AT + 4 * (TREES + 1)
FLOATS = st.floats(width=32, allow_nan=False)


def forest_of(layout: str, seed: int = 1) -> bytes:
    """A small forest in one of the layouts."""
    if layout == "sparse":
        blob = random_blob(seed, TREES, SPLITS, FEATURES, OUTPUTS)
    else:
        random, node = np.random.default_rng(seed), np.arange(15 * TREES)
        heap, first = node % 15, node - node % 15
        full = Trees(
            left=np.where(heap < 7, first + 2 * heap + 1, -1),
            right=np.where(heap < 7, first + 2 * heap + 2, -1),
            feature=random.integers(0, FEATURES, len(node)),
            default_left=random.random(len(node)) < 0.5,
            value=random.normal(size=len(node)).astype(np.float32),
            roots=node[heap == 0],
            output=np.arange(TREES) % OUTPUTS,
        )
        blob = encode_forest(full, np.ones(OUTPUTS, np.float32), FEATURES, Transform.IDENTITY)
    assert (Forest.decode(blob).depth is None) == (layout == "sparse")
    return blob


layouts = pytest.mark.parametrize("layout", ["perfect", "sparse"])


def is_refused_or_harmless(blob: bytes) -> bool:
    """Whether the forest is refused; if not, both kernels must end with the same scores."""
    try:
        packs = [ForestPack.build([blob], kernel=kernel) for kernel in (kernel_numpy, kernel_native)]
    except BadForest:
        with pytest.raises(BadForest):
            Forest.decode(blob)
        for kernel in (kernel_numpy, kernel_native):
            with pytest.raises(BadForest):
                ForestPack.build([blob], kernel=kernel)
        return True
    forest = Forest.decode(blob)
    rows = rows_of(3, 4, forest.n_features)
    index = np.arange(4), np.zeros(4, np.int64)
    with np.errstate(all="ignore"):
        plain, compiled = (pack.margins(rows, *index) for pack in packs)
    np.testing.assert_array_equal(plain, compiled)
    return False


@given(FLOATS, FLOATS)
def test_keys_order_as_floats_do(one: float, other: float) -> None:
    keys = float_keys(np.array([one, other], np.float32))
    assert (one < other) == bool(keys[0] < keys[1])
    assert (one == other) == bool(keys[0] == keys[1])


@given(FLOATS)
def test_a_missing_value_lies_beyond_every_number(value: float) -> None:
    missing, number = row_keys(np.array([[np.nan], [value]], np.float32))
    assert missing[0] < number[0] == number[1] < missing[1]


def test_a_forest_of_100_trees_with_7_splits_takes_8_kb() -> None:
    assert len(forest_of("perfect")) == BODY_AT + 4 * TREES * record_words(3)
    assert 32 + 8 + 4 * 100 * record_words(3) == 7_640


@layouts
def test_what_is_decoded_is_what_was_encoded(layout: str) -> None:
    forest = Forest.decode(forest_of(layout))
    assert (forest.n_features, forest.n_outputs, forest.n_trees) == (FEATURES, OUTPUTS, TREES)
    assert forest.transform is Transform.IDENTITY


@layouts
def test_equal_trees_give_equal_bytes(layout: str) -> None:
    assert forest_of(layout) == forest_of(layout)


def test_a_forest_without_trees_is_its_base() -> None:
    none = np.empty(0, np.int64)
    trees = Trees(none, none, none, none.astype(bool), none.astype(np.float32), none, none)
    blob = encode_forest(trees, np.array([1.5, -2], np.float32), 3, Transform.SOFTMAX)
    margins = ForestPack.build([blob]).margins(np.zeros((1, 3), np.float32), np.array([0]), np.array([0]))
    assert margins.tolist() == [[1.5, -2.0]]


@layouts
def test_every_single_bit_flip_is_refused(layout: str) -> None:
    blob = forest_of(layout)
    for bit in range(8 * len(blob)):
        bad = bytearray(blob)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadForest):
            ForestTable.read([bytes(bad)])


@layouts
def test_every_truncation_and_extension_is_refused(layout: str) -> None:
    blob = forest_of(layout)
    for length in range(len(blob)):
        with pytest.raises(BadForest):
            Forest.decode(blob[:length])
    for more in range(1, 40):
        with pytest.raises(BadForest):
            Forest.decode(blob + bytes(more))


@layouts
def test_a_length_that_its_header_denies_is_refused_whatever_the_checksum(layout: str) -> None:
    blob = forest_of(layout)
    for length in [*range(32, len(blob), 4), len(blob) + 4, len(blob) + 64]:
        with pytest.raises(BadForest):
            Forest.decode(seal(bytearray(blob.ljust(length, b"\0")[:length])))


@layouts
@settings(max_examples=150)
@given(st.data())
def test_random_changes_with_a_right_checksum_are_refused_or_harmless(layout: str, data: st.DataObject) -> None:
    blob = bytearray(forest_of(layout))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(8, 51), st.integers(8, len(blob) - 1)))
        blob[at] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 255]) | st.integers(0, 255))
    is_refused_or_harmless(seal(blob))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("version", 2, "version of the format"),
        ("transform", 6, "unknown transform"),
        ("layout", 2, "unknown layout"),
        ("depth", 16, "depth"),
        ("nodes", 1, "counts nodes"),
        ("features", 0, "features"),
        ("features", MAX_FEATURES + 1, "features"),
        ("features", 5, "lead outside"),
        ("outputs", 0, "no output"),
        ("trees", 2**32 - 1, "another length"),
        ("zero", 1, "leaves 0"),
    ],
)
def test_a_header_that_cannot_be_is_refused_with_its_reason(field: str, value: int, reason: str) -> None:
    blob = bytearray(forest_of("perfect"))
    head = np.frombuffer(blob, HEADER, 1).copy()
    head[field] = value
    blob[: HEADER.itemsize] = head.tobytes()
    with pytest.raises(BadForest, match=reason):
        Forest.decode(seal(blob))


@pytest.mark.parametrize("ends", [(5, 4), (4, 3), (1, 3), (2**32 - 1, 4), (0, 5)])
def test_outputs_that_do_not_share_out_the_trees_are_refused(ends: tuple[int, int]) -> None:
    blob = bytearray(forest_of("perfect"))
    blob[40:48] = struct.pack("<2I", *ends)
    with pytest.raises(BadForest, match="trees of its outputs"):
        Forest.decode(seal(blob))


@pytest.mark.parametrize(
    ("what", "at", "value"),
    [
        ("the first root is not the first node", 0, 1),
        ("a root goes back", 8, 1),
        ("a tree has no nodes", 4, 0),
        ("a root lies outside", 4, 2**32 - 1),
        ("the last root is not the end", 16, TREES * NODES - 1),
    ],
)
def test_roots_that_cannot_be_are_refused(what: str, at: int, value: int) -> None:
    blob = bytearray(forest_of("sparse"))
    blob[BODY_AT + at : BODY_AT + at + 4] = struct.pack("<I", value)
    assert is_refused_or_harmless(seal(blob)), what


@pytest.mark.parametrize(("test", "refused"), [(2 * FEATURES - 1, False), (2 * FEATURES, True), (65_535, True)])
def test_a_perfect_split_that_tests_what_no_row_has_is_refused(test: int, refused: bool) -> None:
    blob = bytearray(forest_of("perfect"))
    last_split = len(blob) - 4
    blob[last_split : last_split + 2] = struct.pack("<H", test)
    assert is_refused_or_harmless(seal(blob)) == refused


@pytest.mark.parametrize(("half", "value"), [(0, 2 * FEATURES), (1, NODES - 1), (1, 65_535)])
def test_a_node_that_leads_outside_its_tree_or_row_is_refused(half: int, value: int) -> None:
    blob = bytearray(forest_of("sparse"))
    blob[NODES_AT + 4 + 2 * half : NODES_AT + 6 + 2 * half] = struct.pack("<H", value)
    assert is_refused_or_harmless(seal(blob))


def test_a_tree_cannot_lead_into_the_next_one() -> None:
    blob = bytearray(forest_of("sparse"))
    last_of_first_tree = NODES_AT + 8 * (NODES - 1)
    blob[last_of_first_tree + 6 : last_of_first_tree + 8] = struct.pack("<H", 1)
    assert is_refused_or_harmless(seal(blob))


def test_among_many_the_damaged_one_is_named() -> None:
    blobs = [random_blob(seed) for seed in range(9)]
    blobs[7] = blobs[7][:-1] + bytes([blobs[7][-1] ^ 1])
    with pytest.raises(BadForest, match="forest 7: is damaged") as caught:
        ForestPack.build(blobs)
    assert caught.value.position == 7


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_not_encoded(value: float) -> None:
    trees = random_trees(1, 1, 0, 1)
    trees.value[:] = value
    with pytest.raises(BadModel, match="leaf is not finite"):
        encode_forest(trees, np.zeros(1, np.float32), 1, Transform.IDENTITY)
    with pytest.raises(BadModel, match="margin that is not finite"):
        encode_forest(random_trees(1, 1, 0, 1), np.full(1, value, np.float32), 1, Transform.IDENTITY)


def test_nodes_that_are_no_tree_are_not_encoded() -> None:
    trees = random_trees(1, 1, 3, 1)
    trees.left[trees.left >= 0] = 0
    with pytest.raises(BadModel, match="two parents"):
        encode_forest(trees, np.zeros(1, np.float32), 1, Transform.IDENTITY)


def full_tree(depth: int) -> Trees:
    """One tree with all its splits, of one feature, at thresholds that are the numbers of the splits."""
    node = np.arange(2 ** (depth + 1) - 1)
    split = node < 2**depth - 1
    return Trees(
        left=np.where(split, 2 * node + 1, -1),
        right=np.where(split, 2 * node + 2, -1),
        feature=np.zeros(len(node), np.int64),
        default_left=np.zeros(len(node), np.bool_),
        value=node.astype(np.float32),
        roots=np.zeros(1, np.int64),
        output=np.zeros(1, np.int64),
    )


@pytest.mark.parametrize(("depth", "layout"), [(15, 15), (16, None)])
def test_deep_trees_are_scored(depth: int, layout: int | None) -> None:
    trees, base = full_tree(depth), np.zeros(1, np.float32)
    blob = encode_forest(trees, base, 1, Transform.IDENTITY)
    assert Forest.decode(blob).depth == layout
    rows = np.array([[-1], [np.nan], [3], [1e6], [12345]], np.float32)
    index = np.arange(len(rows)), np.zeros(len(rows), np.int64)
    for kernel in (kernel_numpy, kernel_native):
        found = ForestPack.build([blob], kernel=kernel).margins(rows, *index)
        np.testing.assert_array_equal(found, [walk(trees, base, row) for row in rows])


def test_a_tree_that_is_too_wide_is_not_encoded() -> None:
    with pytest.raises(BadModel, match=r"too wide: .* set max_leaves lower"):
        encode_forest(full_tree(17), np.zeros(1, np.float32), 1, Transform.IDENTITY)


@pytest.mark.parametrize("features", [0, MAX_FEATURES + 1])
def test_a_number_of_features_that_does_not_fit_is_not_encoded(features: int) -> None:
    with pytest.raises(BadModel, match="features"):
        encode_forest(random_trees(1, 1, 0, 1), np.zeros(1, np.float32), features, Transform.IDENTITY)
