"""A command that is told to end does so with its line and its status, and at once when told again."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

COMMAND = """
import sys, time
from autopeft.cli.signals import ended_by_signals
with ended_by_signals("it goes on"):
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("tidying", flush=True)
        if sys.argv[1] == "slowly":
            time.sleep(60)
        raise
"""


def started(how: str = "quickly") -> subprocess.Popen[str]:
    # Tests that run in the background of a script have inherited that Ctrl-C is ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-c", COMMAND, how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, inherited)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 130, "autopeft: interrupted; it goes on\n"),
        (signal.SIGTERM, 143, "autopeft: ended by SIGTERM; it goes on\n"),
        (signal.SIGHUP, 129, "autopeft: ended by SIGHUP; it goes on\n"),
    ],
)
def test_a_signal_ends_it_with_a_line_and_its_status(number: signal.Signals, status: int, said: str) -> None:
    process = started()
    process.send_signal(number)
    assert process.communicate(timeout=30) == ("tidying\n", said)
    assert process.returncode == status


def test_a_second_signal_ends_it_at_once() -> None:
    process = started("slowly")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "tidying\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 130


def test_what_was_ignored_from_the_start_stays_ignored() -> None:
    inherited = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = started()
    finally:
        signal.signal(signal.SIGHUP, inherited)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
