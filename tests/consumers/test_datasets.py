"""No request reads a file that it may not."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from consumers.datasets import MIB, BadDataset, Roots, read_dataset, table_name

TEXT = b"a,b\n1,2\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed directory, with another one beside it that is not."""
    for name in ("allowed/deep", "secret"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.csv").write_bytes(TEXT)
    return tmp_path / "allowed"


def read(dataset: str | Path, *directories: Path, most: int = MIB) -> bytes:
    return read_dataset(str(dataset), Roots(directories, most)).raw


def refused(dataset: str | Path, *directories: Path, most: int = MIB) -> str:
    with pytest.raises(BadDataset) as caught:
        read(dataset, *directories, most=most)
    assert str(dataset)[:200] in str(caught.value)
    return str(caught.value)


def test_a_dataset_is_found_by_its_whole_path_or_below_a_root(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read("deep/a.csv", root) == TEXT
    assert read(root / "deep" / "a.csv", root) == TEXT
    assert read("a.csv", tmp_path / "missing", root, root / "deep") == TEXT
    assert read("./deep/../deep/a.csv", root) == TEXT
    monkeypatch.chdir(root)
    assert read("deep/a.csv", Path(".")) == TEXT


@pytest.mark.parametrize("dataset", ["../secret/a.csv", "deep/../../secret/a.csv", "deep/../../../etc/x.csv"])
def test_no_way_leads_out_of_the_root(root: Path, dataset: str) -> None:
    said = refused(dataset, root)
    assert "outside the directories" in said, "whether it is there or not"
    assert "dataset_roots" in said


def test_an_absolute_path_outside_is_refused(root: Path, tmp_path: Path) -> None:
    assert "outside the directories" in refused(tmp_path / "secret" / "a.csv", root)


@pytest.mark.parametrize("kind", ["file", "directory", "chain"])
def test_no_symbolic_link_leads_out_of_the_root(root: Path, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    if kind == "file":
        (root / "link.csv").symlink_to(secret / "a.csv")
        assert "outside" in refused("link.csv", root)
    elif kind == "directory":
        (root / "link").symlink_to(secret)
        assert "outside" in refused("link/a.csv", root)
    else:
        (root / "one").symlink_to(root / "two")
        (root / "two").symlink_to("../secret")
        assert "outside" in refused("one/a.csv", root)


def test_a_link_within_the_root_and_a_root_that_is_one_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "deep" / "link.csv").symlink_to("../deep/a.csv")
    assert read("deep/link.csv", root) == TEXT
    (tmp_path / "also").symlink_to(root)
    assert read("deep/a.csv", tmp_path / "also") == TEXT


def test_a_directory_exchanged_for_a_link_after_the_path_was_judged_is_noticed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from consumers import datasets

    judge = datasets._allowed

    def exchange(dataset: str, directories: tuple[Path, ...]) -> Path:
        found = judge(dataset, directories)
        (root / "deep").rename(root / "gone")
        (root / "deep").symlink_to(tmp_path / "secret")
        return found

    monkeypatch.setattr(datasets, "_allowed", exchange)
    assert "was moved" in refused("deep/a.csv", root)


def test_what_is_no_plain_file_is_refused_at_once(root: Path) -> None:
    os.mkfifo(root / "pipe.csv")
    assert "no plain file" in refused("pipe.csv", root)
    (root / "folder.csv").mkdir()
    assert "no plain file" in refused("folder.csv", root)
    (root / "loop.csv").symlink_to("loop.csv")
    assert "loop.csv" in refused("loop.csv", root)


@pytest.mark.parametrize("dataset", ["passwd", "a.txt", "a.csv\0.txt", "", "a.csv/"])
def test_a_name_of_another_kind_is_refused_with_the_known_ones(root: Path, dataset: str) -> None:
    with pytest.raises(BadDataset, match=r"\.csv, \.csv\.gz, \.parquet"):
        read(dataset, root)


def test_a_huge_file_is_refused_before_it_is_read(root: Path) -> None:
    with open(root / "huge.csv", "wb") as file:
        file.truncate(50 * 2**30)
    assert "larger than 1 MiB" in refused("huge.csv", root)
    assert read("deep/a.csv", root, most=len(TEXT)) == TEXT
    assert "dataset_max_mib" in refused("deep/a.csv", root, most=len(TEXT) - 1)


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(root: Path) -> None:
    (root / "a.csv.gz").write_bytes(gzip.compress(TEXT))
    assert read("a.csv.gz", root) == TEXT
    (root / "bomb.csv.gz").write_bytes(gzip.compress(bytes(20 * MIB)))
    assert (root / "bomb.csv.gz").stat().st_size < MIB // 10
    assert "larger than 1 MiB" in refused("bomb.csv.gz", root)
    (root / "cut.csv.gz").write_bytes(gzip.compress(TEXT)[:-4])
    assert "is damaged" in refused("cut.csv.gz", root)
    (root / "no.csv.gz").write_bytes(TEXT)
    assert "is damaged" in refused("no.csv.gz", root)


def test_without_roots_nothing_is_read(root: Path) -> None:
    assert "set dataset_roots" in refused(root / "deep" / "a.csv")


def test_a_file_that_may_not_be_read_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbid)
    assert "Permission denied" in refused("deep/a.csv", root)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("iris.csv", "iris"), ("/x/iris.v2.CSV.GZ", "iris.v2"), ("a.parquet", "a"), ("a.pq", "a"), ("a", "a")],
)
def test_a_table_is_named_after_its_file(dataset: str, name: str) -> None:
    assert table_name(dataset) == name
