"""Limits at the door: beyond them connections are closed before TLS, others are not hit, and room is given back."""

import pytest
from client import connect_head
from origin import echo
from wait import until


def handshakes(proxy, **options):
    """Does a new connection get through its handshake? Returns it or None."""
    conn = None
    try:
        conn = proxy.tcp(timeout=5, **options)
        return conn.start_tls(proxy.lab.context).handshake()
    except OSError:
        if conn:
            conn.close()
        return None


def fill(proxy, count, **options):
    conns = [handshakes(proxy, **options) for _ in range(count)]
    assert all(conns), f"{conns.count(None)} of {count} were refused below the limit"
    return conns


def freed(proxy, **options):
    until(lambda: (conn := handshakes(proxy, **options)) and (conn.close() or True), "room to be given back")


def close(conns):
    for conn in conns:
        conn.close()


def test_connections(start, origin):
    proxy = start({"limits": {"connections": 4}})
    target = origin(echo).target
    conns = [proxy.tunnel(target) for _ in range(4)]
    assert handshakes(proxy) is None
    conns[0].send(b"hello")
    assert conns[0].recv_exactly(5) == b"hello"
    conns.pop().close()
    freed(proxy)
    close(conns)


def test_unauthenticated(start, origin):
    proxy = start({"limits": {"unauthenticated": 3}})
    target = origin(echo).target
    tunnels = [proxy.tunnel(target) for _ in range(6)]  # logged in: not counted
    conns = fill(proxy, 3)
    assert handshakes(proxy) is None
    conns[0].send(connect_head(target))  # one logs in, and is not counted any more
    assert conns[0].response().status == 200
    freed(proxy)
    close(tunnels + conns)


def test_unauthenticated_per_prefix(start):
    proxy = start({"limits": {"unauthenticated_per_prefix": 3}})
    conns = fill(proxy, 3, source="127.0.1.1")
    assert handshakes(proxy, source="127.0.1.1") is None
    others = fill(proxy, 3, source="127.0.2.1")
    conns.pop().close()
    freed(proxy, source="127.0.1.1")
    close(conns + others)


def test_handshakes_per_prefix(start):
    proxy = start({"limits": {"handshakes_per_prefix": "5/min"}})
    answers = [handshakes(proxy, source="127.0.1.1") for _ in range(12)]
    assert answers[0] is not None and None in answers
    other = handshakes(proxy, source="127.0.2.1")
    assert other is not None
    close([conn for conn in answers if conn] + [other])


@pytest.mark.parametrize("name", [
    "connections", "unauthenticated", "unauthenticated_per_prefix", "handshakes_per_prefix",
])
def test_off(start, name):
    proxy = start({"limits": {name: "off"}})
    close(fill(proxy, 20))


def test_a_closed_door_leaks_nothing(start):
    proxy = start({"limits": {"connections": 1}, "deadlines": {"head": "5m"}})
    first = handshakes(proxy)
    for _ in range(100):
        assert handshakes(proxy) is None
    first.close()
    freed(proxy)
