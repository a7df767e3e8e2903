"""From an XGBoost booster to a forest; part of training, never of scoring.

The forest's margins have the same bits as `Booster.predict(data, output_margin=True)`: all trees, whatever
`best_iteration` says (slice the booster first to serve fewer), with no `base_margin` in the data, on a CPU. That holds
for XGBoost's builds for x86-64; one that fuses multiply and add may round a DART model's leaves otherwise.

What is read: the trees from the UBJSON of the model, which holds each float32 exactly. What is asked: the margin that
each output begins with. XGBoost keeps base_score before the objective's link, as text, and has changed how; and its own
logarithm is not always the nearest float32. So the same model with every tree taken out is made to predict one row.

Refused, since the format cannot hold it: linear boosters, categorical splits, trees with vectors as leaves, objectives
that are not in `TRANSFORMS`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from modelstore import ubjson
from modelstore.errors import BadModel
from modelstore.forest_format import Transform
from modelstore.trees import Trees, encode_forest

if TYPE_CHECKING:
    from xgboost import Booster

#: The objectives that can be compiled, and what `Booster.predict` does with their margins.
TRANSFORMS = MappingProxyType(
    {
        "reg:squarederror": Transform.IDENTITY,
        "reg:squaredlogerror": Transform.IDENTITY,
        "reg:absoluteerror": Transform.IDENTITY,
        "reg:pseudohubererror": Transform.IDENTITY,
        "reg:quantileerror": Transform.IDENTITY,
        "rank:ndcg": Transform.IDENTITY,
        "rank:map": Transform.IDENTITY,
        "rank:pairwise": Transform.IDENTITY,
        "binary:logitraw": Transform.IDENTITY,
        "binary:logistic": Transform.LOGISTIC,
        "reg:logistic": Transform.LOGISTIC,
        "binary:hinge": Transform.HINGE,
        "count:poisson": Transform.EXP,
        "reg:gamma": Transform.EXP,
        "reg:tweedie": Transform.EXP,
        "survival:cox": Transform.EXP,
        "survival:aft": Transform.EXP,
        "multi:softprob": Transform.SOFTMAX,
        "multi:softmax": Transform.ARGMAX,
    }
)

_LEAF = -1
#: What a root has as its parent.
_NO_PARENT = 2**31 - 1


def compile_booster(booster: Booster) -> bytes:
    """The forest of a trained booster, as `modelstore.forest_format` describes it.

    Raises:
        BadModel: the model cannot be represented; the message says why.
    """
    document = ubjson.loads(booster.save_raw("ubj"))
    try:
        return _compile(booster, document)
    except (KeyError, IndexError, TypeError) as error:
        raise BadModel(
            f"XGBoost's model has another shape than expected ({error!r}); use a version of XGBoost that Red10 lists"
        ) from error


def _compile(booster: Booster, document: dict[str, Any]) -> bytes:
    learner = document["learner"]
    kind, objective = learner["gradient_booster"]["name"], learner["objective"]["name"]
    if kind not in ("gbtree", "dart"):
        raise BadModel(f"a {kind} booster has no trees: train with booster=gbtree or booster=dart")
    if objective not in TRANSFORMS:
        raise BadModel(f"objective {objective} cannot be scored: use one of {', '.join(TRANSFORMS)}")
    shape = learner["learner_model_param"]
    outputs = max(1, int(shape["num_class"]), int(shape.get("num_target", "1")))
    features = int(shape["num_feature"])
    trees = _read_trees(learner["gradient_booster"])
    return encode_forest(trees, _base_margins(booster, document, outputs), features, TRANSFORMS[objective])


def _model(gradient_booster: dict[str, Any]) -> dict[str, Any]:
    dart = gradient_booster["name"] == "dart"
    found: dict[str, Any] = (gradient_booster["gbtree"] if dart else gradient_booster)["model"]
    return found


def _read_trees(gradient_booster: dict[str, Any]) -> Trees:
    model = _model(gradient_booster)
    trees = model["trees"]
    if any(int(tree["tree_param"].get("size_leaf_vector", "1")) > 1 for tree in trees):
        raise BadModel("the trees have vectors as leaves: train with multi_strategy=one_output_per_tree")

    def column(name: str, dtype: Any) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *(tree[name] for tree in trees)]).astype(dtype)

    sizes = np.array([len(tree["left_children"]) for tree in trees], np.int64)
    starts = np.cumsum(sizes) - sizes
    shift = np.repeat(starts, sizes)
    left, right = column("left_children", np.int64), column("right_children", np.int64)
    leaf = left == _LEAF
    if (column("split_type", np.int64)[~leaf] != 0).any():
        raise BadModel("the trees have categorical splits: encode the categories as numbers before training")
    value = column("split_conditions", np.float32)
    if gradient_booster["name"] == "dart":
        weights = np.asarray(gradient_booster["weight_drop"], np.float32)
        value = np.where(leaf, value * np.repeat(weights, sizes), value)
    return Trees(
        left=np.where(leaf, _LEAF, left + shift),
        right=np.where(leaf, _LEAF, right + shift),
        feature=column("split_indices", np.int64),
        default_left=column("default_left", np.bool_),
        value=value,
        roots=starts,
        output=np.asarray(model["tree_info"], np.int64),
    )


def _base_margins(booster: Booster, document: dict[str, Any], outputs: int) -> NDArray[np.float32]:
    """The margin that each output begins with, float32 (outputs,), as XGBoost itself predicts it without trees."""
    # Whoever has a booster has the library; importing this module must not need it.
    from xgboost import Booster, DMatrix

    learner = document["learner"]
    if _model(learner["gradient_booster"])["trees"]:
        bare = Booster({"nthread": 1})
        bare.load_model(bytearray(orjson.dumps(_without_trees(document, outputs), default=_as_list)))
    else:
        bare = booster
    row = DMatrix(np.zeros((1, int(learner["learner_model_param"]["num_feature"])), np.float32), nthread=1)
    margins = np.asarray(bare.predict(row, output_margin=True, validate_features=False), np.float32).reshape(-1)
    if len(margins) != outputs:
        raise BadModel(f"the model says it has {outputs} outputs and predicts {len(margins)}")
    return margins


def _without_trees(document: dict[str, Any], outputs: int) -> dict[str, Any]:
    """The model with one tree per output that is a single leaf of -0.0: adding that leaves the bits of any number.

    Adding 0.0 would turn a margin of -0.0, the logit of one half, into 0.0. Not without any tree: XGBoost takes such a
    model for untrained, and leaves out the link.
    """
    learner = document["learner"]
    booster = learner["gradient_booster"]
    model = _model(booster)
    stump = {
        name: part[:1] if isinstance(part, np.ndarray | list) else part for name, part in model["trees"][0].items()
    }
    stump |= {name: [] for name in stump if name.startswith("categories")}
    stump |= {"left_children": [_LEAF], "right_children": [_LEAF], "parents": [_NO_PARENT], "split_type": [0]}
    stump |= {"split_conditions": [-0.0], "base_weights": [-0.0]}
    stump["tree_param"] = dict(stump["tree_param"], num_nodes="1", num_deleted="0")
    bare = model | {
        "trees": [stump | {"id": number} for number in range(outputs)],
        "tree_info": list(range(outputs)),
        "iteration_indptr": [0, outputs],
        "gbtree_model_param": model["gbtree_model_param"] | {"num_trees": str(outputs), "num_parallel_tree": "1"},
    }
    if booster["name"] == "dart":
        booster = booster | {"gbtree": booster["gbtree"] | {"model": bare}, "weight_drop": [1.0] * outputs}
    else:
        booster = booster | {"model": bare}
    return document | {"learner": learner | {"gradient_booster": booster}}


def _as_list(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} in XGBoost's model")
