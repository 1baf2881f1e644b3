"""The life of an HTTP/2 connection: deadlines, signs of life, drain, reload, and clients that vanish."""

import contextlib
import signal
import time

import pytest
from client import BROKEN
from h2client import (
    STREAM_MAX, Code, Flag, Kind, connect_fields, data, frame, get_fields, goaway, header_frames, literals, table_size,
)
from origin import Origin, echo, silent, source
from test_reload import reload
from wait import until

LAB = {"name": "lab", "action": "allow", "to": ["loopback"], "ports": ["any"]}
EMPTY_TABLE = table_size(0)


def echoes(stream, said=b"hello"):
    stream.send(said)
    assert stream.recv_exactly(len(said)) == said
    return stream


def closes(proxy, link):
    """Last records of this connection; ports come back, so it is the newest one's."""
    of_port = [r for r in proxy.records() if r["client_port"] == link.name[1]]
    return [r for r in of_port if r["kind"] == "close" and r["connection"] == of_port[-1]["connection"]]


def end_of(link):
    """(how the connection ended, codes of all GOAWAYs)."""
    link.until_end()
    return link.end, {code for _, code, _ in link.goaways}


# --- heads ---


def test_a_connection_without_a_request(start):
    proxy = start({"deadlines": {"head": "500ms"}})
    with proxy.h2() as link:
        assert end_of(link) == ("clean", {Code.NO_ERROR})


def test_pings_are_no_request(start):
    """They do not put it off."""
    proxy = start({"deadlines": {"head": "1s"}})
    with proxy.h2() as link:
        began = time.monotonic()
        while link.end is None and time.monotonic() - began < 20:
            link.send(frame(Kind.PING, 0, 0, b"12345678"))
            link.silent_for(0.1)
        assert link.end == "clean" and link.goaways


HALF = {
    "of the frame's head": lambda text: text[:5],
    "of the payload": lambda text: text[:-5],
    "and CONTINUATION never comes": lambda text: frame(Kind.HEADERS, 0, 1, text[9:]),
}


@pytest.mark.parametrize("case", HALF, ids=lambda case: case.replace(" ", "-"))
def test_half_a_request(start, case):
    proxy = start({"deadlines": {"head": "500ms"}})
    with proxy.h2() as link:
        link.ready()
        link.send(HALF[case](header_frames(1, EMPTY_TABLE + literals(connect_fields("127.0.0.1:9")))))
        how, codes = end_of(link)
        assert how == "clean" and codes <= {Code.NO_ERROR, Code.PROTOCOL_ERROR, Code.ENHANCE_YOUR_CALM} and codes


@pytest.mark.parametrize("pieces", ["bytes of a frame", "CONTINUATION frames"])
def test_a_request_in_drops(start, origin, pieces):
    """Progress that leads nowhere; a tunnel beside it does not help."""
    proxy = start({"deadlines": {"head": "1s"}})
    target = origin(echo)
    with proxy.h2() as link:
        link.ready()
        tunnel = link.tunnel(target.target)
        block = EMPTY_TABLE + literals([*connect_fields("127.0.0.1:9"), ("x", "y" * 4000)])
        if pieces == "bytes of a frame":
            text = header_frames(3, block)
            drops = [text[i : i + 1] for i in range(len(text))]
        else:
            drops = [frame(Kind.HEADERS, 0, 3, b"")] + [frame(Kind.CONTINUATION, 0, 3, block[i : i + 700]) for i in range(0, 4200, 700)]
        for drop in drops:
            link.send(drop)
            link.silent_for(0.05 if len(drops) > 100 else 0.3)
            if link.end is not None:
                break
        link.silent_for(20)  # until the end
        assert link.end is not None, "nobody minded"
        assert tunnel.end in BROKEN
    until(lambda: target.only().done, "the end at the origin")


def test_the_head_deadline_does_not_end_tunnels(start, origin):
    """It is over once the request is there."""
    proxy = start({"deadlines": {"head": "1s", "keepalive": "1s"}})
    with proxy.h2() as link:
        tunnel = link.tunnel(origin(echo).target)
        link.silent_for(2.5)
        echoes(tunnel)
        echoes(link.tunnel(origin(echo).target))


# --- idle, and alive ---


def test_an_idle_connection_closes(start, origin):
    """After a tunnel; with a GOAWAY that blames nobody."""
    proxy = start({"deadlines": {"keepalive": "500ms"}})
    with proxy.h2() as link:
        tunnel = echoes(link.tunnel(origin(echo).target))
        tunnel.finish()
        assert tunnel.recv_all() == b""
        assert end_of(link) == ("clean", {Code.NO_ERROR})
        assert not link.of_kind(Kind.PING), "nobody is asked whether an idle connection lives"


def test_a_request_in_time_keeps_it(start, origin):
    proxy = start({"deadlines": {"keepalive": "2s"}})
    target = origin(echo).target
    with proxy.h2() as link:
        for _ in range(6):
            tunnel = echoes(link.tunnel(target))
            tunnel.finish()
            assert tunnel.recv_all() == b""
            link.silent_for(0.4)
        assert link.end is None and not link.goaways
        assert end_of(link) == ("clean", {Code.NO_ERROR})


def test_a_tunnel_keeps_it(start, origin):
    proxy = start({"deadlines": {"keepalive": "300ms"}})
    with proxy.h2() as link:
        tunnel = link.tunnel(origin(echo).target)
        link.silent_for(1.5)
        echoes(tunnel)
        assert not link.goaways


def test_a_client_that_answers_pings_stays(start, origin):
    proxy = start({"http2": {"ping": "500ms"}})
    with proxy.h2() as link:
        tunnel = link.tunnel(origin(echo).target)
        link.silent_for(4)
        assert link.end is None and not link.goaways
        assert 3 <= len(link.of_kind(Kind.PING)) <= 12
        echoes(tunnel)


def test_a_client_that_sends_is_not_asked(start, origin):
    proxy = start({"http2": {"ping": "2s"}})
    with proxy.h2() as link:
        tunnel = link.tunnel(origin(echo).target)
        for _ in range(30):
            echoes(tunnel)
            link.silent_for(0.1)
        assert not link.of_kind(Kind.PING)


def test_a_client_that_answers_no_ping_is_gone(start, origin):
    """As behind a NAT that has forgotten it: the connection is there, and nobody behind it."""
    proxy = start({"http2": {"ping": "1s"}})
    target = origin(silent)
    with proxy.h2() as link:
        link.ready()
        link.answers_pings = False
        streams = [link.tunnel(target.target) for _ in range(3)]
        link.until_end()
        assert link.of_kind(Kind.PING) and all(stream.end in BROKEN for stream in streams)
        target.until_over(3)
        assert {seen.end for seen in target.seen} == {"reset"}
        until(lambda: len(closes(proxy, link)) == 3, "three records")
        assert {r["reason"] for r in closes(proxy, link)} == {"client_timeout"}


def test_a_client_that_stops_amid_a_frame_is_gone(start, origin):
    proxy = start({"http2": {"ping": "300ms"}})
    target = origin(silent)
    with proxy.h2() as link:
        link.ready()
        tunnel = link.tunnel(target.target)
        link.send(frame(Kind.DATA, 0, tunnel.id, b"half", length=8000))
        link.answers_pings = False
        link.until_end()
    until(lambda: target.only().done, "the end at the origin")
    assert bytes(target.only().data) == b"half" and target.only().end == "reset"


def test_pings_can_be_off(start, origin):
    proxy = start({"http2": {"ping": "off"}})
    with proxy.h2() as link:
        link.answers_pings = False
        tunnel = link.tunnel(origin(echo).target)
        link.silent_for(1.5)
        assert not link.of_kind(Kind.PING)
        echoes(tunnel)


def test_deadlines_of_tunnels_end_streams(start, origin):
    """Each for itself; the connection and the other streams stay."""
    proxy = start({"deadlines": {"idle": "2s"}})
    target = origin(silent)
    with proxy.h2() as link:
        idle, busy = link.tunnel(target.target), link.tunnel(origin(echo).target)
        while idle.end is None:
            echoes(busy)
            link.silent_for(0.1)
        assert idle.end == "reset" and idle.code is not None
        assert proxy.record(kind="close", address_port=target.port, client_port=link.name[1])["reason"] == "idle_timeout"
        echoes(busy)
        assert not link.goaways
    until(lambda: target.only().done, "the end at the origin")


@pytest.mark.parametrize("who", ["client", "target"])
def test_half_closed_streams_have_their_deadline(start, origin, who):
    proxy = start({"deadlines": {"half_closed": "500ms"}})

    def finish_and_wait(seen):
        if who == "target":
            seen.fin()
        while seen.recv():
            pass
        seen.origin.released.wait(60)

    target = origin(finish_and_wait)
    with proxy.h2() as link:
        tunnel, other = link.tunnel(target.target), link.tunnel(origin(echo).target)
        if who == "client":
            tunnel.finish()
        assert proxy.record(kind="close", address_port=target.port, client_port=link.name[1])["reason"] == "half_closed_timeout"
        link.until(lambda: tunnel.code is not None, "its reset")
        echoes(other)


# --- the client says goodbye ---


def test_a_client_that_goes_away(proxy, origin):
    """GOAWAY of the client: what it has goes on, and the connection closes with the last of it."""
    with proxy.h2() as link:
        first, second = link.tunnel(origin(echo).target), link.tunnel(origin(echo).target)
        link.send(goaway())
        echoes(first)
        for stream in (first, second):
            stream.finish()
            assert stream.recv_all() == b"" and stream.end == "clean"
        link.until_end()
        assert link.end == "clean"


# --- drain ---


def test_drain(start, origin):
    """GOAWAY in two steps; what runs finishes; then the end."""
    proxy = start({"deadlines": {"drain": "30s"}})
    target = origin(echo)
    with proxy.h2() as link, proxy.h2() as idle:
        idle.ready()
        first, second = link.tunnel(target.target), link.tunnel(target.target)
        proxy.signal(signal.SIGTERM)
        link.until(lambda: link.goaways, "the first GOAWAY")
        assert link.goaways[0][:2] == (STREAM_MAX, Code.NO_ERROR)
        echoes(first)
        link.until(lambda: len(link.goaways) > 1, "the second GOAWAY")
        assert link.goaways[1][:2] == (second.id, Code.NO_ERROR)
        late = link.connect(target.target)
        echoes(second)
        link.in_step()
        assert late.headers is None and len(target.seen) == 2, "a new request is nobody's any more"
        assert end_of(idle)[0] == "clean", "who has no tunnel need not wait"
        assert proxy.process.poll() is None
        for stream in (first, second):
            echoes(stream)
            stream.finish()
            assert stream.recv_all() == b"" and stream.end == "clean"
        link.until_end()
        assert link.end == "clean" and len(link.goaways) <= 3
    proxy.wait_stopped()
    assert {r["reason"] for r in closes(proxy, link)} == {"ok"}


def test_a_request_on_its_way_when_the_drain_begins(start, origin):
    """Between the two steps a client cannot know yet: its request gets an answer, of whatever kind; unless it comes so
    late that the second step has told it."""
    proxy = start({"deadlines": {"drain": "30s"}})
    target = origin(echo)
    with proxy.h2() as link:
        first = link.tunnel(target.target)
        began = time.monotonic()
        proxy.signal(signal.SIGTERM)
        link.until(lambda: link.goaways, "the first GOAWAY")
        late = link.connect(target.target)
        in_time = time.monotonic() - began < 0.9  # the second step comes a second behind the first

        def told():
            return not in_time and len(link.goaways) > 1 and link.goaways[1][0] < late.id

        link.until(lambda: late.headers or late.code is not None or told(), "an answer")
        if late.headers:
            assert dict(late.headers)[":status"] in ("200", "503")
        else:
            assert late.code == Code.REFUSED_STREAM or told()
        echoes(first)
    proxy.wait_stopped()


def test_the_drain_has_an_end(start, origin):
    proxy = start({"deadlines": {"drain": "500ms"}})
    target = origin(silent)
    with proxy.h2() as link:
        streams = [link.tunnel(target.target) for _ in range(5)]
        proxy.signal(signal.SIGTERM)
        proxy.wait_stopped()
        link.until_end()
        assert all(stream.end in BROKEN for stream in streams)
        assert {r["reason"] for r in closes(proxy, link)} == {"shutdown"} and len(closes(proxy, link)) == 5
    target.until_over(5)


def test_a_client_that_does_not_read_does_not_hold_up_the_drain(start, origin):
    proxy = start({"deadlines": {"drain": "1s"}, "workers": 1})
    with proxy.h2(window=(1 << 31) - 1, receive_buffer=65536) as link:
        link.ready()
        stuck = origin(source(32 << 20))
        link.connect(stuck.target)
        link.reads = False
        until(lambda: stuck.first().sent > 0, "bytes")
        proxy.signal(signal.SIGTERM)
        proxy.wait_stopped()


# --- reload ---


def test_a_reload_revokes_streams_and_not_connections(start, origin):
    """Alice and bob on one connection: what the new rules refuse ends, and nobody else notices."""
    proxy = start()
    target = origin(echo)
    with proxy.h2() as link:
        mine, his = link.tunnel(target.target), link.tunnel(target.target, "bob")
        echoes(his)
        reload(proxy, policy={"rules": [LAB | {"users": ["alice"]}]})
        proxy.said("the new configuration is in force")
        assert his.code_of_end() is not None and his.end == "reset"
        echoes(mine)
        record = until(lambda: closes(proxy, link), "his record")[0]
        assert (record["user"], record["reason"], record["rule"]) == ("bob", "revoked", "default")
        echoes(link.tunnel(target.target))
        assert link.connect(target.target, "bob").response().status == 403, "the new rules hold for new streams"
        assert not link.goaways


def test_reloads_beside_tunnels(start, origin):
    proxy = start()
    target = origin(echo).target
    with proxy.h2() as link:
        streams = [link.tunnel(target) for _ in range(20)]
        for i in range(10):
            seen = len(proxy.lines)
            proxy.signal(signal.SIGHUP)
            until(lambda: any("in force" in line for line in proxy.lines[seen:]), "the reload")
            for stream in streams:
                echoes(stream)
            echoes(link.tunnel(target)).reset()


# --- clients that vanish ---


def vanish_by_reset(link):
    link.reset()


def vanish_by_fin(link):
    link.fin()


def vanish_by_the_book(link):
    link.finish()
    with contextlib.suppress(OSError):  # the proxy may have closed by now
        link.fin()


def vanish_amid_a_frame(link):
    link.send(frame(Kind.DATA, 0, 1, b"half", length=9000))
    link.fin()


def vanish_amid_a_request(link):
    link.send(frame(Kind.HEADERS, 0, link.next_id, literals(connect_fields("127.0.0.1:9"))[:20]))
    link.reset()


def vanish_amid_tls(link):
    link.sock.sendall(b"\x17\x03\x03\x40\x00" + b"\xaa" * 100)
    link.fin()


def vanish_with_nonsense(link):
    link.sock.sendall(b"\x17\x03\x03\x00\x20" + b"\xaa" * 32)


WAYS = [vanish_by_reset, vanish_by_fin, vanish_by_the_book, vanish_amid_a_frame, vanish_amid_a_request, vanish_amid_tls,
        vanish_with_nonsense]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_client_that_vanishes(proxy, origin, way):
    """With fifty tunnels: every target hears of it at once, by a reset, and every tunnel has its last record."""
    target = origin(silent)
    with proxy.h2() as link:
        link.ready()
        streams = [link.connect(target.target, queue=i < 49) for i in range(50)]
        assert all(stream.response().status == 200 for stream in streams)
        streams[7].send(b"x" * 1000)
        way(link)
        target.until_over(50)
        assert {seen.end for seen in target.seen} == {"reset"}
        until(lambda: len(closes(proxy, link)) == 50, "fifty records")
        assert {r["reason"] for r in closes(proxy, link)} <= {"client_reset", "client_tls_error", "client_gone"}
        assert len({r["id"] for r in closes(proxy, link)}) == 50


def test_a_client_that_vanishes_while_all_is_under_way(proxy, origin, black_hole):
    """In every phase of a request at once, fifty streams, and downloads in full flow."""
    hole, loud = black_hole(), origin(source(64 << 20))
    for way in (vanish_by_reset, vanish_by_fin):
        link = proxy.h2()
        link.ready()
        for i in range(10):
            link.connect(hole.target, queue=True)
            link.connect("silent.test:443", queue=True)
            link.connect(loud.target, queue=True)
            link.connect("127.0.0.1:9", user="sha512", password=f"wrong-{i}-{way.__name__}", queue=True)
            link.request(get_fields("proxy.test", "/healthz"), end_stream=True)
        link.until(lambda: any(stream.received > 100_000 for stream in link.streams.values()), "downloads")
        way(link)
        link.close()
        proxy.settle()
    until(lambda: all(seen.done for seen in loud.seen), "the ends at the origin")
    opened = {r["id"] for r in proxy.records() if r["kind"] == "open"}
    until(lambda: opened <= {r["id"] for r in proxy.records() if r["kind"] == "close"}, "the last records")


def test_a_target_that_ends_while_the_client_vanishes(proxy):
    """Both at once, many times over: one last record each."""
    target = Origin(lambda seen: seen.recv())
    try:
        for i in range(15):
            link = proxy.h2()
            streams = [link.connect(target.target, queue=j < 9) for j in range(10)]
            assert all(stream.response().status == 200 for stream in streams)
            for stream in streams:
                link.queue(data(stream.id, b"x", Flag.END_STREAM if i % 3 == 0 else 0))
            link.send(b"")
            (vanish_by_reset if i % 2 else vanish_by_fin)(link)
            link.close()
        proxy.settle()

        def of(kind):
            return sorted(r["id"] for r in proxy.records() if r["kind"] == kind and r.get("address_port") == target.port)

        until(lambda: of("open") and of("open") == of("close"), "one last record for each")
    finally:
        target.close()


def test_no_more_than_its_time_without_a_login(start):
    """A stranger asks for health again and again: the connection is not its own for ever."""
    proxy = start({"limits": {"unauthenticated": 1}})
    with proxy.h2() as link:
        page = link.request(get_fields("proxy.test", "/healthz"), end_stream=True)
        assert page.response(tunnel=False).status == 200
        try:
            another = proxy.h2(timeout=5)
            another.close()
            raise AssertionError("a second stranger is above the limit")
        except OSError:
            pass

