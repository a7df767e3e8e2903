"""The page: whole in itself, safe from what data brings, equal for equal reports; looked at with a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ops.report_html import render, write_report
from ops.report_model import Cell, Event, Report, SeriesReport, Table
from ops.report_plots import BINS, MOST_POINTS, NoPlots, binned, thin
from ops.report_words import gained
from tests.ops.made_report import made_report, made_series
from tests.servers import required

HOSTILE = '<script>alert("x")</script>&"\'$a_b$'
BROWSER = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    return render(made_report())


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        message = "needs chromium on PATH (Debian: apt-get install chromium)"
        if required("chromium"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def dumped(chromium: str, page: str, directory: Path, *options: str) -> str:
    """The page as the browser has understood it."""
    path = directory / "page.html"
    path.write_text(page, "utf-8")
    command = [chromium, *BROWSER, *options, f"--user-data-dir={directory / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


class Elements(HTMLParser):
    """Start tags with their attributes, and which tags were closed in vain."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_asks_for_nothing_from_outside_and_runs_no_script(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]|@import", page)
    assert set(re.findall(r"url\(([^)]{1})", page)) <= {"#"}
    for tag, attributes in Elements(page).found:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith("#")


def test_tags_are_closed_in_order_and_ids_are_unique_and_there(page: str) -> None:
    elements = Elements(page)
    assert elements.wrong == []
    assert elements.open == []
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
    assert {name for pair in used for name in pair if name} <= set(ids)


def test_every_cell_of_the_map_carries_its_figures(page: str) -> None:
    cells = made_series("AAPL:1d", seed=10).cells
    for cell in cells:
        assert cell.skill is not None
        sign = "−" if cell.skill < 0 else "[+]"
        title = (
            rf'<td class="(\w+)" title="AAPL:1d {cell.target}: [^"]*skill {sign}?{abs(cell.skill) * 100:.2f} %[^"]*"'
        )
        found = re.search(title + r"><b>([^<]*)</b><small>([^<]*)</small>", page)
        assert found is not None, cell.target
        assert f"{abs(cell.skill) * 100:.1f}" in found[2]
        assert ("▲" in found[2]) == (found[1] == "predictable")


def test_every_figure_has_words_in_its_place(page: str) -> None:
    labels = re.findall(r'<div role="img" aria-label="([^"]+)"><svg ', page)
    assert len(labels) == page.count("<svg ") >= 4 * 5 + 2 * 2
    assert all(len(label.split()) > 10 for label in labels)


def test_the_order_is_headline_map_controls_series_models_run_caveats(page: str) -> None:
    marks = ['class="lead"', 'id="map"', 'id="controls"', 'id="series"', 'id="models"', 'id="run"', 'id="caveats"']
    places = [page.index(mark) for mark in marks]
    assert places == sorted(places)


def test_equal_reports_make_equal_bytes(page: str) -> None:
    assert render(made_report()) == page


def test_seven_series_stay_below_three_megabytes(page: str) -> None:
    assert len(page.encode()) < 3_000_000


def test_hostile_names_are_shown_and_never_understood() -> None:
    one = made_series(HOSTILE, bars=400)
    one = replace(one, notes=(HOSTILE,), events=(*one.events, Event(int(one.ts[5]), "drift", HOSTILE)))
    table = Table(HOSTILE, (HOSTILE,), ((HOSTILE,),), note=HOSTILE)
    page = render(Report(HOSTILE, HOSTILE, (one, replace(one, kind="planted")), models=(table,), caveats=(HOSTILE,)))
    elements = Elements(page)
    assert "script" not in {tag for tag, _ in elements.found}
    assert elements.wrong == []
    assert page.count("&lt;script&gt;") > 10
    assert "<script" not in page


def test_an_account_is_told_by_one_figure_wherever_it_stands(page: str) -> None:
    one = next(one for one in made_report().real if one.equity is not None)
    assert one.equity is not None
    made, held = (gained(float(line[-1])) for line in (one.equity.account, one.equity.hold))
    assert f"The paper account made {made}, buying and holding {held}" in page
    assert f"the paper account, {made} in the end; thin line: buying and holding, {held};" in page


def test_a_report_without_anything_is_a_page_too() -> None:
    empty = SeriesReport("A:1d", "real", np.empty(0, np.int64), np.empty(0))
    for report in (Report("empty"), Report("empty", series=(empty,))):
        elements = Elements(render(report))
        assert elements.wrong == []


def test_a_series_whose_forecasts_never_change_can_be_drawn() -> None:
    one = made_series(bars=300)
    assert one.forecasts is not None
    flat = replace(one, forecasts=replace(one.forecasts, forecast=np.zeros(300)), cells=(Cell("close_5", 9, 0.0),))
    assert "= naive" in render(Report("flat", series=(flat,)))


def test_the_page_is_replaced_only_by_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(Report("first"), path)
    before = path.read_text()

    def fails(*args: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(OSError, match="no space"):
        write_report(Report("second"), path)
    assert path.read_text() == before


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(NoPlots, match=re.escape('pip install "red10[report]"')):
        render(Report("x"))


def test_the_commands_of_the_report_do_not_import_matplotlib_until_they_draw() -> None:
    code = "import sys, ops.cli, ops.report_html, ops.report_gather; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_thinned_line_keeps_its_ends_and_its_extremes() -> None:
    random = np.random.default_rng(0)
    ts, values = np.arange(50_000), random.normal(size=50_000)
    values[[7, 49_000]] = 99, -99
    thinned, kept = thin(ts, values)
    assert len(thinned) <= MOST_POINTS + 2
    assert (thinned[0], thinned[-1]) == (0, 49_999)
    assert (kept.max(), kept.min()) == (99, -99)
    assert np.array_equal(values[thinned], kept)
    assert bool((np.diff(thinned) > 0).all())


def test_forecasts_are_averaged_over_tenths_or_over_their_few_values() -> None:
    said = np.arange(100, dtype=np.float64)
    middle, mean, below, above = binned(said, 2 * said)
    assert len(middle) == BINS
    assert np.array_equal(mean, 2 * middle)
    assert bool((below < mean).all())
    assert bool((above > mean).all())
    few, mean, *_ = binned(np.array([1.0, 0.0, 1.0]), np.array([2.0, 5.0, 4.0]))
    assert (few.tolist(), mean.tolist()) == ([0.0, 1.0], [5.0, 3.0])


def test_a_browser_finds_the_cells_and_draws_every_figure(chromium: str, page: str, tmp_path: Path) -> None:
    probe = (
        "<script>document.title = [document.querySelectorAll('.map td').length, "
        "[...document.querySelectorAll('figure svg')].filter(s => s.getBoundingClientRect().height > 100).length, "
        "document.documentElement.scrollWidth - innerWidth].join(' ')</script>"
    )
    for width in (1200, 500):
        dom = dumped(chromium, page.replace("</body>", f"{probe}</body>"), tmp_path, f"--window-size={width},900")
        title = re.search(r"<title>(\S+) (\S+) (\S+)</title>", dom)
        assert title is not None
        cells, figures, beyond = map(float, title.groups())
        assert cells == 7 * 30
        assert figures == page.count("<svg ")
        assert beyond <= 0, f"at {width} pixels the page is wider than the window"


def test_a_browser_makes_no_element_of_a_hostile_name(chromium: str, tmp_path: Path) -> None:
    page = render(Report(HOSTILE, series=(made_series(HOSTILE, bars=300),)))
    dom = dumped(chromium, page, tmp_path)
    assert "<script" not in dom
    assert "&lt;script&gt;alert" in dom
