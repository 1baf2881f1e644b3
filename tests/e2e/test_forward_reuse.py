"""Connections to origins that are used again: by whom, for what, until when; and what a reload changes about them."""

import signal
import threading

import pytest
from client import forward_head
from http_origin import CLOSE, RESET, chunked, head, hello, response
from wait import until

KEEPING = {"workers": 1, "forward": {"idle": "1m"}}


def ask(proxy, conn, url, *fields, **options):
    """The answer, when the exchange is over for the proxy as well: its connection to the origin can be taken then."""
    before = sum(record["kind"] == "close" for record in proxy.records())
    answer = conn.get(url, *fields, **options)
    until(lambda: sum(record["kind"] == "close" for record in proxy.records()) > before, "the record")
    return answer


# --- connections to origins are used again ---


def test_the_same_user_uses_the_connection_again(start, web_origin):
    proxy = start(KEEPING)
    def answer(request):
        if request.method == "HEAD":
            return head(200, "Content-Length: 5")
        return chunked(b"hello") if request.target == "/c" else response(body=b"hello")

    target = web_origin(answer)
    with proxy.open() as conn:
        for path in ("/", "/c", "/c", "/"):
            assert ask(proxy, conn, target.url(path)).body == b"hello"
        assert ask(proxy, conn, target.url(), method="HEAD").status == 200
        assert ask(proxy, conn, target.url()).body == b"hello"
    assert len(target.seen) == 1 and len(target.requests) == 6


def test_across_connections_of_the_same_user(start, web_origin):
    proxy = start(KEEPING)
    target = web_origin()
    for _ in range(5):
        with proxy.open() as conn:
            assert ask(proxy, conn, target.url()).body == b"hello"
    assert len(target.seen) == 1 and len(target.requests) == 5


def test_never_between_users(start, web_origin):
    """One of alice's is not for bob, on whatever connection of the clients; and the other way round."""
    proxy = start(KEEPING)
    target = web_origin()
    with proxy.open() as first, proxy.open() as second:
        for _ in range(3):
            for user in ("alice", "bob"):
                assert ask(proxy, first, target.url(), f"X-User: {user}", user=user).status == 200
                assert ask(proxy, second, target.url(), f"X-User: {user}", user=user).status == 200
    whose = {}
    for request in target.requests:
        whose.setdefault(request.connection, set()).add(request.get("X-User"))
    assert sorted(map(sorted, whose.values())) == [["alice"], ["bob"]]


def test_never_between_targets(start, web_origin):
    """Two names for one address are two targets; so are two ports."""
    proxy = start(KEEPING)
    target = web_origin()
    with proxy.open() as conn:
        for _ in range(2):
            for name in ("origin.test", "loop.test", None):
                assert ask(proxy, conn, target.url(name=name)).status == 200
    hosts = {}
    for request in target.requests:
        hosts.setdefault(request.connection, set()).add(request.get("Host"))
    assert all(len(each) == 1 for each in hosts.values()) and len(hosts) == 3


@pytest.mark.parametrize("method", ["POST", "PATCH", "PROPFIND"])
def test_what_may_not_be_repeated_gets_a_new_connection(start, web_origin, method):
    proxy = start(KEEPING)
    target = web_origin()
    with proxy.open() as conn:
        for _ in range(2):
            assert ask(proxy, conn, target.url()).status == 200
            answer = ask(proxy, conn, target.url(), "Content-Length: 3", method=method, body=b"abc")
            assert answer.status == 200
    for seen in target.seen:
        methods = [request.method for request in target.requests if request.connection is seen]
        assert method not in methods[1:], methods


def test_an_idle_one_that_the_origin_has_closed(start, web_origin):
    proxy = start(KEEPING)
    target = web_origin(lambda request: [response(body=b"hello"), CLOSE])
    with proxy.open() as conn:
        for i in range(10):
            assert ask(proxy, conn, target.url()).body == b"hello"
            until(lambda: target.seen[-1].done, "the close at the origin")
    assert len(target.seen) == 10 and len(target.requests) == 10


@pytest.mark.parametrize("piece", [CLOSE, RESET], ids=["close", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_one_that_dies_just_as_it_is_used(start, web_origin, method, piece):
    """The second request on each connection is read and not answered: it is repeated once, on a new one."""
    def answer(request):
        mine = [each for each in target.requests if each.connection is request.connection]
        return hello(request) if len(mine) == 1 and request.method != "HEAD" else (
            head(200, "Content-Length: 5") if len(mine) == 1 else [piece])

    proxy = start(KEEPING)
    target = web_origin(answer)
    with proxy.open() as conn:
        for i in range(6):
            answer = ask(proxy, conn, target.url(f"/{i}"), method=method)
            assert answer.status == 200, str(answer)
    # 0 on the first; 1 there in vain and on the second; 2 there in vain and on the third ...
    assert [request.target for request in target.requests] == ["/0"] + [f"/{i}" for i in range(1, 6) for _ in (0, 1)]
    assert len(target.seen) == 6


def test_repeated_once_and_not_more(start, web_origin):
    """An origin that closes each new connection without a word gets each request once; the client a 502."""
    proxy = start(KEEPING)
    target = web_origin(lambda request: [CLOSE])
    with proxy.open() as conn:
        for i in range(3):
            answer = ask(proxy, conn, target.url(f"/{i}"))
            assert answer.status == 502 and answer.word(), str(answer)
    assert [request.target for request in target.requests] == ["/0", "/1", "/2"]


def test_not_repeated_when_bytes_of_an_answer_have_come(start, web_origin):
    def answer(request):
        return hello(request) if len(target.requests) == 1 else [b"HTTP/1.1 20", CLOSE]

    proxy = start(KEEPING)
    target = web_origin(answer)
    with proxy.open() as conn:
        assert ask(proxy, conn, target.url("/0")).status == 200
        answer = ask(proxy, conn, target.url("/1"))
        assert answer.status == 502
    assert [request.target for request in target.requests] == ["/0", "/1"]


def test_an_origin_that_says_close(start, web_origin):
    """Its connection is not kept, though the origin leaves it open."""
    proxy = start(KEEPING)
    target = web_origin(lambda request: response(200, "Connection: Close", body=b"hello"))
    with proxy.open() as conn:
        for _ in range(3):
            answer = ask(proxy, conn, target.url())
            assert answer.body == b"hello" and (answer.get("Connection") or "").lower() != "close"
    target.until_over(3)


def test_they_do_not_outlive_the_proxy(start, web_origin):
    proxy = start(KEEPING)
    target = web_origin()
    with proxy.open() as conn:
        assert ask(proxy, conn, target.url()).status == 200
    proxy.signal(signal.SIGTERM)
    proxy.wait_stopped()
    until(lambda: target.only().done, "the end at the origin")


# --- reload ---


def reload(proxy, rules):
    count = sum("in force" in line for line in proxy.lines)
    proxy.config["policy"] = {"rules": rules}
    proxy.write_config()
    proxy.signal(signal.SIGHUP)
    until(lambda: sum("in force" in line for line in proxy.lines) > count, "the new configuration")


LAB = {"name": "lab", "action": "allow", "to": ["loopback"], "ports": ["any"]}


@pytest.mark.parametrize("rule", [
    {"name": "no", "action": "deny", "to": ["origin.test"], "ports": ["any"]},
    {"name": "no", "action": "deny", "to": ["127.0.0.0/8"], "ports": ["any"]},
    {"name": "no", "action": "deny", "to": ["any", "private"], "users": ["alice"], "ports": ["any"]},
], ids=["name", "address", "user"])
@pytest.mark.parametrize("client", ["the same connection", "another connection"])
def test_a_kept_connection_does_not_get_around_new_rules(start, web_origin, rule, client):
    proxy = start(KEEPING)
    target = web_origin()
    url = target.url(name="origin.test")
    with proxy.open() as conn:
        assert ask(proxy, conn, url).status == 200
        reload(proxy, [rule, LAB])
        with proxy.open() as other:
            answer = (conn if client.startswith("the") else other).get(url)
            assert answer.status == 403, str(answer)
    assert len(target.requests) == 1
    assert proxy.record(kind="deny")["rule"] == "no"


def test_a_kept_connection_to_an_address_that_is_refused_now(start, lab, web_origin):
    """The name may be reached, and the address that was dialled may not."""
    proxy = start(KEEPING)
    target = web_origin(host="127.0.0.2")
    lab.names.zone["moves.test"] = ["127.0.0.2"]
    with proxy.open() as conn:
        assert ask(proxy, conn, target.url(name="moves.test")).status == 200
        reload(proxy, [{"name": "no", "action": "deny", "to": ["127.0.0.2"], "ports": ["any"]}, LAB])
        assert conn.get(target.url(name="moves.test")).status == 403
    assert len(target.requests) == 1


def test_a_reload_breaks_no_exchange_that_is_still_permitted(start, web_origin):
    """And one that is not any more ends, broken, where the client can see it."""
    go = threading.Event()

    def answer(request):
        yield head(200, "Content-Length: 10") + b"hello"
        go.wait(20)
        yield b"world"

    proxy = start(KEEPING)
    target = web_origin(answer)
    with proxy.open() as alice, proxy.open() as bob:
        for conn, user in ((alice, "alice"), (bob, "bob")):
            conn.send(forward_head(target.url(), user=user))
            assert conn.response_head().status == 200 and conn.recv_exactly(5) == b"hello"
        reload(proxy, [LAB | {"users": ["alice"]}])
        assert bob.recv_all() == b"" and bob.end in ("truncated", "reset")
        record = proxy.record_of(bob)
        assert (record["reason"], record["user"], record["bytes_down"]) == ("revoked", "bob", 5)
        go.set()
        assert alice.recv_exactly(5) == b"world"
        assert alice.get(target.url()).body == b"helloworld"
