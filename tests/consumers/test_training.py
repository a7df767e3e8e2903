from __future__ import annotations

import pytest

from consumers.fit import FitOutcome, FitParameters, FitRequest, fit_series
from consumers.plans import Plan, TablePlan, split
from consumers.training import Work, alias_changes, join
from modelstore.release import apply
from streams.series import Series
from streams.settings import Pipeline
from tests.consumers.walks import DAY_NS, random_bars

PIPELINE = Pipeline(intervals=("1d",), columns=("close", "volume"), horizons=(1, 3))


def wanted() -> Work:
    return Work(Plan(Series.parse("SPY:1d"), PIPELINE.targets, None))


def outcomes(parts: int, *, volume: bool = True) -> list[FitOutcome]:
    bars = random_bars(150)
    if not volume:
        bars.values[:, 4] = 0
    parameters = FitParameters(rounds=1, max_depth=1, learning_rate=0.3, min_child_weight=5, seed=0, min_rows=50)
    request = FitRequest(
        "SPY:1d", PIPELINE.targets, 3, "consumers.features:STANDARD", bars, bars.start + DAY_NS, parameters
    )
    return [fit_series(part) for part in split(request, parts)]


@pytest.mark.parametrize("parts", [1, 3])
def test_the_parts_of_a_fit_come_together_in_the_order_of_the_targets(parts: int) -> None:
    work = wanted()
    versions = join(work, outcomes(parts))
    assert [version.manifest.name for version in versions] == [f"SPY:1d/{target}" for target in PIPELINE.targets]
    work.stored(versions)
    assert work.models == {version.manifest.name: version.digest for version in versions}
    assert work.through == max(version.manifest.trained_through for version in versions)
    assert (work.status, work.reason) == ("done", "")


def test_what_was_left_out_is_named_and_nothing_at_all_is_a_refusal() -> None:
    work = wanted()
    some = outcomes(2, volume=False)
    assert len(join(work, some)) == 2
    assert work.status == "done"
    assert work.reason.startswith("not trained: volume_1 (0 rows with a known label, 50 needed); volume_3 (")
    none = Work(work.plan)
    assert join(none, [FitOutcome((), part.skipped) for part in some]) == []
    assert none.status == "refused"


# What becomes of new versions

NAME = "SPY:1d/close_1"
A, B, C = (letter * 64 for letter in "abc")


def made(digest: str, why: str = "", through: int = 7) -> Work:
    work = wanted()
    work.why = why
    work.models, work.through = {NAME: digest}, through
    return work


def test_the_first_version_of_a_model_serves_on_probation() -> None:
    delta, (note,) = alias_changes([made(A)], {})
    assert delta == {(NAME, "champion"): A}
    assert (note.name, note.at, note.verdict, note.version, note.over) == (NAME, 7, "first", A, None)
    assert "on probation" in note.reason


def test_a_later_version_challenges_and_its_verdict_says_why_it_was_trained() -> None:
    delta, (note,) = alias_changes([made(B, "drift in close_1")], {(NAME, "champion"): A})
    assert delta == {(NAME, "challenger"): B}
    assert (note.verdict, note.version, note.over) == ("challenger", B, A)
    assert note.reason.endswith("trained because: drift in close_1")


@pytest.mark.parametrize(
    ("aliases", "delta"),
    [
        ({"champion": A}, {}),
        ({"champion": A, "challenger": B}, {}),
        ({"champion": B, "challenger": A}, {}),
        ({"champion": A, "challenger": A}, {(NAME, "challenger"): None}),
    ],
)
def test_a_version_that_has_its_alias_keeps_it_and_no_challenger_is_the_champion(
    aliases: dict[str, str], delta: dict[tuple[str, str], str | None]
) -> None:
    found, notes = alias_changes([made(A)], {(NAME, alias): digest for alias, digest in aliases.items()})
    assert found == delta
    assert notes == []


def test_of_two_new_versions_of_a_model_only_the_later_requests_counts() -> None:
    delta, notes = alias_changes([made(A), made(B)], {})
    assert delta == {(NAME, "champion"): B}
    assert [note.version for note in notes] == [B]


@pytest.mark.parametrize("champion", [None, A, C])
def test_a_batch_that_is_done_again_changes_nothing_more(champion: str | None) -> None:
    before = {(NAME, "champion"): champion} if champion else {}
    works = [made(B), made(A)]
    after = apply(before, alias_changes(works, before)[0])
    assert alias_changes(works, after) == ({}, [])


def test_of_a_table_the_newest_version_serves() -> None:
    name = "iris/species"
    work = Work(TablePlan("iris", "iris.csv", None), models={name: B}, why="more flowers", through=0)
    delta, (note,) = alias_changes([work], {(name, "champion"): A})
    assert delta == {(name, "champion"): B}
    assert (note.verdict, note.version, note.over) == ("promoted", B, A)
    assert note.reason.endswith("trained because: more flowers")
    delta, (note,) = alias_changes([work], {})
    assert (delta, note.verdict) == ({(name, "champion"): B}, "first")
    assert alias_changes([work], {(name, "champion"): B}) == ({}, [])
