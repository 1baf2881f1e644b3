"""http:// URLs by their absolute form: who may ask for what, what the origin gets, what the client gets, and what is on
record. Bodies: test_forward_bodies.py; connections that are used again: test_forward_reuse.py."""

import fcntl
import os
import signal
import struct
import termios
import threading

import pytest
from client import Conn, basic, connect_head, forward_head
from http_origin import CLOSE, FIN, chunked, chunks, head, hello, response
from origin import digest, pattern, unused_port
from wait import until

MIB = 1 << 20
HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "te",
    "transfer-encoding", "upgrade", "http2-settings",
}


def end_to_end(fields):
    """What a proxy has no business with, as it came."""
    ours = HOP_BY_HOP | {"host", "via", "content-length", "date"}
    return [(name, value) for name, value in fields if name.lower() not in ours]


def values(fields, name):
    return [value for key, value in fields if key.lower() == name.lower()]


# --- authenticated ---


def test_without_a_login(proxy, web_origin):
    """407 with the challenge, the connection stays, and the login comes on it."""
    target = web_origin()
    with proxy.open() as conn:
        answer = conn.get(target.url(), user=None)
        assert (answer.status, answer.word()) == (407, "auth_required")
        assert answer.get("Proxy-Authenticate") == 'Basic realm="adit", charset="UTF-8"' and answer.body
        assert (answer.get("Connection") or "").lower() != "close"
        assert conn.get(target.url(), password="not-it").status == 407
        assert conn.get(target.url()).body == b"hello"
    assert len(target.requests) == 1


def test_without_a_login_and_with_a_body(proxy, web_origin):
    """The body is not taken for a request, whatever it looks like."""
    target = web_origin()
    inner = forward_head(target.url("/inner"))
    with proxy.open() as conn:
        conn.send(forward_head(target.url(), f"Content-Length: {len(inner)}", method="POST", user=None) + inner)
        assert conn.message().status == 407
        assert conn.recv_all() == b"" and conn.end == "clean"
    assert target.seen == []


def test_every_request_has_its_own_login(proxy, web_origin):
    """One that was good before on this connection lets nobody else pass."""
    target = web_origin()
    with proxy.open() as conn:
        assert conn.get(target.url()).status == 200
        assert conn.get(target.url(), user=None).status == 407
        assert conn.get(target.url(), user="bob").status == 200
        users = [r["user"] for r in until(lambda: closes(proxy, conn, 2), "two records")]
    assert users == ["alice", "bob"] and len(target.requests) == 2


def test_credentials_before_everything_else(proxy):
    """Whoever has no login learns nothing: not whether a name exists, not what the policy says."""
    for url in ("http://nowhere.test/", "http://127.0.0.1:1/", f"http://127.0.0.1:{proxy.port}/"):
        with proxy.open() as conn:
            assert conn.get(url, user=None).status == 407


# --- authorised, resolved, dialled ---


def web_only(*to):
    return {"policy": {"rules": [{"name": "web", "action": "allow", "to": list(to)}]}}


def test_a_rule_without_ports_means_80_and_443(start):
    proxy = start(web_only("loopback"))
    with proxy.open() as conn:
        for port in (80, 443):
            answer = conn.get(f"http://127.0.0.77:{port}/")
            assert answer.status != 403, str(answer)
        assert conn.get("http://127.0.0.77/").status != 403
        for port in (8080, 81, 442):
            answer = conn.get(f"http://127.0.0.77:{port}/")
            assert (answer.status, answer.word()) == (403, "denied")
    assert proxy.refused("127.0.0.77:80").word() == "denied", "a tunnel to port 80 is something else"
    for port in (80, 443):
        proxy.record(address="127.0.0.77", address_port=port)


def test_denied_by_name(start, web_origin):
    proxy = start({"policy": {"rules": [
        {"name": "no", "action": "deny", "to": ["origin.test"], "ports": ["any"]},
        {"name": "lab", "action": "allow", "to": ["loopback"], "ports": ["any"]},
    ]}})
    target = web_origin()
    with proxy.open() as conn:
        answer = conn.get(target.url(name="origin.test"))
        assert (answer.status, answer.word()) == (403, "denied")
        record = proxy.record(kind="deny", reason="denied")
        assert (record["rule"], record["user"], record["method"], record["status"]) == ("no", "alice", "GET", 403)
        assert conn.get(target.url(name="loop.test")).status == 200, "the connection stays after a refusal"
        assert conn.get(target.url(name="ORIGIN.test.")).status == 403
        # the target decides, not what Host says
        assert conn.get(target.url(name="origin.test"), host="loop.test").status == 403
    assert len(target.seen) == 1


@pytest.mark.parametrize("host", [
    "127.0.0.1", "loop.test", "[::ffff:127.0.0.1]", "mapped.test", "localhost", "0.0.0.0",
])
def test_special_addresses_need_a_rule_of_their_own(start, web_origin, host):
    proxy = start({"policy": {"rules": [{"name": "any", "action": "allow", "to": ["any"], "ports": ["any"]}]}})
    target = web_origin()
    with proxy.open() as conn:
        answer = conn.get(f"http://{host}:{target.port}/")
        assert answer.status == 403 and answer.word() in ("denied", "address_denied"), str(answer)
    assert target.seen == []


def test_the_proxy_itself_is_no_destination(proxy):
    with proxy.open() as conn:
        for host in ("127.0.0.1", "loop.test", "localhost"):
            answer = conn.get(f"http://{host}:{proxy.port}/healthz")
            assert (answer.status, answer.word()) == (403, "proxy_loop"), str(answer)


@pytest.mark.parametrize("host, status, word", [
    ("nowhere.test", 502, "name_unknown"), ("empty.test", 502, "name_no_address"), ("broken.test", 502, "dns_failed"),
])
def test_names_that_are_none(proxy, host, status, word):
    with proxy.open() as conn:
        answer = conn.get(f"http://{host}/")
        assert (answer.status, answer.word()) == (status, word)
        record = proxy.record_of(conn, "deny")
        assert (record["reason"], record["status"], record["method"]) == (word, status, "GET")


def test_names_that_nobody_answers(start):
    proxy = start({"deadlines": {"resolve": "300ms"}})
    with proxy.open() as conn:
        answer = conn.get("http://silent.test/")
        assert (answer.status, answer.word()) == (504, "dns_timeout")


def test_nobody_listens(proxy, web_origin):
    target = web_origin()
    with proxy.open() as conn:
        answer = conn.get(f"http://127.0.0.1:{unused_port()}/")
        assert (answer.status, answer.word()) == (502, "dial_refused")
        assert proxy.record_of(conn, "deny")["reason"] == "dial_refused"
        assert conn.get(target.url()).status == 200, "the connection stays"


def test_nobody_answers_the_dial(start, black_hole):
    proxy = start({"deadlines": {"dial": "500ms"}})
    with proxy.open() as conn:
        answer = conn.get(f"http://{black_hole().target}/")
        assert (answer.status, answer.word()) == (504, "dial_timeout")


def test_an_ipv6_literal(proxy, ipv6, web_origin):
    target = web_origin(host="::1")
    with proxy.open() as conn:
        assert conn.get(target.url("/six")).body == b"hello"
    assert target.requests[0].line == "GET /six HTTP/1.1" and target.requests[0].all("Host") == [target.target]


# --- what the origin gets ---

PATHS = {
    "/": "/", "": "/", "?q=1": "/?q=1", "/a/b?c=d&e": "/a/b?c=d&e", "//double//": "//double//",
    "/a%2Fb%00%ff?%zz": "/a%2Fb%00%ff?%zz", "/../.././x": "/../.././x", "/;x=1,2!*'()": "/;x=1,2!*'()",
    "/?a=http://other.test/": "/?a=http://other.test/", "/@:": "/@:", "/" + "x" * 4000: "/" + "x" * 4000,
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:20] or "empty")
def test_the_path_is_not_touched(proxy, web_origin, path):
    target = web_origin()
    with proxy.open() as conn:
        assert conn.get(target.url(path)).status == 200
    (request,) = target.requests
    assert request.line == f"GET {PATHS[path]} HTTP/1.1"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "M-SEARCH"])
def test_methods(proxy, web_origin, method):
    target = web_origin()
    with proxy.open() as conn:
        answer = conn.get(target.url("/m"), method=method)
        assert answer.status == 200 and answer.body == (b"" if method == "HEAD" else b"hello")
        assert conn.get(target.url("/again")).body == b"hello"
    assert target.requests[0].line == f"{method} /m HTTP/1.1"


def test_the_head_byte_for_byte(proxy, web_origin):
    """In order and as written, duplicates and strange bytes too; before it the new request line and Host, and no other
    additions than Via and what is of the connection."""
    target = web_origin()
    fields = [
        "User-Agent: probe/1.0 (x; y)", "ACCEPT: */*", "Accept: text/html;q=0.5", "X-Empty:", "x-case: MiXed \t inner",
        "Cookie: a=b; c=\"d\"", "X-Twice: 1", "X-Bytes: \xe4\xf6\xff\x80", "Authorization: Basic b3JpZ2luOnB3",
        "If-None-Match: \"x\"", "Range: bytes=0-", "Content-Type: a/b", "Forwarded: for=x", "X-Forwarded-For: y",
        "!#$%&'*+-.^_`|~: odd", "Cache-Control: no-cache", "Pragma: no-cache",
        "x-twice: 2",
    ]
    with proxy.open() as conn:
        assert conn.get(target.url("/x"), *fields).status == 200
    (request,) = target.requests
    lines = request.head.decode("latin-1").split("\r\n")
    assert lines[0] == "GET /x HTTP/1.1" and lines[1] == f"Host: {target.target}" and lines[-2:] == ["", ""]
    own = [line for line in lines[2:-2] if line.split(":")[0].lower() in ("via", "connection")]
    assert [line.replace(": ", ":", 1) for line in lines[2:-2] if line not in own] == [
        field.replace(": ", ":", 1) for field in fields]
    assert request.all("Via") == ["1.1 adit"]


@pytest.mark.parametrize("sent", ["other.test", "other.test:99", "", "LOOP.TEST:1"], ids=lambda host: host or "empty")
def test_Host_is_the_targets(proxy, web_origin, sent):
    target = web_origin()
    with proxy.open() as conn:
        assert conn.get(target.url(name="origin.test"), host=sent).status == 200
    assert target.requests[0].all("Host") == [f"origin.test:{target.port}"]


def test_Via_is_appended(proxy, web_origin):
    target = web_origin()
    with proxy.open() as conn:
        conn.get(target.url(), "Via: 1.0 fred", "via: 1.1 barney (x)")
    with proxy.open() as conn:
        conn.get(target.url(), version="1.0")
    first, second = target.requests
    assert first.get("Via") == "1.0 fred, 1.1 barney (x), 1.1 adit"
    assert second.get("Via") == "1.0 adit" and second.line == "GET / HTTP/1.1"


REMOVED = {
    "Proxy-Authorization": (), "Proxy-Connection": ("Proxy-Connection: keep-alive",),
    "Keep-Alive": ("Keep-Alive: timeout=5",), "TE": ("TE: gzip, trailers",), "Upgrade": ("Upgrade: websocket",),
    "HTTP2-Settings": ("Connection: HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
    "X-Hop": ("Connection: x-hop", "X-Hop: 1"), "X-Hop2": ("Connection: close, x-Hop2 ,,", "X-Hop2: 1", "x-hop2: 2"),
    "X-Hop3": ("X-Hop3: 1", "Connection: keep-alive", "Connection:\tX-HOP3\t"),
    "Proxy-Authenticate": ("Proxy-Authenticate: Basic realm=x",),
    "Trailer-less": ("Connection: Trailer-less", "Trailer-less: x"),
}


@pytest.mark.parametrize("name", REMOVED)
def test_what_is_of_one_hop_stays_there(proxy, web_origin, name):
    target = web_origin()
    with proxy.open() as conn:
        assert conn.get(target.url(), "X-Before: 1", *REMOVED[name], "X-After: 2").status == 200
    (request,) = target.requests
    assert name.lower() not in request.names()
    assert end_to_end(request.fields) == [("X-Before", "1"), ("X-After", "2")]
    assert values(request.fields, "Connection") in ([], ["close"], ["keep-alive"])


@pytest.mark.parametrize("named", ["Host", "Content-Length", "Via", "Transfer-Encoding", "Authorization"])
def test_Connection_names_nothing_away_that_is_needed(proxy, web_origin, named):
    target = web_origin()
    with proxy.open() as conn:
        fields = [f"Connection: {named}", "Authorization: Basic eDp5", "Via: 1.1 x"]
        if named == "Transfer-Encoding":
            answer = conn.get(target.url(), *fields, "Transfer-Encoding: chunked", method="POST", body=chunks(b"abc"))
        else:
            answer = conn.get(target.url(), *fields, "Content-Length: 3", method="POST", body=b"abc")
        assert answer.status in (200, 400)
    if answer.status == 200:
        (request,) = target.requests
        assert request.body == b"abc" and request.all("Host") == [target.target]
        assert request.all("Authorization") == ["Basic eDp5"] and request.get("Via") == "1.1 x, 1.1 adit"


def test_the_password_reaches_nobody(proxy, web_origin):
    """In no field, no path and no trailer."""
    target = web_origin()
    secret = f"Proxy-Authorization: Basic {basic('alice')}"
    with proxy.open() as conn:
        body = chunks(b"abc", trailers=[secret, "X-Sum: 1"])
        conn.get(target.url(), "Transfer-Encoding: chunked", "Trailer: X-Sum", method="POST", body=body)
        conn.get(target.url(), "Max-Forwards: 3", method="TRACE")
        conn.get(target.url(), "Connection: upgrade", "Upgrade: websocket")
    data = b"".join(bytes(seen.data) for seen in target.seen).lower()
    assert len(target.requests) >= 2 and b"proxy-authorization" not in data
    assert basic("alice").lower().encode() not in data


# --- Max-Forwards ---


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
def test_Max_Forwards_counts_down(proxy, web_origin, method):
    target = web_origin()
    with proxy.open() as conn:
        for left in (1, 2, 70):
            assert conn.get(target.url(), f"Max-Forwards: {left}", method=method).status == 200
        assert [request.all("Max-Forwards") for request in target.requests] == [["0"], ["1"], ["69"]]
        conn.get(target.url(), method=method)
        assert target.requests[-1].all("Max-Forwards") == []


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
def test_Max_Forwards_0_is_answered_here(proxy, web_origin, method):
    target = web_origin()
    with proxy.open() as conn:
        answer = conn.get(target.url(), "Max-Forwards: 0", "X-Mine: yes", method=method)
        assert answer.status in ((200, 204) if method == "OPTIONS" else (200, 405)), str(answer)
        assert basic("alice").encode() not in answer.body
        assert conn.get(target.url()).body == b"hello", "the connection goes on"
        assert conn.get(target.url(), "Max-Forwards: 0", method=method, user=None).status == 407
    assert [request.method for request in target.requests] == ["GET"]


@pytest.mark.parametrize("value", ["", "-1", "x", "1.5", "0x1", "+1", "1 2", "1, 2", "99999999999999999999999999"])
def test_Max_Forwards_that_is_no_number(proxy, web_origin, value):
    target = web_origin()
    with proxy.open() as conn:
        answer = conn.get(target.url(), f"Max-Forwards: {value}", method="OPTIONS")
        assert answer.status == 400 or (value.startswith("999") and answer.status == 200), str(answer)
        assert answer.status == 200 or answer.word()
    assert (target.seen == []) == (answer.status == 400)


def test_OPTIONS_of_the_server_itself(proxy, web_origin):
    """RFC 9112 3.2.4: a URL without path and query means "*"."""
    target = web_origin()
    with proxy.open() as conn:
        assert conn.get(target.url(""), method="OPTIONS").status == 200
        assert conn.get(target.url("/"), method="OPTIONS").status == 200
        assert conn.get(target.url("?x"), method="OPTIONS").status == 200
    assert [request.target for request in target.requests] == ["*", "/", "/?x"]


# --- what the client gets ---


def test_a_response_field_for_field(proxy, web_origin):
    fields = [
        "Server: probe", "Set-Cookie: a=b; Path=/", "Set-Cookie: c=d", "X-Empty:", "X-Bytes: \xe4\xff", "ETag: \"x\"",
        "WWW-Authenticate: Basic realm=origin", "Cache-Control: max-age=5", "Location: http://elsewhere.test/",
        "Proxy-Status: other", "Alt-Svc: h2=\":443\"",
    ]
    target = web_origin(lambda request: response(200, *fields, body=b"hello"))
    with proxy.open() as conn:
        answer = conn.get(target.url())
    assert answer.body == b"hello" and answer.get("Via") == "1.1 adit"
    assert [f"{n}: {v}".rstrip() for n, v in end_to_end(answer.fields)] == fields


@pytest.mark.parametrize("status", [200, 201, 206, 226, 301, 400, 401, 403, 404, 407, 451, 499, 500, 503, 599])
def test_statuses(proxy, web_origin, status):
    target = web_origin(lambda request: response(status, "Proxy-Authenticate: Basic realm=phish", body=b"hello"))
    with proxy.open() as conn:
        answer = conn.get(target.url())
        assert (answer.status, answer.body) == (status, b"hello") and not answer.get("Proxy-Authenticate")
        assert conn.get(target.url()).status == status
        assert proxy.record_of(conn)["status"] == status


@pytest.mark.parametrize("line", ["HTTP/1.1 200 \r\n", "HTTP/1.1 200 OK and\tmore \xff\r\n"], ids=["empty", "odd"])
def test_reason_phrases(proxy, web_origin, line):
    """A phrase may be empty, or be any text; what the client gets is a status line."""
    target = web_origin(lambda request: line.encode("latin-1") + b"Content-Length: 5\r\n\r\nhello")
    with proxy.open() as conn:
        answer = conn.get(target.url())
        assert (answer.status, answer.body) == (200, b"hello")


def test_hop_by_hop_fields_of_responses(proxy, web_origin):
    gone = [
        "Connection: x-hop, Keep-Alive", "Keep-Alive: timeout=5", "X-Hop: 1", "Proxy-Connection: x", "TE: x",
        "Upgrade: h2c", "Proxy-Authenticate: Basic realm=\"phish\"", "Proxy-Authorization: x", "Via: 1.0 fred",
    ]
    target = web_origin(lambda request: response(200, "A: 1", *gone, "B: 2", body=b"hello"))
    with proxy.open() as conn:
        answer = conn.get(target.url())
    assert end_to_end(answer.fields) == [("A", "1"), ("B", "2")]
    assert answer.get("Via") == "1.0 fred, 1.1 adit"
    assert (answer.get("Connection") or "keep-alive").lower() in ("keep-alive", "close")
    for name in ("Keep-Alive", "Proxy-Connection", "TE", "Upgrade", "Proxy-Authenticate", "Proxy-Authorization"):
        assert name.lower() not in {n.lower() for n, _ in answer.fields}, name


def test_answers_of_1_0_origins(proxy, web_origin, http):
    """Until the end, and by length; the client's connection stays either way, and Via names the version."""
    def answer(request):
        if request.target == "/length":
            return [response(200, version="1.0", body=b"hello"), CLOSE]
        return [head(200, version="1.0"), pattern(100_000), CLOSE]

    target = web_origin(answer)
    with proxy.open() as conn:
        for _ in range(2):
            first, second = conn.get(target.url("/length")), conn.get(target.url("/end"))
            assert (first.body, first.version, first.get("Via")) == (b"hello", "HTTP/1.1", "1.0 adit")
            assert second.body == pattern(100_000)
            assert http == "h2" or second.get("Transfer-Encoding") == "chunked"
    assert len(target.seen) == 4


def test_a_1_0_origin_that_keeps_its_connection(proxy, web_origin):
    """Keep-Alive of HTTP/1.0 is not for proxies (RFC 9112 9.3): served, whether or not the connection is used again."""
    target = web_origin(lambda request: response(200, "Connection: keep-alive", version="1.0", body=b"hello"))
    with proxy.open() as conn:
        for _ in range(3):
            assert conn.get(target.url()).body == b"hello"


def test_1_0_clients(proxy, web_origin):
    """By length and chunked: without coding, and the end of the connection is the end."""
    def answer(request):
        if request.target == "/chunked":
            return chunked(b"hello ", pattern(100_000), trailers=["x-sum: 5"])
        return response(body=b"hello")

    target = web_origin(answer)
    with proxy.open() as conn:
        answer = conn.get(target.url("/length"), version="1.0")
        assert answer.body == b"hello" and conn.recv_all() == b"" and conn.end == "clean"
    with proxy.open() as conn:
        answer = conn.get(target.url("/chunked"), version="1.0")
        assert answer.body == b"hello " + pattern(100_000) and conn.end == "clean"
        assert answer.get("Transfer-Encoding") is None and answer.get("Content-Length") is None
    with proxy.open() as conn:
        answer = conn.get(target.url("/chunked"), "Connection: keep-alive", version="1.0", host=False)
        assert answer.body == b"hello " + pattern(100_000) and conn.end == "clean"
    with proxy.open() as conn:
        answer = conn.get(target.url("/p"), "Content-Length: 3", version="1.0", method="POST", body=b"abc")
        assert answer.status == 200 and target.requests[-1].body == b"abc"


def test_chunked_down(proxy, web_origin):
    parts = [b"a", pattern(300_000), b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
    made = chunked(*parts, extension=";x=y", fields=["Trailer: X-Sum"], trailers=["x-sum: 5", "Via: 1.1 x"])
    target = web_origin(lambda request: made)
    with proxy.open() as conn:
        for _ in range(2):
            answer = conn.get(target.url())
            assert answer.body == b"".join(parts) and answer.get("Trailer") == "X-Sum"
            assert ("x-sum", "5") in answer.trailers


@pytest.mark.parametrize("trailer", [
    "Content-Length: 5", "Transfer-Encoding: chunked", "Connection: close", "Set-Cookie: a=b", "Location: /x",
    "Proxy-Authenticate: Basic", "WWW-Authenticate: Basic", "Cache-Control: public", "Content-Type: text/html",
])
def test_trailers_of_responses_that_may_not_be_any(proxy, web_origin, trailer):
    target = web_origin(lambda request: chunked(b"hello", trailers=["x-sum: 5", trailer]))
    with proxy.open() as conn:
        answer = conn.get(target.url())
        assert (answer.body, answer.trailers) == (b"hello", [("x-sum", "5")])


def test_every_cut_of_a_response(proxy, web_origin):
    """One byte at a time, each on its own."""
    whole = head(103, "Link: </a>") + chunked(b"hello", b" world", extension=";x", trailers=["x-sum: 5"])

    def answer(request):
        for i in range(len(whole)):
            yield whole[i : i + 1]
            if i + 1 < len(whole):
                until(lambda: sent_and_taken(request.connection.sock), "a byte to be taken")

    target = web_origin(answer)
    with proxy.open() as conn:
        for _ in range(2):
            answer = conn.get(target.url())
            assert (answer.body, answer.trailers) == (b"hello world", [("x-sum", "5")])


def sent_and_taken(sock):
    """The other kernel has acknowledged all of it."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0] == 0


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked", "X: y"])
@pytest.mark.parametrize("what", ["HEAD", "304", "204"])
def test_no_body_where_there_is_none(proxy, web_origin, what, framing):
    """Whatever the head says about one; and the connection on both sides is good for the next."""
    status = 200 if what == "HEAD" else int(what)
    target = web_origin(lambda request: head(status, framing, "ETag: x") if request.target == "/" else hello(request))
    method = "HEAD" if what == "HEAD" else "GET"
    with proxy.open() as conn:
        answer = conn.get(target.url(), method=method)
        if what == "204" and framing != "X: y":
            # RFC 9110 8.6, RFC 9112 6.1: an origin must not send these with a 204
            assert answer.status in (204, 502)
            assert answer.status == 502 or not (answer.get("Content-Length") or answer.get("Transfer-Encoding"))
        else:
            assert answer.status == status and answer.get("ETag") == "x"
            if framing.startswith("Content-Length") and answer.get("Content-Length"):
                assert answer.get("Content-Length") == "5"
        assert conn.get(target.url("/next")).body == b"hello"


def test_HEAD_says_the_length(proxy, web_origin):
    target = web_origin(lambda request: head(200, "Content-Length: 1234567"))
    with proxy.open() as conn:
        for _ in range(3):
            assert conn.get(target.url(), method="HEAD").get("Content-Length") == "1234567"


def test_an_answer_until_the_end(proxy, web_origin):
    """1.1 clients get it in chunks and keep their connection."""
    target = web_origin(lambda request: [head(200, "Connection: close"), pattern(MIB), FIN])
    with proxy.open() as conn:
        for _ in range(2):
            answer = conn.get(target.url())
            assert digest(answer.body) == digest(pattern(MIB))


def test_a_client_that_wants_to_close(proxy, web_origin):
    target = web_origin()
    with proxy.open() as conn:
        answer = conn.get(target.url(), "Connection: close")
        assert answer.body == b"hello" and answer.get("Connection").lower() == "close"
        assert conn.recv_all() == b"" and conn.end == "clean"


# --- one connection of the client ---


def closes(proxy, conn, count):
    found = [r for r in proxy.records_of(conn) if r["kind"] == "close"]
    return found if len(found) >= count else None


def test_many_requests_on_one_connection(proxy, web_origin):
    """To several origins, with and without bodies, refusals among them; then a tunnel."""
    targets = [web_origin(lambda request, n=n: response(body=b"%d " % n + request.body)) for n in range(3)]
    with proxy.open() as conn:
        for i in range(60):
            n = i % 3
            if i % 7 == 0:
                assert conn.get(f"http://127.0.0.1:{unused_port()}/").status == 502
            if i % 2:
                body = b"%d" % i
                got = conn.get(targets[n].url(), f"Content-Length: {len(body)}", method="POST", body=body)
            else:
                body = b""
                got = conn.get(targets[n].url(f"/{i}"))
            assert got.body == b"%d " % n + body
        assert conn.ask(connect_head(targets[0].target)).status == 200
        conn.send(b"GET /tunnel HTTP/1.1\r\nHost: x\r\n\r\n")
        wanted = response(body=b"0 ")
        assert conn.recv_exactly(len(wanted)) == wanted


def test_pipelined_requests_are_answered_in_order(proxy, web_origin):
    def slow(request):
        if request.target == "/0":
            until(lambda: len(target.requests) >= 1, "itself")
        yield chunked(request.target.encode(), b" ", request.body)

    target, other = web_origin(slow), web_origin(lambda request: response(body=b"other"))
    with proxy.open() as conn:
        pieces = []
        for i in range(10):
            pieces.append(forward_head(target.url(f"/{i}")))
            pieces.append(forward_head(target.url("/p"), "Content-Length: 1", method="POST") + b"x")
            pieces.append(forward_head(other.url()))
        conn.send(b"".join(pieces))
        for i in range(10):
            assert conn.message().body == f"/{i} ".encode()
            assert conn.message().body == b"/p x"
            assert conn.message().body == b"other"
    assert [r.target for r in target.requests if r.method == "GET"] == [f"/{i}" for i in range(10)]


def test_pipelined_and_gone(proxy, web_origin):
    """Requests that came with a good-bye behind them are answered all the same."""
    target = web_origin()
    with proxy.open() as conn:
        received = conn.exchange(forward_head(target.url("/1")) + forward_head(target.url("/2"), "Connection: close"))
        assert received.count(b"hello") == 2


def test_forwarded_then_tunnel_in_one_segment(proxy, web_origin):
    target = web_origin()
    with proxy.open() as conn:
        inner = b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"
        conn.send(forward_head(target.url("/1")) + connect_head(target.target) + inner)
        assert conn.message().body == b"hello"
        assert conn.response().status == 200
        assert conn.message().body == b"hello"
    assert [request.target for request in target.requests] == ["/1", "/inner"]


# --- on record ---


def test_records_of_a_request(proxy, web_origin, http):
    """open, without a status, before the first byte reaches the origin; close with what became of it."""
    found = {}

    def answer(request):
        found[request.target] = [r for r in proxy.records() if f":{target.port}/" in r.get("target", "")]
        return chunked(b"hello", b" world")

    target = web_origin(answer, at_head=True)
    with proxy.open() as conn:
        for path in ("/a", "/b"):
            assert conn.get(target.url(path, name="origin.test")).status == 200
        first, second = until(lambda: closes(proxy, conn, 2), "two records")
        refused = conn.get("http://nowhere.test/")
        denied = until(lambda: [r for r in proxy.records_of(conn) if r["kind"] == "deny"], "the third")[0]
        cipher = conn.tls.cipher()[0]
    opened = [r for r in proxy.records_of(conn) if r["kind"] == "open"]
    assert [r["kind"] for r in found["/a"]][-1] == "open" and found["/b"][-1]["kind"] == "open"
    assert found["/a"][-1]["id"] == first["id"] and found["/b"][-1]["id"] == second["id"]
    expected = {
        "node": "e2e", "user": "alice", "client": "127.0.0.1", "client_port": conn.name[1], "listener": "127.0.0.1",
        "listener_port": proxy.port, "tls_version": "TLSv1.3", "tls_cipher": cipher, "tls_sni": "proxy.test",
        "protocol": {"h1": "http/1.1", "h2": "h2"}[http], "method": "GET", "address": "127.0.0.1",
        "address_port": target.port, "local": "127.0.0.1", "rule": "lab",
    }
    for record, request in zip((*opened, first, second), target.requests * 2):
        expected |= {"target": target.url(request.target, name="origin.test"), "local_port": request.connection.peer[1]}
        assert {key: record.get(key) for key in expected} == expected
    assert all("status" not in record for record in opened) and len(opened) == 2
    for record in (first, second):
        assert (record["status"], record["reason"], record["bytes_up"], record["bytes_down"]) == (200, "ok", 0, 11)
    assert first["id"] != second["id"] and first["connection"] == second["connection"] == denied["connection"]
    assert (denied["reason"], denied["status"]) == ("name_unknown", refused.status)


@pytest.mark.parametrize("host, status", [("origin.test", 200), ("nowhere.test", 502), ("-", 400)])
def test_queries_are_on_no_record(start, web_origin, host, status):
    """They may hold what only the origin is to know. That there was one is told."""
    proxy = start({"log": {"level": "debug"}})
    target = web_origin()
    with proxy.open() as conn:
        assert conn.get(target.url("/path?token=sesame&b=c?d", name=host)).status == status
        until(lambda: any(r["kind"] != "open" for r in proxy.records() + proxy.records("strangers.jsonl")), "the record")
    written = [path.read_text() for path in proxy.audit.rglob("*.jsonl")] + proxy.lines
    assert not [text for text in written if "sesame" in text]
    targets = {r["target"] for r in proxy.records() + proxy.records("strangers.jsonl") if "target" in r}
    assert targets == {target.url("/path?", name=host)}
    if status == 200:
        assert target.requests[-1].target == "/path?token=sesame&b=c?d"


def test_bodies_are_counted_without_their_framing(proxy, web_origin):
    target = web_origin(lambda request: chunked(b"x" * 7))
    with proxy.open() as conn:
        body = chunks(b"abc", b"d", extension=";x=y", trailers=["X-Sum: 1"])
        conn.get(target.url(), "Transfer-Encoding: chunked", method="POST", body=body)
        record = proxy.record_of(conn)
    assert (record["bytes_up"], record["bytes_down"], record["method"]) == (4, 7, "POST")


def test_whoever_has_it_all_may_leave(start, web_origin):
    """A client that goes right behind the last byte has had its answer, whatever the proxy has still to tidy up."""
    proxy = start()
    target = web_origin(lambda request: chunked(b"hello"))
    for _ in range(60):
        with proxy.open() as conn:
            assert conn.get(target.url()).body == b"hello"
    until(lambda: sum(r["kind"] == "close" for r in proxy.records()) == 60, "the records")
    assert {r["reason"] for r in proxy.records() if r["kind"] == "close"} == {"ok"}


def test_files_per_user(start, web_origin):
    proxy = start()
    target = web_origin()
    with proxy.open() as conn:
        for user in ("alice", "bob"):
            assert conn.get(target.url(), user=user).status == 200
        until(lambda: closes(proxy, conn, 2), "two records")
    for user in ("alice", "bob"):
        proxy.record(f"users/{user}.jsonl", kind="close")  # written behind the one of all
        path = next(path for path in proxy.audit.rglob(f"*{user}*"))
        records = proxy.records(path.relative_to(proxy.audit))
        assert [(r["kind"], r["user"]) for r in records] == [("open", user), ("close", user)]


def test_kill_9_loses_no_record(start, web_origin, lab):
    """Clients ask as fast as they can when the process is killed. What reached an origin is on record."""
    for round_number in range(4):
        proxy, target = start(), web_origin(lambda request: hello(request))

        def client():
            try:
                with Conn(proxy.address, timeout=10) as conn:
                    conn.start_tls(lab.context).handshake()
                    while True:
                        conn.get(target.url(), f"X-Port: {conn.name[1]}")
            except (OSError, AssertionError):
                pass

        clients = [threading.Thread(target=client, daemon=True) for _ in range(6)]
        for each in clients:
            each.start()
        until(lambda: len(target.requests) >= 40 + 31 * round_number, "some requests")
        proxy.kill()
        for each in clients:
            each.join(20)
        until(lambda: all(seen.done for seen in target.seen), "the end at the origin")
        asked, opened = {}, {}
        for request in target.requests:
            asked[int(request.get("X-Port"))] = asked.get(int(request.get("X-Port")), 0) + 1
        for record in proxy.records():
            if record["kind"] == "open":
                opened[record["client_port"]] = opened.get(record["client_port"], 0) + 1
        for port, count in asked.items():
            assert opened.get(port, 0) >= count, f"{count} requests of port {port}, {opened.get(port, 0)} on record"


def test_without_a_record_nothing_is_forwarded(start, web_origin):
    """The directory of the records is gone: 503, and the origin has not had a byte."""
    proxy = start()
    target = web_origin()
    with proxy.open() as conn:
        assert conn.get(target.url()).status == 200
        until(lambda: closes(proxy, conn, 1), "the record")
        before = len(target.requests)
        os.rename(proxy.audit, f"{proxy.audit}.away")
        proxy.audit.write_text("in the way")
        proxy.signal(signal.SIGUSR1)
        until(lambda: conn_get_status(proxy, target) == 503, "a refusal")
        count = len(target.requests)
        for _ in range(3):
            assert conn_get_status(proxy, target) == 503
        assert len(target.requests) == count >= before
        proxy.audit.unlink()
        os.rename(f"{proxy.audit}.away", proxy.audit)
        proxy.signal(signal.SIGUSR1)
        until(lambda: conn_get_status(proxy, target) == 200, "everyday life")


def conn_get_status(proxy, target):
    with proxy.open() as conn:
        return conn.get(target.url()).status


# --- the rest of the forms ---


@pytest.mark.parametrize("url, status", [
    ("https://origin.test/", None), ("ftp://origin.test/", None), ("http://", None), ("http:///x", None),
    ("http://user:pw@origin.test/", None), ("http://origin.test:0/", None), ("http://origin.test:99999/", None),
    ("http://origin.test:/", "any"), ("http://0177.0.0.1/", None), ("http://127.1/", None), ("http://a b/", None),
    ("http://a%2etest/", None), ("http://origin.test/#fragment", "any"), ("HTTP://nowhere.test/", 502),
    ("http:/nowhere.test/", None), ("//nowhere.test/", "any"), ("http://[::1/", None),
    ("http://nowhere.test\\@x/", None),
])
def test_urls_that_are_none(proxy, url, status):
    with proxy.open() as conn:
        conn.send(forward_head(url, host="origin.test"))
        answer = conn.message()
        if status is None:
            assert answer.status in (400, 501) and answer.word(), str(answer)
        elif status != "any":
            assert answer.status == status, str(answer)


def test_health_and_pages_are_still_there(proxy, web_origin):
    target = web_origin()
    with proxy.open() as conn:
        conn.send(b"GET /healthz HTTP/1.1\r\nHost: proxy.test\r\n\r\n")
        assert conn.message().status == 200
        assert conn.get(target.url()).body == b"hello"
        conn.send(b"GET /healthz HTTP/1.1\r\nHost: proxy.test\r\n\r\n")
        assert conn.message().status == 200
