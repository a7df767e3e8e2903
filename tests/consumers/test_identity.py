from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from consumers.identity import trainer_name, trainer_runs

HOLD = """
import sys
from pathlib import Path
from consumers.identity import trainer_name

with trainer_name(Path(sys.argv[1])) as name:
    print(name, flush=True)
    sys.stdin.read()
"""


def test_no_two_trainers_of_a_directory_have_one_name_and_a_later_one_takes_over_a_free_one(tmp_path: Path) -> None:
    with trainer_name(tmp_path) as first:
        with trainer_name(tmp_path) as second:
            assert first != second
        with trainer_name(tmp_path) as third:
            assert third == second
    with trainer_name(tmp_path) as again:
        assert again == first
    assert re.fullmatch(r".+-trainer-[0-9a-f]{8}", first)


def test_whether_a_trainer_runs_is_seen_and_looking_is_no_trainer(tmp_path: Path) -> None:
    assert not trainer_runs(tmp_path / "nowhere")
    with trainer_name(tmp_path) as first:
        assert trainer_runs(tmp_path)
    assert not trainer_runs(tmp_path)
    with trainer_name(tmp_path) as again:
        assert again == first


def test_the_name_of_a_killed_trainer_is_free_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        with trainer_name(tmp_path) as other:
            assert other != name
        process.kill()
        process.wait()
    with trainer_name(tmp_path) as heir:
        assert heir == name


def test_two_directories_never_give_the_same_name(tmp_path: Path) -> None:
    with trainer_name(tmp_path / "a" / "b") as one, trainer_name(tmp_path / "c") as other:
        assert one != other


@pytest.mark.parametrize("content", ["", "zzzzzzzz", "0123456789", "\xff\xff"])
def test_a_damaged_file_gets_a_fresh_name_that_stays(tmp_path: Path, content: str) -> None:
    (tmp_path / "trainer-0.lock").write_text(content, encoding="latin-1")
    with trainer_name(tmp_path) as first:
        assert re.fullmatch(r".+-trainer-[0-9a-f]{8}", first)
    with trainer_name(tmp_path) as second:
        assert second == first


def test_where_nothing_can_be_written_the_name_is_fresh_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with trainer_name(tmp_path / "file") as first, trainer_name(tmp_path / "file") as second:
        assert first != second
    assert "another name after a restart" in caplog.text
