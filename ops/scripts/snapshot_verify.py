"""`red10 snapshot verify` for cron and pipelines; `--help` tells the options."""

from ops.scripts import run

if __name__ == "__main__":
    run("snapshot", "verify")
