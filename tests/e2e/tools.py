"""Programs that only some tests want. One that is missing skips its test, except where ADIT_TESTS_NEED_ALL is set: what
is meant to run everything shall not pass because it has run nothing."""

import os
import shutil

import pytest

# Where daemons live; not everybody has these in PATH.
SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def find(command):
    return shutil.which(command) or shutil.which(command, path=SYSTEM_FOLDERS)


def missing(what):
    if os.environ.get("ADIT_TESTS_NEED_ALL"):
        pytest.fail(what)
    pytest.skip(what)


def need(command, package):
    """The path of the program, or the test is skipped."""
    path = find(command)
    if path is None:
        missing(f"{command} is not installed (Debian package {package})")
    return path
