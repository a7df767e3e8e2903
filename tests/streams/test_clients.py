"""What is done about each error of Redis: judged in one place, by its code."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis import exceptions

from streams.clients import Backoff, Verdict, classify, error_code, explain, lost_reply, safe_url
from streams.errors import ConfigurationError, RedisRefused, RedisUnavailable
from tests.servers import Server

URL = "redis://me:secret@localhost:1/0"


@pytest.mark.parametrize(
    ("error", "code", "verdict"),
    [
        (exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "OOM", Verdict.RETRY),
        (exceptions.ResponseError("Command # 1 (XADD t * a b) of pipeline caused error: OOM x"), "OOM", Verdict.RETRY),
        (exceptions.ResponseError("Error running script: @user_script:80: -OOM command not"), "OOM", Verdict.RETRY),
        (exceptions.ResponseError("MISCONF Redis is configured to save"), "MISCONF", Verdict.RETRY),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas"), "NOREPLICAS", Verdict.RETRY),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), "READONLY", Verdict.RETRY),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "LOADING", Verdict.RETRY),
        (exceptions.ResponseError("BUSY Redis is busy running a script"), "BUSY", Verdict.RETRY),
        (exceptions.TryAgainError("Multiple keys request during rehashing"), "TRYAGAIN", Verdict.RETRY),
        (exceptions.ClusterDownError("The cluster is down"), "CLUSTERDOWN", Verdict.RETRY),
        (exceptions.MasterDownError("Link with MASTER is down"), "MASTERDOWN", Verdict.RETRY),
        (exceptions.NoScriptError("No matching script."), "NOSCRIPT", Verdict.RELOAD),
        (exceptions.ConnectionError("Connection refused"), "ConnectionError", Verdict.RETRY),
        (exceptions.TimeoutError("Timeout reading from socket"), "TimeoutError", Verdict.RETRY),
        (ConnectionResetError("reset"), "ConnectionResetError", Verdict.RETRY),
        (exceptions.AuthenticationError("invalid password"), "AuthenticationError", Verdict.FAIL),
        (exceptions.NoPermissionError("no permissions"), "NoPermissionError", Verdict.FAIL),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), "WRONGTYPE", Verdict.FAIL),
        (exceptions.ResponseError("NOGROUP No such key"), "NOGROUP", Verdict.FAIL),
        (exceptions.ResponseError("ERR the words OOM and LOADING in a text"), "ResponseError", Verdict.FAIL),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_is_judged_by_its_code(error: Exception, code: str, verdict: Verdict) -> None:
    assert (error_code(error), classify(error)) == (code, verdict)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (exceptions.ConnectionError("gone"), True),
        (exceptions.TimeoutError("late"), True),
        (BrokenPipeError("gone"), True),
        (exceptions.BusyLoadingError("loading"), False),
        (exceptions.OutOfMemoryError("full"), False),
    ],
)
def test_only_a_broken_connection_leaves_a_command_in_doubt(error: Exception, lost: bool) -> None:
    assert lost_reply(error) is lost


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.ConnectionError("refused"), RedisUnavailable),
        (exceptions.OutOfMemoryError("full"), RedisRefused),
        (exceptions.NoPermissionError("no"), ConfigurationError),
    ],
)
def test_people_are_told_where_and_never_the_password(error: Exception, kind: type[Exception]) -> None:
    explained = explain(error, URL)
    assert type(explained) is kind
    assert "localhost:1" in str(explained)
    assert "secret" not in str(explained)
    assert safe_url(URL) == "redis://localhost:1/0"


def test_waits_double_up_to_the_cap_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(first=0.1, cap=0.5)
    assert [backoff.next() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    backoff.reset()
    assert backoff.next() == 0.1


def test_real_refusals_are_transient(server: Server, client: redis.Redis) -> None:
    client.config_set("maxmemory", 1)
    calls: list[Any] = [
        lambda: client.set("a", "b"),
        lambda: client.eval("return redis.call('SET', KEYS[1], 'b')", 1, "a"),
    ]
    try:
        for call in calls:
            with pytest.raises(redis.RedisError) as caught:
                call()
            assert (error_code(caught.value), classify(caught.value)) == ("OOM", Verdict.RETRY)
    finally:
        client.config_set("maxmemory", 0)
