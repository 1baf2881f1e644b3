"""Forwarding between those who mean no good: requests and responses that can be read in two ways, that never end, that
are no HTTP at all. Whatever it is, nobody gets what belongs to somebody else, memory stays bounded, and others are
served meanwhile."""

import contextlib
import threading

import pytest
from client import Cut, forward_head
from http_origin import CLOSE, HttpOrigin, chunked, chunks, head, response
from origin import pattern
from test_forward import conn_get_status
from test_forward_bodies import SMALL, SMALL_QUARANTINE
from test_forward_reuse import ask
from wait import until

KIB, MIB = 1 << 10, 1 << 20


def served_beside(proxy, target):
    """Bob, meanwhile."""
    with proxy.open() as conn:
        assert conn.get(target.url("/bob"), user="bob").status == 200


# --- requests that can be read in two ways ---

SMUGGLED = b"GET http://origin.test/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
TWO_WAYS = {
    "CL and TE": ["Content-Length: 6", "Transfer-Encoding: chunked"],
    "TE and CL": ["Transfer-Encoding: chunked", "Content-Length: 6"],
    "two lengths": ["Content-Length: 0", "Content-Length: 6"],
    "a list of lengths": ["Content-Length: 0, 6"],
    "signed length": ["Content-Length: +6"],
    "negative length": ["Content-Length: -1"],
    "hexadecimal length": ["Content-Length: 0x6"],
    "length with text": ["Content-Length: 6 bytes"],
    "empty length": ["Content-Length:"],
    "length with a sign of its own": ["Content-Length: \"6\""],
    "a length beyond all numbers": ["Content-Length: 18446744073709551617"],
    "vertical tab": ["Transfer-Encoding: \x0bchunked"],
    "form feed": ["Transfer-Encoding: chunked\x0c"],
    "quoted": ["Transfer-Encoding: \"chunked\""],
    "another coding": ["Transfer-Encoding: xchunked"],
    "another coding before": ["Transfer-Encoding: gzip, chunked"],
    "another coding behind": ["Transfer-Encoding: chunked, identity"],
    "twice": ["Transfer-Encoding: chunked, chunked"],
    "two fields": ["Transfer-Encoding: chunked", "Transfer-Encoding: x"],
    "identity": ["Transfer-Encoding: identity"],
    "a parameter": ["Transfer-Encoding: chunked;x=y"],
    "empty": ["Transfer-Encoding:"],
    "space before the colon": ["Transfer-Encoding : chunked"],
    "a tab before the colon": ["Transfer-Encoding\t: chunked"],
    "a folded line": ["Transfer-Encoding:", " chunked"],
    "a folded line in another": ["X: y", " Transfer-Encoding: chunked"],
    "a bare CR": ["X: y\rTransfer-Encoding: chunked"],
    "a bare LF": ["X: y\nTransfer-Encoding: chunked"],
    "NUL": ["Transfer-Encoding: chunked\0"],
    "no colon": ["Transfer-Encoding chunked"],
}


@pytest.mark.parametrize("case", TWO_WAYS, ids=lambda case: case.replace(" ", "-"))
def test_requests_that_can_be_read_in_two_ways(proxy, web_origin, case):
    """Refused, each of them, and nothing behind the head is ever taken for a request."""
    target = web_origin()
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), *TWO_WAYS[case], method="POST") + b"0\r\n\r\n" + SMUGGLED)
        answer = conn.message()
        assert answer.status in (400, 501) and answer.word(), str(answer)
        assert (answer.get("Connection") or "").lower() == "close"
        assert conn.recv_all() == b"" and conn.end == "clean"
    assert target.seen == []


def test_transfer_coding_in_1_0(proxy, web_origin):
    """Did not exist then: nobody knows how such a message is framed (RFC 9112 6.1)."""
    target = web_origin()
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), "Transfer-Encoding: chunked", version="1.0", method="POST") + chunks(b"x"))
        assert conn.message().status == 400 and conn.recv_all() == b""
    assert target.seen == []


@pytest.mark.parametrize("same", [["Content-Length: 3", "content-length: 3"], ["Content-Length: 003"]])
def test_lengths_that_say_the_same(proxy, web_origin, same):
    """One value or a refusal; to the origin it goes once."""
    target = web_origin()
    with proxy.open() as conn:
        answer = conn.get(target.url(), *same, method="POST", body=b"abc")
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert target.requests[0].all("Content-Length") == ["3"] and target.requests[0].body == b"abc"


BAD_CHUNKS = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "no number": b"x\r\nhello\r\n0\r\n\r\n",
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "signed": b"+5\r\nhello\r\n0\r\n\r\n",
    "prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "NUL": b"5\0\r\nhello\r\n0\r\n\r\n",
    "beyond all numbers": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "many zeros": b"0" * 400 + b"5\r\nhello\r\n0\r\n\r\n",
    "bare LF behind the size": b"5\nhello\r\n0\r\n\r\n",
    "bare CR behind the size": b"5\rhello\r\n0\r\n\r\n",
    "bare LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "longer than said": b"5\r\nhello!\r\n0\r\n\r\n",
    "shorter than said": b"6\r\nhello\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a=\nb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a=\0\r\nhello\r\n0\r\n\r\n",
    "bare LF at the end": b"5\r\nhello\r\n0\n\n",
    "bare LF behind the last": b"5\r\nhello\r\n0\n\r\n",
    "trailer with a bare LF": b"5\r\nhello\r\n0\r\nX: y\n\r\n",
    "folded trailer": b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
    "trailer without colon": b"5\r\nhello\r\n0\r\nxy\r\n\r\n",
    "trailer with NUL": b"5\r\nhello\r\n0\r\nX: \0\r\n\r\n",
    "trailer, space before colon": b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    "trailer without name": b"5\r\nhello\r\n0\r\n: y\r\n\r\n",
}


@pytest.mark.parametrize("case", BAD_CHUNKS, ids=lambda case: case.replace(" ", "-"))
def test_bad_chunks_up(proxy, web_origin, case):
    """The origin never sees a whole body, the client never a good answer, and nothing behind it is read."""
    target = web_origin()
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), "Transfer-Encoding: chunked", method="POST") + BAD_CHUNKS[case] + SMUGGLED)
        try:
            assert conn.message().status == 400
            assert conn.recv_all() == b""
        except Cut:
            pass
        assert conn.end is not None
    if target.seen:
        until(lambda: target.seen[0].done, "the end at the origin")
        assert not any(request.complete for request in target.requests) and len(target.requests) <= 1
        assert target.seen[0].end == "reset"
        assert proxy.record_of(conn)["reason"] != "ok"


def test_an_endless_extension_up(proxy, web_origin):
    target = web_origin()
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), "Transfer-Encoding: chunked", method="POST") + b"5;")
        with contextlib.suppress(OSError):
            for _ in range(64):
                conn.send(b"x" * 64 * KIB)
        with contextlib.suppress(Cut):
            assert conn.message().status == 400
        conn.recv_all()
        assert conn.end is not None
    assert not any(request.complete for request in target.requests)


@pytest.mark.parametrize("line", [b"X-Trailer: yyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", b"x"], ids=["lines", "one line"])
def test_endless_trailers_up(start, web_origin, line):
    proxy = start({"workers": 1}, env=SMALL_QUARANTINE)
    target = web_origin()
    served_beside(proxy, target)
    before = proxy.rss()
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), "Transfer-Encoding: chunked", method="POST") + b"5\r\nhello\r\n0\r\n")
        block = line * (64 * KIB // len(line))
        with contextlib.suppress(OSError):
            for _ in range(512):
                conn.send(block)
        with contextlib.suppress(Cut):
            assert conn.message().status in (400, 431)
        conn.recv_all()
        assert conn.end is not None and proxy.rss() - before < 8 * MIB
    assert not any(request.complete for request in target.requests if request.target == "/")


def test_a_million_chunks_of_one_byte(proxy, web_origin):
    target = web_origin(lambda request: response(body=b"%d" % len(request.body)))
    with proxy.open() as conn:
        count = 300_000
        body = b"1\r\nx\r\n" * count + chunks()
        assert conn.get(target.url(), "Transfer-Encoding: chunked", method="POST", body=body).body == b"%d" % count


def test_bytes_behind_a_request_are_no_body(proxy, web_origin):
    """More than Content-Length said: the next request, or rubbish; never part of this one."""
    target = web_origin()
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), "Content-Length: 3", method="POST") + b"abcdef")
        assert conn.message().status == 200
        with contextlib.suppress(Cut):
            answer = conn.message()
            assert answer.status >= 400
    assert target.requests[0].body == b"abc" and len(target.requests) == 1


def test_uploads_that_stop(start, web_origin):
    """Half a body and silence: the idle deadline ends it, and the origin is reset."""
    proxy = start({"deadlines": {"idle": "500ms"}})
    target = web_origin()
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), "Content-Length: 100", method="POST") + b"half")
        try:
            assert conn.message().status in (408, 504)
        except Cut:
            pass
        conn.recv_all()
        assert conn.end is not None
        assert proxy.record_of(conn)["reason"] == "idle_timeout"
    until(lambda: target.only().done, "the end at the origin")
    assert target.only().end == "reset"


def test_downloads_that_stop(start, web_origin):
    proxy = start({"deadlines": {"idle": "2s"}})

    def stop(request):
        yield head(200, "Content-Length: 100") + b"half"
        while request.connection.recv():
            pass

    target = web_origin(stop)
    with proxy.open() as conn:
        conn.send(forward_head(target.url()))
        with pytest.raises(Cut):
            conn.message()
        assert conn.end in ("truncated", "reset")
        assert proxy.record_of(conn)["reason"] == "idle_timeout"
    until(lambda: target.only().done, "the end at the origin")


# --- responses that can be read in two ways, or not at all ---

BODY = b"5\r\nhello\r\n0\r\n\r\n"
FRAMED = {
    "CL and TE": ["Content-Length: 5", "Transfer-Encoding: chunked"],
    "TE and CL": ["Transfer-Encoding: chunked", "Content-Length: 15"],
    "two lengths": ["Content-Length: 5", "Content-Length: 6"], "a list of lengths": ["Content-Length: 5, 6"],
    "signed": ["Content-Length: +5"], "negative": ["Content-Length: -5"], "hexadecimal": ["Content-Length: 0x5"],
    "empty": ["Content-Length:"], "text": ["Content-Length: five"], "with text": ["Content-Length: 5 5"],
    "beyond all numbers": ["Content-Length: 18446744073709551621"],
    "another coding": ["Transfer-Encoding: xchunked"], "a coding before": ["Transfer-Encoding: gzip, chunked"],
    "a coding behind": ["Transfer-Encoding: chunked, gzip"], "twice": ["Transfer-Encoding: chunked, chunked"],
    "two fields": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "identity": ["Transfer-Encoding: identity"], "vertical tab": ["Transfer-Encoding: \x0bchunked"],
    "quoted": ["Transfer-Encoding: \"chunked\""], "empty coding": ["Transfer-Encoding:"],
    "space before the colon": ["Transfer-Encoding : chunked"], "folded": ["Transfer-Encoding:", " chunked"],
    "folded otherwise": ["X: y", "\tTransfer-Encoding: chunked", "Content-Length: 5"],
    "bare CR": ["X: y\rContent-Length: 3", "Content-Length: 5"],
    "bare LF": ["X: y\nContent-Length: 3", "Content-Length: 5"],
    "NUL": ["X: y\0", "Content-Length: 5"], "no colon": ["X y", "Content-Length: 5"],
    "no name": [": y", "Content-Length: 5"], "a control character": ["X: \x01", "Content-Length: 5"],
    "a space in a name": ["X y: z", "Content-Length: 5"], "a space first": [" X: y", "Content-Length: 5"],
}
HEADS = {
    "TE in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
    "nothing but LF": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status of letters": b"HTTP/1.1 abc OK\r\nContent-Length: 5\r\n\r\nhello",
    "status 099": b"HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status 600": b"HTTP/1.1 600 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status and phrase in one": b"HTTP/1.1 200OK\r\nContent-Length: 5\r\n\r\nhello",
    "two spaces": b"HTTP/1.1  200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "a NUL in the phrase": b"HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nhello",
    "a CR in the phrase": b"HTTP/1.1 200 O\rK\r\nContent-Length: 5\r\n\r\nhello",
    "version 2": b"HTTP/2 200\r\nContent-Length: 5\r\n\r\nhello",
    "version 2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "version 0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "lower case": b"http/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "another protocol": b"ICY 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "space before it": b" HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "rubbish before it": b"rubbish\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "no head at all": b"<html>hello</html>\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\x05hello" + bytes(100),
    "a TLS alert": b"\x15\x03\x03\x00\x02\x02\x46",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "NULs": bytes(1000),
    "101 that nobody asked for": head(101, "Upgrade: websocket", "Connection: upgrade") + b"hello",
}
BAD_RESPONSES = {case: head(200, *fields) + BODY for case, fields in FRAMED.items()} | HEADS


@pytest.mark.parametrize("case", BAD_RESPONSES, ids=lambda case: case.replace(" ", "-"))
def test_bad_responses(start, web_origin, case):
    """502 with its word, the same on record; the origin's connection is not used again, the client's goes on."""
    proxy = start({"workers": 1})
    bad = BAD_RESPONSES[case]

    def answer(request):
        if request.target == "/good":
            yield response(body=b"good")
            return
        yield bad
        while request.connection.recv():
            pass

    target = web_origin(answer)
    with proxy.open() as conn:
        answer = conn.get(target.url("/bad"))
        assert answer.status == 502 and answer.word().startswith("response_"), str(answer)
        assert b"hello" not in answer.body
        assert (answer.get("Proxy-Status") or "").startswith("adit;")
        record = proxy.record_of(conn)
        assert (record["reason"], record["status"], record["rule"]) == (answer.word(), 502, "lab")
        assert conn.get(target.url("/good")).body == b"good"
    assert len(target.seen) == 2
    until(lambda: target.seen[0].done, "the end of the bad one at the origin")


def test_an_interim_response_that_is_bad(start, web_origin):
    """1xx are read as strictly as others."""
    proxy = start({"workers": 1})
    for bad in (head(103, "X: y\0"), head(103, "X : y"), b"HTTP/1.1 103\nX: y\n\n"):
        target = web_origin(lambda request, bad=bad: [bad, response(body=b"hello")])
        with proxy.open() as conn:
            assert conn.get(target.url()).status == 502


@pytest.mark.parametrize("field", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_an_interim_response_with_a_body(start, web_origin, field):
    """There is none: what follows is the next head, or nothing good."""
    proxy = start({"workers": 1})
    target = web_origin(lambda request: [head(103, field), response(body=b"hello")])
    with proxy.open() as conn:
        answer = conn.get(target.url())
        assert answer.status == 502 or (answer.status, answer.body) == (200, b"hello")
        for interim in answer.interim:
            assert interim.get("Content-Length") is None and interim.get("Transfer-Encoding") is None


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("case", BAD_CHUNKS, ids=lambda case: case.replace(" ", "-"))
def test_bad_chunks_down(proxy, web_origin, case, version):
    """The client sees that the message is broken, in either way of telling it the end."""
    def answer(request):
        yield head(200, "Transfer-Encoding: chunked") + BAD_CHUNKS[case]
        while request.connection.recv():
            pass

    target = web_origin(answer)
    with proxy.open() as conn:
        try:
            answer = conn.get(target.url(), version=version)
            assert answer.status == 502, str(answer)
        except Cut:
            assert conn.end in ("truncated", "reset")
        record = proxy.record_of(conn)
        assert record["reason"].startswith("response_"), record
    assert len(target.seen) == 1
    until(lambda: target.only().done, "the end at the origin")


# --- more than one answer ---

SECOND = response(200, "X-Whose: somebody else's", body=b"stolen")
MORE = {
    "another response": SECOND, "rubbish": b"rubbish", "one byte": b"\n", "an empty line": b"\r\n",
    "an interim response": head(103, "X-Whose: x"), "half a response": SECOND[:30],
    "a long one": response(body=pattern(MIB)),
}


@pytest.mark.parametrize("how", ["with it", "later"])
@pytest.mark.parametrize("framing", ["length", "chunked", "204", "304", "HEAD"])
@pytest.mark.parametrize("case", MORE, ids=lambda case: case.replace(" ", "-"))
def test_what_comes_behind_a_response_is_nobodys(start, web_origin, case, framing, how):
    """Response splitting: not the next request's, on no connection, and the origin's connection is done with."""
    sent = threading.Event()

    def answer(request):
        if request.target != "/first":
            yield response(body=request.target.encode())
            return
        first = {"length": response(body=b"first"), "chunked": chunked(b"first"), "204": head(204), "304": head(304),
                 "HEAD": head(200, "Content-Length: 5")}[framing]
        if how == "with it":
            yield first + MORE[case]
        else:
            yield first
            asked.wait(20)
            yield MORE[case]
        sent.set()

    asked = threading.Event()
    proxy = start({"workers": 1})
    target = web_origin(answer)
    with proxy.open() as conn:
        answer = conn.get(target.url("/first"), method="HEAD" if framing == "HEAD" else "GET")
        assert answer.status in (200, 204, 304) and answer.body in (b"", b"first")
        asked.set()
        if how == "later":
            until(lambda: target.seen[0].done or target.seen[0].end, "the end at the origin")
        for path in ("/second", "/third"):
            answer = ask(proxy, conn, target.url(path))
            assert (answer.status, answer.body, answer.interim) == (200, path.encode(), [])
    with proxy.open() as conn:
        assert conn.get(target.url("/fourth")).body == b"/fourth"
    assert len(target.seen) == 2
    until(lambda: target.seen[0].done, "the end at the origin")


def test_a_response_before_its_request(start, origin):
    """Sent as soon as somebody connects. Whoever asks may get that one or a 502; nobody gets the answer to another
    request."""
    proxy = start({"workers": 1})

    class Eager(HttpOrigin):
        def _talk(self, seen):
            seen.send(response(body=b"early"))
            super()._talk(seen)

    target = Eager(lambda request: response(body=request.target.encode()))
    origin.keep(target)
    with proxy.open() as conn:
        for i in range(10):
            answer = conn.get(target.url(f"/{i}"))
            assert answer.status == 502 or answer.body in (b"early", f"/{i}".encode()), answer.body
    for user in ("bob", "alice"):
        with proxy.open() as conn:
            answer = conn.get(target.url("/last"), user=user)
            assert answer.status == 502 or answer.body in (b"early", b"/last"), answer.body


def test_an_answer_before_the_end_of_the_request(start, web_origin):
    """It passes; the rest of the request is no request, and the connection to the origin is not used again."""
    proxy = start({"workers": 1})
    target = web_origin(lambda request: response(body=b"early"), at_head=True)
    inner = b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"
    with proxy.open() as conn:
        conn.send(forward_head(target.url("/first"), f"Content-Length: {len(inner) + 1}", method="PUT"))
        assert conn.message().body == b"early"
        with contextlib.suppress(OSError):
            conn.send(inner + b"x")
            conn.send(forward_head(target.url("/second")))
        with contextlib.suppress(Cut):
            assert conn.message().body == b"early"
    for _ in range(3):
        assert conn_get_status(proxy, target) == 200
    for seen in target.seen:
        lines = [request.target for request in target.requests if request.connection is seen]
        assert "/first" not in lines or lines[:1] == ["/first"] == lines, lines


# --- without end ---


def pour(data):
    """Sends this again and again, until it is stopped."""

    def answer(request):
        if request.target in ("/bob", "/warm"):
            yield response(body=b"hello")
            return
        yield data[0]
        while True:
            yield data[1]

    return answer


ENDLESS = {
    "a status line": (b"HTTP/1.1 200 ", b"x" * 64 * KIB), "a field line": (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 64 * KIB),
    "fields": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10000), "a field name": (b"HTTP/1.1 200 OK\r\n", b"x" * 64 * KIB),
    "empty lines": (b"", b"\r\n" * 32 * KIB), "NULs": (b"", bytes(64 * KIB)),
    "a large interim response": (b"HTTP/1.1 103 Hints\r\n", b"X: y\r\n" * 10000),
}


@pytest.mark.parametrize("case", ENDLESS, ids=lambda case: case.replace(" ", "-"))
def test_heads_without_end(start, web_origin, case):
    proxy = start(SMALL, env=SMALL_QUARANTINE)
    target = web_origin(pour(ENDLESS[case]))
    served_beside(proxy, target)
    before = proxy.rss()
    with proxy.open() as conn:
        answer = conn.get(target.url())
        assert answer.status == 502 and answer.word().startswith("response_"), str(answer)
        assert proxy.record_of(conn)["reason"] == answer.word()
        assert proxy.rss() - before < 8 * MIB
        assert conn.get(target.url("/bob")).status == 200
    until(lambda: any(seen.end == "reset" for seen in target.seen), "the end at the origin")


@pytest.mark.parametrize("interim", [head(100), head(103, "X: " + "y" * 8000)], ids=["100", "103"])
def test_interim_responses_without_end(start, web_origin, interim):
    """Bounded, also while no final response is in sight."""
    proxy = start(SMALL, env=SMALL_QUARANTINE)
    target = web_origin(pour((b"", interim * 8)))
    served_beside(proxy, target)
    with proxy.open() as conn:
        conn.sock.settimeout(60)
        conn.send(forward_head(target.url()))
        try:
            assert conn.message().status == 502
        except Cut:
            assert conn.end in ("truncated", "reset")
        assert proxy.record_of(conn)["reason"] != "ok"
    until(lambda: any(seen.end == "reset" for seen in target.seen), "the end at the origin")


def test_interim_responses_to_a_client_that_does_not_read(start, web_origin):
    proxy = start(SMALL, env=SMALL_QUARANTINE)
    target = web_origin(pour((b"", head(103, "X: " + "y" * 8000) * 8)))
    served_beside(proxy, target)
    before = proxy.rss()
    conns = [proxy.open(receive_buffer=65536) for _ in range(10)]
    for conn in conns:
        conn.send(forward_head(target.url()))
    until(lambda: len(target.requests) >= 11, "all of them at the origin")
    served_beside(proxy, target)
    assert proxy.rss() - before < 32 * MIB
    for conn in conns:
        conn.reset()


@pytest.mark.parametrize("line", [b"X-Trailer: yyyyyyyyyyyyyyy\r\n" * 1000, b"x" * 64 * KIB], ids=["lines", "one line"])
def test_trailers_without_end(start, web_origin, line):
    proxy = start(SMALL, env=SMALL_QUARANTINE)
    target = web_origin(pour((head(200, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n", line)))
    served_beside(proxy, target)
    before = proxy.rss()
    with proxy.open() as conn:
        conn.send(forward_head(target.url()))
        with pytest.raises(Cut):
            conn.message()
        assert conn.end in ("truncated", "reset")
        assert proxy.record_of(conn)["reason"].startswith("response_") and proxy.rss() - before < 8 * MIB
    until(lambda: any(seen.end == "reset" for seen in target.seen), "the end at the origin")


def test_an_extension_without_end(start, web_origin):
    proxy = start(SMALL, env=SMALL_QUARANTINE)
    target = web_origin(pour((head(200, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n5;", b"x" * 64 * KIB)))
    served_beside(proxy, target)
    before = proxy.rss()
    with proxy.open() as conn:
        conn.send(forward_head(target.url()))
        with pytest.raises(Cut):
            conn.message()
        assert proxy.rss() - before < 8 * MIB
    until(lambda: any(seen.end == "reset" for seen in target.seen), "the end at the origin")


def test_a_body_without_end(start, web_origin):
    """Passes as fast as it is taken, and ends with its client."""
    proxy = start(SMALL, env=SMALL_QUARANTINE)
    target = web_origin(pour((head(200), pattern(64 * KIB))))
    served_beside(proxy, target)
    before = proxy.rss()
    with proxy.open() as conn:
        conn.send(forward_head(target.url()))
        received = 0
        while received < 32 * MIB:
            received += len(conn.recv())
        assert proxy.rss() - before < 16 * MIB
        conn.reset()
    until(lambda: any(seen.end == "reset" for seen in target.seen), "the end at the origin")
    assert proxy.record_of(conn)["reason"] == "client_reset"


def test_a_head_in_drops(start, web_origin):
    """A byte now and then does not move the deadline."""
    proxy = start({"deadlines": {"response": "1s"}})

    def drip(request):
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 4000:
            yield bytes([byte])
            if over.wait(0.05):
                return

    over = threading.Event()
    target = web_origin(drip)
    try:
        with proxy.open() as conn:
            answer = conn.get(target.url())
            assert answer.status == 504 and answer.word(), str(answer)
            assert proxy.record_of(conn)["reason"] == answer.word()
    finally:
        over.set()


def test_interim_responses_in_drops(start, web_origin):
    """Nor does a 103 now and then, for ever."""
    proxy = start({"deadlines": {"response": "1s"}})

    def drip(request):
        for _ in range(2000):
            yield head(103, "Link: </a>")
            if over.wait(0.1):
                return

    over = threading.Event()
    target = web_origin(drip)
    try:
        with proxy.open() as conn:
            conn.send(forward_head(target.url()))
            try:
                assert conn.message().status == 504
            except Cut:
                pass
            assert proxy.record_of(conn)["reason"] == "response_timeout"
    finally:
        over.set()


# --- the store of kept connections ---


def test_kept_connections_are_bounded(start, web_origin):
    proxy = start({"workers": 1, "forward": {"idle_connections": 3, "idle": "1m"}})
    targets = [web_origin() for _ in range(8)]
    with proxy.open() as conn:
        for target in targets:
            assert ask(proxy, conn, target.url()).status == 200
        until(lambda: sum(target.seen[0].done for target in targets) == 5, "all but three to be closed")
        last = [target for target in targets if not target.seen[0].done]
        assert last == targets[-3:], "those used last are kept"
        for target in last:
            assert ask(proxy, conn, target.url()).status == 200
        assert [len(target.seen) for target in last] == [1, 1, 1]


def test_kept_connections_grow_old(start, web_origin):
    proxy = start({"workers": 1, "forward": {"idle": "400ms"}})
    target = web_origin()
    with proxy.open() as conn:
        assert ask(proxy, conn, target.url()).status == 200
        until(lambda: target.seen[0].done, "the end at the origin")
        assert ask(proxy, conn, target.url()).status == 200
    assert len(target.seen) == 2


def test_no_connection_is_kept_when_none_may_be(start, web_origin):
    proxy = start({"workers": 1, "forward": {"idle_connections": "off"}})
    target = web_origin()
    with proxy.open() as conn:
        for _ in range(4):
            assert conn.get(target.url()).body == b"hello"
    assert len(target.seen) == 4


def test_parallel_requests_share_nothing(start, web_origin):
    """Twenty at once to one origin: each has its own connection while it lasts, and gets its own answer."""
    proxy = start({"workers": 1})
    barrier = threading.Barrier(20)

    def answer(request):
        barrier.wait(30)
        yield chunked(request.target.encode())

    target = web_origin(answer)
    got = {}

    def ask(i):
        with proxy.open() as conn:
            for round_number in range(3):
                got[i, round_number] = conn.get(target.url(f"/{i}/{round_number}")).body

    threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert got == {(i, n): f"/{i}/{n}".encode() for i in range(20) for n in range(3)}
    for seen in target.seen:
        paths = [request.target for request in target.requests if request.connection is seen]
        assert len({path.split("/")[2] for path in paths}) == len(paths), f"two at once on one connection: {paths}"


# --- who leaves without a word, again and again ---


def test_a_storm_of_broken_exchanges(start, web_origin):
    """Clients that go at every moment of an exchange, origins that do: nothing is left, and others are served."""
    def answer(request):
        pieces = [head(103, "Link: </a>"), head(200, "Transfer-Encoding: chunked"), b"5\r\nhel", b"lo\r\n", chunks()]
        count = int(request.target[1:])
        yield from pieces[: count % 6]
        if count % 5:
            yield CLOSE
        else:
            while request.connection.recv():
                pass

    proxy = start()
    target, good = web_origin(answer), web_origin()
    whole = forward_head(target.url("/%d"), "Content-Length: 5", method="PUT") + b"hello"

    def client(first):
        for count in range(first, 400, 4):
            conn = proxy.open()
            message = whole.replace(b"/%d", b"/%d" % count)
            conn.send(message if count % 3 else message[: count * 7 % len(message)])
            if count % 2:
                with contextlib.suppress(OSError, AssertionError):
                    conn.sock.settimeout(0.05)
                    conn.message()
            conn.reset() if count % 4 < 2 else conn.close()

    threads = [threading.Thread(target=client, args=(i,), daemon=True) for i in range(4)]
    for each in threads:
        each.start()
    for _ in range(10):
        served_beside(proxy, good)
    for each in threads:
        each.join(60)
        assert not each.is_alive()
    target.close()
    good.close()
    proxy.settle()
    opened = {r["id"] for r in proxy.records() if r["kind"] == "open"}
    until(lambda: opened <= {r["id"] for r in proxy.records() if r["kind"] == "close"}, "a close for every open")
