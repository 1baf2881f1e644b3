"""Out of descriptors, for real: the limit of the running process is lowered. The listeners pause and say so, what lives
goes on, and when there is room again those who waited are served."""

import os
import resource
import time

import pytest
from client import connect_head
from origin import echo
from wait import stays, until

WATCHED_S = 3

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no prlimit here")


def in_use(proxy):
    """Without what is open for a moment, as when the program looks at the machine's addresses."""
    seen = []
    stays(lambda: seen.append(os.listdir(f"/proc/{proxy.process.pid}/fd")) is None, "the process", 0.05)
    return min(map(len, seen))


def limit(proxy, files):
    """Returns what it was."""
    hard = resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE)[1]
    return resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, (files, hard))[0]


def cpu_seconds(proxy):
    fields = open(f"/proc/{proxy.process.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alive(conns):
    for i, conn in enumerate(conns):
        said = b"number %d" % i
        conn.send(said)
        assert conn.recv_exactly(len(said)) == said
    return True


def spent(proxy, tunnels):
    """CPU seconds of a while in which one tunnel is in use."""
    before = cpu_seconds(proxy)
    stays(lambda: alive(tunnels[:1]), "tunnels", WATCHED_S)
    return cpu_seconds(proxy) - before


def complaints(proxy):
    return [line for line in proxy.lines if "accept:" in line]


def exhaust(proxy, tunnels, room):
    """Clients that wait at the door: more than there is room for. (clients, the limit as it was)"""
    before = limit(proxy, in_use(proxy) + room)
    waiting = [proxy.tcp() for _ in range(room + 30)]
    until(lambda: complaints(proxy), "a line about it")
    assert alive(tunnels)
    return waiting, before


def served(proxy, conn, target):
    conn.start_tls(proxy.lab.context).handshake()
    assert conn.ask(connect_head(target)).status == 200
    conn.send(b"at last")
    assert conn.recv_exactly(7) == b"at last"


@pytest.mark.parametrize("workers", [1, 2])
def test_listeners_pause_and_recover(start, origin, workers):
    proxy = start({"workers": workers, "deadlines": {"handshake": "60s"}})
    target = origin(echo).target
    tunnels = [proxy.tunnel(target) for _ in range(10)]
    quiet = spent(proxy, tunnels)
    began = time.monotonic()
    waiting, before = exhaust(proxy, tunnels, 5)
    busy = spent(proxy, tunnels)
    assert busy < 2 * quiet + 0.1 * WATCHED_S, f"{busy:.2f} s of CPU while there is nothing to do, {quiet:.2f} s before"
    most = 1 + (time.monotonic() - began) // 10  # one in ten seconds
    assert 1 <= len(complaints(proxy)) <= most, "\n".join(complaints(proxy))
    assert "Too many open files" in complaints(proxy)[0]

    limit(proxy, before)
    for conn in waiting:
        served(proxy, conn, target)
    assert alive(tunnels)
    for conn in tunnels + waiting:
        conn.close()


def test_room_given_back_is_enough(start, origin):
    """Nobody raises the limit: those who leave make room."""
    proxy = start({"workers": 1})
    target = origin(echo).target
    tunnels = [proxy.tunnel(target) for _ in range(10)]
    waiting, _ = exhaust(proxy, tunnels[:5], 0)
    used = in_use(proxy) - 10
    for conn in tunnels[5:]:
        conn.close()
    for conn in waiting:
        conn.start_tls(proxy.lab.context).handshake()
        conn.close()
    until(lambda: in_use(proxy) <= used, "their descriptors to be given back")
    with proxy.tunnel(target) as conn:
        assert alive([conn])
    assert alive(tunnels[:5])
    for conn in tunnels + waiting:
        conn.close()
    limit(proxy, 4096)


def test_a_tunnel_needs_one_more(start, origin):
    """The client is in, the target's socket is one too many: 503, and a word for it."""
    proxy = start({"workers": 1})
    target = origin(echo).target
    with proxy.tunnel(target) as tunnel, proxy.open() as conn:
        before = limit(proxy, in_use(proxy))
        answer = conn.ask(connect_head(target))
        assert (answer.status, answer.word()) == (503, "no_descriptors")
        assert proxy.record(kind="deny")["reason"] == "no_descriptors"
        assert alive([tunnel])
        limit(proxy, before)
        proxy.tunnel(target).close()
