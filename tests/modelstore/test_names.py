"""What models and versions are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstore.names import ModelName, VersionRef, check_alias, check_digest, check_name
from streams.errors import BadName

DIGEST = "0123456789abcdef" * 4

word = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,12}", fullmatch=True)
symbol = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._\-/=^@+#$&]{0,12}", fullmatch=True)
series = st.builds(lambda s, i: f"{s}:{i}", symbol, st.sampled_from(["1s", "5s", "1m", "15m", "1h", "1d"]))
names = st.builds(ModelName, st.one_of(series, word), word)
refs = st.one_of(
    st.builds(VersionRef, names, alias=st.sampled_from(["champion", "challenger", "latest", "a-b_9"])),
    st.builds(VersionRef, names, number=st.integers(1, 10**15 - 1)),
    st.builds(VersionRef, names, prefix=st.from_regex("[0-9a-f]{6,64}", fullmatch=True)),
    st.builds(VersionRef, prefix=st.from_regex("[0-9a-f]{6,64}", fullmatch=True)),
)


@given(names)
def test_a_name_reads_back_as_it_was_written(name: ModelName) -> None:
    assert ModelName.parse(str(name)) == name
    assert check_name(str(name)) == str(name)


@given(refs)
def test_a_reference_reads_back_as_it_was_written(ref: VersionRef) -> None:
    assert VersionRef.parse(str(ref)) == ref


@given(names)
def test_a_bare_name_means_its_champion(name: ModelName) -> None:
    assert VersionRef.parse(str(name)) == VersionRef.parse(f"{name}@champion")


def test_the_last_slash_divides_so_symbols_may_hold_slashes_and_at_signs() -> None:
    assert ModelName.parse("BTC/USD:1m/close_5") == ("BTC/USD:1m", "close_5")
    assert VersionRef.parse("X@Y:1m/close_5@2") == VersionRef(ModelName("X@Y:1m", "close_5"), number=2)


def test_an_interval_has_one_spelling() -> None:
    assert str(ModelName.parse("SPY:60s/close_5")) == "SPY:1m/close_5"
    with pytest.raises(BadName, match="write SPY:1m/close_5"):
        check_name("SPY:60s/close_5")


def test_a_bare_digest_prefix_is_a_reference() -> None:
    assert VersionRef.parse(DIGEST) == VersionRef.parse(f"sha:{DIGEST}") == VersionRef(prefix=DIGEST)


@pytest.mark.parametrize("text", ["", "/", "SPY", "SPY:1m/", "/close_5", "SPY:1m/cl ose", "SPY:7m/x", "a b/x", "é/x"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        ModelName.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "abc12", "ABCDEF", f"{DIGEST}0", "SPY:1m/x@", "SPY:1m/x@0", "SPY:1m/x@-1", "SPY:1m/x@sha:abc", "SPY:1m/x@A@b"],
)
def test_what_is_no_reference_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(BadName, match=r"NAME@NUMBER|SERIES/TARGET"):
        VersionRef.parse(text)


@pytest.mark.parametrize("text", ["", "latest", "Champion", "1st", "a" * 33, "a/b"])
def test_what_is_no_alias_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        check_alias(text)


@pytest.mark.parametrize("text", ["", DIGEST[:-1], DIGEST.upper(), DIGEST + "\n"])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        check_digest(text)
