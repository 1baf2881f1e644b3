"""HTTP/2's errors as a table: what is sent, and how far the damage reaches. What is wrong with one stream ends that stream
and no other; what is wrong with the connection ends it by a GOAWAY that says so."""

from dataclasses import dataclass

import pytest
from client import basic
from h2client import (
    FRAME_MAX, PREFACE, STREAM_MAX, WINDOW_MAX, Code, Flag, Kind, Setting, connect_fields, data, dependency,
    frame, get_fields, goaway, header_frames, literals, ping, rst_stream, settings, settings_ack, table_size,
    window_update,
)
from origin import Origin, echo, silent

PROTOCOL, SIZE, FLOW = Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR, Code.FLOW_CONTROL_ERROR
CLOSED, COMPRESSION, CALM = Code.STREAM_CLOSED, Code.COMPRESSION_ERROR, Code.ENHANCE_YOUR_CALM


@dataclass
class Expected:
    kind: str
    what: tuple


def connection(*codes):
    """GOAWAY with one of these, and the end."""
    return Expected("connection", codes)


def stream(*codes):
    """RST_STREAM with one of these on the first stream; all else goes on."""
    return Expected("stream", codes)


def status(*codes):
    """Answered, with END_STREAM; all else goes on."""
    return Expected("status", codes)


SERVED = status(200)
SILENCE = Expected("silence", ())  # as for frames that were under way when a stream ended
ENDED = Expected("ended", ())  # without a word: nothing says that the other side speaks HTTP/2

LOGIN = ("proxy-authorization", f"Basic {basic('alice')}")


# What the other side's SETTINGS order: a table of no size, said at the beginning of a block.
EMPTY_TABLE = table_size(0)


def block_of(fields):
    return EMPTY_TABLE + literals(fields)


def headers(fields, stream=1, end=False, **options):
    return header_frames(stream, block_of(fields), end, **options)


def health(stream=1, fields=()):
    return headers(get_fields("proxy.test", "/healthz", fields=fields), stream, end=True)


def get(*fields):
    return headers(fields, end=True)


def connect(target, *fields, stream=1):
    return headers(connect_fields(target, fields=fields), stream)


def bad_connect(*fields):
    """CONNECT of these and credentials."""
    return lambda target: headers([(name, value.replace("TARGET", target)) for name, value in [*fields, LOGIN]])


METHOD, AUTHORITY = (":method", "CONNECT"), (":authority", "TARGET")
HEALTH = [(":method", "GET"), (":scheme", "https"), (":authority", "proxy.test"), (":path", "/healthz")]


def post(length, body, *fields):
    head = [(":method", "POST"), (":scheme", "https"), (":authority", "proxy.test"), (":path", "/healthz")]
    if length is not None:
        head.append(("content-length", length))
    return headers([*head, *fields]) + data(1, body, Flag.END_STREAM)


def block(raw, end=True):
    """HEADERS with this for a header block."""
    return header_frames(1, raw, end)


# Each: bytes, or a function of the target that makes them; sent behind preface and SETTINGS.
FRAMES = {
    # sizes
    "a frame larger than allowed": (frame(Kind.DATA, 0, 1, bytes(FRAME_MAX + 1)), connection(SIZE)),
    "a frame of 16 MiB announced": (frame(Kind.HEADERS, 0, 1, b"", length=(1 << 24) - 1), connection(SIZE)),
    "PING of 7 bytes": (ping(b"1234567"), connection(SIZE)),
    "PING of 9 bytes": (ping(b"123456789"), connection(SIZE)),
    "RST_STREAM of 3 bytes": (lambda t: connect(t) + frame(Kind.RST_STREAM, 0, 1, b"\0\0\0"), connection(SIZE)),
    "WINDOW_UPDATE of 5 bytes": (frame(Kind.WINDOW_UPDATE, 0, 0, bytes(5)), connection(SIZE)),
    "SETTINGS of 5 bytes": (frame(Kind.SETTINGS, 0, 0, bytes(5)), connection(SIZE)),
    "SETTINGS acknowledged with values": (settings({Setting.ENABLE_PUSH: 0}, Flag.ACK), connection(SIZE)),
    "GOAWAY of 7 bytes": (frame(Kind.GOAWAY, 0, 0, bytes(7)), connection(SIZE)),
    "PRIORITY of 4 bytes": (lambda t: connect(t) + frame(Kind.PRIORITY, 0, 1, bytes(4)), [stream(SIZE), connection(SIZE)]),
    "PRIORITY_UPDATE of 3 bytes": (frame(Kind.PRIORITY_UPDATE, 0, 0, bytes(3)) + health(), [connection(SIZE), SERVED]),
    # streams
    "DATA on stream 0": (data(0, b"x"), connection(PROTOCOL)),
    "HEADERS on stream 0": (header_frames(0, block_of(HEALTH), True), connection(PROTOCOL)),
    "RST_STREAM on stream 0": (rst_stream(0), connection(PROTOCOL)),
    "PRIORITY on stream 0": (frame(Kind.PRIORITY, 0, 0, dependency()) + health(), [connection(PROTOCOL), SERVED]),
    "CONTINUATION on stream 0": (frame(Kind.CONTINUATION, Flag.END_HEADERS, 0, b""), connection(PROTOCOL)),
    "SETTINGS on stream 1": (settings(stream=1), connection(PROTOCOL)),
    "PING on stream 1": (ping(stream=1), connection(PROTOCOL)),
    "GOAWAY on stream 1": (frame(Kind.GOAWAY, 0, 1, bytes(8)), connection(PROTOCOL)),
    "PRIORITY_UPDATE on stream 1": (frame(Kind.PRIORITY_UPDATE, 0, 1, b"\0\0\0\1u=1") + health(), [connection(PROTOCOL), SERVED]),
    "DATA on an idle stream": (data(1, b"x"), connection(PROTOCOL)),
    "RST_STREAM on an idle stream": (rst_stream(1), connection(PROTOCOL)),
    "WINDOW_UPDATE on an idle stream": (window_update(1, 1), connection(PROTOCOL)),
    "CONTINUATION on an idle stream": (frame(Kind.CONTINUATION, Flag.END_HEADERS, 1, b""), connection(PROTOCOL)),
    "PRIORITY on an idle stream": (frame(Kind.PRIORITY, 0, 1, dependency()) + health(), SERVED),
    "an even stream": (header_frames(2, block_of(HEALTH), True), connection(PROTOCOL)),
    "a smaller stream after a greater": (health(7) + health(1), [connection(PROTOCOL, CLOSED), SILENCE]),
    "PUSH_PROMISE": (lambda t: connect(t) + frame(Kind.PUSH_PROMISE, Flag.END_HEADERS, 1, b"\0\0\0\2"), connection(PROTOCOL)),
    "PUSH_PROMISE on stream 0": (frame(Kind.PUSH_PROMISE, Flag.END_HEADERS, 0, b"\0\0\0\2"), connection(PROTOCOL)),
    "DATA behind END_STREAM": (
        lambda t: connect(t) + data(1, b"x", Flag.END_STREAM) + data(1, b"y"), [stream(CLOSED), connection(CLOSED)]),
    "HEADERS behind END_STREAM": (
        lambda t: connect(t) + data(1, b"x", Flag.END_STREAM) + headers([("a", "b")], end=True),
        [stream(CLOSED), connection(CLOSED)]),
    "HEADERS of a request that is there": (lambda t: connect(t) + connect(t), stream(PROTOCOL)),
    "trailers of a CONNECT": (lambda t: connect(t) + headers([("a", "b")], end=True), stream(PROTOCOL)),
    "trailers that end nothing": (lambda t: connect(t) + headers([("a", "b")]), stream(PROTOCOL)),
    "pseudo-header fields in trailers": (
        headers([*HEALTH[:3], (":path", "/healthz"), ("content-length", "1")]) + data(1, b"x")
        + headers([(":path", "/")], end=True), [stream(PROTOCOL), SERVED, status(405)]),
    "a stream that depends on itself": (frame(Kind.PRIORITY, 0, 1, dependency(1)) + health(), [connection(PROTOCOL), stream(PROTOCOL), SERVED]),
    # header blocks
    "CONTINUATION without HEADERS": (lambda t: connect(t) + frame(Kind.CONTINUATION, Flag.END_HEADERS, 1, b""), connection(PROTOCOL)),
    "PING within a header block": (frame(Kind.HEADERS, 0, 1, block_of(HEALTH)) + ping(), connection(PROTOCOL)),
    "DATA within a header block": (frame(Kind.HEADERS, 0, 1, block_of(HEALTH)) + data(1, b"x"), connection(PROTOCOL)),
    "another stream's HEADERS within a header block": (frame(Kind.HEADERS, 0, 1, block_of(HEALTH)) + health(3), connection(PROTOCOL)),
    "another stream's CONTINUATION": (
        frame(Kind.HEADERS, 0, 1, block_of(HEALTH)) + frame(Kind.CONTINUATION, Flag.END_HEADERS, 3, b""), connection(PROTOCOL)),
    "an unknown frame within a header block": (frame(Kind.HEADERS, 0, 1, block_of(HEALTH)) + frame(0x77, 0, 1, b""), connection(PROTOCOL)),
    "HEADERS and CONTINUATION": (header_frames(1, block_of(HEALTH), True, pieces=4), SERVED),
    "HEADERS without a byte, then CONTINUATION": (
        frame(Kind.HEADERS, Flag.END_STREAM, 1, b"") + frame(Kind.CONTINUATION, Flag.END_HEADERS, 1, block_of(HEALTH)), SERVED),
    # padding
    "DATA with more padding than there is": (lambda t: connect(t) + frame(Kind.DATA, Flag.PADDED, 1, b"\x06abcde"), connection(PROTOCOL)),
    "DATA that is padded and has no length": (lambda t: connect(t) + frame(Kind.DATA, Flag.PADDED, 1, b""), connection(PROTOCOL, SIZE)),
    "HEADERS with more padding than there is": (
        frame(Kind.HEADERS, Flag.PADDED | Flag.END_HEADERS | Flag.END_STREAM, 1, b"\xff" + block_of(HEALTH[:1])), connection(PROTOCOL)),
    "HEADERS with padding": (
        frame(Kind.HEADERS, Flag.PADDED | Flag.END_HEADERS | Flag.END_STREAM, 1, b"\7" + block_of(HEALTH) + bytes(7)), SERVED),
    "HEADERS with a priority that is cut": (
        frame(Kind.HEADERS, Flag.PRIORITY | Flag.END_HEADERS | Flag.END_STREAM, 1, bytes(4)), connection(PROTOCOL, SIZE)),
    # SETTINGS
    "ENABLE_PUSH 2": (settings({Setting.ENABLE_PUSH: 2}), connection(PROTOCOL)),
    "INITIAL_WINDOW_SIZE 2^31": (settings({Setting.INITIAL_WINDOW_SIZE: 1 << 31}), connection(FLOW)),
    "MAX_FRAME_SIZE 16383": (settings({Setting.MAX_FRAME_SIZE: 16383}), connection(PROTOCOL)),
    "MAX_FRAME_SIZE 2^24": (settings({Setting.MAX_FRAME_SIZE: 1 << 24}), connection(PROTOCOL)),
    "MAX_FRAME_SIZE 2^24-1": (settings({Setting.MAX_FRAME_SIZE: (1 << 24) - 1}) + health(), SERVED),
    "NO_RFC7540_PRIORITIES 2": (settings({Setting.NO_RFC7540_PRIORITIES: 2}) + health(), [connection(PROTOCOL), SERVED]),
    "an unknown setting": (settings({0x7777: 0xFFFFFFFF}) + health(), SERVED),
    "a setting twice": (settings([(Setting.INITIAL_WINDOW_SIZE, 1), (Setting.INITIAL_WINDOW_SIZE, 70000)]) + health(), SERVED),
    "SETTINGS of the greatest values": (settings({
        Setting.HEADER_TABLE_SIZE: 0xFFFFFFFF, Setting.MAX_CONCURRENT_STREAMS: 0xFFFFFFFF,
        Setting.INITIAL_WINDOW_SIZE: WINDOW_MAX, Setting.MAX_HEADER_LIST_SIZE: 0xFFFFFFFF}) + health(), SERVED),
    "SETTINGS of the least values": (settings({
        Setting.HEADER_TABLE_SIZE: 0, Setting.MAX_CONCURRENT_STREAMS: 0, Setting.MAX_HEADER_LIST_SIZE: 0}) + health(), SERVED),
    "an acknowledgement too many": (settings_ack() * 2 + health(), [connection(PROTOCOL), SERVED]),
    # windows
    "WINDOW_UPDATE of 0 on the connection": (window_update(0, 0), connection(PROTOCOL)),
    "WINDOW_UPDATE of 0 on a stream": (lambda t: connect(t) + window_update(1, 0), [stream(PROTOCOL), connection(PROTOCOL)]),
    "WINDOW_UPDATE with the reserved bit": (window_update(0, 1 | 1 << 31) + health(), SERVED),
    "the connection's window beyond 2^31-1": (window_update(0, WINDOW_MAX), connection(FLOW)),
    "a stream's window beyond 2^31-1": (lambda t: connect(t) + window_update(1, WINDOW_MAX), stream(FLOW)),
    "a stream's window beyond 2^31-1 by SETTINGS": (
        lambda t: connect(t) + window_update(1, WINDOW_MAX - (8 << 20)) + settings({Setting.INITIAL_WINDOW_SIZE: 16 << 20}),
        [connection(FLOW), stream(FLOW)]),
    # what has to be overlooked
    "an unknown frame": (frame(0xEE, 0xFF, 0, b"whatever") + health(), SERVED),
    "an unknown frame on an idle stream": (frame(0xEE, 0xFF, 99, b"whatever") + health(), SERVED),
    "a PING answered that was never asked": (ping(flags=Flag.ACK) + health(), SERVED),
    "a reserved bit in a stream's number": (frame(Kind.PING, 0, 1 << 31, b"12345678") + health(), SERVED),
    "flags that mean nothing": (ping(flags=0xFE) + health(), SERVED),
    "PRIORITY_UPDATE of an idle stream": (frame(Kind.PRIORITY_UPDATE, 0, 0, b"\0\0\0\x05u=0, i") + health(), SERVED),
    "PRIORITY_UPDATE that is no text": (frame(Kind.PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01\xff\0=") + health(), [SERVED, connection(PROTOCOL)]),
    "GOAWAY": (goaway(debug=b"I shall leave soon") + health(), SERVED),
    # HPACK
    "index 0": (block(EMPTY_TABLE + b"\x80"), connection(COMPRESSION)),
    "an index that nothing has": (block(EMPTY_TABLE + b"\xff\x80\x80\x80\x7f"), connection(COMPRESSION)),
    "an index without end": (block(EMPTY_TABLE + b"\xff" * 12), connection(COMPRESSION)),
    "a literal that is cut": (block(block_of(HEALTH)[:-3]), connection(COMPRESSION)),
    "a length beyond the block": (block(EMPTY_TABLE + b"\0\x7f\xff\xff\x7f:method"), connection(COMPRESSION)),
    "Huffman's end of string": (block(EMPTY_TABLE + b"\0\x84\xff\xff\xff\xff\1x"), connection(COMPRESSION)),
    "Huffman with padding of zeros": (block(EMPTY_TABLE + b"\0\x81\x00\1x"), connection(COMPRESSION)),
    "a table as large as was said": (block(EMPTY_TABLE + block_of(HEALTH)), SERVED),
    "a table larger than was said": (block(table_size(1) + literals(HEALTH)), connection(COMPRESSION)),
    "a table of 4096, as before SETTINGS": (block(table_size(4096) + literals(HEALTH)), connection(COMPRESSION)),
    "a table resized amid a block": (block(block_of(HEALTH) + table_size(0)), connection(COMPRESSION)),
    "a field from the dynamic table": (block(block_of(HEALTH) + b"\xbe"), connection(COMPRESSION)),
    # CONNECT (RFC 9113 8.5)
    "CONNECT with :scheme": (bad_connect(METHOD, (":scheme", "https"), AUTHORITY), stream(PROTOCOL)),
    "CONNECT with :path": (bad_connect(METHOD, (":path", "/"), AUTHORITY), stream(PROTOCOL)),
    "CONNECT with :scheme and :path": (bad_connect(METHOD, (":scheme", "https"), (":path", "/"), AUTHORITY), stream(PROTOCOL)),
    "CONNECT without :authority": (bad_connect(METHOD), stream(PROTOCOL)),
    "CONNECT with Host for :authority": (bad_connect(METHOD, ("host", "TARGET")), stream(PROTOCOL)),
    "CONNECT with :authority that is empty": (bad_connect(METHOD, (":authority", "")), [stream(PROTOCOL), status(400)]),
    "CONNECT without a port": (bad_connect(METHOD, (":authority", "127.0.0.1")), [stream(PROTOCOL), status(400)]),
    "CONNECT with port 0": (bad_connect(METHOD, (":authority", "127.0.0.1:0")), [stream(PROTOCOL), status(400)]),
    "CONNECT with a user": (bad_connect(METHOD, (":authority", "alice@TARGET")), [stream(PROTOCOL), status(400)]),
    "CONNECT with a space in :authority": (bad_connect(METHOD, (":authority", "127.0.0.1 :80")), [stream(PROTOCOL), status(400)]),
    "CONNECT with a path in :authority": (bad_connect(METHOD, (":authority", "TARGET/x")), [stream(PROTOCOL), status(400)]),
    "CONNECT with :authority twice": (bad_connect(METHOD, AUTHORITY, AUTHORITY), stream(PROTOCOL)),
    "CONNECT with :protocol": (
        bad_connect(METHOD, (":protocol", "websocket"), (":scheme", "https"), (":path", "/"), AUTHORITY), stream(PROTOCOL)),
    "CONNECT with :protocol alone": (bad_connect(METHOD, (":protocol", "websocket"), AUTHORITY), stream(PROTOCOL)),
    "CONNECT with another Host": (bad_connect(METHOD, AUTHORITY, ("host", "other.test:443")), [SERVED, stream(PROTOCOL), status(400)]),
    "CONNECT with Content-Length": (bad_connect(METHOD, AUTHORITY, ("content-length", "5")), [stream(PROTOCOL), status(400)]),
    "CONNECT with END_STREAM": (lambda t: headers(connect_fields(t), end=True), [SERVED, stream(PROTOCOL), status(400)]),
    # fields (RFC 9113 8.2, 8.3)
    ":method twice": (bad_connect(METHOD, METHOD, AUTHORITY), stream(PROTOCOL)),
    "no :method": (get(*HEALTH[1:]), stream(PROTOCOL)),
    ":method that is empty": (get((":method", ""), *HEALTH[1:]), stream(PROTOCOL)),
    ":method that is no token": (get((":method", "GE T"), *HEALTH[1:]), [stream(PROTOCOL), status(400)]),
    "no :scheme": (get(HEALTH[0], *HEALTH[2:]), stream(PROTOCOL)),
    "no :path": (get(*HEALTH[:3]), stream(PROTOCOL)),
    ":path that is empty": (get(*HEALTH[:3], (":path", "")), stream(PROTOCOL)),
    ":path without a slash": (get(*HEALTH[:3], (":path", "healthz")), [stream(PROTOCOL), status(400)]),
    ":path with a space": (get(*HEALTH[:3], (":path", "/a b")), [stream(PROTOCOL), status(400)]),
    ":path with a fragment": (get(*HEALTH[:3], (":path", "/a#b")), [stream(PROTOCOL), status(400)]),
    ":path twice": (get(*HEALTH, (":path", "/")), stream(PROTOCOL)),
    ":scheme of nobody": (get(HEALTH[0], (":scheme", "gopher"), *HEALTH[2:]), [stream(PROTOCOL), status(400)]),
    "a pseudo-header field behind a field": (bad_connect(METHOD, ("a", "b"), AUTHORITY), stream(PROTOCOL)),
    "a pseudo-header field of nobody": (bad_connect(METHOD, AUTHORITY, (":foo", "x")), stream(PROTOCOL)),
    "a pseudo-header field of responses": (bad_connect(METHOD, AUTHORITY, (":status", "200")), stream(PROTOCOL)),
    "a name with a capital": (bad_connect(METHOD, AUTHORITY, ("X-Capital", "x")), stream(PROTOCOL)),
    "a name that is empty": (bad_connect(METHOD, AUTHORITY, ("", "x")), stream(PROTOCOL)),
    "a name with a space": (bad_connect(METHOD, AUTHORITY, ("a b", "x")), stream(PROTOCOL)),
    "a name with a colon": (bad_connect(METHOD, AUTHORITY, ("a:b", "x")), stream(PROTOCOL)),
    "a name with CR LF": (bad_connect(METHOD, AUTHORITY, ("a\r\nb", "x")), stream(PROTOCOL)),
    "a value with CR LF": (bad_connect(METHOD, AUTHORITY, ("a", "b\r\nproxy-authorization: x")), stream(PROTOCOL)),
    "a value with LF": (bad_connect(METHOD, AUTHORITY, ("a", "b\nc")), stream(PROTOCOL)),
    "a value with NUL": (bad_connect(METHOD, AUTHORITY, ("a", "b\0c")), stream(PROTOCOL)),
    "a value that begins with a space": (bad_connect(METHOD, AUTHORITY, ("a", " b")), [stream(PROTOCOL), SERVED]),
    ":authority with CR LF": (bad_connect(METHOD, (":authority", "TARGET\r\nx: y")), stream(PROTOCOL)),
    "Connection": (bad_connect(METHOD, AUTHORITY, ("connection", "close")), stream(PROTOCOL)),
    "Keep-Alive": (bad_connect(METHOD, AUTHORITY, ("keep-alive", "1")), stream(PROTOCOL)),
    "Proxy-Connection": (bad_connect(METHOD, AUTHORITY, ("proxy-connection", "keep-alive")), stream(PROTOCOL)),
    "Transfer-Encoding": (bad_connect(METHOD, AUTHORITY, ("transfer-encoding", "chunked")), stream(PROTOCOL)),
    "Upgrade": (bad_connect(METHOD, AUTHORITY, ("upgrade", "websocket")), stream(PROTOCOL)),
    "TE: gzip": (bad_connect(METHOD, AUTHORITY, ("te", "gzip")), stream(PROTOCOL)),
    "TE: trailers": (bad_connect(METHOD, AUTHORITY, ("te", "trailers")), SERVED),
    "an unknown field": (bad_connect(METHOD, AUTHORITY, ("x-whatever", "\xe4 \t b")), SERVED),
    "two crumbs of a cookie": (bad_connect(METHOD, AUTHORITY, ("cookie", "a=1"), ("cookie", "b=2")), SERVED),
    # lengths (RFC 9113 8.1.1)
    "Content-Length and no body": (get(*HEALTH, ("content-length", "5")), stream(PROTOCOL)),
    "Content-Length and too short a body": (post("6", b"12345"), [stream(PROTOCOL), status(405)]),
    "Content-Length and too long a body": (post("4", b"12345"), [stream(PROTOCOL), status(405)]),
    "Content-Length twice": (post("5", b"12345", ("content-length", "5")), stream(PROTOCOL)),
    "Content-Length that is no number": (post("+5", b"12345"), stream(PROTOCOL)),
    "Content-Length beyond numbers": (post("99999999999999999999", b"12345"), stream(PROTOCOL)),
    "a body without a length": (post(None, b"12345"), [status(405), status(400)]),
    # how much
    "a header list too long": (lambda t: headers([*connect_fields(t), *[("x", "y" * 4000)] * 10], pieces=4), status(431)),
    "a value too long": (lambda t: headers([*connect_fields(t), ("x", "y" * 40000)], pieces=4), status(431)),
    "too many fields": (lambda t: headers([*connect_fields(t), *[("x", "")] * 2000]), status(431)),
}


@pytest.fixture(scope="module")
def target():
    made = Origin(echo)
    yield made
    made.close()


def all_else_goes_on(link, target, number=101):
    """The connection answers, and serves another tunnel."""
    link.in_step()
    assert not link.goaways and link.end is None
    link.next_id = max(link.next_id, number)
    other = link.tunnel(target)
    other.send(b"all else")
    assert other.recv_exactly(8) == b"all else"
    other.reset()


def outcome(link, first, silence=False):
    """What came of it, as one of the table's rows has it."""
    if silence:
        link.send(ping())
        link.until(lambda: link.pongs or link.end, "a PONG or the end")
        if link.pongs and first.code is None and first.headers is None:
            return SILENCE
    while first.code is None and first.headers is None and not link.goaways and link.end is None:
        link.pump()
    if link.goaways and link.goaways[-1][1] != Code.NO_ERROR:
        link.until_end()
        assert link.end == "clean", "GOAWAY, then the end of TLS"
        return Expected("connection", (link.goaways[-1][1],))
    if first.headers is not None:
        answer = int(dict(first.headers)[":status"])
        link.send(ping())
        link.until(lambda: link.pongs or link.end, "an error that the answer may have overtaken")
        if first.code not in (None, Code.NO_ERROR):
            return Expected("stream", (first.code,))
        if link.goaways and link.goaways[-1][1] != Code.NO_ERROR:
            link.until_end()
            return Expected("connection", (link.goaways[-1][1],))
        return Expected("status", (answer,))
    if first.code is not None:
        return Expected("stream", (first.code,))
    return Expected("ended", ())


def matches(got, expected):
    wanted = expected if isinstance(expected, list) else [expected]
    return any(got.kind == row.kind and (not row.what or got.what[0] in row.what) for row in wanted)


def check(proxy, target, name):
    case, expected = FRAMES[name]
    with proxy.h2() as link:
        link.ready()
        first = link.stream()
        link.send(case(target) if callable(case) else case)
        wanted = expected if isinstance(expected, list) else [expected]
        got = outcome(link, first, SILENCE in wanted)
        assert matches(got, expected), f"{got}, but expected {expected}; {link.frames[-6:]}"
        if got.kind == "status" and got.what[0] >= 400:
            assert first.recv_all() and first.end == "clean"
        if got.kind in ("status", "stream", "silence") and name != "GOAWAY":
            all_else_goes_on(link, target)


@pytest.mark.parametrize("name", FRAMES, ids=lambda name: name.replace(" ", "-"))
def test_a_frame(proxy, target, name):
    check(proxy, target.target, name)


# --- how it begins ---

FIRST = settings({Setting.ENABLE_PUSH: 0})
BEGINNINGS = {
    "another preface": (PREFACE[:-4] + b"XX\r\n", ENDED),
    "a preface that goes wrong at its end": (PREFACE[:-1] + b"\r", ENDED),
    "frames without a preface": (FIRST + health(), ENDED),
    "no SETTINGS": (PREFACE + ping() + health(), connection(PROTOCOL)),
    "a request before SETTINGS": (PREFACE + health(), connection(PROTOCOL)),
    "an acknowledgement before SETTINGS": (PREFACE + settings_ack() + health(), connection(PROTOCOL)),
    "SETTINGS that are wrong": (PREFACE + settings({Setting.MAX_FRAME_SIZE: 1}), connection(PROTOCOL)),
    "the preface twice": (PREFACE + FIRST + PREFACE, connection(PROTOCOL, SIZE)),
    "all at once": (PREFACE + FIRST + health(), SERVED),
    "SETTINGS without values": (PREFACE + settings() + health(), SERVED),
    "a table that may still be used": (PREFACE + FIRST + block(table_size(4096) + block_of(HEALTH)), SERVED),
}


@pytest.mark.parametrize("name", BEGINNINGS, ids=lambda name: name.replace(" ", "-"))
@pytest.mark.parametrize("pieces", ["whole", "byte by byte"])
def test_the_beginning(proxy, name, pieces):
    sent, expected = BEGINNINGS[name]
    with proxy.h2(begin=False) as link:
        link.acks_settings = False  # not amid these bytes
        first = link.stream()
        for piece in [sent] if pieces == "whole" else [bytes([byte]) for byte in sent]:
            link.send(piece)
        got = outcome(link, first)
        assert matches(got, expected), f"{got}, but expected {expected}"


def test_an_unfinished_preface_is_waited_for_and_then_not(start):
    """Nothing is said before the preface is whole."""
    proxy = start({"deadlines": {"head": "500ms"}})
    with proxy.h2(begin=False) as link:
        link.send(PREFACE[:-1])
        link.until_end()
        assert link.frames == []


# --- what needs more than one step ---


def test_data_beyond_the_streams_window(proxy, target, black_hole):
    """Nobody has taken any of it, and no more was allowed."""
    with proxy.h2() as link:
        link.ready()
        stuck = link.connect(black_hole().target)
        window = link.peer.get(Setting.INITIAL_WINDOW_SIZE, 65535)
        for _ in range(window // FRAME_MAX):
            link.send(data(stuck.id, bytes(FRAME_MAX)))
        link.in_step()
        assert stuck.end is None, "all of that was allowed"
        link.send(data(stuck.id, bytes(FRAME_MAX)) * 2)
        assert outcome(link, stuck) in (Expected("stream", (FLOW,)), Expected("connection", (FLOW,)))
        if not link.goaways:
            all_else_goes_on(link, target.target)


def test_padding_is_flow_controlled_and_given_back(proxy, target):
    """It does not reach the target; a hundred times the window of it goes by."""
    with proxy.h2() as link:
        link.ready()
        tunnel = link.tunnel(target.target)
        for i in range(400):
            link.until(lambda: tunnel.room() >= 257 + 10, "the padding to be credited")
            link.send(data(tunnel.id, b"0123456789", padding=255))
            tunnel.window -= 266
            link.send_window -= 266
        assert tunnel.recv_exactly(4000) == b"0123456789" * 400


def test_frames_behind_a_reset_are_overlooked(proxy, target):
    """They were under way when the stream broke (RFC 9113 5.1, closed)."""
    with proxy.h2() as link:
        link.ready()
        bad = link.request([], block=block_of([(":method", "CONNECT")]))
        link.send(data(bad.id, b"x" * 1000) + window_update(bad.id, 5) + data(bad.id, b"", Flag.END_STREAM) + rst_stream(bad.id))
        assert bad.code_of_end() == PROTOCOL
        all_else_goes_on(link, target.target)


def test_the_connections_window_survives_what_is_thrown_away(proxy, target):
    """Bytes for streams that are gone count as well, and are given back: or the connection would starve."""
    with proxy.h2() as link:
        link.ready()
        tunnel = link.tunnel(target.target)
        for _ in range(40):
            gone = link.tunnel(target.target)
            link.send(data(gone.id, bytes(FRAME_MAX)) + rst_stream(gone.id) + data(gone.id, bytes(FRAME_MAX)))
            link.send_window -= 2 * FRAME_MAX
            gone.end = "reset"
            link.until(lambda: link.send_window >= 65535 // 2, "the connection's window to be given back")
        tunnel.send(b"still here" * 10000)
        assert tunnel.recv_exactly(100000) == b"still here" * 10000


def test_a_length_that_the_body_does_not_have_reaches_no_target_as_a_whole(proxy, origin):
    """Forwarded: a message that breaks its own promise must not look like a whole one."""
    for length, body in (("6", b"12345"), ("4", b"12345")):
        seen = origin(silent)
        with proxy.h2() as link:
            link.ready()
            fields = get_fields(seen.target, "/", "http", "POST", [("content-length", length), LOGIN])
            first = link.request(fields)
            link.send(data(first.id, body, Flag.END_STREAM))
            got = outcome(link, first)
            assert got == Expected("stream", (PROTOCOL,)) or got.kind == "status" and got.what[0] >= 400, got
        for one in seen.seen:
            assert not one.data.endswith(body) or length == "6", "cut off where it was too long"


@pytest.mark.parametrize("length, body", [("6", b"12345"), ("4", b"12345")])
def test_a_length_that_the_body_does_not_have_is_on_record(proxy, origin, length, body):
    """As what it is: nobody has reset anything but the proxy, and why."""
    seen = origin(silent)
    with proxy.h2() as link:
        link.ready()
        post = link.request(get_fields(seen.target, "/", "http", "POST", [("content-length", length), LOGIN]))
        proxy.record(kind="open", address_port=seen.port, client_port=link.name[1])
        link.send(data(post.id, body, Flag.END_STREAM))
        assert post.code_of_end() == PROTOCOL
        record = proxy.record(kind="close", address_port=seen.port, client_port=link.name[1])
        assert (record["reason"], record["user"]) == ("h2_protocol_error", "alice")
    seen.until_over(1)
    assert seen.only().end == "reset"


def test_stream_numbers_that_are_used_up(proxy, target):
    """The last number there is, and what comes after it."""
    with proxy.h2() as link:
        link.ready()
        link.next_id = STREAM_MAX
        last = link.tunnel(target.target)
        last.send(b"the last one")
        assert last.recv_exactly(12) == b"the last one"
        link.send(health(1))
        assert outcome(link, link.at(1), silence=True).kind in ("connection", "silence")


def test_malformed_requests_are_on_record(start, origin):
    proxy = start()
    with proxy.h2() as link:
        link.ready()
        link.request([], block=block_of([(":method", "CONNECT"), (":authority", "a.test:1"), ("connection", "x")])).code_of_end()
        record = proxy.record("strangers.jsonl", kind="deny", reason="h2_protocol_error")
        assert (record["protocol"], record["client_port"]) == ("h2", link.name[1])


def test_credentials_of_a_malformed_request_are_not_checked(start, origin):
    """Nobody logs in by it, and the target hears nothing."""
    proxy = start()
    target = origin(echo)
    with proxy.h2() as link:
        link.ready()
        bad = link.request([], block=block_of([*connect_fields(target.target), ("te", "gzip")]))
        link.send(data(bad.id, b"secret early data"))
        assert bad.code_of_end() == PROTOCOL
        link.in_step()
    assert target.seen == [] and proxy.records() == []


