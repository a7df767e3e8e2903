"""What a verification found: a verdict per check, and when it may be relied on. Pure; no I/O."""

from __future__ import annotations

from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

FORMAT = "red10 verification 1"
#: The checks, in their order. A report that lacks one is of another Red10, and proves nothing.
CHECKS = ("size", "sha256", "form", "head", "load", "store", "versions", "digests", "claims", "golden")


class Check(BaseModel):
    """One check.

    Attributes:
        ok: `None` if it could not be made, because an earlier one failed.
        detail: what was found, for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    ok: bool | None
    detail: str


class Report(BaseModel):
    """A verification of a snapshot; fields as in `docs/protocol.md`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["red10 verification 1"] = "red10 verification 1"
    id: str
    sha256: str
    verified_ms: int
    red10: str
    ok: bool
    checks: tuple[Check, ...]

    def encode(self) -> bytes:
        """As it is written: JSON with sorted keys."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)

    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.ok]


def decode_report(raw: bytes) -> Report | None:
    """Read a report; `None` for what is none, since all in it can be found anew."""
    try:
        return Report.model_validate_json(raw)
    except ValidationError:
        return None


def relied_on(report: Report | None, sha256: str, now_ms: int, within_s: float, red10: str) -> bool:
    """Whether a report speaks for a file: it passed, on the very same bytes, all checks of this Red10, not long ago.

    Args:
        sha256: of the file as it is now.
        within_s: how old it may be, s.
        red10: the version that is installed.
    """
    if report is None or not report.ok or report.sha256 != sha256 or report.red10 != red10:
        return False
    if tuple(check.name for check in report.checks) != CHECKS or not all(check.ok for check in report.checks):
        return False
    return 0 <= now_ms - report.verified_ms <= within_s * 1000
