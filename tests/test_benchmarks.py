"""The benchmark of ten thousand models runs on a hundred, and gives what it says by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from benchmarks.models import MEMBERS, TARGETS, judged
from benchmarks.models.made import ALL, ANCESTOR, names_of

ROOT = Path(__file__).resolve().parents[1]


def test_models_are_named_as_the_ancestors_were() -> None:
    names = names_of(ALL)
    assert len(names) == len(set(names)) == 10_806
    for series, count in ANCESTOR.items():
        assert sum(name.startswith(f"{series}:") for name in names) == count
    assert [len(names_of(count)) for count in (100, 577, 5000)] == [100, 577, 5000]


def test_what_is_asked_for_is_measured_and_judged() -> None:
    assert set(TARGETS) <= set(MEMBERS)
    assert judged("reload", "ms", 1500.0) == "<= 1500: met"
    assert judged("reload", "ratio_load_model", 3.9) == ">= 4: NOT MET"
    assert judged("reload", "floor_ms", 1.0) == ""


@pytest.mark.timeout(300)
def test_one_json_object_has_the_members_with_their_figures(tmp_path: Path) -> None:
    members = ("score_one_row", "score_batch", "memory")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "models", "--json", "--models", "100", "--only", *members],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = orjson.loads(done.stdout)
    assert tuple(found) == members
    for member, figures in found.items():
        assert set(TARGETS.get(member, ())) <= set(figures)
        assert all(isinstance(value, int | float) for value in figures.values())
    assert found["score_one_row"]["ms"] <= found["score_one_row"]["p95_ms"]
    # Two kinds of peers, each slower; how much is for the benchmark to say.
    assert found["score_one_row"]["ratio_inplace_predict"] > 1
    assert 7.6 < found["memory"]["forest_kb"] < found["memory"]["version_kb"]
