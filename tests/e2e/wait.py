"""Waiting on conditions: polled, bounded, and with a word on what was waited for."""

import time

PATIENCE_S = 15.0  # generous: the binary under test may carry sanitizers on a busy machine
POLL_S = 0.01


def until(condition, what, timeout=PATIENCE_S):
    """The first true value of condition(); fails the test when there is none in time. A look may itself take long: the
    last one begins behind the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        last = time.monotonic() > deadline
        value = condition()
        if value:
            return value
        if last:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(POLL_S)


def stays(condition, what, seconds):
    """The condition is true now and at every look for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), f"no longer true: {what}"
        time.sleep(POLL_S)
