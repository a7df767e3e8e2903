"""A short chaos run finds nothing; each safety taken out is found, by the same checker.

The long runs are `make chaos`. With RED10_CHAOS=long every scene is played on every server.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.evidence import from_archive
from tests.chaos.harness import Options, Run
from tests.chaos.scenes import SCENES
from tests.chaos.schedule import KINDS, plan
from tests.conftest import binary_of
from tests.workers import all_partitions

LONG = os.environ.get("RED10_CHAOS") == "long"
#: A server for each scene in the short form; the others are played in the long one.
STAGES = [("no_fence", "embedded"), ("no_anchor", "system"), ("retries", "embedded"), ("greedy_trim", "system")]
OTHERS = [(mutant, {"embedded": "system", "system": "embedded"}[kind]) for mutant, kind in STAGES]

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(("server", "kind"), [("6.2", "embedded"), ("7.0", "system")])
def test_whatever_breaks_each_tick_is_counted_once_and_in_order(server: str, kind: str) -> None:
    binary_of(kind)
    options = Options(duration_s=9, seed=11, server=server, workers=2, trainers=1, publishers=3, rate=2000)
    with Run(options) as run, run.streams.client() as client:
        result = run.run()
        tenant = run.open()
        left = sum(int(client.xlen(keys.ticks)) for keys in all_partitions(tenant))
        assert left < sum(map(len, from_archive(run.archive, tenant.partitions).values())) / 2, "input was trimmed"
    assert result.verdict.good, "\n".join(result.verdict.found)
    assert set(result.faults) == set(KINDS), "every kind of fault hit somebody"
    assert result.verdict.inputs >= 18_000
    assert result.verdict.in_blocks > 4000
    for stream in ("bars", "predictions", "signals", "outcomes", "dead"):
        assert result.verdict.kinds[stream] > 20, f"too few {stream} to tell"
    assert set(result.as_json()) == {
        "inputs", "outputs", "lost", "duplicated", "reordered", "wrong", "faults", "seconds",
    }  # fmt: skip


@pytest.mark.parametrize(("mutant", "kind"), STAGES + (OTHERS if LONG else []))
def test_a_safety_taken_out_is_found_and_nothing_is_found_with_it(mutant: str, kind: str) -> None:
    binary, scene = binary_of(kind), SCENES[mutant]
    with ThreadPoolExecutor(2) as pool:
        broken, sound = pool.submit(scene, binary, mutant), pool.submit(scene, binary, None)
    assert sound.result().good, "\n".join(sound.result().found)
    assert not broken.result().good


def test_a_plan_follows_from_its_seed_and_has_every_kind_often_enough() -> None:
    assert plan(7, 120) == plan(7, 120) != plan(8, 120)
    for seed in range(50):
        faults = plan(seed, 120)
        assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
        assert faults[0].at > 0
        assert faults[-1].at < 115
        assert {fault.kind for fault in faults} == set(KINDS)
        assert all(sum(fault.kind == kind for fault in faults) >= 2 for kind in KINDS)
