"""Tunnels over HTTP/2 (RFC 9113 8.5): what becomes of a stream, and that the other streams do not notice."""

import threading
import time
from statistics import median

import pytest
from client import PASSWORD, basic
from h2client import (
    BROKEN, Code, Flag, Kind, Setting, connect_fields, data, dependency, frame, get_fields, ping, rst_stream, settings,
    settings_ack, window_update,
)
from origin import digest, echo, finish_first, greet, late, pattern, reset_after, silent, sink, source, unused_port
from wait import until

MIB = 1 << 20


@pytest.fixture
def link(proxy):
    with proxy.h2() as link:
        yield link.ready()


def echoes(stream, said=b"hello"):
    stream.send(said)
    assert stream.recv_exactly(len(said)) == said
    return stream


def records(proxy, link, kind):
    """Of this connection, by target."""
    opened = [r for r in proxy.records() if r["kind"] == "open" and r["client_port"] == link.name[1]]
    connection = opened[-1]["connection"]
    return [r for r in proxy.records() if r["kind"] == kind and r["connection"] == connection]


# --- how it begins ---


def test_what_the_proxy_says_of_itself(link):
    """Settings that RFC 9113 and the protection of passwords want, and nothing pushed."""
    assert link.peer[Setting.HEADER_TABLE_SIZE] == 0
    assert link.peer[Setting.MAX_CONCURRENT_STREAMS] == 256
    assert link.peer[Setting.NO_RFC7540_PRIORITIES] == 1
    assert link.peer.get(Setting.MAX_HEADER_LIST_SIZE, 0) >= 32 << 10
    assert 65535 <= link.peer.get(Setting.INITIAL_WINDOW_SIZE, 65535) <= 65536
    assert Setting.ENABLE_CONNECT_PROTOCOL not in link.peer


def test_what_a_200_looks_like(link, origin):
    """HEADERS without END_STREAM, and no field that would speak of a body."""
    tunnel = link.tunnel(origin(echo).target)
    headers = link.of_kind(Kind.HEADERS, tunnel.id)
    assert len(headers) == 1 and headers[0].flags == Flag.END_HEADERS
    assert tunnel.headers[0] == (":status", "200")
    assert not {name for name, _ in tunnel.headers} & {"content-length", "transfer-encoding", "connection", "keep-alive"}
    assert tunnel.end is None
    echoes(tunnel)


def test_a_server_that_speaks_first(link, origin):
    tunnel = link.tunnel(origin(greet).target)
    assert tunnel.recv_exactly(11) == b"220 ready\r\n"
    echoes(tunnel)


def test_early_data_goes_to_the_target_and_nowhere_else(proxy, link, origin):
    """DATA right behind HEADERS, before any answer; that of a refused one is thrown away."""
    target, forbidden = origin(echo), origin(echo)
    good = link.connect(target.target, queue=True)
    bad = link.connect(forbidden.target, password="not-it", queue=True)
    link.queue(data(good.id, b"early") + data(bad.id, b"early and secret"))
    link.in_step()
    assert good.response().status == 200 and good.recv_exactly(5) == b"early"
    assert bad.response().status == 407
    assert forbidden.seen == []


def test_a_goodbye_right_behind_the_request(link, origin):
    """HEADERS, DATA and END_STREAM in one TLS record."""
    target = origin(echo)
    first = link.connect(target.target, queue=True)
    link.send(data(first.id, b"early", Flag.END_STREAM))
    first.finished = True
    assert first.response().status == 200
    assert first.recv_all() == b"early" and first.end == "clean" and first.code is None
    assert (bytes(target.only().data), target.only().end) == (b"early", "fin")


def test_a_request_in_pieces(link, origin):
    """HEADERS and CONTINUATION of a few bytes each."""
    first = link.connect(origin(echo).target, pieces=7)
    assert first.response().status == 200
    echoes(first)


# --- how it ends ---


def test_the_client_finishes_and_still_receives(proxy, link, origin):
    target = origin(late(MIB))
    tunnel = link.tunnel(target.target)
    tunnel.send(b"that is all")
    tunnel.finish()
    assert tunnel.recv_all() == pattern(MIB) and (tunnel.end, tunnel.code) == ("clean", None)
    assert (bytes(target.only().data), target.only().end) == (b"that is all", "fin")
    record = proxy.record(kind="close", address_port=target.port, client_port=link.name[1])
    assert (record["reason"], record["bytes_up"], record["bytes_down"]) == ("ok", 11, MIB)


def test_the_target_finishes_and_still_receives(proxy, link, origin):
    target = origin(finish_first)
    tunnel = link.tunnel(target.target)
    assert tunnel.recv_all() == b"bye" and tunnel.end == "clean"
    tunnel.send(pattern(MIB))
    tunnel.finish()
    record = proxy.record(kind="close", address_port=target.port, client_port=link.name[1])
    assert (record["reason"], record["bytes_up"], record["bytes_down"]) == ("ok", MIB, 3)
    target.until_over(1)  # the kernel had its bytes, and the record was written
    assert digest(target.only().data) == digest(pattern(MIB)) and target.only().end == "fin"
    assert tunnel.code is None, "both ends are there: nothing to reset"


def test_end_stream_on_the_last_data(link, origin):
    """With the last bytes, or in a frame of its own; behind a megabyte that the target has not read yet."""
    for together in (True, False):
        target = origin(sink)
        tunnel = link.tunnel(target.target)
        view = memoryview(pattern(MIB))
        while view:
            view = view[tunnel.send_some(view, end_stream=together) :]
            if view:
                link.pump()
        tunnel.finish()
        assert tunnel.recv_all().decode() == digest(pattern(MIB)) and tunnel.end == "clean"
        assert target.only().end == "fin"


def test_a_reset_by_the_target(proxy, link, origin):
    target, other = origin(reset_after(1)), link.tunnel(origin(echo).target)
    tunnel = link.tunnel(target.target)
    tunnel.send(b"x")
    assert tunnel.code_of_end() == Code.CONNECT_ERROR and tunnel.end == "reset"
    assert proxy.record(kind="close", address_port=target.port, client_port=link.name[1])["reason"] == "target_reset"
    echoes(other)


def test_bytes_before_a_reset_by_the_target_arrive(link, origin):
    """As many as had come; then CONNECT_ERROR, and no END_STREAM."""

    def speak_and_reset(seen):
        seen.send(pattern(100_000))
        seen.origin.released.wait(30)
        reset_after(0)(seen)

    target = origin(speak_and_reset)
    tunnel = link.tunnel(target.target)
    assert tunnel.recv_exactly(100_000) == pattern(100_000)
    target.released.set()
    assert tunnel.code_of_end() == Code.CONNECT_ERROR and tunnel.end == "reset"


@pytest.mark.parametrize("code", [Code.CANCEL, Code.NO_ERROR, Code.CONNECT_ERROR, Code.INTERNAL_ERROR, 0xDEAD])
def test_a_reset_by_the_client(proxy, link, origin, code):
    """Whatever it is for, the target's connection is reset as well."""
    target, other = origin(silent), link.tunnel(origin(echo).target)
    tunnel = link.tunnel(target.target)
    tunnel.send(b"x")
    until(lambda: target.only().data, "the byte to arrive")
    link.send(rst_stream(tunnel.id, code))
    until(lambda: target.only().done, "the end at the origin")
    assert target.only().end == "reset", "a reset stays one"
    record = proxy.record(kind="close", address_port=target.port, client_port=link.name[1])
    assert (record["reason"], record["bytes_up"]) == ("client_reset", 1)
    echoes(other)


def test_a_reset_behind_the_end(proxy, link, origin):
    """END_STREAM and at once RST_STREAM: the answer is not wanted any more."""
    target = origin(silent)
    tunnel = link.tunnel(target.target)
    link.send(data(tunnel.id, b"bye", Flag.END_STREAM) + rst_stream(tunnel.id))
    until(lambda: target.only().done, "the end at the origin")
    assert proxy.record(kind="close", address_port=target.port, client_port=link.name[1])["reason"] == "client_reset"
    assert not link.of_kind(Kind.RST_STREAM, tunnel.id)


def test_a_reset_while_the_target_is_dialled(proxy, link, origin, black_hole):
    hole = black_hole()
    stream = link.connect(hole.target)
    link.in_step()
    stream.reset()
    record = proxy.record(kind="deny", target=hole.target, client_port=link.name[1])
    assert record["reason"] == "client_reset"
    echoes(link.tunnel(origin(echo).target))


# --- refusals ---

REFUSALS = {
    "no credentials": (dict(user=None), None, 407, "auth_required"),
    "wrong password": (dict(password="not-it"), None, 407, "auth_failed"),
    "policy": ({}, "169.254.1.1:80", 403, "address_denied"),
    "proxy itself": ({}, "SELF", 403, "proxy_loop"),
    "unknown name": ({}, "unknown.test:443", 502, "name_unknown"),
    "refused by the target": ({}, "UNUSED", 502, "dial_refused"),
    "no port": ({}, "origin.test", 400, None),
}


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.replace(" ", "-"))
def test_a_refusal_ends_the_stream_alone(proxy, link, origin, case):
    """The whole answer with its body and END_STREAM; another stream echoes on, and the next request is served."""
    options, target, status, word = REFUSALS[case]
    other = echoes(link.tunnel(origin(echo).target))
    target = {None: "127.0.0.1:9", "SELF": f"127.0.0.1:{proxy.port}", "UNUSED": f"127.0.0.1:{unused_port()}"}.get(target, target)
    first = link.connect(target, **options)
    other.send(b"meanwhile")
    response = first.response()
    assert response.status == status and (word is None or response.word() == word), str(response)
    assert first.end == "clean" and first.code in (None, Code.NO_ERROR)
    assert response.body and int(response.get("Content-Length")) == len(response.body)
    assert response.get("Proxy-Status", "").startswith("adit;")
    assert not {name for name, _ in first.headers} & {"connection", "keep-alive", "proxy-connection", "transfer-encoding"}
    assert (status == 407) == (response.get("Proxy-Authenticate") == 'Basic realm="adit", charset="UTF-8"')
    assert other.recv_exactly(9) == b"meanwhile"
    echoes(link.tunnel(origin(echo).target))
    assert not link.goaways


def test_a_target_that_does_not_answer(start, origin, black_hole):
    proxy = start({"deadlines": {"dial": "500ms"}})
    with proxy.h2() as link:
        other = link.tunnel(origin(echo).target)
        response = link.connect(black_hole().target).response()
        assert (response.status, response.word()) == (504, "dial_timeout")
        echoes(other)


def test_a_refused_client_that_goes_on_sending(link, origin):
    """What it sends is thrown away and costs the connection nothing: its window is given back."""
    other = link.tunnel(origin(echo).target)
    for _ in range(20):
        first = link.connect("127.0.0.1:9", user=None)
        link.send(data(first.id, bytes(16384)) * 3)
        link.send_window -= 3 * 16384
        assert first.response().status == 407
        link.until(lambda: link.send_window > 65535 // 2, "the connection's window to be given back")
    echoes(other, pattern(200_000))


def test_refused_again_and_again_on_one_connection(link, origin):
    """A stream is all that a refusal costs."""
    for _ in range(100):
        first = link.connect("127.0.0.1:9", user=None)
        assert first.response().status == 407
        first.close()
    echoes(link.tunnel(origin(echo).target))


# --- who ---


def test_credentials_are_each_streams_own(proxy, link, origin):
    """A right one does not help a stream that has none or a wrong one, whatever came before it on the connection."""
    target = origin(echo)
    first = link.tunnel(target.target)
    assert link.connect(target.target, user=None).response().status == 407
    assert link.connect(target.target, password="not-it").response().status == 407
    assert link.connect(target.target, user="bob", password="not-it").response().status == 407
    echoes(link.tunnel(target.target))
    echoes(first)
    assert len(target.seen) == 2


def test_two_users_on_one_connection(proxy, link, origin):
    target = origin(echo)
    streams = {user: link.tunnel(target.target, user) for user in ("alice", "bob", "sha512")}
    for user, stream in streams.items():
        echoes(stream, user.encode())
        stream.finish()
        assert stream.recv_all() == b""
    until(lambda: len(records(proxy, link, "close")) == 3, "three records")
    closes = records(proxy, link, "close")
    assert {(r["user"], r["bytes_up"]) for r in closes} == {(user, len(user)) for user in streams}
    for user in streams:
        assert {r["user"] for r in proxy.records(f"users/{user}.jsonl")} == {user}


def test_a_pseudo_password_field_is_no_choice(link, origin):
    """Two Proxy-Authorization fields: nobody may be let in by picking."""
    target = origin(echo)
    wrong, right = (("proxy-authorization", f"Basic {basic('alice', password)}") for password in ("x", PASSWORD))
    for fields in ([wrong, right], [right, wrong]):
        assert link.connect(target.target, user=None, fields=fields).response().status in (400, 407)
    assert target.seen == []


# --- records ---


def test_a_set_of_records_for_each_stream(proxy, link, origin):
    """The same connection, ids of their own."""
    target = origin(echo)
    streams = [link.tunnel(target.target) for _ in range(5)]
    for i, stream in enumerate(streams):
        echoes(stream, b"x" * (i + 1))
        stream.finish()
        assert stream.recv_all() == b"" and stream.end == "clean"
    until(lambda: len(records(proxy, link, "close")) == 5, "five records")
    opened, closed = records(proxy, link, "open"), records(proxy, link, "close")
    assert {r["id"] for r in opened} == {r["id"] for r in closed} and len({r["id"] for r in opened}) == 5
    assert {r["protocol"] for r in opened + closed} == {"h2"}
    assert {(r["method"], r["target"], r["status"], r["user"]) for r in opened} == {("CONNECT", target.target, 200, "alice")}
    assert sorted(r["bytes_up"] for r in closed) == [1, 2, 3, 4, 5] and {r["reason"] for r in closed} == {"ok"}
    assert {r["client_port"] for r in closed} == {link.name[1]}
    assert len({r["local_port"] for r in opened}) == 5
    assert all(r["connection"] not in (r["id"], None) for r in opened)


def test_refusals_are_recorded_per_stream(proxy, link):
    port = unused_port()
    for _ in range(3):
        assert link.connect(f"127.0.0.1:{port}").response().status == 502

    def denied():
        return [r for r in proxy.records() if (r.get("address_port"), r["client_port"]) == (port, link.name[1])]

    until(lambda: len(denied()) == 3, "three records")
    assert len({r["connection"] for r in denied()}) == 1 and len({r["id"] for r in denied()}) == 3
    assert {(r["kind"], r["reason"], r["protocol"]) for r in denied()} == {("deny", "dial_refused", "h2")}


def test_the_record_stands_before_the_200(proxy, link, origin):
    target = origin(echo)
    for i in range(20):
        link.tunnel(target.target)
        assert len(records(proxy, link, "open")) == i + 1


# --- many ---


@pytest.mark.parametrize("count", [1, 20, 200])
def test_many_streams(link, origin, count):
    """All at once on one connection, each with bytes of its own both ways."""
    target = origin(echo)
    streams = [link.connect(target.target, queue=i < count - 1) for i in range(count)]
    assert all(stream.response().status == 200 for stream in streams)
    size = min(2 * MIB, 40 * MIB // count)
    sent = [pattern(size + i)[i:] for i in range(count)]
    for stream, bytes_ in zip(streams, sent):
        stream.left, stream.got = memoryview(bytes_), bytearray()
    while any(stream.end is None for stream in streams):
        moved = False
        for stream in streams:
            if stream.left:
                n = stream.send_some(stream.left[:65536])
                stream.left, moved = stream.left[n:], moved or n > 0
            elif not stream.finished:
                stream.finish()
            while stream.buffer:
                stream.got += stream.recv()
                moved = True
        if not moved:
            link.pump()
    for stream, bytes_ in zip(streams, sent):
        assert (stream.end, stream.code) == ("clean", None)
        assert digest(stream.got + stream.buffer) == digest(bytes_)
    assert len(target.seen) == count


def test_streams_above_the_limit_are_refused(start, origin):
    """A client that does not know the limit yet: REFUSED_STREAM, which says that it may try again; and it is served when
    another one has gone."""
    proxy = start({"http2": {"streams": 5}})
    target = origin(echo)
    with proxy.h2(begin=False) as link:
        link.acks_settings = False  # the limit may be known before all of these have left
        link.begin()
        streams = [link.connect(target.target, queue=i < 7) for i in range(8)]
        link.until(lambda: link.peer, "SETTINGS")
        link.send(settings_ack())
        link.ready()
        assert link.peer[Setting.MAX_CONCURRENT_STREAMS] == 5
        for stream in streams[5:]:
            assert stream.code_of_end() == Code.REFUSED_STREAM and stream.headers is None
        assert all(stream.response().status == 200 for stream in streams[:5])
        streams[4].reset()
        streams[0].finish()
        assert streams[0].recv_all() == b""
        for stream in [*streams[1:4], link.tunnel(target.target), link.tunnel(target.target)]:
            echoes(stream)
        assert not link.goaways


def test_a_client_that_knows_the_limit_and_does_not_keep_to_it(start, origin):
    """The stream is refused, or the whole connection ends (RFC 9113 5.1.2, 5.4)."""
    proxy = start({"http2": {"streams": 5}})
    target = origin(echo)
    with proxy.h2() as link:
        link.ready()
        streams = [link.tunnel(target.target) for _ in range(5)]
        sixth = link.connect(target.target)
        if sixth.code_of_end() is None:
            assert link.until_end()[1] == Code.PROTOCOL_ERROR
        else:
            assert sixth.code in (Code.REFUSED_STREAM, Code.PROTOCOL_ERROR)
            for stream in streams:
                echoes(stream)
    target.until_over(5)
    proxy.settle()
    assert sum(record["kind"] == "open" for record in proxy.records()) == 5


def test_limits_of_the_connection_do_not_count_streams(start, origin):
    proxy = start({"limits": {"connections": 2}})
    target = origin(echo).target
    with proxy.h2() as link:
        streams = [link.tunnel(target) for _ in range(20)]
        with proxy.h2() as another:
            echoes(another.tunnel(target))
        for stream in streams:
            echoes(stream)


def test_local_pages(link, origin):
    """What the proxy answers itself, beside tunnels and without a login."""
    other = link.tunnel(origin(echo).target)
    health = link.request(get_fields("proxy.test", "/healthz"), end_stream=True)
    assert health.response(tunnel=False).status == 200 and health.end == "clean"
    head = link.request(get_fields("proxy.test", "/healthz", method="HEAD"), end_stream=True)
    assert head.response(tunnel=False).body == b"" and head.headers[0] == (":status", "200")
    nothing = link.request(get_fields("proxy.test", "/nothing"), end_stream=True)
    assert nothing.response(tunnel=False).status == 404
    echoes(other)


def test_pings_are_answered_amid_a_download(link, origin):
    """Not behind all that is queued for streams."""
    tunnel = link.tunnel(origin(source(8 * MIB)).target)
    for i in range(5):
        link.in_step(b"ping %3d" % i)
    assert link.pongs == [b"ping %3d" % i for i in range(5)]
    assert digest(tunnel.recv_all()) == digest(pattern(8 * MIB))


# --- fair shares ---


def taken(streams):
    """How much had come for them: it has been read, and is credited."""
    return sum(len(stream.recv(len(stream.buffer))) for stream in streams if stream.buffer)


SHARE = 8 * MIB


def exclusive_chain(link):
    """As Chromium orders it: each depends on the one before, exclusively."""
    return [dict(priority=dependency(2 * i - 1 if i else 0, 256 - 30 * i, exclusive=True)) for i in range(4)], b""


def weights(link):
    return [dict(priority=dependency(0, weight)) for weight in (256, 128, 8, 1)], b""


def priority_fields(link):
    values = ["u=0", "u=1", "u=5, i", "u=7"]
    return [dict(fields=[("priority", value)]) for value in values], b""


def priority_updates(link):
    numbers = range(link.next_id, link.next_id + 8, 2)
    update = b"".join(
        frame(Kind.PRIORITY_UPDATE, 0, 0, number.to_bytes(4, "big") + value)
        for number, value in zip(numbers, (b"u=0", b"u=1, i", b"u=6", b"u=7"))
    )
    return [{}] * 4, update


def all_at_once(seen):
    """One call into the kernel, which does not wait for the interpreter: never the slowest."""
    seen.send(pattern(SHARE)[:65536])
    seen.sock.sendall(pattern(SHARE)[65536:])
    seen.fin()
    silent(seen)


@pytest.mark.parametrize("signal", [exclusive_chain, weights, priority_fields, priority_updates], ids=lambda f: f.__name__)
def test_four_downloads_share_alike(start, origin, signal):
    """Whatever the client says of their importance, they end within a fifth of each other, counted in bytes. The client
    is the slowest of all and its windows are wide: what comes is the proxy's choice."""
    proxy = start({"workers": 1})
    targets = [origin(all_at_once) for _ in range(4)]
    with proxy.h2(window=0, receive_buffer=128 << 10) as link:
        link.ready()
        options, before = signal(link)
        link.send(before)
        streams = [link.connect(target.target, **each) for target, each in zip(targets, options)]
        assert all(stream.response().status == 200 for stream in streams)
        until(lambda: all(target.first().sent for target in targets), "all of them to send")
        link.in_step()
        link.reads = False  # but when it is its time
        shares = None
        link.window = 4 << 20
        link.send(settings({Setting.INITIAL_WINDOW_SIZE: link.window}))
        while any(stream.end is None for stream in streams):
            if not taken(streams):
                time.sleep(0.004)  # its pace
                link.pump()
            if shares is None and any(stream.end for stream in streams):
                shares = [stream.received for stream in streams]
        assert all(stream.received == SHARE and stream.end == "clean" for stream in streams)
        assert min(shares) >= 0.8 * SHARE, f"at the first end: {shares}"


def test_a_small_one_is_not_behind_a_large_one(start, origin):
    """A byte echoes while another stream downloads as fast as it can: it waits for some frames, not for megabytes."""
    proxy = start({"workers": 1})
    with proxy.h2(receive_buffer=128 << 10) as link:
        large, small = link.tunnel(origin(source(64 * MIB)).target), link.tunnel(origin(echo).target)
        waits = []
        for _ in range(50):
            before = large.received
            small.send(b"x")
            while not small.buffer:
                if not taken([large]):
                    link.pump()
            small.recv()
            waits.append(large.received - before)
            if large.end:
                break
        assert len(waits) > 3, "the download was over too soon to tell"
        assert median(waits) < 4 * MIB, waits


# --- frames ---


def test_downloads_come_in_frames_of_full_size(link, origin):
    """Few headers, few TLS records."""
    tunnel = link.tunnel(origin(source(8 * MIB)).target)
    assert digest(tunnel.recv_all()) == digest(pattern(8 * MIB))
    frames = len(link.of_kind(Kind.DATA, tunnel.id))
    assert 8 * MIB / frames > 12_000, f"{frames} frames for 8 MiB"


def test_a_larger_frame_size_is_no_order(proxy, origin):
    """A client that would take frames of 16 MiB gets what is useful."""
    with proxy.h2(settings={Setting.MAX_FRAME_SIZE: (1 << 24) - 1}) as link:
        tunnel = link.tunnel(origin(source(4 * MIB)).target)
        assert digest(tunnel.recv_all()) == digest(pattern(4 * MIB)) and tunnel.end == "clean"


def test_uploads_in_small_frames(link, origin):
    """A thousand frames of a few bytes, some padded, some empty."""
    tunnel = link.tunnel(origin(echo).target)
    for i in range(1000):
        tunnel.window -= 5
        link.send_window -= 5
        link.send(data(tunnel.id, b"%03d" % i, padding=1) if i % 2 else data(tunnel.id, b"%05d" % i))
        if i % 100 == 50:
            link.send(data(tunnel.id, b""))
    expected = b"".join(b"%03d" % i if i % 2 else b"%05d" % i for i in range(1000))
    assert tunnel.recv_exactly(len(expected)) == expected


def test_frames_cut_at_every_byte(link, origin):
    """Each byte in a TLS record of its own."""
    target = origin(echo).target
    first = link.stream()
    block = link.encoder.encode(connect_fields(target))
    text = frame(Kind.HEADERS, Flag.END_HEADERS, first.id, block) + ping() + data(first.id, b"cut") + window_update(0, 1)
    for at in range(len(text)):
        link.send(text[at : at + 1])
    assert first.response().status == 200 and first.recv_exactly(3) == b"cut"


def test_tunnels_at_both_protocols_at_once(proxy, link, origin, lab):
    """The same proxy, the same user; neither knows of the other."""
    from client import Conn, client_context, connect_head

    target = origin(echo).target
    stream = link.tunnel(target)
    with Conn(proxy.address) as conn:
        conn.start_tls(client_context(lab.certificates.ca, alpn=["http/1.1"])).handshake()
        assert conn.ask(connect_head(target)).status == 200
        conn.send(b"one")
        assert conn.recv_exactly(3) == b"one"
        echoes(stream)
        assert proxy.record_of(conn, "open")["protocol"] == "http/1.1"


def test_both_ways_at_once(proxy, link, origin):
    """Twenty megabytes each way, on two streams of one connection."""
    target = origin(echo)
    payload = pattern(20_000_000)
    tunnel = link.tunnel(target.target)
    assert digest(tunnel.exchange(payload)) == digest(payload) and tunnel.end == "clean"
    record = proxy.record(kind="close", address_port=target.port, client_port=link.name[1])
    assert record["bytes_up"] == record["bytes_down"] == 20_000_000


def test_connections_side_by_side(proxy, origin):
    """Ten connections with ten streams each, from threads: no byte goes astray."""
    target = origin(echo).target
    wrong = []

    def client(number):
        try:
            with proxy.h2() as link:
                streams = [link.tunnel(target) for _ in range(10)]
                for i, stream in enumerate(streams):
                    stream.said = f"{number}.{i} ".encode() * 3000
                    stream.send(stream.said)
                for stream in streams:
                    if stream.recv_exactly(len(stream.said)) != stream.said:
                        wrong.append(f"{number}: not its own bytes")
        except Exception as problem:  # a thread's own failure must become the test's
            wrong.append(f"{number}: {problem!r}")

    threads = [threading.Thread(target=client, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong, wrong


def test_a_broken_connection_ends_its_streams(proxy, origin):
    target = origin(silent)
    with proxy.h2() as link:
        streams = [link.tunnel(target.target) for _ in range(3)]
        link.send(frame(Kind.DATA, 0, 0, b"x"))
        assert link.until_end() == ("clean", Code.PROTOCOL_ERROR)
        assert all(stream.end in BROKEN for stream in streams)
    target.until_over(3)
    assert {seen.end for seen in target.seen} == {"reset"}
    until(lambda: len(records(proxy, link, "close")) == 3, "three records")
