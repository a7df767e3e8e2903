"""The commands about models and releases: what they print, and what they say when they refuse."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import redis
import typer
from typer.testing import CliRunner, Result

from modelstore.store import ModelStore
from modelstore.version import NewVersion
from ops.commands.model import flatten
from ops.commands.session import Session, reporting
from streams.keys import Keys
from tests.conftest import binary_of
from tests.consumers.test_checker import with_golden
from tests.modelstore.made import contents, fitted
from tests.objects import ObjectServer
from tests.ops.command import app
from tests.servers import Server

Red10 = Callable[..., Result]
NAME, OTHER = "SPY:1d/close_5", "SPY:1d/high_5"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command runs in a directory of its own, 80 columns wide, without settings of the machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in [name for name in os.environ if name.startswith("RED10_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def red10(server: Server) -> Red10:
    def run(*args: object) -> Result:
        return CliRunner().invoke(app, [*map(str, args), "--streams-url", server.url, "--models-url", server.url])

    return run


def version(name: str, seed: int) -> NewVersion:
    made = fitted(name, seed)
    metrics = {"skill": seed / 100, "rounds": 3 + seed}
    return NewVersion(made.manifest.model_copy(update={"metrics": metrics}), made.serving, made.forest, made.ubj)


VERSIONS = [version(NAME, seed) for seed in range(3)] + [version(OTHER, 7)]
DIGESTS = [one.digest for one in VERSIONS]


@pytest.fixture
def store(client: redis.Redis) -> ModelStore:
    return filled(client)


@pytest.fixture(params=["embedded", "system"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def filled(client: redis.Redis) -> ModelStore:
    """Three versions of one model, one of another; two releases, the first without the other model."""
    store = ModelStore(client, Keys("default"))
    store.put_many(VERSIONS)
    store.releases.promote({(NAME, "champion"): DIGESTS[0]}, who="trainer", why="trained")
    store.releases.promote(
        {(NAME, "challenger"): DIGESTS[1], (OTHER, "champion"): DIGESTS[3]}, who="trainer", why="more"
    )
    return store


def loaded(done: Result) -> object:
    assert done.exit_code == 0, done.output
    return orjson.loads(done.stdout)


def refused(done: Result) -> str:
    assert done.exit_code == 2, done.output
    return " ".join(done.stderr.split())


def test_every_command_has_help_in_80_columns() -> None:
    verbs = {
        "model": ["list", "show", "diff", "search", "tag", "alias", "rm", "prune", "export", "import", "reindex"],
        "release": ["list", "show", "diff", "promote", "rollback"],
    }
    for noun, names in verbs.items():
        told = CliRunner().invoke(app, [noun, "--help"]).output
        for verb in names:
            assert f" {verb} " in told
            done = CliRunner().invoke(app, [noun, verb, "--help"])
            assert done.exit_code == 0
            assert max(map(len, done.output.splitlines())) <= 80, (noun, verb)


def test_versions_are_searched_for(red10: Red10, store: ModelStore) -> None:
    rows = loaded(red10("model", "search", "--where", "skill > 0 and rounds < 9", "--sort", "skill", "--json"))
    assert isinstance(rows, list)
    assert [(row["name"], row["number"], row["digest"], row["metrics"]) for row in rows] == [
        (NAME, 3, DIGESTS[2], {"skill": 0.02, "rounds": 5.0}),
        (NAME, 2, DIGESTS[1], {"skill": 0.01, "rounds": 4.0}),
    ]
    store.tags.change(DIGESTS[0], ["env=prod"])
    for options, count in (
        (("--tag", "env=prod"), 1),
        (("--tag", "env", "--dataset", "SPY:*", "--target", "close_5"), 1),
        (("--alias", "champion"), 2),
        (("--since", "1h", "-n", "3"), 3),
        (("--before", "1h"), 0),
        ((), 4),
    ):
        found = loaded(red10("model", "search", *options, "--json"))
        assert isinstance(found, list)
        assert len(found) == count, options
    shown = red10("model", "search", "--sort", "skill", "--ascending").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.index(DIGESTS[0][:12]) < shown.index(DIGESTS[2][:12])
    assert "No version fulfils this" in red10("model", "search", "--where", "skill > 9").stdout
    assert "there are: rounds, skill" in refused(red10("model", "search", "--where", "skil > 0"))
    assert "stands where a number should" in refused(red10("model", "search", "--where", "skill > x"))
    assert "is no time" in refused(red10("model", "search", "--since", "soon"))


def test_an_old_store_is_indexed_when_it_is_searched_and_by_hand(red10: Red10, store: ModelStore) -> None:
    store.index.drop()
    done = red10("model", "search", "--json")
    assert "4 versions are not indexed yet" in done.stderr
    assert len(orjson.loads(done.stdout)) == 4
    assert loaded(red10("model", "reindex", "--json")) == {"indexed": 0, "versions": 4}
    assert "4 of 4 versions" in red10("model", "reindex", "--anew").stdout


def test_tags_are_set_shown_and_removed(red10: Red10, store: ModelStore) -> None:
    found = loaded(red10("model", "tag", f"{NAME}@1", "deprecated", "env=prod", "--json"))
    assert found == {"digest": DIGESTS[0], "tags": {"deprecated": "", "env": "prod"}}
    assert "deprecated, env=prod" in red10("model", "tag", f"{NAME}@1").stdout
    assert "deprecated, env=prod" in red10("model", "show", f"{NAME}@1").stdout
    assert "no tags" in red10("model", "tag", f"{NAME}@1", "--remove", "env", "--remove", "deprecated").stdout
    assert "cannot be a tag" in refused(red10("model", "tag", f"{NAME}@1", "not this"))


@pytest.mark.parametrize("text", ["3", "latest", f"sha:{DIGESTS[2][:12]}", DIGESTS[2][:10], f"{NAME}@3", DIGESTS[2]])
def test_an_alias_is_pointed_at_a_version_written_in_any_way(red10: Red10, store: ModelStore, text: str) -> None:
    found = loaded(red10("model", "alias", f"{NAME}@canary", text, "--why", "try it", "--json"))
    assert isinstance(found, dict)
    assert (found["digest"], found["number"]) == (DIGESTS[2], 3)
    newest = store.releases.history(1)[0]
    assert newest.why == "try it"
    assert "@" in newest.who
    assert "is gone since release 4" in " ".join(red10("model", "alias", f"{NAME}@canary", "--remove").stdout.split())
    assert (NAME, "canary") not in ModelStore(store.client, store.keys).aliases()


def test_an_alias_that_cannot_be_is_refused(red10: Red10, store: ModelStore) -> None:
    assert "such as SPY:1m/close_5@champion 3" in refused(red10("model", "alias", NAME, "3"))
    assert "such as SPY:1m/close_5@champion 3" in refused(red10("model", "alias", f"{NAME}@x"))
    assert "reserved" in refused(red10("model", "alias", f"{NAME}@latest", "3"))
    assert "has no version 9; it has 1-3" in refused(red10("model", "alias", f"{NAME}@x", "9"))
    assert "is of another model" in refused(red10("model", "alias", f"{OTHER}@x", f"{NAME}@1"))


def test_what_is_needed_is_not_removed(red10: Red10, store: ModelStore) -> None:
    told = refused(red10("model", "rm", f"{NAME}@3", f"{NAME}@champion"))
    assert "of the release in force" in told
    assert "red10 model alias" in told
    assert store.count() == 4
    assert loaded(red10("model", "rm", f"{NAME}@3", "--json")) == [{"name": NAME, "number": 3, "digest": DIGESTS[2]}]
    assert store.count() == 3
    assert red10("model", "rm", f"{NAME}@3").exit_code == 0
    assert "has no version 4" in refused(red10("model", "rm", f"{NAME}@4"))


def test_old_versions_are_pruned(red10: Red10, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.set_alias(NAME, "challenger", None, who="t")
    would = loaded(red10("model", "prune", "--keep", "1", "--keep-releases", "1", "--dry-run", "--json"))
    assert would == {
        "dry_run": True,
        "versions": [{"name": NAME, "digests": [DIGESTS[1]]}],
        "releases": [],
        "pinned": [],
    }
    assert store.count() == 4
    assert (
        "1 versions and 0 releases would be removed"
        in red10("model", "prune", "--keep", 1, "--keep-releases", 1, "--dry-run").stdout
    )
    assert "0 versions and 0 releases removed." in red10("model", "prune").stdout
    monkeypatch.setenv("RED10_KEEP_VERSIONS", "1")
    monkeypatch.setenv("RED10_KEEP_RELEASES", "1")
    assert "1 versions" in red10("model", "prune").stdout
    assert store.count() == 3


def test_models_are_exported_and_imported(red10: Red10, store: ModelStore, tmp_path: Path) -> None:
    written = loaded(red10("model", "export", "SPY:1d", "spy", "--all", "--json"))
    assert isinstance(written, dict)
    assert (written["kind"], written["of"], sorted(written["versions"])) == ("series", "SPY:1d", sorted(DIGESTS))
    assert "is there already" in refused(red10("model", "export", "SPY:1d", "spy"))
    assert "versions written to spy" in " ".join(red10("model", "export", f"{NAME}@1", "spy", "--force").stdout.split())
    found = loaded(red10("model", "import", "spy", "--tenant", "other", "--json"))
    assert isinstance(found, dict)
    assert (found["imported"], found["skipped"], found["release"]) == ([DIGESTS[0]], [], None)
    again = red10("model", "import", "spy", "--tenant", "other").stdout
    assert "0 versions imported, 1 skipped" in again
    assert f"skipped {NAME} version 1 ({DIGESTS[0][:12]})" in again
    (tmp_path / "spy").write_bytes((tmp_path / "spy").read_bytes()[:-3])
    assert "spy: it ends too early; nothing was imported" in refused(red10("model", "import", "spy"))
    assert "No such file" in refused(red10("model", "import", "none"))


def test_a_release_is_carried_over_and_put_in_force(red10: Red10, store: ModelStore) -> None:
    assert red10("model", "export", "current", "now", "--release").exit_code == 0
    assert red10("model", "export", "1", "first", "--release").exit_code == 0
    told = " ".join(red10("model", "import", "now", "--tenant", "other").stdout.split())
    release = store.releases.current()
    assert release is not None
    assert f"red10 release promote {release.id[:12]}" in told
    (candidate,) = [loaded(red10("release", "list", "--tenant", "other", "--json"))]
    assert isinstance(candidate, list)
    assert (candidate[0]["id"], candidate[0]["number"], candidate[0]["in_force"]) == (release.id, None, False)
    assert release.id[:12] in red10("release", "list", "--tenant", "other").stdout
    assert "Release 1" in red10("release", "promote", release.id[:12], "--tenant", "other").stdout
    found = loaded(red10("model", "import", "first", "--promote", "--why", "back", "--tenant", "other", "--json"))
    assert isinstance(found, dict)
    assert (found["number"], found["imported"], len(found["skipped"])) == (2, [], 1)


def test_models_are_held_against_their_golden_rows_when_asked(red10: Red10, store: ModelStore) -> None:
    """One that is whole, but is not what its manifest says, is refused; one that would kill XGBoost kills nobody."""
    name = "XLE:1d/close_5"
    sound = with_golden(fitted(name, 1))
    lying = replace(with_golden(fitted(name, 2)), ubj=fitted(name, 3).ubj)
    deadly = replace(with_golden(fitted(name, 4)), ubj=sound.ubj[:40] + b"\xff" * 200 + sound.ubj[240:])
    store.put_many([sound, lying, deadly])
    for version, told in ((lying, "XGBoost model"), (deadly, "")):
        assert red10("model", "export", version.digest, "bad", "--force").exit_code == 0
        message = refused(red10("model", "import", "bad", "--check", "--tenant", "other"))
        assert "not to be trusted" in message
        assert told in message
        assert "nothing was imported" in message
        assert ModelStore(store.client, Keys("other")).count() == 0
    assert red10("model", "export", sound.digest, "good").exit_code == 0
    found = loaded(red10("model", "import", "good", "--check", "--tenant", "other", "--json"))
    assert isinstance(found, dict)
    assert found["imported"] == [sound.digest]


def test_models_travel_by_object(red10: Red10, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = ObjectServer()
    try:
        objects.client().create_bucket(Bucket="models")
        for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("DEFAULT_REGION", "us-east-1")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("RED10_S3_ENDPOINT", objects.url)
        assert red10("model", "export", NAME, "s3://models/spy").exit_code == 0
        found = loaded(red10("model", "import", "s3://models/spy", "--tenant", "other", "--json"))
        assert isinstance(found, dict)
        assert found["imported"] == [DIGESTS[0]]
        assert "s3://models/none is not there" in refused(red10("model", "import", "s3://models/none"))
    finally:
        objects.close()


def test_what_differs_between_versions_is_shown(red10: Red10, store: ModelStore) -> None:
    found = loaded(red10("model", "diff", f"{NAME}@1", f"{NAME}@3", "--json"))
    assert isinstance(found, dict)
    rows = {row["field"]: (row["first"], row["second"]) for row in found["fields"]}
    assert rows["metrics.skill"] == (0.0, 0.02)
    assert rows["trained_through"] == (0, 2)
    assert "target.column" not in rows
    shown = red10("model", "diff", f"{NAME}@1", f"{NAME}@3").stdout
    assert "metrics.skill" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "Both are version" in red10("model", "diff", f"{NAME}@1", NAME).stdout
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_what_differs_between_releases_is_shown(red10: Red10, store: ModelStore) -> None:
    rows = loaded(red10("release", "diff", "--json"))
    assert rows == [
        {"name": NAME, "alias": "challenger", "before": None, "after": DIGESTS[1]},
        {"name": OTHER, "alias": "champion", "before": None, "after": DIGESTS[3]},
    ]
    shown = red10("release", "diff", "2", "1").stdout
    assert f"2 ({DIGESTS[1][:12]})" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "They are equal." in red10("release", "diff", "2").stdout
    assert "knows no release '9'" in refused(red10("release", "diff", "9"))


def test_a_challenger_is_promoted_and_taken_back(red10: Red10, store: ModelStore) -> None:
    info = loaded(red10("release", "promote", f"{NAME}@challenger", "--why", "better", "--json"))
    assert isinstance(info, dict)
    assert info["number"] == 3
    assert ModelStore(store.client, store.keys).aliases() == {
        (NAME, "champion"): DIGESTS[1],
        (OTHER, "champion"): DIGESTS[3],
    }
    assert store.releases.history(1)[0].why == "better"
    told = refused(red10("release", "promote", f"{NAME}@3", "--parent", "2"))
    assert "meanwhile release 3 by" in told
    assert f"{NAME}@champion from {DIGESTS[0][:12]} to {DIGESTS[1][:12]}" in told
    assert "Release 4" in red10("release", "rollback", "--why", "worse").stdout
    assert "name the release to go to" in refused(red10("release", "rollback"))
    assert "Release 5" in red10("release", "rollback", "1").stdout
    assert ModelStore(store.client, store.keys).aliases() == {(NAME, "champion"): DIGESTS[0]}


@pytest.mark.parametrize(
    "words",
    [
        ("release", "promote", f"{NAME}@challenger"),
        ("release", "rollback"),
        ("model", "alias", f"{NAME}@canary", "3"),
        ("model", "tag", f"{NAME}@1", "deprecated"),
        ("model", "rm", f"{NAME}@3"),
        ("model", "prune", "--keep", "1"),
        ("model", "import", "other"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_a_command_has_told_survives_a_redis_that_is_killed(
    words: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    server = Server(binary_of(kind)).start()
    try:
        with server.client() as client:
            store = filled(client)
            store.put_many([version("QQQ:1d/close_5", 5)])
            store.export(store.select("QQQ:1d", every=True), tmp_path / "other")
            store.remove(["QQQ:1d/close_5@1"])
        done = CliRunner().invoke(app, [*words, "--streams-url", server.url, "--models-url", server.url])
        assert done.exit_code == 0, done.output
        with server.client() as client:
            before = contents(client)
        server.kill()
        server.start()
        with server.client() as client:
            assert contents(client) == before
    finally:
        server.close()


def test_a_command_says_when_what_it_did_is_not_saved(
    red10: Red10, store: ModelStore, client: redis.Redis, server: Server
) -> None:
    snapshot = server.directory / "dump.rdb"
    snapshot.unlink(missing_ok=True)
    snapshot.mkdir()
    try:
        done = red10("release", "promote", f"{NAME}@challenger")
    finally:
        snapshot.rmdir()
        client.save()
    assert "is in force" in done.stdout, "from the switch on, whatever becomes of the save"
    told = refused(done)
    assert "is done; it is lost if the models Redis is killed" in told
    assert store.resolve(f"{NAME}@champion") == DIGESTS[1]


def test_a_snapshot_can_be_looked_at_and_what_would_change_it_says_so(store: ModelStore, server: Server) -> None:
    store.client.save()

    def run(*args: str) -> Result:
        return CliRunner().invoke(app, [*args, "--models-url", f"rdb://{server.directory}/dump.rdb"])

    assert NAME in run("model", "list").stdout
    for change in (("model", "tag", NAME, "x"), ("release", "promote", f"{NAME}@challenger"), ("model", "prune")):
        told = refused(run(*change))
        assert "a snapshot, in which nothing can be changed" in told
        assert "password" not in told


def test_where_there_is_nothing_the_way_on_is_told(red10: Red10, client: redis.Redis) -> None:
    assert "No version fulfils this" in red10("model", "search").stdout
    assert "red10 train" in refused(red10("release", "diff"))
    assert "no earlier release" in refused(red10("release", "rollback"))
    assert "red10 train" in refused(red10("model", "export", "current", "x", "--release"))
    assert "knows no release '1'" in refused(red10("release", "promote", "1"))
    assert "no models of a series" in refused(red10("model", "export", "SPY:1d", "x"))
    assert "0 versions and 0 releases removed" in red10("model", "prune").stdout


def test_a_library_that_is_not_installed_is_told_with_the_way_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, reporting(debug=False):
        raise ModuleNotFoundError("No module named 'faust'", name="faust.types")
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == "red10: this needs faust, which is not installed: pip install 'red10[all]'\n"
    with pytest.raises(ModuleNotFoundError), reporting(debug=False):
        raise ModuleNotFoundError("No module named 'streams.gone'", name="streams.gone")


def test_names_are_told_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session({})
    session.text("a:b: [red]is text[/red]")
    session.say("a:b: [red]is text[/red]")
    told = capsys.readouterr()
    assert told.out == told.err == "a:b: [red]is text[/red]\n"
