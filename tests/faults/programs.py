"""Starts and ends the programs of the fault and pressure suites, and finds the processes that they leave behind."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HEADCOUNT = ROOT / "target/debug/headcount"
EXAMPLES = ROOT / "target/debug/examples"
# Every program of a suite has this variable with a value of its own, and so have its descendants.
MARK = "HEADCOUNT_TEST_MARK"
# The time that a busy machine may need. Nothing is measured against it: it ends a test that hangs.
LONG = 60.0


class Failed(Exception):
    """A promise that was not kept."""


def started(command, mark="", **options):
    """Starts a program with pipes for its output, which a thread of `communicate` reads."""
    environment = dict(os.environ, **{MARK: mark}, **options.pop("variables", {}))
    defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(part) for part in command], env=environment, **(defaults | options))


def until(claim, what, within=LONG, pause=0.01):
    """Waits until `claim` returns something true, and returns it. Asks again after each pause."""
    end = time.monotonic() + within
    while True:
        found = claim()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"not within {within:.0f} s: {what}")
        time.sleep(pause)


def ended(program, within=LONG):
    """Waits for a program to end, and returns its exit code, standard output and standard error."""
    try:
        out, err = program.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        program.kill()
        out, err = program.communicate()
        raise Failed(f"it still ran after {within:.0f} s: {tail(err or '')}") from None
    return program.returncode, out, err


def tail(text, lines=12):
    return " | ".join(text.strip().splitlines()[-lines:])


def marked(mark):
    """Returns the ids of the live processes that carry the mark; zombies are not live."""
    found = []
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0") and state(int(folder.name)) not in "ZX":
                found.append(int(folder.name))
    return found


def state(pid):
    """Returns the letter of the process's state; `X` if it is gone."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


def parent(pid):
    try:
        return int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def kill(pids, number=signal.SIGKILL):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def limited(**limits):
    """Returns a `preexec_fn` that sets resource limits, such as `nofile=16`."""

    def apply():
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))

    return apply


def plain(text):
    """Removes colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def report(name, figures, failures):
    """Prints the line of a suite, and its failures, and exits with 1 if there is one."""
    print(f"{name}: {figures}")
    for failure in failures[:10]:
        print(f"  failed: {failure}")
    if len(failures) > 10:
        print(f"  and {len(failures) - 10} more")
    sys.stdout.flush()
    if failures:
        sys.exit(1)
