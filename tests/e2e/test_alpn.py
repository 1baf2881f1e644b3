"""Which HTTP a connection speaks: what is agreed on when TLS begins, and what the client's first bytes then say."""

import itertools
import signal
import ssl

import pytest
from client import client_context, connect_head
from origin import echo
from wait import stays, until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # an empty frame
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: proxy.test\r\n\r\n"
LISTEN = "127.0.0.1:0"

# offer, what is chosen with HTTP/2 and without it; False: the handshake fails
OFFERS = {
    "both": (["h2", "http/1.1"], "h2", "http/1.1"),
    "both, the old one first": (["http/1.1", "h2"], "h2", "http/1.1"),
    "h2 alone": (["h2"], "h2", False),
    "http/1.1 alone": (["http/1.1"], "http/1.1", "http/1.1"),
    "h2 and http/1.0": (["h2", "http/1.0"], "h2", "http/1.0"),
    "h2 and strangers": (["h2c", "H2", "h2"], "h2", False),
    "strangers": (["spdy/3", "h2c"], False, False),
    "nothing": ([], None, None),
}


def offering(lab, *names):
    return client_context(lab.certificates.ca, alpn=list(names))


PLACES = (f"127.77.{i // 250}.{i % 250 + 1}" for i in itertools.count())


def chosen(proxy, context, source=None):
    """From a network of its own each time: who often leaves without a request is offered something else."""
    try:
        with proxy.open(context, source=source or next(PLACES)) as conn:
            return conn.tls.selected_alpn_protocol()
    except ssl.SSLError as problem:
        assert "no application protocol" in str(problem).lower().replace("_", " "), problem
        return False


def silent(conn):
    """Nothing has come but what TLS has to say."""
    conn.sock.setblocking(False)
    try:
        conn.incoming.write(conn.sock.recv(65536))
    except BlockingIOError:
        pass
    finally:
        conn.sock.settimeout(20)
    try:
        assert conn.tls.read(1) == b"", "bytes of the server"
        return False  # the end
    except ssl.SSLWantReadError:
        return True


def frame(conn):
    """(type, flags, stream, payload)"""
    head = conn.recv_exactly(9)
    return head[3], head[4], int.from_bytes(head[5:9], "big"), conn.recv_exactly(int.from_bytes(head[:3], "big"))


@pytest.fixture
def h2(lab):
    return offering(lab, "h2", "http/1.1")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_is_agreed_on(start, lab, version):
    """Each address for itself, on the same workers."""
    proxy = start({"listen": [{"address": LISTEN}, {"address": LISTEN, "http2": False}]})
    for name, (offer, *wanted) in OFFERS.items():
        context = client_context(lab.certificates.ca, low=version, high=version, alpn=offer)
        for proxy.address, choice in zip(proxy.addresses, wanted):
            assert chosen(proxy, context) == choice, name
    proxy.address = proxy.addresses[0]


def test_a_reload_switches_it(start, h2):
    proxy = start()
    listen = proxy.config["listen"][0]
    assert chosen(proxy, h2) == "h2"
    with proxy.open(h2) as before:
        for on, choice in (False, "http/1.1"), (True, "h2"), (False, "http/1.1"):
            proxy.config["listen"] = [listen | {"http2": on}]
            proxy.write_config()
            done = len([line for line in proxy.lines if "is in force" in line])
            proxy.signal(signal.SIGHUP)
            until(lambda: len([line for line in proxy.lines if "is in force" in line]) > done, "the reload")
            assert [chosen(proxy, h2) for _ in range(8)] == [choice] * 8  # on every worker
        before.send(PREFACE + SETTINGS)  # what was agreed on holds
        assert frame(before)[0] == 4


@pytest.mark.parametrize("cut", ["bytes", "whole", "with early data"])
def test_h2_agreed_on_and_http1_spoken(proxy, h2, origin, cut):
    """As Go's transport does with a proxy. What arrives begins with the answer: nothing was sent before it."""
    target = origin(echo).target
    head = connect_head(target)
    with proxy.open(h2) as conn:
        assert conn.tls.selected_alpn_protocol() == "h2"
        if cut == "bytes":
            conn.send_record_by_record(head[i : i + 1] for i in range(len(head)))
        else:
            conn.send(head + (b"early" if cut == "with early data" else b""))
        response = conn.response()
        assert (response.version, response.status) == ("HTTP/1.1", 200), str(response)
        conn.send(b"hello")
        want = b"earlyhello" if cut == "with early data" else b"hello"
        assert conn.recv_exactly(len(want)) == want
    assert proxy.record_of(conn)["protocol"] == "http/1.1"


@pytest.mark.parametrize("method, status", [
    ("GET", 200), ("PUT", 405), ("PATCH", 405), ("PRIVATE", 501), ("PR", 501), ("P", 501), ("get", 501),
])
def test_methods_that_look_like_the_preface(proxy, h2, method, status):
    head = f"{method} /healthz HTTP/1.1\r\nHost: proxy.test\r\n\r\n".encode()
    for pieces in [head[:1], head[1:2], head[2:3], head[3:]], [head]:
        with proxy.open(h2) as conn:
            conn.send_record_by_record(pieces)
            assert conn.response().status == status


def test_a_request_after_an_answer(proxy, h2):
    """Judged once for a connection."""
    with proxy.open(h2) as conn:
        assert conn.ask(HEALTH).status == 200
        assert conn.ask(HEALTH).status == 200


def test_nothing_is_sent_before_the_preface_is_whole(proxy, h2):
    with proxy.open(h2) as conn:
        stays(lambda: silent(conn), "silence before the first byte", 0.3)
        for i in range(len(PREFACE) - 1):
            conn.send(PREFACE[i : i + 1])
            assert silent(conn)
        stays(lambda: silent(conn), "silence before the last byte", 0.3)
        conn.send(PREFACE[-1:] + SETTINGS)
        assert frame(conn)[0] == 4, "a SETTINGS frame is the first"


@pytest.mark.parametrize("bytes_", [
    b"\x16\x03\x01\x02\x00", b"\r\nGET / HTTP/1.1\r\n", b" ", b"\0", b"PRI * HTTP/1.1\r\n\r\n", b"PRI\r\n", b"P\x80",
    PREFACE[:-1] + b"\r", PREFACE.replace(b"SM", b"SN"),
], ids=repr)
def test_neither_preface_nor_method(start, h2, bytes_):
    proxy = start({"log": {"level": "info"}})
    for pieces in [bytes_], [bytes_[i : i + 1] for i in range(len(bytes_))]:
        with proxy.open(h2) as conn:
            for piece in pieces:
                conn.send(piece)
            assert conn.recv_all() == b"" and conn.end == "clean"
    assert "neither HTTP/2 nor HTTP/1.1" in proxy.said("bad_request_line")


@pytest.mark.parametrize("part", [b"", b"P", PREFACE[:4], PREFACE[:-1]], ids=repr)
def test_a_part_of_the_preface_and_then_silence(start, h2, part):
    proxy = start({"deadlines": {"head": "300ms"}, "log": {"level": "info"}})
    with proxy.open(h2) as conn:
        if part:
            conn.send(part)
        assert conn.recv_all() == b"" and conn.end == "clean"
    proxy.said("head_timeout")


@pytest.mark.parametrize("how", ["finish", "fin", "reset"])
@pytest.mark.parametrize("part", [b"", PREFACE[:7]], ids=repr)
def test_a_client_that_leaves_before_it_said_what_it_speaks(start, h2, part, how):
    proxy = start({"log": {"level": "info"}, "deadlines": {"head": "1h"}})
    with proxy.open(h2) as conn:
        if part:
            conn.send(part)
        getattr(conn, how)()
        proxy.said("client_gone")
    proxy.settle()


@pytest.mark.parametrize("part", [b"", PREFACE[:7]], ids=repr)
def test_the_end_before_it_said_what_it_speaks(start, h2, part):
    """Who has said nothing loses nothing; who has begun may go on until the drain is over."""
    proxy = start({"deadlines": {"head": "1h", "drain": "400ms"}, "workers": 1})
    with proxy.open(h2) as conn:
        if part:
            conn.send(part)
        with proxy.open() as later:
            assert later.ask(HEALTH).status == 200  # the one worker has read what came before
        proxy.signal(signal.SIGTERM)
        assert conn.recv_all() == b""
        assert conn.end == ("reset" if part else "clean")
    proxy.wait_stopped()
    proxy.process = None


# --- clients that give HTTP/2 up, as Firefox does for WebSockets ---


def test_http1_for_those_who_give_http2_up(proxy, lab, h2):
    """Six in a row leave without a request: for some seconds HTTP/1.1 comes first, for this network alone."""
    here = next(PLACES)
    seen = []
    until(lambda: seen.append(chosen(proxy, h2, here)) or seen[-1] == "http/1.1", "HTTP/1.1 to be first")
    assert seen[:6] == ["h2"] * 6
    assert chosen(proxy, offering(lab, "h2"), here) == "h2", "it can nothing else"
    assert chosen(proxy, h2) == "h2", "another network"
    until(lambda: chosen(proxy, h2, here) == "h2", "HTTP/2 to be first again", 20)


def test_the_preface_alone_is_no_request(proxy, h2):
    here = next(PLACES)
    for _ in range(6):
        with proxy.open(h2, source=here) as conn:
            assert conn.tls.selected_alpn_protocol() == "h2"
            conn.send(PREFACE + SETTINGS)
            assert frame(conn)[0] == 4
    until(lambda: chosen(proxy, h2, here) == "http/1.1", "HTTP/1.1 to be first")


def test_who_uses_a_connection_gets_the_next_one_alike(proxy, h2):
    here = next(PLACES)
    for head in (HEALTH, None) * 3:
        with proxy.open(h2, source=here) as conn:
            assert conn.tls.selected_alpn_protocol() == "h2"
            if head:
                assert conn.ask(head).status == 200
            else:  # a stream is a request, whatever becomes of it
                conn.send(PREFACE + SETTINGS + bytes([0, 0, 1, 1, 5, 0, 0, 0, 1, 0x82]))
                while frame(conn)[:3] != (3, 0, 1):
                    pass
    assert chosen(proxy, h2, here) == "h2"
