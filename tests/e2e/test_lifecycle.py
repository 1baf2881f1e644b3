"""From start to stop with several workers: limits of the process, who still waits at the door, the last signal."""

import resource
import signal
import time

from origin import echo


def test_the_limit_on_open_files_is_raised(start):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        proxy = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_who_waits_at_the_door_when_it_closes_is_not_reset(start):
    """A listener that closes empties its queue first; who gets in that late is told the end by TLS itself."""
    proxy = start({"workers": 4, "deadlines": {"drain": "60s"}})
    proxy.signal(signal.SIGSTOP)
    waiting = [proxy.tcp() for _ in range(40)]
    proxy.signal(signal.SIGTERM)
    proxy.signal(signal.SIGCONT)
    proxy.said("draining")
    for conn in waiting:
        conn.start_tls(proxy.lab.context, "proxy.test").handshake()
        assert conn.recv_all() == b"" and conn.end == "clean"
        conn.close()
    proxy.wait_stopped()


def test_tunnels_finish_in_all_workers(start, origin):
    proxy = start({"workers": 4, "deadlines": {"drain": "60s"}})
    target = origin(echo).target
    conns = [proxy.tunnel(target) for _ in range(24)]
    proxy.signal(signal.SIGTERM)
    proxy.said("draining")
    for conn in conns:
        conn.send(b"still here")
        assert conn.recv_exactly(10) == b"still here"
        conn.close()
    proxy.wait_stopped()


def test_a_second_term_ends_at_once(start, origin):
    proxy = start({"workers": 4, "deadlines": {"drain": "1h"}})
    target = origin(echo).target
    conns = [proxy.tunnel(target) for _ in range(24)]
    proxy.signal(signal.SIGTERM)
    proxy.said("draining")
    began = time.monotonic()
    proxy.signal(signal.SIGTERM)
    for conn in conns:
        conn.recv_all()
        conn.close()
    proxy.wait_stopped()
    assert time.monotonic() - began < 30, "not the hour of the drain"
    closes = [record for record in proxy.records() if record["kind"] == "close"]
    assert len(closes) == len(conns) and {close["reason"] for close in closes} == {"shutdown"}


def test_term_while_it_reloads(start):
    proxy = start({"workers": 4})
    for _ in range(5):
        proxy.signal(signal.SIGHUP)
    proxy.signal(signal.SIGTERM)
    proxy.wait_stopped()
