"""Snapshots are found by what people write, and whatever lies beside them does no harm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ops.errors import SnapshotError
from ops.snapshots.manifest import decode_manifest, is_id
from ops.snapshots.shelf import Shelf, Snapshot, read_snapshot
from ops.snapshots.take import take
from tests.conftest import binary_of
from tests.ops.snapshots.made import fill, settings_of
from tests.servers import Server


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    server = Server(binary_of("embedded")).start()
    try:
        with server.client() as client:
            fill(client)
        return take(server.url, settings_of(tmp_path_factory.mktemp("taken"), environment="staging"))
    finally:
        server.close()


@pytest.fixture
def snapshot(taken: Snapshot, shelf: Shelf) -> Snapshot:
    """The snapshot, on a shelf of the test's own."""
    return read_snapshot(shutil.copytree(taken.path, shelf.place("staging", taken.manifest.id)))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf.of(settings_of(tmp_path))


@pytest.mark.parametrize("text", ["", "no", "/no/such/directory", "../x/latest", "*/latest", "a/b/latest", "staging/"])
def test_what_is_no_snapshot_is_said(snapshot: Snapshot, shelf: Shelf, text: str) -> None:
    assert shelf.find("latest") == shelf.find("staging/latest") == shelf.find(str(snapshot.path)) == snapshot
    with pytest.raises(SnapshotError, match="snapshot list"):
        shelf.find(text)


@pytest.mark.parametrize("environment", ["..", "../staging", "/tmp", "*", "", ".", "**"])
def test_only_names_of_environments_are_looked_into(snapshot: Snapshot, shelf: Shelf, environment: str) -> None:
    assert shelf.list(environment) == []
    assert len(shelf.list("staging")) == 1


@pytest.mark.parametrize(
    "name", ["99999999T999999Z-00000000", "00000101T000000Z-00000000", "20260229T000000Z-00000000"]
)
def test_a_directory_whose_name_tells_no_time_is_passed_over(snapshot: Snapshot, shelf: Shelf, name: str) -> None:
    shutil.copytree(snapshot.path, snapshot.path.with_name(name))
    assert not is_id(name)
    assert [listed.id for listed in shelf.list()] == [snapshot.manifest.id]
    assert shelf.list()[0].taken_ms == snapshot.manifest.taken_ms // 1000 * 1000


def test_what_a_link_leads_to_is_not_removed(snapshot: Snapshot, shelf: Shelf, tmp_path: Path) -> None:
    elsewhere = tmp_path / "large disk"
    snapshot.path.rename(elsewhere)
    snapshot.path.symlink_to(elsewhere)
    [listed] = shelf.list()
    assert shelf.find("latest") == snapshot
    assert shelf.remove(listed)
    assert list(snapshot.path.parent.iterdir()) == []
    assert sorted(path.name for path in elsewhere.iterdir()) == ["manifest.json", "models.rdb"]


def test_a_snapshot_under_another_name_is_not_taken_for_that(snapshot: Snapshot, shelf: Shelf) -> None:
    shutil.copytree(snapshot.path, shelf.place("production", snapshot.manifest.id))
    with pytest.raises(SnapshotError, match=f"holds snapshot staging/{snapshot.manifest.id}"):
        shelf.find("production/latest")


@pytest.mark.parametrize(
    "changes",
    [
        {"taken_ms": 10**30},
        {"taken_ms": -1},
        {"taken_ms": 0},
        {"size": -5},
        {"id": "../../x"},
        {"environment": ".."},
        {"environment": "a\n"},
        {"sha256": "0" * 64},
        {"tenants": [{"tenant": "a", "release": None, "versions": []}] * 2},
        {"tenants": {}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_manifest_that_contradicts_itself_is_none(snapshot: Snapshot, changes: dict[str, Any]) -> None:
    raw = json.loads(snapshot.manifest.encode())
    assert decode_manifest(json.dumps(raw).encode(), "here") == snapshot.manifest
    with pytest.raises(SnapshotError, match="no manifest"):
        decode_manifest(json.dumps(raw | changes).encode(), "here")


@pytest.mark.parametrize("raw", [b"", b"[" * 1_000_000, b'{"a":' * 100_000, b"\xff\xfe", b"1" * 5000, b"null"])
def test_bytes_that_are_no_manifest_are_refused(raw: bytes) -> None:
    with pytest.raises(SnapshotError, match="no manifest"):
        decode_manifest(raw, "here")
