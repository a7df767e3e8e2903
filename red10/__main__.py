"""`python -m red10` is the command `red10`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command."""
    try:
        from ops.cli import main as command
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("ops", "streams", "modelstore"):
            raise
        sys.exit(f"the red10 command needs {error.name}: pip install 'red10[all]'")
    command()


if __name__ == "__main__":
    main()
