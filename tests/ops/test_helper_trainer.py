"""A command that waits for training has a trainer, whoever started the embedded servers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from consumers.identity import trainer_name
from ops import helper_trainer
from ops.embedded import Roles
from ops.helper_trainer import trainer_if_alone
from ops.supervise import Child, ChildFailed
from streams.settings import load_settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a trainer would have been started."""
    found = threading.Event()

    def supervise(children: Sequence[Child], stop: threading.Event, say: Any) -> None:
        found.set()
        stop.wait()

    monkeypatch.setattr(helper_trainer, "supervise", supervise)
    monkeypatch.setattr(helper_trainer, "ALONE_S", 0.02)
    monkeypatch.setattr(helper_trainer, "LOOK_S", 0.01)
    return found


def roles_of(directory: Path, **embedded: bool) -> Roles:
    """Roles of which these are embedded: role -> whether this command started the server."""
    settings, _ = load_settings(data_dir=directory, streams_url="redis://s", models_url="redis://m")
    servers = {role: SimpleNamespace(started_by_us=started) for role, started in embedded.items()}
    return cast(
        Roles,
        SimpleNamespace(settings=settings, embedded=servers, streams_url="redis://s", models_url="redis://m"),
    )


def test_a_command_that_started_the_server_has_a_trainer_at_once(tmp_path: Path, started: threading.Event) -> None:
    with trainer_if_alone(roles_of(tmp_path, streams=True), {}, lambda text: None):
        assert started.wait(10)


def test_a_command_whose_trainer_belonged_to_another_that_ended_gets_its_own(
    tmp_path: Path, started: threading.Event
) -> None:
    told: list[str] = []
    with trainer_name(tmp_path), trainer_if_alone(roles_of(tmp_path, streams=False), {}, told.append):
        assert not started.wait(0.1)
    assert told == []
    with trainer_if_alone(roles_of(tmp_path, streams=False), {}, told.append):
        assert started.wait(10)
    assert len(told) == 1


def test_a_trainer_that_cannot_start_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()

    def supervise(children: Sequence[Child], stop: threading.Event, say: Any) -> None:
        waiting.wait()
        raise ChildFailed("trainer")

    def wait() -> None:
        waiting.set()
        threading.Event().wait(10)
        pytest.fail("nobody ended the wait")

    monkeypatch.setattr(helper_trainer, "supervise", supervise)
    with (
        pytest.raises(ChildFailed, match="trainer could not start"),
        trainer_if_alone(roles_of(tmp_path, streams=True), {}, lambda text: None),
    ):
        wait()


def test_a_server_of_somebody_else_has_trainers_of_somebody_else(tmp_path: Path, started: threading.Event) -> None:
    with trainer_if_alone(roles_of(tmp_path), {}, lambda text: None):
        assert not started.wait(0.1)
