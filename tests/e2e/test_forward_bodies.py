"""Bodies of forwarded requests and of their answers: every framing both ways, what comes before an answer, slow sides,
other protocols by Upgrade, and whoever leaves in the middle of it."""

import select
import socket
import threading

import pytest
from client import Cut, forward_head
from http_origin import CLOSE, FIN, RESET, chunks, head, response
from origin import digest, pattern
from test_forward import sent_and_taken, values
from wait import until

KIB, MIB = 1 << 10, 1 << 20


# --- bodies up ---


def test_a_body_by_its_length(proxy, web_origin):
    target = web_origin()
    with proxy.open() as conn:
        for size in (0, 1, 100_000):
            body = pattern(size)
            assert conn.get(target.url(), f"Content-Length: {size}", method="POST", body=body).status == 200
            assert target.requests[-1].body == body and target.requests[-1].all("Content-Length") == [str(size)]


def test_a_chunked_body_with_trailers_and_extensions(proxy, web_origin):
    """The bytes arrive, the extensions (of one hop) do not, trailers do."""
    target = web_origin()
    parts = [b"a", pattern(70_000), b"0\r\n\r\n", b"end"]
    with proxy.open() as conn:
        body = chunks(*parts, extension=";name=\"va;l\"", trailers=["x-sum: 5", "X-More: \xff"])
        fields = ["Transfer-Encoding: chunked", "Trailer: X-Sum, X-More"]
        assert conn.get(target.url(), *fields, method="PUT", body=body).status == 200
        assert conn.get(target.url(), "transfer-encoding: Chunked", method="PUT", body=chunks()).status == 200
    first, second = target.requests
    assert first.body == b"".join(parts) and b"va;l" not in first.raw_body
    assert first.trailers == [("x-sum", "5"), ("X-More", "\xff")] and first.all("Trailer") == ["X-Sum, X-More"]
    assert second.body == b"" and second.trailers == [] and not second.all("Content-Length")


@pytest.mark.parametrize("trailer", [
    "Content-Length: 5", "Transfer-Encoding: chunked", "Host: other.test", "Authorization: Basic eDp5",
    "Proxy-Authorization: Basic eDp5", "Connection: close", "Max-Forwards: 1", "Content-Encoding: gzip", "TE: x",
    "Content-Type: a/b", "Content-Range: bytes 0-1/2", "Trailer: x", "Set-Cookie: a=b", "Expect: 100-continue",
])
def test_trailers_that_may_not_be_any(proxy, web_origin, trailer):
    """Left out, or the request is refused; never passed on."""
    target = web_origin()
    with proxy.open() as conn:
        body = chunks(b"abc", trailers=["x-sum: 5", trailer])
        try:
            status = conn.get(target.url(), "Transfer-Encoding: chunked", method="PUT", body=body).status
        except Cut:
            status = 400
    assert status in (200, 400)
    if status == 200:
        assert target.requests[0].trailers == [("x-sum", "5")]


def test_a_body_in_every_cut(proxy, web_origin):
    """Pieces that break within sizes, line ends and trailers change nothing."""
    target = web_origin()
    body = chunks(b"hello", b"x" * 17, extension=";a=b", trailers=["x-sum: 5"])
    whole = forward_head(target.url(), "Transfer-Encoding: chunked", method="POST") + body
    with proxy.open() as conn:
        conn.send_record_by_record(whole[i : i + 1] for i in range(len(whole)))
        assert conn.message().status == 200
    assert target.requests[0].body == b"hello" + b"x" * 17 and target.requests[0].trailers == [("x-sum", "5")]


def test_a_GET_with_a_body(proxy, web_origin):
    """Its bytes are a body and no request, for the proxy and for the origin."""
    target = web_origin()
    inner = forward_head(target.url("/inner"))
    with proxy.open() as conn:
        assert conn.get(target.url("/outer"), f"Content-Length: {len(inner)}", body=inner).status == 200
    assert [request.target for request in target.requests] == ["/outer"] and target.requests[0].body == inner


# --- Expect, and what comes before an answer ---


def test_100_continue_passes(proxy, web_origin):
    def answer(request):
        assert request.get("Expect") == "100-continue"
        assert request.reader.buffer == b"", "no byte of the body before the 100"
        yield head(100)
        request.read()
        yield response(body=request.body)

    target = web_origin(answer, at_head=True)
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), "Content-Length: 5", "Expect: 100-continue", method="PUT"))
        assert conn.response_head().status == 100
        conn.send(b"12345")
        answer = conn.message()
        assert (answer.status, answer.body, answer.interim) == (200, b"12345", [])


@pytest.mark.parametrize("coding", ["Content-Length: 500000", "Transfer-Encoding: chunked"])
def test_a_refusal_instead_of_100(proxy, web_origin, coding):
    """The client has it without sending the body, and what it sends next is not taken for one of ours."""
    target = web_origin(lambda request: response(417, body=b"no"), at_head=True)
    inner = forward_head(target.url("/inner"))
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), coding, "Expect: 100-continue", method="PUT"))
        answer = conn.message()
        assert (answer.status, answer.body) == (417, b"no")
        try:
            conn.send(inner)
        except OSError:
            pass
        conn.recv_all()
        assert conn.end in ("clean", "reset"), "the connection is of no use any more"
    assert [request.target for request in target.requests] == ["/"]


def test_an_origin_that_sends_no_100(proxy, web_origin):
    """The client does not wait for ever, and its body passes."""
    target = web_origin(lambda request: response(body=request.body))
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), "Content-Length: 5", "Expect: 100-continue", method="PUT"))
        until(lambda: target.seen and b"\r\n\r\n" in target.seen[0].data, "the head at the origin")
        conn.send(b"12345")
        assert conn.message().body == b"12345"


def test_Expect_of_1_0_means_nothing(proxy, web_origin):
    """It did not exist then; passed on with 1.1 it would begin to mean something (RFC 9110 10.1.1)."""
    target = web_origin()
    with proxy.open() as conn:
        fields = ["Content-Length: 3", "Expect: 100-continue"]
        answer = conn.get(target.url(), *fields, version="1.0", method="POST", body=b"abc")
        assert (answer.status, answer.interim) == (200, [])
    assert target.requests[0].all("Expect") == [] and target.requests[0].body == b"abc"


def test_hints_pass(proxy, web_origin):
    interim = head(102) + head(103, "Link: </a>; rel=preload", "Link: </b>", "Connection: x", "X: 1") + head(103)
    target = web_origin(lambda request: [interim, response(body=b"hello")])
    with proxy.open() as conn:
        answer = conn.get(target.url())
        assert answer.body == b"hello" and [each.status for each in answer.interim] == [102, 103, 103]
        hints = answer.interim[1]
        assert values(hints.fields, "Link") == ["</a>; rel=preload", "</b>"]
        assert not values(hints.fields, "X") and not values(hints.fields, "Connection")
        assert conn.get(target.url()).body == b"hello"


def test_hints_pass_at_once(proxy, web_origin):
    """The client has the 103 while the origin still thinks."""
    think = threading.Event()

    def answer(request):
        yield head(103, "Link: </a>")
        think.wait(20)
        yield response(body=b"hello")

    target = web_origin(answer)
    with proxy.open() as conn:
        conn.send(forward_head(target.url()))
        assert conn.response_head().status == 103
        think.set()
        assert conn.message().body == b"hello"


def test_a_large_head(start, web_origin):
    """As long as the configuration permits, and longer than some libraries take by themselves."""
    proxy = start({"http": {"head": "256KiB"}})
    target = web_origin(lambda request: response(200, "X-Long: " + "y" * 100_000, body=b"hello"))
    with proxy.open() as conn:
        for _ in range(2):
            answer = conn.get(target.url())
            assert answer.status == 200 and answer.body == b"hello"
            assert values(answer.fields, "x-long") == ["y" * 100_000]


def test_1_0_clients_get_no_1xx(proxy, web_origin):
    target = web_origin(lambda request: [head(100), head(103, "Link: </a>"), response(body=b"hello")])
    with proxy.open() as conn:
        answer = conn.get(target.url(), version="1.0")
        assert (answer.status, answer.body, answer.interim) == (200, b"hello", [])


# --- bodies are not kept ---

BUFFER = 64 * KIB
SMALL = {"tunnel": {"buffer": BUFFER}, "workers": 1}
SMALL_QUARANTINE = {"ASAN_OPTIONS": "quarantine_size_mb=1:thread_local_quarantine_size_kb=64"}


def until_held_back(count, what):
    """The counter has moved, and then not for a second."""
    state = {"value": 0, "same": 0}

    def still():
        value = count()
        state["same"] = state["same"] + 1 if value and value == state["value"] else 0
        state["value"] = value
        return state["same"] >= 100

    until(still, what, 40)
    return state["value"]


def kernel_bytes():
    return sum(int(open(f"/proc/sys/net/ipv4/tcp_{name}").read().split()[2]) for name in ("rmem", "wmem"))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upload_to_an_origin_that_does_not_read(start, web_origin, framing):
    """200 MB wait at the client, and not in the proxy; once the origin reads, all of it arrives."""
    size, block = 200_000_000, pattern(1_000_000)
    proxy = start(SMALL, env=SMALL_QUARANTINE)
    warm = web_origin()
    with proxy.open() as conn:
        assert conn.get(warm.url(), "Content-Length: 1000000", method="POST", body=block).status == 200
    count = [0]

    def answer(request):
        request.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        go.wait(60)
        if framing == "length":
            while count[0] < size:
                data = bytes(request.reader.buffer) or request.connection.recv(keep=False)
                request.reader.buffer.clear()
                if not data:
                    return
                count[0] += len(data)
        else:
            while part := int(request.reader.line(), 16):
                assert len(request.reader.exactly(part + 2)) == part + 2
                count[0] += part
            assert request.reader.line() == b"\r\n"
        yield response(body=b"%d" % count[0])

    go = threading.Event()
    target = web_origin(answer, at_head=True, keep=False)
    sent = [0]

    def upload():
        for _ in range(size // len(block)):
            if framing == "chunked":
                conn.send(b"%x\r\n" % len(block) + block + b"\r\n")
            else:
                conn.send(block)
            sent[0] += len(block)
        if framing == "chunked":
            conn.send(chunks())

    before = proxy.rss()
    with proxy.open() as conn:
        conn.sock.settimeout(80)
        assert conn.get(warm.url()).status == 200  # TLS's own messages have been read: from here on two threads use it
        field = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
        conn.send(forward_head(target.url(), field, method="PUT"))
        sender = threading.Thread(target=upload, daemon=True)
        sender.start()
        held = until_held_back(lambda: sent[0], "the client to be held back")
        assert held <= 2 * kernel_bytes() + 4 * BUFFER + len(block)
        assert proxy.rss() - before <= 16 * MIB
        with proxy.open() as other:
            assert other.get(warm.url(), user="bob").status == 200
        go.set()
        assert conn.message().body == b"%d" % size
        sender.join(20)
        record = proxy.record_of(conn)
        assert record["bytes_up"] == size and proxy.rss() - before <= 16 * MIB


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_download_to_a_client_that_does_not_read(start, web_origin, framing):
    """200 MB wait at the origin; once the client reads, all of it arrives."""
    size, block = 200_000_000, pattern(1_000_000)

    def answer(request):
        if request.target == "/warm":
            yield response(body=block)
            return
        fields = {"length": f"Content-Length: {size}", "chunked": "Transfer-Encoding: chunked", "close": "A: b"}
        yield head(200, fields[framing])
        for _ in range(size // len(block)):
            yield b"%x\r\n" % len(block) + block + b"\r\n" if framing == "chunked" else block
        yield chunks() if framing == "chunked" else b""
        if framing == "close":
            yield CLOSE

    proxy = start(SMALL, env=SMALL_QUARANTINE)
    target = web_origin(answer)
    with proxy.open() as conn:
        assert conn.get(target.url("/warm")).body == block
    before = proxy.rss()
    with proxy.open(receive_buffer=65536) as conn:
        conn.send(forward_head(target.url()))
        sent = until_held_back(lambda: target.seen[-1].sent, "the origin to be held back")
        assert sent <= 2 * kernel_bytes() + 4 * BUFFER + len(block)
        assert proxy.rss() - before <= 16 * MIB
        with proxy.open() as other:
            assert other.get(target.url("/warm"), user="bob").body == block
        answer = conn.message()
        assert len(answer.body) == size and answer.body[-1_000_000:] == block
        assert proxy.record_of(conn)["bytes_down"] == size and proxy.rss() - before <= 16 * MIB


def test_bytes_pass_as_they_come(proxy, web_origin):
    """Nothing waits for the rest: a byte up and a byte down, in turns, both bodies endless until then."""
    def answer(request):
        yield head(200, "Transfer-Encoding: chunked")
        while size := int(request.reader.line(), 16):
            data = request.reader.exactly(size + 2)[:-2]
            yield b"%x\r\n" % size + data.upper() + b"\r\n"
        request.reader.line()
        yield chunks()

    target = web_origin(answer, at_head=True)
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), "Transfer-Encoding: chunked", method="POST"))
        assert conn.response_head().status == 200
        for letter in b"abcdefg":
            conn.send(b"1\r\n%c\r\n" % letter)
            assert int(conn._line(), 16) == 1 and conn.recv_exactly(3) == b"%c\r\n" % bytes([letter]).upper()
        conn.send(chunks())
        assert conn.recv_exactly(5) == b"0\r\n\r\n"
        assert proxy.record_of(conn)["reason"] == "ok"


def poured(conn, head_bytes, size):
    """Sends the head and so much of a body as long as that is taken, receives meanwhile, and then to the end."""
    conn.send(head_bytes)
    view, waiting, received = memoryview(pattern(size)), b"", bytearray()
    conn.sock.setblocking(False)
    while conn.end is None:
        if not waiting and view:
            view = view[conn.tls.write(view[:16384]) :]
            waiting = conn.outgoing.read()
        readable, writable, _ = select.select([conn.sock], [conn.sock] if waiting else [], [], 20)
        assert readable or writable, f"nothing moves: {len(view)} bytes to send, {len(received)} received"
        if readable:
            conn._receive_into(received)
        if writable and conn.end is None:
            try:
                waiting = waiting[conn.sock.send(waiting) :]
            except ConnectionError:
                view, waiting = b"", b""
    conn.sock.settimeout(20)
    return bytes(received)


def test_an_early_answer_to_a_large_upload(proxy, web_origin):
    """413 while most of the body is still to come: the client gets the answer whole without sending another byte."""
    body = pattern(300_000)
    target = web_origin(lambda request: [response(413, "Connection: close", body=body)], at_head=True)
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), "Content-Length: 200000000", method="PUT") + b"x")
        answer = conn.message()
        assert (answer.status, digest(answer.body)) == (413, digest(body))
        assert conn.recv_all() == b"" and conn.end == "clean"
        assert proxy.record_of(conn)["status"] == 413


def test_an_early_answer_while_the_client_pours(proxy, web_origin):
    """The same with bytes on their way all the time, read and written in one loop."""
    body = pattern(300_000)

    def answer(request):
        yield response(413, "Connection: close", body=body)
        until(lambda: sent_and_taken(request.connection.sock), "the answer to arrive")  # or the reset would overtake it
        yield CLOSE

    target = web_origin(answer, at_head=True)
    with proxy.open() as conn:
        size = 50_000_000
        received = poured(conn, forward_head(target.url(), f"Content-Length: {size}", method="PUT"), size)
        first, _, rest = received.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 413 "), first[:200]
        assert digest(rest) == digest(body), f"{len(rest)} of {len(body)} bytes, end: {conn.end}"


# --- ws:// ---


def websocket(request):
    """101, then everything back as it comes; half-closes too."""
    if request.get("Upgrade") != "websocket":
        yield response(426, body=b"upgrade")
        return
    yield head(101, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: x")
    seen = request.connection
    data = request.reader.take(len(request.reader.buffer))
    while data or (data := seen.recv()):
        yield b"<" + data + b">"
        data = b""
    yield b"bye"
    yield CLOSE


WEBSOCKET = (
    "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: eA==", "Sec-WebSocket-Version: 13",
)


def test_websockets(proxy, web_origin):
    target = web_origin(websocket)
    with proxy.open() as conn:
        conn.send(forward_head(target.url("/ws"), *WEBSOCKET))
        answer = conn.message()
        assert answer.status == 101 and answer.get("Upgrade").lower() == "websocket"
        assert "upgrade" in answer.get("Connection").lower() and answer.get("Sec-WebSocket-Accept") == "x"
        for message in (b"hello", b"\0\xff" * 5):
            conn.send(message)
            assert conn.recv_exactly(len(message) + 2) == b"<" + message + b">"
        conn.finish()
        assert conn.recv_all() == b"bye" and conn.end == "clean"
        record = proxy.record_of(conn)
        assert (record["status"], record["bytes_up"], record["bytes_down"], record["reason"]) == (101, 15, 22, "ok")
    (request,) = target.requests
    assert request.get("Upgrade") == "websocket" and request.get("Connection").lower() == "upgrade"
    assert request.get("Sec-WebSocket-Key") == "eA==" and "proxy-authorization" not in request.names()


def test_a_websocket_whose_server_finishes_first(proxy, web_origin):
    def answer(request):
        yield head(101, "Upgrade: websocket", "Connection: upgrade")
        yield b"bye"
        yield FIN
        while request.connection.recv():
            pass

    target = web_origin(answer)
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), *WEBSOCKET))
        assert conn.message().status == 101
        assert conn.recv_all() == b"bye" and conn.end == "clean"
        conn.send(b"last words")
        until(lambda: target.only().data.endswith(b"last words"), "the client's last words")
        conn.finish()
        until(lambda: target.only().end == "fin", "the client's end")


@pytest.mark.parametrize("early", [b"early", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["frames", "a request"])
def test_what_comes_right_behind_an_upgrade_request(proxy, web_origin, early):
    """Bytes of the new protocol, once there is a 101."""
    target = web_origin(websocket)
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), *WEBSOCKET) + early)
        assert conn.message().status == 101
        assert conn.recv_exactly(len(early) + 2).replace(b"><", b"") == b"<" + early + b">"
    assert len(target.requests) == 1


def test_an_upgrade_that_is_declined(proxy, web_origin):
    """An ordinary answer, and ordinary requests behind it."""
    target = web_origin(lambda request: response(200, "Upgrade: h2c", "Connection: upgrade", body=b"no thanks"))
    with proxy.open() as conn:
        for fields in (WEBSOCKET, ()):
            answer = conn.get(target.url(), *fields)
            assert (answer.status, answer.body) == (200, b"no thanks")


def test_a_large_websocket_both_ways(proxy, web_origin):
    def answer(request):
        yield head(101, "Upgrade: websocket", "Connection: upgrade")
        data = bytearray(request.reader.buffer)
        while len(data) < 4 * MIB:
            data += request.connection.recv(keep=False)
        yield bytes(data)
        yield CLOSE

    target = web_origin(answer)
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), *WEBSOCKET))
        assert conn.message().status == 101
        assert digest(conn.exchange(pattern(4 * MIB))) == digest(pattern(4 * MIB))


def test_no_upgrade_with_1_0_or_without_Connection(proxy, web_origin):
    target = web_origin()
    with proxy.open() as conn:
        assert conn.get(target.url(), "Upgrade: websocket").status == 200
    with proxy.open() as conn:
        assert conn.get(target.url(), *WEBSOCKET, version="1.0").status == 200
    assert all("upgrade" not in request.names() for request in target.requests)


# --- gone in the middle ---


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["Content-Length: 10000000", "Transfer-Encoding: chunked", "A: b"])
def test_a_client_that_goes_amid_a_download(proxy, web_origin, how, framing):
    """The origin, that has said half of it, sees a reset and not an end."""
    half = b"10\r\n" + b"x" * 16 + b"\r\n" if "chunked" in framing else b"x" * 16
    target = web_origin(lambda request: head(200, framing) + half)
    conn = proxy.open()
    conn.send(forward_head(target.url()))
    assert conn.response_head().status == 200
    data = b""
    while data.count(b"x") < 16:
        data += conn.recv()
    conn.reset() if how == "reset" else conn.close()
    until(lambda: target.only().done, "the end at the origin")
    assert target.only().end == "reset"
    record = proxy.record_of(conn)
    assert record["reason"] in ("client_reset", "client_gone") and record["status"] == 200
    assert record["bytes_down"] == 16


@pytest.mark.parametrize("how", ["close", "reset", "finish"])
@pytest.mark.parametrize("framing", ["Content-Length: 10000000", "Transfer-Encoding: chunked"])
def test_a_client_that_goes_amid_an_upload(proxy, web_origin, how, framing):
    """Half a body must not look like a whole one."""
    target = web_origin()
    conn = proxy.open()
    half = b"5\r\nhello\r\n" if "chunked" in framing else b"hello"
    conn.send(forward_head(target.url(), framing, method="PUT") + half)
    until(lambda: target.seen and b"hello" in target.seen[0].data, "the half body at the origin")
    {"reset": conn.reset, "close": conn.close, "finish": conn.finish}[how]()
    until(lambda: target.only().done, "the end at the origin")
    assert target.only().end == "reset" and not target.requests[0].complete
    record = proxy.record_of(conn)
    assert record["reason"] in ("client_reset", "client_gone"), record
    assert record["bytes_up"] == 5
    conn.close()


def test_a_client_that_goes_before_the_answer(proxy, web_origin):
    """Nobody needs it any more: the origin is reset."""
    def think(request):
        while request.connection.recv():
            pass
        return []

    target = web_origin(think)
    conn = proxy.open()
    conn.send(forward_head(target.url()))
    until(lambda: target.requests, "the request")
    conn.reset()
    until(lambda: target.only().done, "the end at the origin")
    assert target.only().end == "reset"
    assert proxy.record_of(conn)["reason"] in ("client_reset", "client_gone")


def test_a_client_that_says_no_more_but_waits(proxy, web_origin):
    """A close_notify behind the request is no reason to give up."""
    go = threading.Event()

    def answer(request):
        go.wait(20)
        yield response(body=b"hello")

    target = web_origin(answer)
    with proxy.open() as conn:
        conn.send(forward_head(target.url()))
        until(lambda: target.requests, "the request")
        conn.finish()
        go.set()
        assert conn.message().body == b"hello"


@pytest.mark.parametrize("piece", [CLOSE, RESET], ids=["close", "reset"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked", "A: b"])
def test_an_origin_that_goes_amid_its_answer(proxy, web_origin, framing, version, piece):
    """The client sees that something is missing, whichever way the end was to be told."""
    half = b"5\r\nhello\r\n" if "chunked" in framing else b"hello"

    def answer(request):
        yield head(200, framing) + half
        go.wait(20)
        yield piece

    go = threading.Event()
    target = web_origin(answer)
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), version=version))
        began = conn.response_head()
        assert began.status == 200
        data = b""
        while b"hello" not in data:
            data += conn.recv(1)
        go.set()
        record = proxy.record_of(conn)
        if framing == "A: b" and piece is CLOSE:  # that is how it ends
            assert record["reason"] == "ok"
            if version == "1.0":
                assert conn.recv_all() == b"" and conn.end == "clean"
            else:
                assert conn.recv_exactly(7) == b"\r\n0\r\n\r\n"
            return
        rest = data + conn.recv_all()
        assert conn.end in ("truncated", "reset"), "no good-bye"
        assert b"0\r\n\r\n" not in rest
        assert record["reason"] != "ok" and record["status"] == 200 and record["bytes_down"] == 5, record


def test_an_origin_that_goes_before_its_answer(proxy, web_origin):
    for pieces in ([CLOSE], [RESET], [b"HTTP/1.1 200 OK\r\nContent-Le", CLOSE], [head(100), CLOSE], [FIN]):
        target = web_origin(lambda request, pieces=pieces: pieces)
        with proxy.open() as conn:
            answer = conn.get(target.url())
            assert answer.status == 502 and answer.word(), str(answer)
            record = proxy.record_of(conn)
            assert (record["status"], record["reason"]) == (502, answer.word())


def test_an_origin_that_goes_amid_an_upload(proxy, web_origin):
    """Without an answer: 502, in full."""
    target = web_origin(lambda request: [RESET], at_head=True)
    with proxy.open() as conn:
        received = poured(conn, forward_head(target.url(), "Content-Length: 20000000", method="PUT"), 20_000_000)
        assert received.startswith(b"HTTP/1.1 502 ")


def test_an_origin_that_says_nothing(start, web_origin):
    proxy = start({"deadlines": {"response": "400ms"}})
    def think(request):
        while request.connection.recv():
            pass
        return []

    target = web_origin(think)
    with proxy.open() as conn:
        answer = conn.get(target.url())
        assert answer.status == 504 and answer.word(), str(answer)
        record = proxy.record_of(conn)
        assert (record["status"], record["reason"]) == (504, answer.word())
    until(lambda: target.only().done, "the end at the origin")


