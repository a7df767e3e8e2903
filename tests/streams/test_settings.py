"""Settings: which source wins, what is refused, and that secrets stay secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.errors import ConfigurationError
from streams.settings import Settings, as_variable, load_settings


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_flags_win_over_variables_over_the_file_and_each_says_where_it_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "red10.toml").write_text('tenant = "file"\npartitions = 2\nintervals = ["1h", "1m"]\n')
    monkeypatch.setenv("RED10_TENANT", "variable")
    monkeypatch.setenv("RED10_PARTITIONS", "3")
    settings, origins = load_settings(tenant="flag", lease_ms=None)
    assert (settings.tenant, settings.partitions, settings.intervals) == ("flag", 3, ("1m", "1h"))
    assert [origins[name] for name in ("tenant", "partitions", "intervals", "lease_ms")] == [
        "flag",
        "RED10_PARTITIONS",
        "red10.toml",
        "default",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tenent = 1", "red10.toml sets tenent, which is no setting .did you mean tenant"),
        ("lease_ms = 5", "lease_ms"),
        ('intervals = ["7m", "1m"]', "7m"),
        ('intervals = ["60s", "1m"]', "named twice"),
        ("horizons = [5, 5]", "horizons"),
        ('columns = ["close", "bid"]', "columns"),
        ('tenant = "a b"', "cannot be a tenant"),
        ("tenant = [", "red10.toml cannot be read"),
    ],
)
def test_what_the_file_gets_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "red10.toml").write_text(text + "\n")
    with pytest.raises(ConfigurationError, match=words):
        load_settings()


def test_a_variable_that_is_no_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RED10_TENENT", "x")
    with pytest.raises(ConfigurationError, match="RED10_TENENT, which is no setting"):
        load_settings()


def test_every_value_survives_the_way_through_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    given, _ = load_settings(
        streams_url="redis://me:secret@host:1/0",
        intervals=["1m", "1h"],
        horizons=[3, 1],
        policy_options={"cost_bps": 2.5, "long_only": True},
        data_dir="somewhere",
    )
    for name in Settings.model_fields:
        value = getattr(given, name)
        if value is not None:
            monkeypatch.setenv(f"RED10_{name.upper()}", as_variable(value))
    again, _ = load_settings()
    assert again == given


def test_a_password_is_in_no_repr() -> None:
    settings, _ = load_settings(streams_url="redis://me:hunter2@host:1/0")
    assert "hunter2" not in repr(settings) + str(settings)


def test_targets_are_named_column_by_column() -> None:
    settings, _ = load_settings(columns="close,volume", horizons="2,1")
    assert settings.pipeline.targets == ("close_1", "close_2", "volume_1", "volume_2")
