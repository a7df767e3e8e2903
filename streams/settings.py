"""The settings: one frozen model, read once in `main`, from `red10.toml`, `RED10_…` variables and flags.

Later ones win in that order. Secrets (URLs may hold passwords) are `SecretStr`: they never reach logs or `repr`.
The part of the settings that shapes outputs is the `Pipeline`; it is stored with the tenant when that is created.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from streams.errors import BadName, ConfigurationError
from streams.series import Interval, check_tenant

PREFIX = "RED10_"
COLUMNS = ("open", "high", "low", "close", "volume")


def _split(value: object) -> object:
    """Let `"1m,1h"` stand for `["1m", "1h"]` in variables and flags."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _intervals(value: tuple[str, ...]) -> tuple[str, ...]:
    """Check, normalise and sort intervals by length; refuse doubles."""
    try:
        found = [Interval.parse(text) for text in value]
    except BadName as error:
        raise ValueError(str(error)) from None
    if len(set(found)) != len(found):
        raise ValueError("an interval is named twice")
    return tuple(str(interval) for interval in sorted(found))


class Pipeline(BaseModel):
    """What shapes a partition's outputs; a change is refused unless the tenant's state is started anew."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    intervals: tuple[str, ...] = ("1m",)
    lateness_ms: int = 0
    max_ahead_ms: int = 300_000
    feature_set: str = "consumers.features:STANDARD"
    policy: str = "consumers.policy:Hysteresis"
    policy_options: dict[str, float | int | bool | str] = {}
    columns: tuple[str, ...] = COLUMNS
    horizons: tuple[int, ...] = (5, 10, 15, 20, 25, 30)

    @property
    def parsed_intervals(self) -> tuple[Interval, ...]:
        """The intervals, shortest first."""
        return tuple(Interval.parse(text) for text in self.intervals)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, column by column: `open_5`, `open_10`, … `volume_30`."""
        return tuple(f"{column}_{horizon}" for column in self.columns for horizon in self.horizons)

    def canonical(self) -> bytes:
        """The pipeline as JSON with sorted keys: what is stored, compared and hashed."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)


class Settings(BaseSettings):
    """Every setting with its unit and bounds. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", toml_file="red10.toml", hide_input_in_errors=True
    )

    # Where
    tenant: str = Field("default", description="name under which all keys of this deployment stand")
    streams_url: SecretStr | None = Field(None, description="Redis for streams; unset: embedded server")
    models_url: SecretStr | None = Field(
        None, description="Redis for models, or a snapshot: rdb:///PATH, s3://BUCKET/KEY; unset: embedded server"
    )
    data_dir: Path = Field(Path("red10-data"), description="directory of the embedded servers")
    redis_server: Path | None = Field(None, description="redis-server binary of the embedded servers; unset: found")
    snapshot_memory_mb: int = Field(
        0, ge=0, le=1 << 22, description="most memory of the server that loads a snapshot, MB; 0: by the file's size"
    )
    s3_endpoint: str | None = Field(None, description="URL of a store that speaks S3; unset: as boto3 is configured")
    s3_checksums: Literal["when_required", "when_supported"] = Field(
        "when_required", description="checksums that boto3 adds, which some stores refuse"
    )
    environment: str = Field("default", description="name of this environment, for snapshots: staging, production")
    snapshot_dir: Path | None = Field(None, description="directory of snapshots; unset: snapshots in data_dir")
    archive: str | None = Field(None, description="where snapshots are archived: s3://BUCKET or s3://BUCKET/PREFIX")
    s3_encryption: Literal["none", "AES256", "aws:kms"] = Field(
        "none", description="server-side encryption of what is archived; none: as the bucket has it"
    )
    s3_kms_key: str | None = Field(None, description="key of aws:kms; unset: the account's")
    s3_part_mb: int = Field(16, ge=5, le=5120, description="size of the parts that snapshots are archived in, MB")
    s3_attempts: int = Field(5, ge=1, le=50, description="tries of each request to the archive")
    s3_timeout_s: float = Field(30, gt=0, le=3600, description="how long the archive may be silent, s")
    keep_snapshots: int = Field(30, ge=1, le=1_000_000, description="snapshots that `snapshot prune` leaves")
    keep_snapshots_days: int = Field(
        0, ge=0, le=36_500, description="days that `snapshot prune` leaves every snapshot; 0: only their number counts"
    )
    promote_mb_s: float = Field(
        50, gt=0, le=100_000, description="most MB a second that a promotion writes to the store"
    )
    partitions: int = Field(8, ge=1, le=4096, description="partitions, fixed when the tenant is created")

    # The pipeline, fixed when the tenant is created
    intervals: Annotated[tuple[str, ...], NoDecode] = Field(("1m",), min_length=1, description="bar lengths, 1s to 1d")
    lateness_ms: int = Field(
        0, ge=0, le=86_400_000, description="how long a bar waits for late ticks, ms of event time"
    )
    max_ahead_ms: int = Field(300_000, ge=0, description="how far ts may lie ahead of its entry's time, ms")
    feature_set: str = Field("consumers.features:STANDARD", description="features, as module:attribute")
    policy: str = Field("consumers.policy:Hysteresis", description="signal policy, as module:attribute")
    policy_options: dict[str, float | int | bool | str] = Field({}, description="options of the policy (JSON)")
    columns: Annotated[tuple[str, ...], NoDecode] = Field(COLUMNS, min_length=1, description="bar columns forecast")
    horizons: Annotated[tuple[int, ...], NoDecode] = Field(
        (5, 10, 15, 20, 25, 30), min_length=1, description="horizons forecast, in bars"
    )

    # Publishers
    memory_mark: float = Field(
        0.8, ge=0, le=1, description="share of the streams Redis's memory at which publishers hold back; 0: never"
    )
    on_full: Literal["block", "refuse"] = Field(
        "block", description="what publishers do at the mark: wait for room, or raise"
    )

    # Consumers
    lease_ms: int = Field(5000, ge=200, le=600_000, description="time to live of a partition's lease, ms")
    batch_ticks: int = Field(50_000, ge=1, le=1_000_000, description="most ticks in one batch")
    batch_outputs: int = Field(4000, ge=10, le=15_000, description="most output entries in one commit")
    block_ms: int = Field(500, ge=1, le=60_000, description="how long one read waits for entries, ms")
    follow_ms: int = Field(2000, ge=50, le=600_000, description="how often the release in force is looked up, ms")
    keep_ticks_s: int = Field(
        86_400, ge=0, description="how long consumed ticks are kept, s; less while Redis is above memory_mark"
    )
    required_groups: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="other consumer groups that must have read a tick before it is dropped"
    )
    foreign_entries: int = Field(
        100_000, ge=0, description="entries of a partition up to which groups that are not required are waited for"
    )
    keep_outputs: int = Field(1_000_000, ge=1000, description="most entries kept in each output stream, about")

    # Training
    rounds: int = Field(40, ge=1, le=10_000, description="most boosting rounds (trees) per model; folds choose")
    max_depth: int = Field(2, ge=1, le=12, description="depth of a tree")
    learning_rate: float = Field(0.1, gt=0, le=1, description="shrinkage per tree (eta)")
    min_child_weight: float = Field(100, ge=0, description="smallest weight of a leaf, in rows")
    folds: int = Field(4, ge=2, le=50, description="walk-forward folds that choose naive forecast and rounds")
    min_rows: int = Field(250, ge=10, description="fewest training rows a model is fitted on")
    max_bars: int = Field(20_000, ge=100, description="most bars a model is trained on, the newest")
    seed: int = Field(0, ge=0, description="seed of the fits")
    claim_idle_ms: int = Field(
        30_000, ge=500, le=86_400_000, description="silence after which a trainer's request is taken over, ms"
    )
    max_deliveries: int = Field(5, ge=1, le=1000, description="deliveries after which a request is given up")
    dataset_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (Path("."),), description="directories where trainers read datasets; relative: to where they were started"
    )
    dataset_max_mib: int = Field(256, ge=1, le=16_384, description="largest dataset that is read, MiB, unpacked")
    processes: int = Field(0, ge=0, le=256, description="training processes; 0: one per core")
    fit_timeout_s: float = Field(3600, gt=0, le=604_800, description="how long the fit of one series may take, s")
    check_memory_mb: int = Field(2048, ge=64, le=1 << 20, description="most memory of the check of new versions, MB")
    check_timeout_s: float = Field(60, gt=0, le=3600, description="how long the check of new versions may take, s")

    # Monitor
    retrain_interval_s: int = Field(
        0, ge=0, le=315_360_000, description="event time after which a series is trained anew, s; 0: off"
    )
    retrain_growth: float = Field(
        0.25, ge=0, le=100, description="share by which a series grows before it is trained anew; 0: off"
    )
    retrain_cooldown_bars: int = Field(
        20, ge=0, le=1_000_000, description="least bars between two requests of the monitor for one series"
    )

    # Models
    keep_versions: int = Field(20, ge=1, le=1_000_000, description="versions of each model that pruning leaves")
    keep_releases: int = Field(
        100, ge=1, le=10_000, description="last releases whose versions are never removed, to go back to"
    )
    prune_every_s: int = Field(
        3600, ge=0, le=31_536_000, description="how often trainers remove what is not kept, s; 0: never"
    )

    # Web
    web_host: str = Field("127.0.0.1", description="address of /metrics and /health")
    web_port: int = Field(6066, ge=0, le=65_535, description="port of /metrics and /health; taken: a free one")
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", description="least level that is logged")

    @field_validator("intervals", "columns", "horizons", "required_groups", "dataset_roots", mode="before")
    @classmethod
    def _split_lists(cls, value: object) -> object:
        return _split(value)

    @field_validator("intervals")
    @classmethod
    def _check_intervals(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _intervals(value)

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(value) - set(COLUMNS))
        if unknown or len(set(value)) != len(value):
            raise ValueError(f"columns are some of {', '.join(COLUMNS)}, each once; got {', '.join(value)}")
        return value

    @field_validator("horizons")
    @classmethod
    def _check_horizons(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value) or min(value) < 1 or max(value) > 10_000:
            raise ValueError("horizons are different numbers of bars, from 1 to 10000")
        return tuple(sorted(value))

    @field_validator("environment")
    @classmethod
    def _check_environment(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,63}", value, re.ASCII):
            raise ValueError("an environment has 1 to 64 of the letters A-Z a-z, digits and . _ -")
        return value

    @field_validator("archive")
    @classmethod
    def _check_archive(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"s3://[^/\s]+(/\S*)?", value):
            raise ValueError("write s3://BUCKET or s3://BUCKET/PREFIX")
        return value

    @field_validator("s3_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        # Errors of boto3 name it, so it must hold no secret.
        if value is not None and not re.fullmatch(r"https?://[^@\s]+", value):
            raise ValueError("write http://HOST:PORT or https://HOST, without user and password: boto3 finds the keys")
        return value

    @field_validator("tenant")
    @classmethod
    def _check_tenant(cls, value: str) -> str:
        try:
            return check_tenant(value)
        except BadName as error:
            raise ValueError(str(error)) from None

    @property
    def pipeline(self) -> Pipeline:
        """The part that shapes outputs."""
        return Pipeline(**{name: getattr(self, name) for name in Pipeline.model_fields})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over variables over the file; no `.env`, no secrets directory."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


Origins = Mapping[str, str]


def load_settings(**flags: Any) -> tuple[Settings, Origins]:
    """Read the settings; flags that are `None` count as not given.

    Returns:
        The settings, and for each name where its value came from: `flag`, `RED10_NAME`, `red10.toml` or `default`.

    Raises:
        ConfigurationError: a value is out of bounds, a name is unknown, or the file cannot be read.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    names = Settings.model_fields
    for variable in os.environ:
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and name not in names:
            raise ConfigurationError(f"the environment sets {variable}, which is no setting{_nearest(name)}")
    try:
        from_file = TomlConfigSettingsSource(Settings)()
        settings = Settings(**given)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                problems.append(f"red10.toml sets {name}, which is no setting{_nearest(name)}")
            else:
                problems.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
        raise ConfigurationError("settings: " + "; ".join(problems)) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"red10.toml cannot be read: {error}") from error
    origins = {}
    for name in names:
        if name in given:
            origins[name] = "flag"
        elif PREFIX + name.upper() in os.environ:
            origins[name] = PREFIX + name.upper()
        else:
            origins[name] = "red10.toml" if name in from_file else "default"
    return settings, origins


def as_variable(value: object) -> str:
    """The text of a setting's value as `load_settings` reads it from a `RED10_…` variable; shows secrets."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return orjson.dumps(value).decode() if isinstance(value, dict) else str(value)


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, list(Settings.model_fields), 1)
    return f" (did you mean {close[0]}?)" if close else ""
