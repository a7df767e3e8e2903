"""What is not what it says is not stored, and a check that dies, hangs or eats memory takes nobody with it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import psutil
import pytest
import xgboost

from consumers.checker import Checker
from consumers.patience import Stopped
from modelstore.check import check_version
from modelstore.compiler import compile_booster
from modelstore.errors import BadModel
from modelstore.forest_format import seal
from modelstore.version import NewVersion
from tests.consumers.asking import until
from tests.modelstore.boosters import rows_of, train
from tests.modelstore.made import FEATURES, fitted


def with_golden(version: NewVersion, booster: xgboost.Booster | None = None) -> NewVersion:
    """The version with golden rows and what its own model, or another booster, gives for them."""
    rows = np.vstack([np.random.default_rng(1).normal(size=(3, FEATURES)), np.full((1, FEATURES), np.nan)])
    rows = rows.astype(np.float32)
    booster = booster or xgboost.Booster({"nthread": 1}, model_file=bytearray(version.ubj))
    margins = booster.predict(xgboost.DMatrix(rows, nthread=1), output_margin=True)
    shown = [[None if np.isnan(value) else float(value) for value in row] for row in rows]
    golden = {"rows": shown, "margins": margins.tolist()}
    return replace(version, manifest=version.manifest.model_copy(update={"golden": golden}))


SOUND = with_golden(fitted("SPY:1m/close_5", 1))
OTHER = with_golden(fitted("SPY:1m/close_5", 2))


@dataclass(frozen=True)
class Trap:
    """Does something as soon as the child looks at it."""

    act: Callable[[], object]

    @property
    def manifest(self) -> Any:
        self.act()
        raise BadModel(f"checked by {os.getpid()}")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    time.sleep(600)


def eat() -> None:
    np.ones(1 << 29)


def hang_aloud() -> None:
    os.write(1, b"hanging\n")
    hang()


def spin() -> None:
    # As native code that is stuck: Python's own signal handlers would never run.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})
    hang()


def nothing() -> None:
    pass


def trap(act: Callable[[], object]) -> NewVersion:
    return cast(NewVersion, Trap(act))


def test_a_sound_version_passes_and_one_of_several_outputs_too() -> None:
    check_version(SOUND)
    rows = rows_of(1, 200, FEATURES)
    booster = train(rows, 1, 4, objective="multi:softprob", num_class=3)
    several = replace(SOUND, forest=compile_booster(booster), ubj=bytes(booster.save_raw("ubj")))
    check_version(with_golden(several))


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (replace(SOUND, forest=OTHER.forest), "packed forest gives"),
        (replace(SOUND, ubj=OTHER.ubj), "XGBoost model gives"),
        (replace(SOUND, ubj=b"{}"), "does not read its own model back"),
        (replace(SOUND, forest=SOUND.forest[:-4]), "checksum"),
        (replace(SOUND, forest=seal(bytearray(SOUND.forest[:-4]))), "another length"),
        (fitted("SPY:1m/close_5", 1), "no golden rows"),
        (replace(SOUND, serving=replace(SOUND.serving, low=np.zeros(3, "f4"), high=np.ones(3, "f4"))), "has 3"),
        (replace(SOUND, serving=replace(SOUND.serving, naive=9)), "naive forecast of kind 9"),
    ],
)
def test_a_version_that_is_not_what_it_says_is_refused(version: NewVersion, reason: str) -> None:
    with pytest.raises(BadModel, match=reason):
        check_version(version)


async def test_sound_versions_pass_and_the_first_bad_one_is_named() -> None:
    checker = Checker(1024, 60)
    assert await checker.check([SOUND, OTHER]) is None
    found = await checker.check([SOUND, replace(OTHER, forest=SOUND.forest)])
    assert found is not None
    assert "packed forest" in found
    checker.close()


@pytest.mark.parametrize(
    ("act", "timeout_s", "reason"),
    [
        (crash, 60, "was ended by SIGSEGV"),
        (hang, 0.5, "took over 0.5 s"),
        (spin, 0.5, "took over 0.5 s"),
        (eat, 60, "more memory than check_memory_mb"),
    ],
)
async def test_a_check_that_goes_wrong_is_a_reason(act: Callable[[], object], timeout_s: float, reason: str) -> None:
    checker = Checker(256, timeout_s)
    found = await checker.check([trap(act)])
    assert found is not None
    assert reason in found
    assert await Checker(256, 60).check([SOUND]) is None


async def test_each_request_has_a_child_of_its_own() -> None:
    checker = Checker(256, 60)
    said = await asyncio.gather(*(checker.check([trap(nothing)]) for _ in range(3)))
    assert len(set(said)) == 3
    assert all(one is not None and one.startswith("checked by ") for one in said)


async def test_closing_ends_what_is_under_way() -> None:
    checker = Checker(256, 600)
    checking = asyncio.create_task(checker.check([trap(hang)]))
    await until(lambda: bool(checker._running))
    began = time.monotonic()
    checker.close()
    with pytest.raises(Stopped):
        await checking
    assert time.monotonic() - began < 30
    with pytest.raises(Stopped):
        await checker.check([SOUND])


async def test_flipped_bits_in_a_model_never_reach_this_process() -> None:
    """Of such models some crash XGBoost, some load and predict nonsense."""
    random, checker = np.random.default_rng(3), Checker(512, 20)

    def flipped() -> NewVersion:
        ubj = bytearray(SOUND.ubj)
        ubj[int(random.integers(len(ubj)))] ^= 1 << int(random.integers(8))
        return replace(SOUND, ubj=bytes(ubj))

    found = await asyncio.gather(*(checker.check([flipped()]) for _ in range(40)))
    assert any(reason is not None for reason in found)


def test_children_end_with_their_parent_however_it_ends() -> None:
    program = """
import asyncio
from consumers.checker import Checker
from tests.consumers.test_checker import hang_aloud, trap
asyncio.run(Checker(256, 600).check([trap(hang_aloud)]))
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    assert parent.stdout is not None
    with parent.stdout as said:
        assert said.readline() == b"hanging\n"
        # Python's tracker of resources, the server process, and the child that hangs.
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) == 3
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
