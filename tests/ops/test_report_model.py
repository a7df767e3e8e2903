"""A cell's colour: corrected for the cells beside it, by family; and the sentences that a report opens with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ops.report_model import Cell, Expectation, Kind, Report, SeriesReport, colour_map, step_up
from ops.report_words import chance, gained, headline, percent, signed
from tests.ops.made_report import made_report, made_series

NONE = np.empty(0, np.int64)


def series_of(p_values: Sequence[float | None], name: str = "A:1d", kind: Kind = "real") -> SeriesReport:
    """A series whose cells have these one-sided p-values; the skill has the sign that they tell."""
    cells = tuple(Cell(f"close_{at + 1}", 100, 0.0 if p is None else 0.5 - p, p=p) for at, p in enumerate(p_values))
    return SeriesReport(name, kind, NONE, np.empty(0), cells)


def plainly(p_values: Sequence[float], share: float) -> float | None:
    """Benjamini's and Hochberg's procedure, written down as they state it."""
    ordered = sorted(p_values)
    passing = [at for at in range(1, len(ordered) + 1) if ordered[at - 1] <= at / len(ordered) * share]
    return ordered[max(passing) - 1] if passing else None


def test_the_step_up_is_the_published_one() -> None:
    # The example of Benjamini and Hochberg (1995), section 4: at 0.05 the four smallest are rejected.
    published = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344,
        0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000,
    ]  # fmt: skip
    assert step_up(published, 0.05) == 0.0095
    random = np.random.default_rng(0)
    for _ in range(50):
        p_values = (random.random(20) ** 3).tolist()
        assert step_up(p_values, 0.05) == plainly(p_values, 0.05)
    assert step_up([], 0.05) is None


def test_of_maps_without_any_skill_few_have_a_coloured_cell() -> None:
    random = np.random.default_rng(1)
    coloured = 0
    for _ in range(400):
        found = colour_map((series_of(random.random(30).tolist()),))
        coloured += found.count("predictable") + found.count("worse") > 0
    # The share of maps with any coloured cell is at most 5 %; 400 of them leave room for 8 %.
    assert coloured <= 32


def test_a_cell_that_passes_alone_does_not_among_many() -> None:
    assert colour_map((series_of([0.02]),)).count("predictable") == 1
    assert colour_map((series_of([0.02] + [0.5] * 29),)).count("predictable") == 0


def test_many_cells_that_agree_carry_each_other() -> None:
    assert colour_map((series_of([0.02] * 30),)).count("predictable") == 30


def test_harm_is_told_apart_from_skill() -> None:
    colours = colour_map((series_of([1e-9, 0.5, 1 - 1e-9]),)).colours
    assert [colours["A:1d", f"close_{at}"] for at in (1, 2, 3)] == ["predictable", "naive", "worse"]


def test_a_model_without_trees_is_no_different_and_one_without_outcomes_is_unknown() -> None:
    one = series_of([None])
    assert colour_map((one,)).count("naive") == 1
    for cell in (Cell("close_1", 0), Cell("close_1", 5, 0.3)):
        assert colour_map((replace(one, cells=(cell,)),)).count("unknown") == 1


def test_what_was_planted_lends_nothing_to_the_real_series() -> None:
    report = Report("", series=(series_of([0.008] + [0.5] * 29), series_of([1e-9] * 30, "P:1d", "planted")))
    together = colour_map(report.series)
    assert together.colours["A:1d", "close_1"] == "predictable"
    assert colour_map(report.real).colours["A:1d", "close_1"] == "naive"


def test_the_first_sentence_says_how_many_models_are_better_and_how_many_worse() -> None:
    report = Report("", series=(series_of([1e-9, 0.5, None, 1 - 1e-9]),))
    first, second, *_ = headline(report)
    assert first == "1 of 4 models beats its naive forecast by more than chance explains; 1 does worse."
    assert second.startswith("1 is that naive forecast")
    nothing = Report("", series=(series_of([0.4, 0.5]),))
    assert headline(nothing)[0] == (
        "None of 2 models beat their naive forecast by more than chance explains; none does worse."
    )
    assert "The close, from which signals are made, is predictable at no horizon." in headline(nothing)


def test_a_control_that_fails_is_said_at_once() -> None:
    report = replace(made_report(()), expectations=(Expectation("PLANTED", "skill", "none", False),))
    assert any("NOT all come out" in sentence and "PLANTED" in sentence for sentence in headline(report))
    assert any("come out as they must" in sentence for sentence in headline(made_report(())))


def test_a_report_of_nothing_says_so() -> None:
    assert headline(Report("")) == ("Nothing has been judged yet.",)


def test_an_account_is_beside_holding_and_luck() -> None:
    told = " ".join(headline(Report("", series=(made_series(),))))
    assert "of 1 series" in told
    assert "random policies" in told


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (signed(4.12), "+4.1"),
        (signed(-0.32), "−0.3"),
        (signed(-0.01), "0.0"),
        (signed(12345.6), "+12,345.6"),
        (percent(0.041), "4.1 %"),
        (percent(None), "–"),
        (percent(float("nan")), "–"),
        (gained(np.log(1.5)), "+50.0 %"),
        (gained(np.log(62.0)), "×62"),
        (gained(None), "–"),
        (chance(1e-9), "< 0.0001"),
        (chance(0.0312), "0.031"),
    ],
)
def test_numbers_are_written_for_people(text: str, shown: str) -> None:
    assert text == shown
