from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from consumers.fit import FitOutcome, FitParameters, FitRequest
from consumers.fitpool import FitFailure, FitPool, Fitted, Job, fit_or_explain, processes_wanted
from consumers.patience import Stopped
from tests.consumers.asking import until
from tests.consumers.walks import DAY_NS, random_bars

FOLDER = "TEST_FITPOOL_FOLDER"
PARAMETERS = FitParameters(rounds=1, max_depth=1, learning_rate=0.3, min_child_weight=5, seed=3, min_rows=50)


def request(series: str, feature_set: str = "consumers.features:STANDARD") -> FitRequest:
    bars = random_bars(1)
    return FitRequest(series, ("close_1",), 1, feature_set, bars, bars.start + DAY_NS, PARAMETERS)


def act(asked: Job) -> Fitted:
    """In the child: what the series' name says."""
    what = asked.what
    marker = Path(os.environ[FOLDER]) / what
    if what.startswith("die") or (what.startswith("once") and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what.startswith("hang"):
        marker.write_text(str(os.getpid()))
        time.sleep(600)
    if what.startswith("pid"):
        return FitOutcome((), {"done": str(os.getpid())})
    if what.startswith("interrupt"):
        os.kill(os.getpid(), signal.SIGINT)
    return FitOutcome((), {"done": what})


@asynccontextmanager
async def open_pool(processes: int = 2, timeout_s: float = 100.0) -> AsyncIterator[FitPool]:
    pool = FitPool(processes, act, timeout_s)
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


async def pid_in(path: Path) -> int:
    def read() -> str:
        return path.read_text() if path.exists() else ""

    await until(lambda: bool(read()))
    return int(read())


def launch(script: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def assert_ends(pid: int) -> None:
    try:
        psutil.Process(pid).wait(timeout=10)
    except psutil.NoSuchProcess:
        return


async def test_a_fit_that_kills_its_process_fails_alone_and_the_others_finish() -> None:
    async with open_pool() as pool:
        names = ["a", "die", "b", "c", "die again", "d"]
        found = dict(zip(names, await asyncio.gather(*(pool.fit(request(name)) for name in names)), strict=True))
        for name in names:
            if name.startswith("die"):
                failure = found[name]
                assert isinstance(failure, FitFailure)
                assert "died twice" in failure.reason
            else:
                assert found[name] == FitOutcome((), {"done": name})
        assert await pool.fit(request("later")) == FitOutcome((), {"done": "later"})


async def test_a_process_that_was_killed_once_costs_one_retry() -> None:
    async with open_pool(1) as pool:
        assert await pool.fit(request("once")) == FitOutcome((), {"done": "once"})


async def test_a_fit_that_hangs_is_ended_and_the_log_says_where_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    async with open_pool(2, timeout_s=1) as pool:
        hung, other = await asyncio.gather(pool.fit(request("hang")), pool.fit(request("other")))
        assert isinstance(hung, FitFailure)
        assert "did not end within 1 s, tried twice" in hung.reason
        assert "fit_timeout_s" in hung.reason
        assert other == FitOutcome((), {"done": "other"})
        assert await pool.fit(request("later")) == FitOutcome((), {"done": "later"})
    assert "in act" in capfd.readouterr().err


async def test_a_child_that_waits_for_work_is_left_alone() -> None:
    async with open_pool(1, timeout_s=1) as pool:
        first = await pool.fit(request("pid"))
        await asyncio.sleep(1.3)
        assert await pool.fit(request("pid")) == first


async def test_a_ctrl_c_that_reaches_a_child_is_the_parents_to_answer() -> None:
    async with open_pool(1) as pool:
        assert await pool.fit(request("interrupt")) == FitOutcome((), {"done": "interrupt"})


async def test_closing_ends_a_fit_at_once(folder: Path) -> None:
    async with open_pool(1) as pool:
        fit = asyncio.create_task(pool.fit(request("hang")))
        pid = await pid_in(folder / "hang")
        fit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fit
    await asyncio.to_thread(assert_ends, pid)


async def test_children_do_not_outlive_a_killed_parent(folder: Path) -> None:
    code = (
        "import asyncio\n"
        "from consumers.fitpool import FitPool\n"
        "from tests.consumers.test_fitpool import act, request\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(FitPool(1, act).fit(request('hang')))\n"
    )
    (folder / "parent.py").write_text(code)
    parent = await asyncio.to_thread(launch, folder / "parent.py")
    pid = await pid_in(folder / "hang")
    await asyncio.to_thread(kill, parent)
    await asyncio.to_thread(assert_ends, pid)


async def test_a_closed_pool_starts_nothing(folder: Path) -> None:
    async with open_pool(1) as pool:
        fit = asyncio.create_task(pool.fit(request("hang")))
        await pid_in(folder / "hang")
        pool.close()
        for refused in (fit, pool.fit(request("late"))):
            with pytest.raises(Stopped):
                await refused


RAISES_ZERO_DIVISION = "tests.consumers.broken_features:RAISES"


def test_errors_of_the_fit_come_back_as_values() -> None:
    named = fit_or_explain(request("x", "no_such_module:X"))
    assert isinstance(named, FitFailure)
    assert "no_such_module" in named.reason
    assert named.trace is None
    bars = random_bars(200)
    asked = FitRequest("x", ("close_1",), 1, RAISES_ZERO_DIVISION, bars, bars.start, PARAMETERS)
    raised = fit_or_explain(asked)
    assert isinstance(raised, FitFailure)
    assert raised.reason == "ZeroDivisionError: division by zero"
    assert raised.trace is not None
    assert "broken_features.py" in raised.trace


def test_zero_processes_means_one_per_core() -> None:
    assert processes_wanted(3) == 3
    assert processes_wanted(0) >= 1
