"""CONNECT by curl and by hand: what is asked for arrives, and nothing arrives that was not allowed."""

import os

import pytest
from client import connect_head
from origin import digest, echo, greet, pattern, silent, unused_port
from wait import until

MEGABYTES_20 = 20_000_000


@pytest.mark.parametrize("flags", [[], ["--proxy-basic"], ["--proxy-anyauth"]], ids=["plain", "basic", "anyauth"])
def test_curl_reaches_https_sites(proxy, curl, web, flags):
    result = curl(proxy, *flags, f"{web.url}/hello")
    assert result.stdout == "hello from the origin\n"


def test_curl_reaches_a_site_by_name(proxy, curl, web):
    assert curl(proxy, f"https://origin.test:{web.port}/hello").stdout == "hello from the origin\n"


def test_curl_reaches_an_ipv6_site(proxy, curl, web6):
    assert curl(proxy, f"{web6.url}/hello").stdout == "hello from the origin\n"


def test_curl_over_an_ipv6_listener(start, curl, web6):
    """To an IPv6 site: some curls look for an IPv6 address in the proxy's certificate only when the site has one."""
    proxy = start({"listen": [{"address": "[::1]:0"}]})
    assert curl(proxy, "--proxy", f"https://[::1]:{proxy.port}", f"{web6.url}/hello").returncode == 0


def test_a_wildcard_listener_takes_both_families(start, ipv6, origin):
    proxy = start({"listen": [{"address": "[::]:0"}]})
    target = origin().target
    for host in ("127.0.0.1", "::1"):
        proxy.address = (host, proxy.port)
        with proxy.tunnel(target) as conn:
            conn.send(b"hello")
            assert conn.recv_exactly(5) == b"hello"


def test_50_curls_at_once(proxy, curl, web, tmp_path):
    """The origin answers nobody until all 50 requests stand before it."""
    urls, meeting = [], os.urandom(4).hex()
    for i in range(50):
        urls += ["-o", tmp_path / f"out{i}", f"{web.url}/together?n=50&meeting={meeting}"]
    curl(proxy, "--parallel", "--parallel-immediate", "--parallel-max", "50", "-H", "Connection: close", *urls)
    assert {(tmp_path / f"out{i}").read_bytes() for i in range(50)} == {b"all here"}


def test_20_megabytes_down(proxy, curl, web, tmp_path):
    out = tmp_path / "out"
    curl(proxy, "-o", out, f"{web.url}/bytes?n={MEGABYTES_20}")
    assert digest(out.read_bytes()) == digest(pattern(MEGABYTES_20))


def test_20_megabytes_up(proxy, curl, web, tmp_path):
    data = tmp_path / "data"
    data.write_bytes(pattern(MEGABYTES_20))
    assert curl(proxy, "-T", data, f"{web.url}/upload").stdout == digest(pattern(MEGABYTES_20))


def test_curl_with_a_wrong_password(proxy, curl, web):
    before = len(web.requests)
    result = curl(proxy, "-w", "%{http_connect}", f"{web.url}/hello", password="not-it", check=False)
    assert (result.returncode, result.stdout) == (56, "407")
    assert len(web.requests) == before


def test_curl_where_the_policy_says_no(start, curl, web):
    proxy = start({"policy": {"rules": [{"name": "web", "action": "allow", "to": ["any"], "ports": ["any"]}]}})
    result = curl(proxy, "-v", f"{web.url}/hello", check=False)
    assert result.returncode == 56
    assert "< HTTP/1.1 403 " in result.stderr and "< Proxy-Status: adit;" in result.stderr


def test_credentials_do_not_reach_the_origin(proxy, curl, web):
    curl(proxy, f"{web.url}/hello?who")
    fields = next(fields for _, path, fields in web.requests if path == "/hello?who")
    assert "proxy-authorization" not in {name.lower() for name in fields}


def test_what_a_200_looks_like(proxy, origin):
    """A tunnel begins after the empty line: no length, no coding, no Connection: close (old clients stumble)."""
    with proxy.open() as conn:
        response = conn.ask(connect_head(origin().target))
        assert (response.version, response.status) == ("HTTP/1.1", 200)
        names = {name.lower() for name, _ in response.fields}
        assert not names & {"content-length", "transfer-encoding", "connection"}


def test_a_server_that_speaks_first(proxy, origin):
    with proxy.tunnel(origin(greet).target) as conn:
        assert conn.recv_exactly(11) == b"220 ready\r\n"
        conn.send(b"EHLO")
        assert conn.recv_exactly(4) == b"EHLO"


@pytest.mark.parametrize("end", ["finish", "stay"])
@pytest.mark.parametrize("size", [1, 1000, 3000, 10_000, 40_000, 300_000])
def test_early_data_is_delivered_after_the_200(proxy, origin, size, end):
    """To the last byte, and with the close_notify behind it; also when nothing follows that would wake anybody."""
    target = origin(echo)
    early = pattern(size)
    with proxy.open() as conn:
        if end == "finish":
            received = conn.exchange(connect_head(target.target) + early)
            head, _, body = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200") and body == early
        else:
            conn.send(connect_head(target.target) + early)
            assert conn.response().status == 200
            assert conn.recv_exactly(size) == early
    assert bytes(target.only().data) == early


@pytest.mark.parametrize("slow", ["alice", "sha512"])
def test_a_goodbye_right_behind_the_head(proxy, origin, slow):
    """Head, early data and close_notify in one segment: all of it has come before the target is even dialled."""
    target = origin(echo)
    with proxy.open() as conn:
        conn.queue(connect_head(target.target, slow) + b"early")
        conn.finish()
        assert conn.response().status == 200
        assert conn.recv_all() == b"early" and conn.end == "clean"
    assert (bytes(target.only().data), target.only().end) == (b"early", "fin")


def test_early_data_that_looks_like_a_request_is_tunnel_data(proxy, origin):
    target = origin(echo)
    early = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with proxy.open() as conn:
        received = conn.exchange(connect_head(target.target) + early)
    assert received.partition(b"\r\n\r\n")[2] == early


REFUSALS = {
    "no credentials": (dict(user=None), 407),
    "wrong password": (dict(password="not-it"), 407),
    "unknown user": (dict(user="nobody"), 407),
    "bad head": (dict(fields=["Content-Length: 5"]), 400),
}


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.replace(" ", "-"))
def test_early_data_of_a_refused_connect_goes_nowhere(proxy, origin, case):
    options, status = REFUSALS[case]
    target = origin(echo)
    with proxy.open() as conn:
        response = conn.ask(connect_head(target.target, **options) + b"secret early data" * 100)
        assert response.status == status
        assert conn.recv_all() == b"" and conn.end == "clean"
    assert target.seen == []


def test_early_data_to_a_forbidden_address_goes_nowhere(start, origin):
    proxy = start({"policy": {"rules": [{"name": "web", "action": "allow", "to": ["any"], "ports": ["any"]}]}})
    target = origin(echo)
    for host in ("127.0.0.1", "loop.test"):
        with proxy.open() as conn:
            response = conn.ask(connect_head(f"{host}:{target.port}") + b"secret early data")
            assert response.status == 403
            assert conn.recv_all() == b"" and conn.end == "clean"
    assert target.seen == []


REFUSED = {
    "407": (lambda target: connect_head(target, user=None), 407),
    "400": (lambda target: connect_head(target, fields=["Content-Length: 5"]), 400),
    "502": (lambda target: connect_head(f"127.0.0.1:{unused_port()}"), 502),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_ends_the_connection(proxy, origin, case):
    """RFC 9931: the whole answer, Connection: close, close_notify; what comes behind is never taken for a request."""
    make, status = REFUSED[case]
    target = origin(echo)
    behind = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + connect_head(target.target)
    with proxy.open() as conn:
        response = conn.ask(make(target.target) + behind)
        assert response.status == status
        assert response.get("Connection", "").lower() == "close"
        assert response.body and int(response.get("Content-Length")) == len(response.body)
        assert response.get("Proxy-Status", "").startswith("adit;")
        assert conn.recv_all() == b"" and conn.end == "clean"
    assert target.seen == []


def test_what_follows_a_refusal_later_is_not_read_either(proxy, origin):
    target = origin(echo)
    with proxy.open() as conn:
        assert conn.ask(connect_head(target.target, user=None)).status == 407
        try:
            conn.send(connect_head(target.target))
        except OSError:
            pass
        assert conn.recv_all() == b""
    assert target.seen == []


def test_a_refusal_arrives_although_the_client_keeps_sending(proxy):
    """Unread bytes at a close would make it a reset, and resets overtake answers."""
    with proxy.open() as conn:
        try:
            conn.send(connect_head("127.0.0.1:9", user=None) + pattern(60_000))
        except OSError:
            pass
        assert conn.response().status == 407


def test_a_switch_keeps_connections_open_after_a_refusal(start, origin):
    proxy = start({"listen": [{"address": "127.0.0.1:0", "close_after_refusal": False}]})
    target = origin().target
    with proxy.open() as conn:
        response = conn.ask(connect_head(target, user=None))
        assert response.status == 407 and response.get("Connection", "").lower() != "close"
        assert conn.ask(connect_head(target)).status == 200
        conn.send(b"hello")
        assert conn.recv_exactly(5) == b"hello"


def test_no_connection_is_made_for_strangers(proxy, origin):
    target = origin(silent)
    for options in ({"user": None}, {"password": "not-it"}, {"user": "mallory"}):
        assert proxy.refused(target.target, **options).status == 407
    assert target.seen == []


def test_a_client_that_gives_up_while_its_target_is_dialled(proxy, black_hole):
    conn = proxy.open()
    conn.send(connect_head(black_hole().target))
    until(lambda: "SYN_SENT" in states(proxy), "the dial to be under way")
    conn.reset()
    until(lambda: "SYN_SENT" not in states(proxy), "the dial to be given up")
    until(lambda: [r.get("reason") for r in proxy.records_of(conn)] == ["client_reset"],
          "the record to say that it was the client, not the target")


def states(proxy):
    """States of the proxy's own IPv4 sockets."""
    names = {"01": "ESTABLISHED", "02": "SYN_SENT"}
    inodes = set()
    folder = f"/proc/{proxy.process.pid}/fd"
    for entry in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{entry}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return [names.get(row[3], row[3]) for row in rows if row[9] in inodes]
