"""Set-up from nothing: the lock, what the set-up reports, and that it never destroys what is not its own."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ops.bootstrap import Bootstrap, SetupFailed, disk_mb, downloaded_mb, hint, main, runs

ROOT = Path(__file__).parents[2]


POPEN = subprocess.Popen
ECHO = [sys.executable, "-c", "import sys; print(sys.argv[1])"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, list[str]]:
    """Name -> the lock's texts about it, one for each version."""
    text = (ROOT / "requirements.lock").read_text()
    found: dict[str, list[str]] = {}
    for block in re.split(r"^(?=[a-zA-Z0-9])", text, flags=re.MULTILINE):
        name = re.match(r"[A-Za-z0-9_.\-]+(?===)", block)
        if name:
            found.setdefault(normal(name[0]), []).append(block)
    return found


def test_the_lock_names_no_host_and_no_path() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links|file:|@ ", text)


def test_the_lock_holds_every_dependency_and_the_build_tools_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {normal(match[0]) for text in wanted if (match := re.match(r"[A-Za-z0-9_.\-]+", text))} - {"red10"}
    found = locked()
    assert names <= set(found)
    assert all("--hash=sha256:" in block for blocks in found.values() for block in blocks)


def test_every_python_gets_the_same_numbers() -> None:
    """One version of what computes, on all Pythons that are supported, so that results do not depend on the Python."""
    found = locked()
    for name in ("numpy", "numba", "xgboost-cpu"):
        oldest = found[name][0].splitlines()[0]
        until = re.search(r"python_full_version < '3\.(\d+)'", oldest)
        assert "python_full_version >=" not in oldest, oldest
        assert until is None or int(until[1]) > 13, oldest


def test_downloads_are_summed_from_pips_words() -> None:
    lines = [
        "Collecting numpy==2.4.6 (from -r requirements.lock (line 1))",
        "  Downloading numpy-2.4.6-cp311.whl.metadata (62 kB)",
        "  Using cached pandas-3.1.1-cp311.whl (10.9 MB)",
        "Downloading numpy-2.4.6-cp311.whl (16.8 MB)",
        "Downloading big-1.whl (1.2 GB)",
    ]
    assert downloaded_mb(lines) == pytest.approx(1216.862)


def test_hard_links_count_once_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1_000_000)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert disk_mb(tmp_path) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    ("log", "word"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "do not go on"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("error: [Errno 2] No such file or directory: 'gcc'", "C compiler"),
        ("error: command '/usr/bin/x86_64-linux-gnu-gcc' failed with exit code 1", "C compiler"),
        ("ERROR: No matching distribution found for redis==8.1.0", "network"),
    ],
)
def test_a_known_failure_says_what_to_do(log: str, word: str) -> None:
    assert word in hint(f"some line\n{log}\nanother")


def test_an_unknown_failure_gets_no_guess() -> None:
    assert hint("ERROR: something new") == ""


def test_a_python_that_is_gone_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(tmp_path / "removed")
    assert not runs(tmp_path / "python", "pass")
    assert runs(Path(sys.executable), "pass")
    assert not runs(Path(sys.executable), "raise SystemExit(1)")


def test_a_directory_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    directory = tmp_path / "venv"
    directory.mkdir()
    (directory / "precious").write_text("mine")
    with pytest.raises(SetupFailed, match="move it away"):
        Bootstrap(directory, io.StringIO()).run()
    assert (directory / "precious").read_text() == "mine"


def test_a_step_that_fails_shows_the_end_of_the_log_and_leaves_no_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([".venv"]) == 1
    said = capsys.readouterr()
    assert "requirements.lock" in said.err
    assert "installing packages failed" in said.err
    assert (tmp_path / ".venv" / "setup.log").exists()
    assert not (tmp_path / ".venv" / ".ready").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_long_silence_of_pip_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v").mkdir()
    said = "Collecting numpy==1\nInstalling collected packages: trove-classifiers, numpy"
    monkeypatch.setattr("ops.bootstrap.runs", lambda python, code: True)
    monkeypatch.setattr("ops.bootstrap.subprocess.Popen", lambda command, **kept: POPEN([*ECHO, said], **kept))
    out = Terminal()
    Bootstrap(tmp_path / "v", out).run()
    shown = [line.rstrip() for line in out.getvalue().split("\r\x1b[K")]
    at = next(index for index, line in enumerate(shown) if line.endswith("installing packages: numpy"))
    assert shown[at + 1].endswith("installing packages: unpacking them all (half a minute)")


def test_a_python_that_is_too_old_is_refused_before_anything_else(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    made = subprocess.run(
        ["make", "--no-print-directory", f"PYTHON={old}", f"VENV={tmp_path}/venv", "demo"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode != 0
    assert "needs Python 3.11 or newer" in made.stderr
    assert "Python 3.9.2" in made.stderr
    assert not (tmp_path / "venv").exists()


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make (\w+)", shown, re.MULTILINE)) == set(phony[1].split())
