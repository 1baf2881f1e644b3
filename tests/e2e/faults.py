"""Faults made to order in a running proxy: a file that it maps (include/adit/base/fault.h). Only builds with
--enable-faults have them."""

import contextlib
import functools
import mmap
import struct

import pytest
from proxy import adit

SIZE = 16 + 256  # turn, hits, specification; see src/base/fault.c


@functools.cache
def built_in():
    """A program that has them says what it does not understand."""
    return "ADIT_FAULTS" in adit("--version", env={"ADIT_FAULTS": "nonsense"}).stderr


needed = pytest.mark.skipif("not __import__('faults').built_in()", reason="the program was built without --enable-faults")


class Faults:
    def __init__(self, folder):
        path = folder / "faults"
        path.write_bytes(bytes(SIZE))
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), SIZE)
        self.env = {"ADIT_FAULTS": f"file:{path}"}
        self.turn = 0

    def set(self, specification=""):
        """From here on, counted anew."""
        text = specification.encode()
        assert len(text) < SIZE - 16
        self.turn += 1
        self.map[16:] = text + bytes(SIZE - 16 - len(text))
        self.map[0:8] = struct.pack("=Q", self.turn)

    def hits(self):
        """Meaningful once the proxy has done something after set()."""
        return struct.unpack("=Q", self.map[8:16])[0]

    @contextlib.contextmanager
    def during(self, specification):
        self.set(specification)
        try:
            yield self
        finally:
            self.set()
