"""Every wait has an end. Each phase gets a short deadline by configuration, and bytes that mean no progress do not
extend it. Nothing here measures time: that the end comes at all, and with the right word, is the test."""

import signal

import pytest
from client import connect_head
from origin import deaf, echo, finish_first, pattern, silent, source
from test_auth import slow_line
from wait import stays, until

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: proxy.test\r\n\r\n"


def test_handshake_without_a_byte(start):
    proxy = start({"deadlines": {"handshake": "500ms"}})
    with proxy.tcp() as conn:
        conn.recv_all()
        assert conn.end is not None


def drip(conn, send, data):
    """Byte after byte until the other side has had enough."""
    conn.sock.settimeout(0.05)
    for _ in range(400):
        for byte in data:
            try:
                send(bytes([byte]))
                conn.sock.recv(1, 2)  # MSG_PEEK: anything back?
                return True
            except TimeoutError:
                continue
            except OSError:
                return True
    return False


def test_handshake_in_drops(start):
    proxy = start({"deadlines": {"handshake": "500ms"}})
    with proxy.tcp() as conn:
        hello = conn.start_tls(proxy.lab.context).hello()
        assert drip(conn, conn.sock.sendall, hello[:5] + hello[5:6] * 400)


def test_head_that_never_comes(start):
    proxy = start({"deadlines": {"head": "500ms"}})
    with proxy.open() as conn:
        assert conn.recv_all() == b"" and conn.end == "clean"


def test_head_that_stops_half_way(start):
    proxy = start({"deadlines": {"head": "2s"}})
    with proxy.open() as conn:
        conn.send(b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost:")
        response = conn.response()
        assert (response.status, response.word()) == (408, "head_timeout")
        assert conn.recv_all() == b"" and conn.end == "clean"


def test_head_in_drops(start):
    proxy = start({"deadlines": {"head": "2s"}})
    with proxy.open() as conn:
        assert conn.ask(HEALTH).status == 200  # what TLS had to say behind the handshake has been read
        assert drip(conn, conn.send, b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nX: " + b"x" * 400)
        conn.sock.settimeout(20)
        assert conn.response().status == 408


def test_keepalive(start):
    proxy = start({"deadlines": {"keepalive": "500ms"}})
    with proxy.open() as conn:
        assert conn.ask(HEALTH).status == 200
        assert conn.recv_all() == b"" and conn.end == "clean"


def test_a_password_that_takes_too_long(start):
    """bcrypt of cost 14 is a second on a fast machine of these years."""
    proxy = start({"deadlines": {"auth": "100ms"}}, users=slow_line("slow", 14))
    response = proxy.refused("127.0.0.1:9", user="slow", password="x")
    assert (response.status, response.word()) == (503, "auth_timeout")


def test_a_name_server_that_is_silent(start):
    proxy = start({"deadlines": {"resolve": "500ms"}})
    response = proxy.refused("silent.test:443")
    assert (response.status, response.word()) == (504, "dns_timeout")
    assert "error=dns_timeout" in response.get("Proxy-Status")


@pytest.mark.parametrize("key", ["dial", "dial_address"])
def test_a_target_that_is_silent(start, black_hole, key):
    proxy = start({"deadlines": {key: "500ms"}})
    response = proxy.refused(black_hole().target)
    assert (response.status, response.word()) == (504, "dial_timeout")
    assert "error=connection_timeout" in response.get("Proxy-Status")


def test_lingering_after_a_refusal(start):
    """A client that neither closes nor stops sending is let go of."""
    proxy = start({"deadlines": {"linger": "500ms"}})
    with proxy.open() as conn:
        assert conn.ask(connect_head("127.0.0.1:9", user=None)).status == 407
        assert conn.recv_all() == b""
        proxy.settle()  # our end is still open


def test_idle_tunnels(start, origin):
    proxy = start({"deadlines": {"idle": "500ms"}})
    target = origin(silent)
    with proxy.tunnel(target.target) as conn:
        conn.recv_all()
        assert proxy.record_of(conn)["reason"] == "idle_timeout"
    until(lambda: target.only().done, "the end at the origin")


@pytest.mark.parametrize("way", ["up", "down"])
def test_bytes_either_way_keep_a_tunnel_alive(start, origin, way):
    """Five times the deadline, with bytes in one direction only."""
    proxy = start({"deadlines": {"idle": "2s"}})

    def talk(seen):
        while not seen.origin.released.wait(0.1):
            seen.send(b"x")

    target = origin(talk if way == "down" else silent)
    with proxy.tunnel(target.target) as conn:
        def alive():
            if way == "up":
                conn.send(b"x")
            else:
                assert conn.recv()
            return not target.only().done

        stays(alive, "the tunnel is open", 10)
        target.released.set()


def test_half_closed_by_the_client(start, origin):
    proxy = start({"deadlines": {"half_closed": "500ms"}})

    def never_answers(seen):
        while seen.recv():
            pass
        seen.origin.released.wait(60)

    target = origin(never_answers)
    with proxy.tunnel(target.target) as conn:
        conn.finish()
        conn.recv_all()
        assert proxy.record_of(conn)["reason"] == "half_closed_timeout"


def test_half_closed_by_the_target(start, origin):
    proxy = start({"deadlines": {"half_closed": "500ms"}})
    target = origin(finish_first)
    with proxy.tunnel(target.target) as conn:
        assert conn.recv_all() == b"bye"
        assert proxy.record_of(conn)["reason"] == "half_closed_timeout"
    until(lambda: target.only().done, "the end at the origin")


def test_a_target_that_takes_nothing(start, origin):
    proxy = start({"deadlines": {"stall": "1s"}})
    target = origin(deaf)
    with proxy.tunnel(target.target) as conn:
        try:
            conn.send(pattern(64 << 20))
        except OSError:
            pass
        assert proxy.record_of(conn)["reason"] == "stall_timeout"


def test_a_client_that_takes_nothing(start, origin):
    proxy = start({"deadlines": {"stall": "1s"}})
    target = origin(source(64 << 20))
    with proxy.tunnel(target.target, receive_buffer=65536) as conn:
        assert proxy.record_of(conn)["reason"] == "stall_timeout"
    until(lambda: target.only().done, "the end at the origin")


def test_lifetime(start, origin):
    proxy = start({"deadlines": {"lifetime": "1s"}})
    target = origin(echo)
    with proxy.tunnel(target.target) as conn:
        try:
            while not target.only().done:
                conn.send(b"x")
                if not conn.recv():
                    break
        except OSError:
            pass
        assert proxy.record_of(conn)["reason"] == "lifetime"


def test_drain_lets_tunnels_finish(start, origin):
    proxy = start({"deadlines": {"drain": "30s"}})
    target = origin(echo)
    conn = proxy.tunnel(target.target)
    proxy.signal(signal.SIGTERM)
    until(lambda: not accepts(proxy), "no further request to be served")
    conn.send(b"hello")
    assert conn.recv_exactly(5) == b"hello"
    assert proxy.process.poll() is None
    conn.finish()
    assert conn.recv_all() == b"" and conn.end == "clean"
    conn.close()
    proxy.wait_stopped()
    assert proxy.record_of(conn)["reason"] == "ok"


def accepts(proxy):
    """Is a health check answered with 200? In drain it is not: 503, or nobody listens any more."""
    try:
        with proxy.open(timeout=5) as conn:
            return conn.ask(HEALTH).status == 200
    except (OSError, AssertionError):
        return False


def test_drain_has_an_end(start, origin):
    proxy = start({"deadlines": {"drain": "500ms"}})
    conns = [proxy.tunnel(origin(silent).target) for _ in range(5)]
    conns += [proxy.open(), proxy.tcp()]
    proxy.signal(signal.SIGTERM)
    proxy.wait_stopped()
    for conn in conns:
        conn.close()


def test_term_in_every_phase(start, origin, black_hole):
    """A stop finds connections in all states, and none is in its way."""
    proxy = start({"deadlines": {"drain": "500ms"}})
    conns = [proxy.tcp(), proxy.open()]
    hello = proxy.tcp()
    hello.sock.sendall(hello.start_tls(proxy.lab.context).hello()[:50])
    half = proxy.open()
    half.send(b"CONNECT 127.0.0.1:9 HT")
    dialling = proxy.open()
    dialling.send(connect_head(black_hole().target))
    resolving = proxy.open()
    resolving.send(connect_head("silent.test:443"))
    until(lambda: any(q[0] == "silent.test" for q in proxy.lab.names.queries), "the query")
    proxy.signal(signal.SIGTERM)
    proxy.wait_stopped()
    for conn in [*conns, hello, half, dialling, resolving]:
        conn.close()
