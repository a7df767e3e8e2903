"""The alerts: valid, unit-tested by promtool, on metrics that exist, each with a runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from consumers.metrics import Metrics
from tests.servers import required

ROOT = Path(__file__).parents[2]
RULES = ROOT / "ops" / "alerts" / "red10.rules.yml"
UNIT_TESTS = ROOT / "ops" / "alerts" / "red10.rules.test.yml"
OPERATIONS = ROOT / "docs" / "operations.md"


def rules() -> dict[str, str]:
    """Name -> the text of the rule."""
    blocks = re.split(r"^ +- alert: ", RULES.read_text(), flags=re.MULTILINE)[1:]
    return {block.split("\n", 1)[0].strip(): block for block in blocks}


def annotation(rule: str, name: str) -> str:
    """An annotation's text, folded into one line."""
    match = re.search(rf"^( +){name}: (?:>-\n)?((?:.*\n)(?:\1  .*\n)*)", rule, re.MULTILINE)
    assert match is not None, f"no {name} in {rule}"
    return " ".join(match[2].split())


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        message = "needs promtool on PATH (Debian: apt-get install prometheus)"
        if required("promtool"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.mark.parametrize(("command", "path"), [("check", RULES), ("test", UNIT_TESTS)], ids=["check", "test"])
def test_promtool_accepts_the_rules_and_their_unit_tests(promtool: str, command: str, path: Path) -> None:
    done = subprocess.run([promtool, command, "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_four_alerts_that_every_installation_needs_are_there() -> None:
    assert {"Red10TargetAbsent", "Red10NoTicks", "Red10ConsumerLagIncreasing", "Red10ModelTooOld"} <= set(rules())


@pytest.mark.parametrize("name", rules())
def test_an_alert_has_the_labels_and_annotations_that_people_expect(name: str) -> None:
    rule = rules()[name]
    assert re.fullmatch(r"Red10[A-Z][A-Za-z]+", name)
    assert re.search(r"^ +severity: (critical|warning|info)$", rule, re.MULTILINE)
    assert re.search(r"^ +for: \d+[smh]$", rule, re.MULTILINE), "an alert that fires at once flaps"
    summary = annotation(rule, "summary")
    assert "{{" not in summary, "a summary is static, so that alerts can be grouped by it"
    assert summary.endswith(".")
    assert "{{ $" in annotation(rule, "description")
    assert annotation(rule, "runbook_url") == f"docs/operations.md#{name.lower()}"


@pytest.mark.parametrize("name", rules())
def test_an_alert_has_a_runbook_heading_with_something_below(name: str) -> None:
    match = re.search(rf"^### {name}\n+(.+?)(?=^#|\Z)", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)
    assert match is not None, f"docs/operations.md has no heading ### {name}"
    assert len(match[1].split()) > 30


def test_no_runbook_is_left_without_its_alert() -> None:
    assert set(re.findall(r"^### (Red10\w+)$", OPERATIONS.read_text(), re.MULTILINE)) == set(rules())


@pytest.mark.parametrize("name", rules())
def test_an_alert_has_unit_tests_for_firing_and_for_staying_silent(name: str) -> None:
    cases = re.split(rf"alertname: {name}\n", UNIT_TESTS.read_text())[1:]
    firing = [case.lstrip().startswith("exp_alerts:") for case in cases]
    assert any(firing)
    assert not all(firing)


def test_alerts_use_only_metrics_that_exist() -> None:
    exposed = Metrics(CollectorRegistry()).render().decode()
    names = set(re.findall(r"^# TYPE (\w+)", exposed, re.MULTILINE))
    expressions = [re.search(r"expr: (?:>-\n)?(.*?)\n +for:", rule, re.DOTALL) for rule in rules().values()]
    used = {name for match in expressions if match for name in re.findall(r"\bred10_\w+", match[1])}
    assert all(expressions)
    assert len(used) >= 3
    assert used <= names
