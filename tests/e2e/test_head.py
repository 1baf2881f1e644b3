"""Request heads, good and bad: each bad one gets its status, and Proxy-Status names the fault by the program's word."""

import pytest
from client import basic, connect_head
from origin import echo

AUTH = f"Proxy-Authorization: Basic {basic('alice')}"


def head(*lines):
    return "".join(line + "\r\n" for line in lines).encode("latin-1") + b"\r\n"


CONNECT = ["CONNECT a.test:443 HTTP/1.1", "Host: a.test:443"]

BAD = {
    "no target": (head("CONNECT HTTP/1.1", "Host: x:1"), 400, "bad_request_line"),
    "two spaces": (head("CONNECT  a.test:443 HTTP/1.1", "Host: a.test:443"), 400, "bad_request_line"),
    "trailing space": (head("CONNECT a.test:443 HTTP/1.1 ", "Host: a.test:443"), 400, "bad_request_line"),
    "tab": (head("CONNECT\ta.test:443\tHTTP/1.1", "Host: a.test:443"), 400, None),
    "lower-case version": (head("CONNECT a.test:443 http/1.1", "Host: a.test:443"), 400, "bad_request_line"),
    "version 2.0": (head("CONNECT a.test:443 HTTP/2.0", "Host: a.test:443"), 505, "version_unsupported"),
    "version 0.9": (head("CONNECT a.test:443 HTTP/0.9", "Host: a.test:443"), 505, "version_unsupported"),
    "bare LF": (b"CONNECT a.test:443 HTTP/1.1\nHost: a.test:443\n\n", 400, "bare_lf"),
    "bare LF in a field": (b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\nX: y\r\n\r\n", 400, "bare_lf"),
    "bare CR": (b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\rX: y\r\n\r\n", 400, "bare_cr"),
    "NUL": (head("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", "X: a\0b"), 400, "forbidden_byte"),
    "control character": (head("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", "X: a\x01b"), 400, "forbidden_byte"),
    "folded line": (head("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", "X: a", " b"), 400, "obs_fold"),
    "space before colon": (head("CONNECT a.test:443 HTTP/1.1", "Host : a.test:443"), 400, "bad_field_name"),
    "empty name": (head("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", ": x"), 400, "bad_field_name"),
    "no colon": (head("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", "nothing"), 400, "bad_field_name"),
    "no host": (head("CONNECT a.test:443 HTTP/1.1"), 400, "host_missing"),
    "two hosts": (head("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", "host: a.test:443"), 400, "host_duplicate"),
    "ill-formed host": (head("CONNECT a.test:443 HTTP/1.1", "Host: a b"), 400, "host_invalid"),
    "no port": (head("CONNECT a.test HTTP/1.1", "Host: a.test"), 400, None),
    "empty port": (head("CONNECT a.test: HTTP/1.1", "Host: a.test"), 400, None),
    "port 0": (head("CONNECT a.test:0 HTTP/1.1", "Host: a.test"), 400, "bad_port"),
    "port 65536": (head("CONNECT a.test:65536 HTTP/1.1", "Host: a.test"), 400, "bad_port"),
    "signed port": (head("CONNECT a.test:+443 HTTP/1.1", "Host: a.test"), 400, "bad_port"),
    "userinfo": (head("CONNECT u@a.test:443 HTTP/1.1", "Host: a.test"), 400, None),
    "path": (head("CONNECT a.test:443/ HTTP/1.1", "Host: a.test"), 400, None),
    "URL": (head("CONNECT https://a.test:443 HTTP/1.1", "Host: a.test"), 400, None),
    "zone": (head("CONNECT [fe80::1%25eth0]:443 HTTP/1.1", "Host: a.test"), 400, None),
    "percent": (head("CONNECT a%2etest:443 HTTP/1.1", "Host: a.test"), 400, None),
    "raw UTF-8": (head("CONNECT \xc3\xa4.test:443 HTTP/1.1", "Host: a.test"), 400, None),
    "octal address": (head("CONNECT 0177.0.0.1:443 HTTP/1.1", "Host: a.test"), 400, "bad_host"),
    "short address": (head("CONNECT 127.1:443 HTTP/1.1", "Host: a.test"), 400, "bad_host"),
    "number as address": (head("CONNECT 2130706433:443 HTTP/1.1", "Host: a.test"), 400, "bad_host"),
    "hex as address": (head("CONNECT 0x7f000001:443 HTTP/1.1", "Host: a.test"), 400, "bad_host"),
    "long label": (head(f"CONNECT {'a' * 64}.test:443 HTTP/1.1", "Host: a.test"), 400, "bad_host"),
    "bad length": (head(*CONNECT, "Content-Length: x"), 400, "bad_content_length"),
    "signed length": (head(*CONNECT, "Content-Length: +0"), 400, "bad_content_length"),
    "two lengths": (head(*CONNECT, "Content-Length: 0", "Content-Length: 5"), 400, None),
    "a body": (head("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", "Content-Length: 5"), 400, "connect_with_body"),
    "chunked": (head(*CONNECT, "Transfer-Encoding: chunked"), 400, "transfer_encoding"),
    "long line": (head(f"CONNECT {'a' * 9000}:443 HTTP/1.1", "Host: a.test"), 414, "uri_too_long"),
    "long head": (head("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", "X: " + "x" * 40_000), 431, "head_too_large"),
    "many fields": (head("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", *["X: y"] * 120), 431, "too_many_fields"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_bad_heads(proxy, case):
    bad, status, word = BAD[case]
    with proxy.open() as conn:
        response = conn.ask(bad)
        assert response.status == status, str(response)
        if word:
            assert response.word() == word, str(response)
        assert response.get("Proxy-Status", "").startswith("adit;")
        assert response.get("Connection", "").lower() == "close"
        assert response.body.strip(), "an answer has a sentence"
        assert conn.recv_all() == b"" and conn.end == "clean"


@pytest.mark.parametrize("case", ["bare LF", "folded line", "no port", "a body"])
def test_bad_heads_byte_by_byte_get_the_same_answer(proxy, case):
    bad, status, word = BAD[case]
    with proxy.open() as conn:
        try:
            for i in range(len(bad)):
                conn.send(bad[i : i + 1])
        except OSError:
            pass  # answered before its end
        response = conn.response()
        assert response.status == status and (not word or response.word() == word)


@pytest.mark.parametrize("line, status, word", [
    ("TRACE / HTTP/1.1", 405, "method_not_allowed"), ("POST / HTTP/1.1", 405, "method_not_allowed"),
    ("BREW /pot HTTP/1.1", 501, "method_unknown"), ("connect a.test:443 HTTP/1.1", None, None),
])
def test_methods_that_are_not_served(proxy, line, status, word):
    """Methods are case-sensitive: the last one is no CONNECT."""
    response, conn = proxy.ask(head(line, "Host: a.test", AUTH))
    conn.close()
    assert response.status == status if status else response.status in (400, 501)
    assert word is None or response.word() == word
    assert response.status != 405 or "CONNECT" in response.get("Allow")


# Their target is filled in for {target}.
GOOD = {
    "plain": (["CONNECT {target} HTTP/1.1", "Host: {target}", AUTH], b""),
    "leading CRLF": (["CONNECT {target} HTTP/1.1", "Host: {target}", AUTH], b"\r\n"),
    "length 0": (["CONNECT {target} HTTP/1.1", "Host: {target}", AUTH, "Content-Length: 0"], b""),
    "version 1.0 without Host": (["CONNECT {target} HTTP/1.0", AUTH], b""),
    "version 1.0 with Host": (["CONNECT {target} HTTP/1.0", "Host: {target}", AUTH], b""),
    "scheme in capitals": (
        ["CONNECT {target} HTTP/1.1", "Host: {target}", f"PROXY-authorization: BASIC {basic('alice')}"], b"",
    ),
    "space around values": (["CONNECT {target} HTTP/1.1", "Host:  \t{target} ", AUTH + "\t "], b""),
    "no space after colon": (["CONNECT {target} HTTP/1.1", "Host:{target}", AUTH.replace(": ", ":", 1)], b""),
    "host without port": (["CONNECT {target} HTTP/1.1", "Host: 127.0.0.1", AUTH], b""),
    "many fields": (["CONNECT {target} HTTP/1.1", "Host: {target}", AUTH, *["X: y"] * 90], b""),
    "bytes above 127": (["CONNECT {target} HTTP/1.1", "Host: {target}", AUTH, "X: \xe4\xff"], b""),
}


@pytest.mark.parametrize("pace", ["at-once", "byte-by-byte"])
@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.replace(" ", "-"))
def test_good_heads(proxy, origin, case, pace):
    lines, before = GOOD[case]
    target = origin(echo).target
    data = before + head(*[line.replace("{target}", target) for line in lines])
    with proxy.open() as conn:
        for piece in [data] if pace == "at-once" else [data[i : i + 1] for i in range(len(data))]:
            conn.send(piece)
        assert conn.response().status == 200
        conn.send(b"hello")
        assert conn.recv_exactly(5) == b"hello"


def test_other_limits_by_configuration(start, origin):
    proxy = start({"http": {"request_line": "512", "head": "1KiB", "fields": 5}})
    for bad, status in (
        (head(f"CONNECT {'a' * 600}:443 HTTP/1.1", "Host: a.test"), 414),
        (head("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", "X: " + "x" * 1100), 431),
        (head("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", *["X: y"] * 5), 431),
    ):
        response, conn = proxy.ask(bad)
        assert response.status == status
        conn.close()
    proxy.tunnel(origin().target).close()


def test_health(proxy):
    with proxy.open() as conn:
        for _ in range(2):
            response = conn.ask(head("GET /healthz HTTP/1.1", "Host: proxy.test"))
            assert response.status == 200


def test_a_tunnel_after_other_requests_on_one_connection(proxy, origin):
    with proxy.open() as conn:
        assert conn.ask(head("GET /healthz HTTP/1.1", "Host: proxy.test")).status == 200
        assert conn.ask(connect_head(origin().target)).status == 200
        conn.send(b"hello")
        assert conn.recv_exactly(5) == b"hello"


def test_pipelined_requests_are_answered_in_order(proxy, origin):
    target = origin(echo)
    get = head("GET /healthz HTTP/1.1", "Host: proxy.test")
    with proxy.open() as conn:
        conn.send(get + get + connect_head(target.target) + b"early")
        assert [conn.response(tunnel=False).status for _ in range(2)] == [200, 200]
        assert conn.response().status == 200
        assert conn.recv_exactly(5) == b"early"


def test_a_body_of_an_ordinary_request_is_never_a_request(proxy):
    inner = head("GET /healthz HTTP/1.1", "Host: proxy.test")
    with proxy.open() as conn:
        conn.send(head("POST /healthz HTTP/1.1", "Host: proxy.test", f"Content-Length: {len(inner)}") + inner)
        assert conn.response(tunnel=False).status // 100 in (2, 4)
        assert conn_statuses(conn) == []


def conn_statuses(conn):
    """The status lines until the end, or until nothing more comes within a second."""
    conn.sock.settimeout(1)
    data = b""
    try:
        while chunk := conn.recv():
            data += chunk
    except TimeoutError:
        pass
    return [line for line in data.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def test_health_leaves_no_record(start):
    proxy = start()
    with proxy.open() as conn:
        assert conn.ask(head("GET /healthz HTTP/1.1", "Host: proxy.test")).status == 200
    proxy.settle()
    assert proxy.records() == [] and proxy.records("strangers.jsonl") == []


def test_other_pages_say_what_this_is(proxy):
    response, conn = proxy.ask(head("GET / HTTP/1.1", "Host: proxy.test"))
    conn.close()
    assert b"proxy" in response.body.lower()


def test_HEAD_has_no_body(proxy):
    with proxy.open() as conn:
        conn.send(head("HEAD /healthz HTTP/1.1", "Host: proxy.test", "Connection: close"))
        answer = conn.recv_all()
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("request_bytes", [
    b"GET / HTTP/1.1\r\nHost: proxy.test\r\n\r\n",
    b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
    b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
], ids=["GET", "CONNECT", "POST"])
def test_plain_http_on_the_tls_port(proxy, request_bytes):
    with proxy.tcp() as conn:
        conn.send(request_bytes)
        response = conn.response(tunnel=False)
        assert response.status == 400 and "text/plain" in response.get("Content-Type")
        assert b"https://" in response.body
        assert response.word() == "plain_http"
        assert conn.recv_all() == b"" and conn.end == "clean"


def test_plain_http_byte_by_byte(proxy):
    with proxy.tcp() as conn:
        try:
            for byte in b"GET / HTTP/1.1\r\nHost: proxy.test\r\n\r\n":
                conn.send(bytes([byte]))
        except OSError:
            pass
        assert conn.response(tunnel=False).status == 400


def test_rubbish_on_the_tls_port_is_closed(proxy):
    with proxy.tcp() as conn:
        conn.send(b"\x00\x01\x02 rubbish \xff" * 10)
        assert not conn.recv_all().startswith(b"HTTP")
