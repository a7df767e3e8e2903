"""Machine code is made once and found again; what is damaged or of another source is not used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from consumers.bars import ADD_TICKS
from consumers.warm import warm_kernels
from modelstore import native
from modelstore.kernel_native import FIRST_BAD, SCORE
from modelstore.native import KernelUnavailable, Routine, address

TINY = "tests.modelstore.tiny_kernels"
NUMBERS = np.arange(10)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place for machine code in this test."""
    monkeypatch.setattr(native, "_directories", lambda source: iter((tmp_path,)))
    return tmp_path


def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compiled from now on."""
    found: list[str] = []
    compile_function = native.compile_function

    def noted(module: str, name: str, arguments: str) -> object:
        found.append(name)
        return compile_function(module, name, arguments)

    monkeypatch.setattr(native, "compile_function", noted)
    return found


def total() -> int:
    return Routine(TINY, "total", "pq")(address(NUMBERS), len(NUMBERS))


def test_code_is_compiled_once_and_then_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = compiled(monkeypatch)
    assert [total(), total(), total()] == [45, 45, 45]
    assert made == ["total"]
    assert [path.suffix for path in cache.iterdir()] == [".o"]


@pytest.mark.parametrize("what", ["cut", "flipped", "empty", "writable"])
def test_code_that_cannot_be_trusted_is_made_anew(cache: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    total()
    [path] = cache.iterdir()
    data = bytearray(path.read_bytes())
    if what == "writable":
        path.chmod(0o666)
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes({"cut": data[:-9], "flipped": data}.get(what, b"")))
    made = compiled(monkeypatch)
    assert total() == 45
    assert made == ["total"]
    [path] = cache.iterdir()
    assert path.stat().st_mode & 0o022 == 0
    assert total() == 45
    assert made == ["total"]


def test_code_of_another_source_is_forgotten(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total()
    [old] = cache.iterdir()
    monkeypatch.setattr(native, "_FORM", b"another")
    made = compiled(monkeypatch)
    assert total() == 45
    assert made == ["total"]
    assert [path.name for path in cache.iterdir()] != [old.name]
    assert len(list(cache.iterdir())) == 1


def test_code_is_made_anew_when_a_layout_that_it_uses_changes(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("sources")
    layout = directory / "some_layout.py"
    layout.write_text("SIZE = 1")
    monkeypatch.syspath_prepend(str(directory))
    made = compiled(monkeypatch)
    for text, times in (("SIZE = 1", 1), ("SIZE = 1", 1), ("SIZE = 2", 2)):
        layout.write_text(text)
        assert Routine(TINY, "total", "pq", ["some_layout"])(address(NUMBERS), len(NUMBERS)) == 45
        assert len(made) == times


@pytest.mark.parametrize("routine", [FIRST_BAD, SCORE, ADD_TICKS], ids=lambda routine: str(routine.name))
def test_every_module_that_a_kernel_takes_from_is_named(routine: Routine) -> None:
    source = native._source_of(routine.module).read_text()
    found = {match[1] for match in re.finditer(r"^from ((?:modelstore|consumers|streams)\.\w+) import", source, re.M)}
    assert found == set(routine.takes_from)


def test_without_a_place_for_it_code_is_compiled_in_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_directories", lambda source: iter((Path("/proc/nowhere"),)))
    made = compiled(monkeypatch)
    assert [total(), total()] == [45, 45]
    assert made == ["total", "total"]


def test_code_that_needs_numbas_runtime_is_used_and_not_kept(cache: Path) -> None:
    assert Routine(TINY, "longest", "q")(7) == 7
    assert list(cache.iterdir()) == []


def test_code_that_cannot_lie_beside_its_source_goes_to_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "package" / "source.py"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert list(native._directories(source)) == [source.parent / "__pycache__", tmp_path / "cache" / "red10"]
    # A package that nobody may write to: a file stands where its __pycache__ would be.
    source.parent.mkdir()
    (source.parent / "__pycache__").write_text("")
    native._keep(source, "source-total-1.o", b"code")
    assert native._read(tmp_path / "cache" / "red10" / "source-total-1.o") == b"code"


def test_without_numba_a_kernel_says_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(KernelUnavailable, match=r"pip install red10\[worker\]"):
        total()


def test_the_kernels_of_a_scorer_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """If numba ever left something in them that cannot be kept, every start would compile for seconds."""
    for routine in (FIRST_BAD, SCORE, ADD_TICKS):
        assert isinstance(native.compile_function(routine.module, routine.name, routine.arguments), bytes), routine


def test_a_restart_compiles_nothing_and_imports_neither_numba_nor_scipy_nor_xgboost() -> None:
    warm_kernels()
    program = """
import sys
import consumers.worker
from consumers.warm import warm_kernels
from modelstore import native
native.compile_function = None
warm_kernels()
loaded = {"numba", "scipy", "xgboost", "pandas", "river"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, done.stderr
