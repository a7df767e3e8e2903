"""Loading what users name in the settings as `module:attribute`: feature sets and policies.

The module is imported as Python would import it, so it must be installed or lie on the path of the process. Training
processes load it again by the same text, so what is named must be reachable by import alone.
"""

from __future__ import annotations

import importlib
import re

from streams.errors import ConfigurationError

_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def load_plugin(spec: str, what: str) -> object:
    """Import `module:attribute`.

    Args:
        spec: such as `my_features:FAST`; the attribute may have dots.
        what: what it is for, for messages: `feature set`, `policy`.

    Raises:
        ConfigurationError: the text is malformed, the module cannot be imported, or it lacks the attribute.
    """
    if not _SPEC.fullmatch(spec):
        raise ConfigurationError(f"{what} {spec[:120]!r}: write module:attribute, such as my_package.my_module:NAME")
    module_name, _, path = spec.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigurationError(
                f"{what} {spec!r}: there is no module {error.name!r}; install it, or add its directory to PYTHONPATH"
            ) from error
        raise ConfigurationError(f"{what} {spec!r}: module {module_name!r} needs {error.name!r}, not found") from error
    # A user's module may raise anything while it is imported; its own words say best what is wrong with it.
    except Exception as error:
        raise ConfigurationError(
            f"{what} {spec!r}: importing {module_name!r} raised {type(error).__name__}: {error}"
        ) from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigurationError(f"{what} {spec!r}: {module_name!r} has no attribute {path!r}") from None
    return found
