"""From staging to production: take a snapshot, verify and archive it, fetch it, promote it, and take it back if asked.

    python promote_models.py STAGING_URL PRODUCTION_URL [back]

The commands are `red10 snapshot take|verify|archive|fetch|promote` and `red10 release rollback`; the archive is that of
the settings (RED10_ARCHIVE). Each ends with 0, or the pipeline ends here.
"""

import subprocess
import sys

staging, production = (["--models-url", url] for url in sys.argv[1:3])
for step in (
    ["snapshot", "take", "--environment", "staging", *staging],
    ["snapshot", "verify", "staging/latest"],
    ["snapshot", "archive", "staging/latest"],
    ["snapshot", "fetch", "staging/latest"],
    ["snapshot", "promote", "staging/latest", "--environment", "production", *production],
    *([["release", "rollback", *production]] if "back" in sys.argv else []),
):
    subprocess.run([sys.executable, "-m", "red10", *step], check=True)
