"""Every mutant of a snapshot is refused, each by the check that is there for it; a sound one passes all."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelstore.store import ModelStore
from modelstore.version import NewVersion
from ops.errors import SnapshotError
from ops.snapshots import verify as verifying
from ops.snapshots.files import hash_file
from ops.snapshots.manifest import SnapshotManifest, id_of
from ops.snapshots.rdb import judge_form
from ops.snapshots.replication import receive
from ops.snapshots.report import CHECKS, Report, relied_on
from ops.snapshots.shelf import Snapshot, read_snapshot
from ops.snapshots.take import take
from ops.snapshots.verify import last_report, verify
from streams.settings import Settings
from tests.conftest import binary_of
from tests.ops.snapshots.made import KEYS, NAMES, fill, generation, settings_of
from tests.servers import Server

Change = Callable[[bytearray], bytearray]


@pytest.fixture(scope="module", params=["embedded", "system"])
def snapshot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snapshot]:
    directory = tmp_path_factory.mktemp("snapshots")
    server = Server(binary_of(request.param)).start()
    try:
        with server.client() as client:
            fill(client, 0)
            fill(client, 1)
        yield take(server.url, settings_of(directory))
    finally:
        server.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


def verdicts(report: Report) -> dict[str, bool | None]:
    return {check.name: check.ok for check in report.checks}


def failed(report: Report) -> set[str]:
    assert not report.ok
    return {check.name for check in report.failed()}


def mutate(snapshot: Snapshot, to: Path, change: Change, *, believed: bool = False) -> Snapshot:
    """A copy with other data; `believed`: with a manifest that says that this is how it was taken."""
    shutil.copytree(snapshot.path, to)
    data = bytes(change(bytearray(snapshot.data.read_bytes())))
    (to / "models.rdb").write_bytes(data)
    if believed:
        sha256 = hash_file(to / "models.rdb")
        rewrite(to, id=id_of(snapshot.manifest.taken_ms, sha256), sha256=sha256, size=len(data))
    return read_snapshot(to)


def rewrite(path: Path, **changes: object) -> None:
    found = read_snapshot(path).manifest.model_dump(mode="json")
    (path / "manifest.json").write_bytes(SnapshotManifest.model_validate(found | changes).encode())


def flip(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 8
    return data


def zeroed(data: bytearray) -> bytearray:
    data[-8:] = bytes(8)
    return data


def flip_and_zero(data: bytearray) -> bytearray:
    return zeroed(flip(data))


def newer(data: bytearray) -> bytearray:
    data[5:9] = b"0099"
    return data


def test_a_sound_snapshot_passes_every_check(snapshot: Snapshot, settings: Settings, tmp_path: Path) -> None:
    copy = mutate(snapshot, tmp_path / "copy", lambda data: data)
    told: list[tuple[int, int]] = []
    report = verify(copy, settings, progress=lambda *at: told.append(at))
    assert verdicts(report) == dict.fromkeys(CHECKS, True)
    assert report.ok
    assert told[-1] == (6, 6)
    assert last_report(copy) == report
    copy.report.write_bytes(report.model_copy(update={"sha256": "0" * 64}).encode())
    assert last_report(copy) is None, "of another file"
    assert relied_on(report, copy.manifest.sha256, report.verified_ms + 1000, 60, report.red10)
    assert not relied_on(report, copy.manifest.sha256, report.verified_ms + 61_000, 60, report.red10)
    assert not relied_on(report, "0" * 64, report.verified_ms, 60, report.red10)
    assert not relied_on(report, report.sha256, report.verified_ms - 1, 60, report.red10), "from the future"
    assert not relied_on(report, report.sha256, report.verified_ms, 60, "0.0.1"), "its checks may be others"
    assert not relied_on(
        report.model_copy(update={"checks": report.checks[:-1]}), report.sha256, report.verified_ms, 60, report.red10
    )
    assert list((tmp_path / "data").iterdir()) == [], "the private server is gone"


@pytest.mark.parametrize(
    ("change", "by_hash", "else_by"),
    [
        (flip, {"sha256"}, "form"),
        (lambda data: data[:-100], {"size", "sha256"}, "form"),
        (lambda data: data + b"\0" * 12, {"size", "sha256"}, "form"),
        (lambda data: data + data[-3000:], {"size", "sha256"}, "form"),
        (zeroed, {"sha256"}, "form"),
        (flip_and_zero, {"sha256"}, "form"),
        (newer, {"sha256"}, "form"),
        (lambda data: data[:0] + b"x", {"size", "sha256"}, "form"),
    ],
    ids=["bit flip", "truncated", "trailing bytes", "stale tail", "zeroed checksum", "both", "newer version", "no RDB"],
)
def test_a_file_that_was_changed_is_refused_even_by_a_manifest_that_was_changed_with_it(
    snapshot: Snapshot, settings: Settings, tmp_path: Path, change: Change, by_hash: set[str], else_by: str
) -> None:
    report = verify(mutate(snapshot, tmp_path / "plain", change), settings)
    assert by_hash <= failed(report)
    assert else_by in failed(report)
    believed = failed(verify(mutate(snapshot, tmp_path / "believed", change, believed=True), settings))
    assert not believed & {"size", "sha256"}
    assert else_by in believed


def test_one_flipped_bit_anywhere_is_noticed_by_more_than_the_hash(
    snapshot: Snapshot, settings: Settings, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    for number in range(6):

        def change(data: bytearray) -> bytearray:
            data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
            return data

        believed = mutate(snapshot, tmp_path / f"{number}", change, believed=True)
        assert not verify(believed, settings).ok


def test_a_file_that_is_replaced_meanwhile_gets_no_report(
    snapshot: Snapshot, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = mutate(snapshot, tmp_path / "copy", lambda data: data)
    check = verifying._check_contents

    def replacing(*args: Any) -> None:
        beside = copy.path / "beside"
        shutil.copy(copy.data, beside)
        beside.rename(copy.data)
        check(*args)

    monkeypatch.setattr(verifying, "_check_contents", replacing)
    with pytest.raises(SnapshotError, match="changed while it was verified"):
        verify(copy, settings)
    assert not copy.report.exists()


def test_a_manifest_that_names_what_is_not_there_or_leaves_out_what_is_is_refused(
    snapshot: Snapshot, settings: Settings, tmp_path: Path
) -> None:
    [tenant] = snapshot.manifest.model_dump(mode="json")["tenants"]
    plain = [version for version in tenant["versions"] if not version["aliases"]]
    for number, versions in enumerate(
        [
            sorted([*tenant["versions"], plain[0] | {"digest": "f" * 64}], key=lambda version: version["digest"]),
            [version for version in tenant["versions"] if version != plain[0]],
        ]
    ):
        copy = mutate(snapshot, tmp_path / f"{number}", lambda data: data)
        rewrite(copy.path, tenants=[tenant | {"versions": versions}])
        assert failed(verify(read_snapshot(copy.path), settings)) == {"versions"}
    for number, (part, value) in enumerate([("name", "SPY:1m/open_5"), ("metrics", {"skill": 0.9})], start=2):
        copy = mutate(snapshot, tmp_path / f"{number}", lambda data: data)
        changed = [version | {part: value} if version == plain[0] else version for version in tenant["versions"]]
        rewrite(copy.path, tenants=[tenant | {"versions": changed}])
        assert failed(verify(read_snapshot(copy.path), settings)) == {"claims"}
    copy = mutate(snapshot, tmp_path / "store", lambda data: data)
    rewrite(copy.path, store="0" * 32, rdb_version=8)
    assert failed(verify(read_snapshot(copy.path), settings)) == {"store", "head"}
    copy = mutate(snapshot, tmp_path / "tenant", lambda data: data)
    rewrite(copy.path, tenants=[])
    assert failed(verify(read_snapshot(copy.path), settings)) == {"versions"}


#: Tries models, each in a child of its own, and prints the number of the first that kills XGBoost at once.
SEARCH = """
import os, pickle, resource, signal, sys
import xgboost
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
for number, ubj in enumerate(pickle.load(sys.stdin.buffer)):
    if (child := os.fork()) == 0:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            xgboost.Booster({"nthread": 1}, model_file=bytearray(ubj))
        finally:
            os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGSEGV:
        print(number)
        break
"""


def crashing() -> NewVersion:
    """A version whose hashes are right and whose XGBoost model kills XGBoost: about one flipped bit in five does."""
    random = np.random.default_rng(0)
    sound = generation(0)[0]
    tries = []
    for _ in range(200):
        ubj = bytearray(sound.ubj)
        ubj[int(random.integers(len(ubj)))] ^= 1 << int(random.integers(8))
        tries.append(bytes(ubj))
    done = subprocess.run([sys.executable, "-c", SEARCH], input=pickle.dumps(tries), capture_output=True, check=True)
    return replace(sound, ubj=tries[int(done.stdout)])


def test_a_version_that_is_not_what_it_was_is_named(settings: Settings) -> None:
    """Damage before the snapshot was taken: the file's own checksum is right."""
    killer = crashing()
    liar = replace(
        generation(2)[1],
        manifest=generation(2)[1].manifest.model_copy(
            update={"golden": generation(2)[1].manifest.golden | {"margins": [1.0, 2.0, 3.0, 4.0]}}
        ),
    )
    server = Server(binary_of("embedded")).start()
    try:
        with server.client() as client:
            fill(client, 0)
            ModelStore(client, KEYS).put_many([killer, liar])
            report = verify(take(server.url, settings), settings)
            found = {check.name: check.detail for check in report.failed()}
            assert set(found) == {"golden"}
            assert killer.digest[:12] in found["golden"]
            assert liar.digest[:12] in found["golden"]
            assert "was ended by SIG" in found["golden"]
            for sound in generation(0):
                assert sound.digest[:12] not in found["golden"]

            damaged = generation(0)[2].digest
            forest = bytearray(generation(0)[2].forest)
            forest[40] ^= 1
            client.hset(KEYS.version(damaged), "forest", bytes(forest))
            report = verify(take(server.url, settings), settings)
            assert {"digests", "golden"} == failed(report)
            [detail] = [check.detail for check in report.checks if check.name == "digests"]
            assert damaged[:12] in detail
            assert "forest" in detail
    finally:
        server.close()


FIRST = KEYS.version(generation(0)[0].digest)


@pytest.mark.parametrize(
    ("key", "value", "by"),
    [
        ("red10:store", "text", {"store"}),
        (KEYS.versions, "text", {"versions", "digests", "claims", "golden"}),
        (FIRST, "text", {"digests", "claims", "golden"}),
        (FIRST, {"name": b"\xff\xfe"}, {"digests", "claims", "golden"}),
        (FIRST, {"number": b"\xff"}, {"digests", "golden"}),
        (FIRST, {"manifest": b"\xff"}, {"digests", "claims", "golden"}),
        (KEYS.release_pointer, "text", {"claims"}),
        (KEYS.release_pointer, {"number": "many"}, {"claims"}),
        (KEYS.model(NAMES[0]), "text", {"digests", "golden"}),
        ("red10:{a b}:versions", "of nobody", set()),
    ],
    ids=[
        "store",
        "versions",
        "version",
        "name",
        "number",
        "manifest",
        "pointer",
        "release number",
        "model",
        "no tenant",
    ],
)
def test_contents_that_are_none_of_a_store_have_their_verdict(
    settings: Settings, key: str, value: str | dict[str, bytes | str], by: set[str]
) -> None:
    server = Server(binary_of("embedded")).start()
    try:
        with server.client() as client:
            fill(client, 0)
            found = take(server.url, settings)
            if isinstance(value, str):
                client.set(key, value)
            else:
                client.hset(key, mapping=value)
            with open(found.data, "w+b") as file:
                receive(server.url, file)
    finally:
        server.close()
    sha256 = hash_file(found.data)
    name = id_of(found.manifest.taken_ms, sha256)
    rewrite(found.path, id=name, sha256=sha256, size=found.data.stat().st_size)
    report = verify(read_snapshot(found.path), settings)
    assert {check.name for check in report.failed()} == by


def test_what_the_check_tool_prints_is_judged() -> None:
    good = "[offset 9] AUX FIELD a = 'b'\n[offset 122] Checksum OK\n[offset 122] \\o/ RDB looks OK! \\o/\n"
    assert judge_form(0, good, 122) is None
    assert judge_form(0, good, 130) == "8 bytes follow its end"
    assert "zero" in str(judge_form(0, good.replace("Checksum OK", "RDB file was saved with checksum disabled"), 122))
    assert "says nothing" in str(judge_form(0, "", 122))
    assert "version 99" in str(judge_form(1, "[offset 9] Can't handle RDB format version 99", 122))
