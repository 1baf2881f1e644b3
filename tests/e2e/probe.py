"""What a known user notices of an attack, and what an attack leaves behind.

The probe is a known user's complete set-up: TCP, TLS, CONNECT, 200, one byte there and back. It runs by turns quiet and
beside an attack, and its 99th percentile beside the attack is to stay within twice the quiet one: that is, no loop is
held up by what the attackers send. The attackers are programs of their own, at low priority and at a pace, since no
proxy makes more processor than there is."""

import gc
import itertools
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from client import connect_head
from proxy import binary
from wait import until

# Below this the ratio says nothing. A quiet set-up takes 3 ms and some wake-ups of five threads in two processes; on two
# cores that others use as well a single one of these may come some ms late, and under AddressSanitizer some 10 ms, quiet
# or not. The faults this is for are of another size: one pass over 2,000 handshakes holds a loop for seconds.
# ThreadSanitizer is several times slower still, and its bookkeeping grows with the time that it runs.
PROGRAM = binary().read_bytes() if binary() else b""
TSAN = b"__tsan_init" in PROGRAM
FLOOR_S = 0.15 if TSAN else 0.03 if b"__asan_init" in PROGRAM else 0.01
RATIO = 2

# A neighbour's burst of work spoils one round of many, a loop that is held up all of them: so the ratio has to hold in
# one of so many rounds. The first two are always run, for the sake of the memory.
ROUNDS = 5

LEAST, QUIET_S = 40, 0.3  # samples beside an attack; quiet time before and after it
ENOUGH_S = 60  # for half of a crowd to be closed

# What a second round of the same may add to the resident set: arenas and caches are warm by then, but threads take
# turns in being the one that needs most. A leak of a single SSL in each connection of the cheapest attack is 20 times that.
GROWTH_BYTES = 6 << 20

# Freed memory stays in AddressSanitizer's quarantine, 256 MB by default: resident, and no leak.
SMALL_QUARANTINE = {
    "ASAN_OPTIONS": "detect_leaks=1:exitcode=99:quarantine_size_mb=2:thread_local_quarantine_size_kb=64:"
    + os.environ.get("ASAN_OPTIONS", "")
}

# How much more of each attack than fits into a short run: with 25, two thousand of all that is given up.
SCALE = float(os.environ.get("ADIT_E2E_SCALE", "1"))


def times(n, most=2000):
    return min(most, int(n * SCALE))


class Attack:
    """with Attack(folder, "silent", port=..., n=...) as attack: ... ; afterwards `tally` says what it has done.
    It is `due` until it has done so many `times`, or says that it has done enough."""

    def __init__(self, folder, name, crowd=False, **options):
        self.name, self.folder, self.ends, self.crowd = name, folder, "times" in options, crowd
        self.command = [sys.executable, str(Path(__file__).with_name("attackers.py")), name, json.dumps(options)]
        self.tally = {}

    def __enter__(self):
        self.log = open(self.folder / "attacker.stderr", "w+")
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env=os.environ | {"TMPDIR": str(self.folder)},
        )
        self.said = [self.process.stdout.readline()]
        assert self.said == ["ready\n"], f"{self.name} did not begin: {self.said}{self._stderr()}"
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        self.patience = time.monotonic() + ENOUGH_S
        return self

    def _stderr(self):
        self.log.seek(0)
        return self.log.read()

    def due(self):
        if self.ends:
            return self.process.poll() is None
        due = self.crowd and "enough\n" not in self.said
        assert not due or time.monotonic() < self.patience, f"{self.name}: few were closed in {ENOUGH_S} s"
        return due

    def _listen(self):
        for line in self.process.stdout:
            self.said.append(line)

    def __exit__(self, kind, *_):
        self.process.terminate()
        self.process.wait(20)
        self.listener.join(20)
        self.process.stdout.close()
        problem = self._stderr()
        self.log.close()
        if kind is None:
            assert self.process.returncode == 0, f"{self.name} ended with {self.process.returncode}: {problem}"
            self.tally = json.loads(self.said[-1])


class Probe:
    """sources: where it comes from, by turns, when a limit on one network would hit the probe itself."""

    def __init__(self, proxy, target, sources=("127.0.0.1",)):
        self.proxy, self.target, self.sources = proxy, target, itertools.cycle(sources)

    def once(self):
        begun = time.perf_counter()
        with self.proxy.tcp(source=next(self.sources)) as conn:
            conn.start_tls(self.proxy.lab.context).handshake()
            response = conn.ask(connect_head(self.target))
            assert response.status == 200, str(response)
            conn.send(b"x")
            assert conn.recv_exactly(1) == b"x"
        return time.perf_counter() - begun

    def series(self, seconds=0.0, least=0, going=lambda: False):
        """So many samples at least, for so long at least, and as long as it is going on."""
        samples, begun = [], time.monotonic()
        gc.disable()
        try:
            while len(samples) < least or time.monotonic() - begun < seconds or going():
                samples.append(self.once())
        finally:
            gc.enable()
        return samples


def p99(samples):
    return sorted(samples)[math.ceil(len(samples) * 0.99) - 1]


def withstands(probe, attack, seconds=0.6, floor=FLOOR_S):
    """Rounds of quiet, attack, and nothing left behind; attack() makes one. What the attackers did comes back, added up.
    An attack of so many `times` is run to its end, a crowd until half of it has been closed."""
    proxy, tally, seen, sizes = probe.proxy, {}, [], []
    probe.series(least=5)
    after = probe.series(QUIET_S, LEAST // 2)
    for number in range(ROUNDS):
        before = after
        with attack() as current:
            beside = probe.series(seconds, LEAST, current.due)
        for what, n in current.tally.items():
            tally[what] = tally.get(what, 0) + n
        proxy.settle()
        sizes.append(proxy.rss())
        after = probe.series(QUIET_S, LEAST // 2)
        seen.append((p99(before + after), p99(beside)))
        flat = any(b <= max(floor, RATIO * q) for q, b in seen)
        level = number > 0 and (TSAN or any(b - a <= GROWTH_BYTES for a, b in zip(sizes, sizes[1:])))
        if flat and level:
            break
    text = ", ".join(f"{q * 1e3:.1f} -> {b * 1e3:.1f}" for q, b in seen)
    print(f"{current.name}: p99 in ms, quiet -> beside: {text}; resident MB: {[s >> 20 for s in sizes]}; {tally}")
    assert flat, f"the probe waits for the attackers; p99 in ms, quiet -> beside: {text}"
    assert level, f"memory grows with every round: {sizes}"
    until(lambda: not proxy.descriptors() - proxy.baseline, "the descriptors to be as before")
    return tally
