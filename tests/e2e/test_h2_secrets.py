"""Passwords that come by HTTP/2: HPACK has tables and buffers of its own, and none of them keeps one."""

import pytest
from h2client import (
    PREFACE, Code, Kind, connect_fields, data, frame, header_frames, literals, settings, table_size,
)
from origin import echo
from test_secrets import SECRET, WRONG, everything_written, find_in_memory, readable, secretive, traces
from wait import until

__all__ = ["readable", "secretive"]  # fixtures


def fields(target, password=SECRET):
    return connect_fields(target, "carol", password)


def clean(proxy, link, passwords=(SECRET, WRONG)):
    needles = set().union(*(traces("carol", password) for password in passwords))
    last = []

    def gone():
        if link.sock.fileno() >= 0:
            link.poll()
        last[:] = find_in_memory(proxy.process.pid, needles)
        return not last

    try:
        until(gone, "", 5)
    except AssertionError:
        raise AssertionError(f"still in memory: {last}") from None


def huffman(link, target):
    return header_frames(1, link.encoder.encode(fields(target)))


def in_pieces(link, target):
    return header_frames(1, table_size(0) + literals(fields(target)), pieces=9)


WAYS = {"Huffman": huffman, "literal, in pieces": in_pieces}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.replace(" ", "-"))
def test_in_a_living_tunnel(readable, origin, way):
    """The stream and its connection live on; the password does not."""
    with readable.h2() as link:
        link.ready()
        stream = link.stream()
        link.send(WAYS[way](link, origin(echo).target))
        assert stream.response().status == 200
        clean(readable, link)
        stream.send(b"hello")
        assert stream.recv_exactly(5) == b"hello"


def test_in_the_table_of_the_first_flight(readable, origin):
    """A client that has not seen our SETTINGS may put it in HPACK's table, in the same flight as its preface. The table
    goes when it has acknowledged that there is none."""
    with readable.h2(begin=False) as link:
        stream = link.stream()
        link.send(PREFACE + settings() + header_frames(1, link.encoder.encode(fields(origin(echo).target))))
        assert stream.response().status == 200
        link.ready()
        clean(readable, link)
        again = link.tunnel(origin(echo).target, "carol", SECRET)
        again.send(b"hello")
        assert again.recv_exactly(5) == b"hello"
        clean(readable, link)


def test_behind_a_large_frame(readable, origin):
    """What a tunnel carries is not wiped inside OpenSSL; a password behind it, in the same TLS record, is."""
    with readable.h2() as link:
        first = link.tunnel(origin(echo).target, "carol", SECRET)
        for size in (16384, 8000, 4096):
            second = link.stream()
            head = header_frames(second.id, table_size(0) + literals(fields(origin(echo).target)))
            payload = data(first.id, b"x" * size)
            link.send(payload[:3009])
            assert first.recv_exactly(3000) == b"x" * 3000  # so much has been read by itself
            link.send(payload[3009:] + head)
            assert second.response().status == 200
            assert first.recv_exactly(size - 3000) == b"x" * (size - 3000)
            clean(readable, link)


def test_while_the_target_is_dialled(readable, black_hole):
    with readable.h2() as link:
        link.ready()
        link.connect(black_hole().target, "carol", SECRET)
        link.in_step()
        clean(readable, link)


def test_a_wrong_one(readable):
    with readable.h2() as link:
        link.ready()
        assert link.connect("127.0.0.1:9", "carol", WRONG).response().status == 407
        clean(readable, link)


def test_in_a_request_that_is_malformed(readable, origin):
    with readable.h2() as link:
        link.ready()
        for more in (("te", "gzip"), ("Capital", "x"), ("connection", "close"), (":path", "/")):
            bad = link.request([], block=table_size(0) + literals([*fields("127.0.0.1:9"), more]))
            assert bad.code_of_end() == Code.PROTOCOL_ERROR
        bad = link.request([], block=table_size(0) + literals([*fields("127.0.0.1:9"), ("x", "y" * 40000)]), pieces=4)
        assert bad.response().status == 431
        clean(readable, link)
        link.tunnel(origin(echo).target, "carol", SECRET)


def test_in_a_request_that_is_never_finished(readable):
    """The connection's end takes it along."""
    with readable.h2() as link:
        link.ready()
        link.send(frame(Kind.HEADERS, 0, 1, table_size(0) + literals(fields("127.0.0.1:9"))[:-3]))
        link.silent_for(0.2)
    readable.settle()
    clean(readable, link)


def test_in_a_request_that_is_reset_at_once(readable, origin):
    with readable.h2() as link:
        link.ready()
        for i in range(20):
            stream = link.connect(origin(echo).target, "carol", SECRET, queue=True)
            link.queue(data(stream.id, b"early"))
            stream.reset()
        link.in_step()
        clean(readable, link)


def test_in_a_connection_that_breaks(readable):
    """HPACK nonsense right behind the password."""
    with readable.h2() as link:
        link.ready()
        link.send(header_frames(1, table_size(0) + literals(fields("127.0.0.1:9")) + b"\x80"))
        assert link.until_end()[1] == Code.COMPRESSION_ERROR
    readable.settle()
    clean(readable, link)


def test_it_is_written_nowhere(secretive, origin):
    target = origin(echo)
    with secretive.h2() as link:
        link.ready()
        link.tunnel(target.target, "carol", SECRET).send(b"hello")
        link.connect(target.target, "carol", WRONG).response()
        link.request([], block=table_size(0) + literals([*fields(target.target), ("te", "gzip")])).code_of_end()
        refused = link.request([(":method", "CONNECT"), (":authority", f"carol:{SECRET}@site.test:443")])
        refused.recv_all()
        link.in_step()
    secretive.settle()
    written = everything_written(secretive)
    assert b"carol" in written
    for password in (SECRET, WRONG):
        for trace in traces("carol", password):
            assert trace not in written and all(trace not in seen.data for seen in target.seen)
