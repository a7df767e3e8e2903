"""Plain scripts for cron and pipelines: each is one command of `red10`, with its options, output and exit codes.

    python -m ops.scripts.snapshot_take --environment staging --json

Exit codes: 0 done, 1 refused or not sound (nothing was changed), 2 an error, 130 Ctrl-C. Each may be killed at any
point and called again.
"""

from __future__ import annotations

import sys


def run(*command: str) -> None:
    """Carry a command of `red10` out with the arguments of this process; exits with its code."""
    from ops.cli import main

    sys.argv[1:1] = command
    main()
