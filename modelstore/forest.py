"""One forest: the trees of one model in the form in which they are stored and scored.

The format is described in `modelstore.forest_format`, byte by byte. A forest is made by `modelstore.compiler`, checked
here, and scored, with many others, by `modelstore.kernel.ForestPack`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from modelstore import kernel_numpy
from modelstore.forest_format import SPARSE, BadForest, Transform
from modelstore.forest_table import ForestTable

__all__ = ["OUTSIDE", "BadForest", "Forest", "Transform"]


@dataclass(frozen=True, slots=True)
class Forest:
    """A forest that was checked, and what it says of itself.

    Attributes:
        blob: all of it.
        n_features: how many features a row has.
        n_outputs: how many margins a row gets.
        n_trees: how many trees there are, of all outputs.
        depth: levels of splits of the perfect layout; `None` if the layout is sparse.
        transform: how margins become predictions (`modelstore.kernel.predictions`).
    """

    blob: bytes = field(repr=False)
    n_features: int
    n_outputs: int
    n_trees: int
    depth: int | None
    transform: Transform

    @classmethod
    def decode(cls, blob: bytes) -> Self:
        """Check a forest from its first byte to its last.

        Raises:
            BadForest: it is damaged, hostile, or of an unknown version.
        """
        table = ForestTable.read([blob])
        if kernel_numpy.first_bad(table.words, table.body) >= 0:
            raise BadForest(0, OUTSIDE)
        head, depth = table.header[0], int(table.body["depth"][0])
        return cls(
            blob,
            int(head["features"]),
            int(head["outputs"]),
            int(head["trees"]),
            None if depth == SPARSE else depth,
            Transform(int(head["transform"])),
        )


#: What is wrong with a forest that a kernel's `first_bad` finds.
OUTSIDE = "has trees that lead outside it, do not end, or hold what is no number"
