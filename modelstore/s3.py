"""A client of any store that speaks S3, by boto3: bounded in time and tries, and its errors in one place.

Keys and secrets come from where boto3 looks for them; they are no settings of Red10.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

from streams.errors import ConfigurationError, Red10Error
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class S3Options:
    """How to reach a store of objects.

    Attributes:
        endpoint: its URL; `None` for what boto3 is configured for.
        checksums: whether boto3 adds checksums that some stores refuse.
        timeout_s: how long it may take to connect or to go on, s.
        attempts: tries of each request: refusals for now (503), time-outs and closed connections are tried again.
    """

    endpoint: str | None = None
    checksums: Literal["when_supported", "when_required"] = "when_required"
    timeout_s: float = 60
    attempts: int = 5

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As the settings have it."""
        return cls(settings.s3_endpoint, settings.s3_checksums, settings.s3_timeout_s, settings.s3_attempts)


def make_client(options: S3Options) -> Any:
    """A client. Raises what boto3 raises, `s3_errors` translates it.

    Raises:
        ConfigurationError: boto3 is not installed.
    """
    _check_installed()
    import boto3
    from botocore.config import Config

    config = Config(
        request_checksum_calculation=options.checksums,
        response_checksum_validation=options.checksums,
        connect_timeout=options.timeout_s,
        read_timeout=options.timeout_s,
        retries={"mode": "standard", "total_max_attempts": options.attempts},
    )
    return boto3.client("s3", endpoint_url=options.endpoint, config=config)


@contextmanager
def s3_errors(where: object, kind: type[Red10Error]) -> Iterator[None]:
    """Turn errors of boto3 inside the block into errors of a kind, which name the place.

    Raises:
        ConfigurationError: boto3 is not installed.
    """
    _check_installed()
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error, ValueError) as error:
        raise kind(f"{where}: {error}") from error
    except RecursionError as error:
        # boto3 follows a redirect that leads to itself until then.
        raise kind(f"{where}: the store redirects without end: look at s3_endpoint and the bucket's region") from error


def _check_installed() -> None:
    try:
        import boto3
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"s3:// needs {error.name}: pip install 'red10[archive]'") from error
    del boto3


def missing(error: Exception) -> bool:
    """Whether an error of boto3 says that there is no such object."""
    return error_code(error) in ("404", "NoSuchKey", "NotFound")


def error_code(error: Exception) -> str:
    """The code that the store answered with; empty if it did not answer."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
