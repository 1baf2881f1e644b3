"""Clients that open a tunnel's window only when DATA comes by it, as Firefox 153 does while its page is slow: once they
have used it up, nobody would ever say anything again."""

import math
import time

from h2client import Kind, window_update
from origin import digest, pattern, source

MIB = 1 << 20
LARGE = 12 * MIB  # Firefox's
KEPT = 128


def test_a_large_window_is_never_used_up_at_once(proxy, origin):
    """Its last bytes come one by one and ever more slowly; a larger window brings the rest."""
    with proxy.h2(window=LARGE, credit=False) as link:
        link.ready()
        began = time.monotonic()
        tunnel = link.tunnel(origin(source(2 * LARGE)).target)
        link.until(lambda: tunnel.received >= LARGE - KEPT, "all but the last bytes")
        before, frames = tunnel.received, len(link.of_kind(Kind.DATA, tunnel.id))
        # after 20 ms, 40 more, 80 more
        most = int(math.log2((time.monotonic() - began) / 0.02 + 1))
        assert before <= LARGE - KEPT + most, "more than came by probes in so short a time"
        link.until(lambda: tunnel.received >= before + 3, "three of them")
        assert len(link.of_kind(Kind.DATA, tunnel.id)) - frames == tunnel.received - before
        link.send(window_update(0, 2 * LARGE))
        link.send(window_update(tunnel.id, 2 * LARGE))
        assert digest(tunnel.recv_all()) == digest(pattern(2 * LARGE)) and tunnel.end == "clean"


def test_who_opens_it_when_data_comes_gets_all(proxy, origin):
    """The page takes nothing until the window is as good as used up, then everything, and says so when DATA comes."""
    size = 5 * LARGE
    with proxy.h2(window=LARGE, credit=False) as link:
        link.ready()
        link.send(window_update(0, 2 * size))
        tunnel = link.tunnel(origin(source(size)).target)
        opened = 0
        while opened + LARGE < size:
            link.until(lambda: tunnel.received >= opened + LARGE - KEPT, "all but the last bytes")
            taken = tunnel.received
            link.until(lambda: tunnel.received > taken, "DATA, though hardly any of the window is left")
            link.send(window_update(tunnel.id, taken - opened))
            opened = taken
        assert digest(tunnel.recv_all()) == digest(pattern(size)) and tunnel.end == "clean"


def test_small_windows_are_used_up(proxy, origin):
    """Clients that open theirs only when nothing is left of it."""
    with proxy.h2(window=4 * MIB, credit=False) as link:
        link.ready()
        tunnel = link.tunnel(origin(source(2 * LARGE)).target)
        link.until(lambda: tunnel.received == 4 * MIB, "all of it")
