"""Makes the virtual environment that `make` works with: `python -m ops.bootstrap DIRECTORY`, run where the lock lies.

Runs on a bare Python, so it imports nothing but Python's own library. In this order:

1. a virtual environment, unless a usable one is there (one that no longer runs is replaced);
2. everything in `requirements.lock`, which holds for all platforms and is checked by its hashes;
3. the project itself, editable, built with the locked tools;
4. the kernels' machine code, made ahead, so that the first run does not wait for it;
5. the stamp `DIRECTORY/.ready`, by which `make` sees that all of this is done.

What pip prints goes to `DIRECTORY/setup.log`; its end is shown when a step fails. A crash at any step leaves an
environment without the stamp, and the next run goes through the steps again, which is quick for what is there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TextIO

NEW_ENOUGH = "import sys; sys.exit(sys.version_info < (3, 11))"
LOCK = "requirements.lock"
STAMP = ".ready"
LOG = "setup.log"
#: Lines of the log that are shown when a step fails.
TAIL = 25

_DOWNLOADED = re.compile(r"^\s*Downloading (\S+) \(([\d.]+) (bytes|kB|MB|GB)\)")
_STEP = re.compile(r"^\s*(?:Collecting|Downloading|Building wheel for) ([A-Za-z0-9_.\-]*)")
#: After this line pip is silent until all is unpacked, which takes longer than the downloads before it.
_UNPACKING = "Installing collected packages:"
_UNIT = {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}

#: What the log may say, and what to do then.
_HINTS = (
    (
        re.compile(r"DO NOT MATCH THE HASHES"),
        "a package differs from the one that was locked: do not go on; see where pip takes packages from "
        "(`pip config list`)",
    ),
    (
        re.compile(r"No space left on device"),
        "the disk is full: the environment needs about 1 GB",
    ),
    (
        re.compile(r"(error: command '\S*(cc|clang)\S*' failed|No such file or directory: '(gcc|cc|clang|make)')"),
        "a package has no ready-made build for this Python and machine and needs a C compiler: install one "
        "(Debian: apt-get install gcc make libc6-dev), or use Python 3.11 or 3.12 (make PYTHON=python3.12 …)",
    ),
    (
        re.compile(r"(NewConnectionError|name resolution|ConnectTimeoutError|ProxyError|No matching distribution)"),
        "pip cannot get a package: check the network, and where pip takes packages from (`pip config list`)",
    ),
)


class SetupFailed(Exception):
    """A step did not succeed; the text says which, and what to do."""


def downloaded_mb(lines: Iterable[str]) -> float:
    """How many megabytes pip says that it downloaded; what came from its cache is not counted."""
    found = (_DOWNLOADED.match(line) for line in lines)
    return sum(float(match[2]) * _UNIT[match[3]] for match in found if match)


def disk_mb(directory: Path) -> float:
    """Megabytes (10^6 bytes) that a directory takes up on the disk; hard links count once."""
    seen: dict[tuple[int, int], int] = {}
    for path, _, names in os.walk(directory):
        for name in names:
            found = os.lstat(os.path.join(path, name))
            seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(seen.values()) / 1e6


def hint(log: str) -> str:
    """What to do about a failure, from what the log says; "" if it says nothing that is known."""
    return next((f"\n{text}" for pattern, text in _HINTS if pattern.search(log)), "")


def runs(python: Path, code: str) -> bool:
    """Whether this interpreter runs and gets through `code`; a Python that was removed leaves dead links behind."""
    try:
        return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


class Bootstrap:
    """One set-up of one directory."""

    def __init__(self, directory: Path, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.directory = directory
        self.log = directory / LOG
        self.python = directory / "bin" / "python"
        self._out = out
        self._clock = clock
        self._began = clock()

    def run(self) -> None:
        """Go through the steps, and say what they took.

        Raises:
            SetupFailed: a step failed; the stamp is not there.
        """
        (self.directory / STAMP).unlink(missing_ok=True)
        self._out.write(f"Setting up {self.directory} (once; takes a minute or two)\n")
        self._clear_broken()
        self.directory.mkdir(exist_ok=True)
        self.log.write_text("")
        pip = [
            str(self.python),
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--progress-bar=off",
        ]
        if not runs(self.python, "import pip"):
            self._step("making the environment", [sys.executable, "-m", "venv", str(self.directory)])
        self._step("installing packages", [*pip, "--requirement", LOCK])
        self._step("installing red10", [*pip, "--no-deps", "--no-build-isolation", "--editable", "."])
        self._step("compiling kernels", [str(self.python), "-m", "consumers.warm"])
        (self.directory / STAMP).touch()
        with self.log.open(encoding="utf-8", errors="replace") as log:
            downloaded = downloaded_mb(log)
        self._show("")
        self._out.write(
            f"Set up {self.directory}: {downloaded:.0f} MB downloaded, {disk_mb(self.directory):.0f} MB on disk, "
            f"{self._clock() - self._began:.0f} s\n"
        )

    def _clear_broken(self) -> None:
        """Remove an environment whose Python is gone or too old; anything else of that name is left alone."""
        if runs(self.python, NEW_ENOUGH) or not self.directory.exists():
            return
        ours = (self.directory / "pyvenv.cfg").exists() or {path.name for path in self.directory.iterdir()} <= {LOG}
        if not ours:
            raise SetupFailed(f"{self.directory} is there but is no virtual environment: move it away")
        shutil.rmtree(self.directory)

    def _step(self, what: str, command: Sequence[str]) -> None:
        self._show(what)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n")
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
            )
            assert process.stdout is not None, "it was asked for"
            with process.stdout as lines:
                for line in lines:
                    log.write(line)
                    if match := _STEP.match(line):
                        self._show(f"{what}: {match[1]}")
                    elif line.startswith(_UNPACKING):
                        self._show(f"{what}: unpacking them all (half a minute)")
            code = process.wait()
        if code != 0:
            self._show("")
            text = self.log.read_text(encoding="utf-8", errors="replace")
            end = "\n".join(f"  {line}" for line in text.splitlines()[-TAIL:])
            raise SetupFailed(f"{end}\n{what} failed; all of its output is in {self.log}{hint(text)}")

    def _show(self, what: str) -> None:
        """One line of progress, written over the last one; only on a terminal."""
        if self._out.isatty():
            line = f"  {self._clock() - self._began:3.0f} s  {what}"[:78] if what else ""
            self._out.write(f"\r\x1b[K{line}")
            self._out.flush()


def main(arguments: Sequence[str]) -> int:
    """Set up the directory that is named; the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m ops.bootstrap DIRECTORY\n")
        return 2
    try:
        Bootstrap(Path(arguments[0]), sys.stdout).run()
    except SetupFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"setting up {arguments[0]} failed: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the next `make` goes on from here\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
