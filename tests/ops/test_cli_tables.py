from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import redis
from typer.testing import CliRunner

from consumers.datasets import MIB, BadDataset, Roots
from consumers.table_fit import TableFit, fit_table
from modelstore.names import CHAMPION
from modelstore.releases import Releases
from modelstore.store import ModelStore
from ops.commands.predict import BadInput, read_rows
from streams.keys import Keys
from streams.records import TableRequest
from tests.modelstore.made import fitted
from tests.ops.command import app
from tests.ops.conftest import Red10
from tests.servers import Server

ROOT = Path(__file__).resolve().parents[2]
IRIS = ROOT / "producers" / "data" / "iris.csv"
KEYS = Keys("default")
FLOWER = ["sepal_length=5.1", "sepal_width=3.5", "petal_length=1.4", "petal_width=0.2"]
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def iris(client: redis.Redis) -> None:
    """Models of the irises in the store, as champions, beside one of a series."""
    found = fit_table(TableFit("iris.csv", Roots((IRIS.parent,), MIB), "iris", ("petal_width", "species"), 0))
    versions = [*found.versions, fitted("SPY:1m/close_5")]
    ModelStore(client, KEYS).put_many(versions)
    aliases = {(version.manifest.name, CHAMPION): version.digest for version in versions}
    Releases(client, KEYS).promote(cast(Any, aliases), who="me", why="x")


def requests(client: redis.Redis) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in cast(Any, client.xrange(KEYS.requests))]


def test_a_row_is_predicted_with_the_probability_of_each_class(red10: Red10, iris: None) -> None:
    done = red10("predict", "iris/species", *FLOWER)
    assert done.exit_code == 0, done.stderr
    assert re.search(r"row +species +setosa +versicolor +virginica", done.stdout)
    assert re.search(r"1 +setosa +9\d\.\d% +\d\.\d% +\d\.\d%", done.stdout)
    value = orjson.loads(red10("predict", "iris/species", *FLOWER, "--json").stdout)
    assert value["model"] == "iris/species"
    [row] = value["predictions"]
    assert row["label"] == "setosa"
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    number = red10("predict", "iris/petal_width@1", *FLOWER[:3], "species=setosa", "--json")
    assert orjson.loads(number.stdout)["predictions"][0]["value"] == pytest.approx(0.2, abs=0.15)


def test_rows_come_from_json_and_files_and_a_negative_number_is_no_option(
    red10: Red10, iris: None, tmp_path: Path
) -> None:
    cells = dict(cell.split("=") for cell in FLOWER)
    (tmp_path / "rows.json").write_bytes(orjson.dumps([cells, cells]))
    (tmp_path / "rows.jsonl").write_bytes(orjson.dumps(cells) + b"\n\n" + orjson.dumps(cells))
    shutil.copy(IRIS, tmp_path)
    given = [
        [orjson.dumps(cells).decode()],
        ["rows.json"],
        ["rows.jsonl"],
        ["iris.csv"],
        [*FLOWER[:3], "petal_width=-1"],
    ]
    counts = []
    for rows in given:
        done = red10("predict", "iris/species", *rows, "--json")
        assert done.exit_code == 0, done.stderr
        counts.append(len(orjson.loads(done.stdout)["predictions"]))
    assert counts == [1, 2, 2, 150, 1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["iris/species", *FLOWER[:3]], "row 1 lacks petal_width; expected are sepal_length, sepal_width"),
        (["iris/species", *FLOWER, "colour=red"], "unknown columns (colour)"),
        (["iris/species", "sepal_length=long", *FLOWER[1:]], "sepal_length is no number: 'long'"),
        (["iris/colour", *FLOWER], "has no iris/colour@champion"),
        (["SPY:1m/close_5", *FLOWER], "red10 predictions SPY:1m"),
        (["iris/species", "nonsense"], "COLUMN=VALUE"),
        (["iris/species", "missing.csv"], "there is no such file"),
        (["iris/species", "missing.json"], "missing.json cannot be read"),
        (["iris/species", "{"], "is no JSON"),
        (["iris/species", "[1]"], "a row is an object"),
    ],
)
def test_what_cannot_be_predicted_is_said_with_what_to_do(red10: Red10, iris: None, args: list[str], said: str) -> None:
    done = red10("predict", *args)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_table_is_asked_for_by_its_path_and_columns(red10: Red10, client: redis.Redis, tmp_path: Path) -> None:
    shutil.copy(IRIS, tmp_path)
    red10("train", "iris.csv", "--targets", "all", "--no-wait")
    red10("train", "there/only.parquet", "--targets", "a,b", "--table", "mine", "--no-wait")
    mixed = red10("train", "SPY:1d", "iris.csv", "--no-wait", "--json")
    assert [row["series"] for row in orjson.loads(mixed.stdout)] == ["SPY:1d", "iris.csv"]
    first, second, third, fourth = requests(client)
    assert TableRequest.from_fields(first) == TableRequest(kind="train_table", dataset=str(tmp_path / "iris.csv"))
    found = TableRequest.from_fields(second)
    assert (found.dataset, found.table, found.targets) == ("there/only.parquet", "mine", ("a", "b"))
    assert (third[b"kind"], fourth[b"kind"]) == (b"train", b"train_table")


def test_a_client_that_knows_the_streams_only_starts_no_server_of_its_own(
    server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["train", "a.csv", "--no-wait", "--streams-url", server.url])
    assert done.exit_code == 0
    assert len(requests(client)) == 1
    assert list(tmp_path.iterdir()) == []


def test_options_that_do_not_go_together_are_refused(red10: Red10, client: redis.Redis) -> None:
    assert "--as-of is for series" in red10("train", "iris.csv", "--as-of", "2024-01-01").stderr
    assert "--table names the table of one file" in red10("train", "SPY:1d", "--table", "x").stderr
    assert requests(client) == []


def test_one_command_trains_a_table_from_nothing_and_the_next_one_predicts(tmp_path: Path) -> None:
    """No server, no trainer: both run for the command only."""
    shutil.copy(IRIS, tmp_path)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "red10", *args]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)

    done = run("train", "iris.csv", "--targets", "all")
    assert done.returncode == 0, done.stderr
    assert re.search(r"iris/species +accuracy 0\.\d+ +accuracy 0\.333 +0\.\d\d", done.stdout)
    assert re.search(r"iris/sepal_width +rmse 0\.\d+ +rmse 0\.454 +0\.\d\d", done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 80
    example = re.search(r"red10 (predict iris/species [^`]+)", done.stderr.replace("\n", " "))
    assert example is not None
    predicted = run(*example[1].split()[:6])
    assert predicted.returncode == 0, predicted.stderr
    assert "setosa" in predicted.stdout
    (tmp_path / "elsewhere").mkdir()
    outside = tmp_path / "elsewhere" / "link.csv"
    outside.symlink_to("/etc/hostname")
    refused = run("train", str(outside))
    assert refused.returncode == 2
    assert "dataset_roots" in refused.stderr.replace("\n", " ")


@pytest.mark.parametrize("given", [["a=1", "b"], ["x.csv", "a=1"], [""]])
def test_what_is_no_row_is_refused(given: list[str]) -> None:
    with pytest.raises((BadInput, BadDataset)):
        read_rows(given)


def test_an_equals_sign_belongs_to_the_value_and_a_file_may_be_one() -> None:
    assert read_rows(["a=b=c.csv"]) == [{"a": "b=c.csv"}]
