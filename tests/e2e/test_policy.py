"""Where tunnels may go: names, addresses, ports, users. What the resolver says is judged, and just that is dialled."""

import pytest
from client import connect_head
from origin import echo, unused_port
from proxy import WORKERS, Proxy


def rules(*rows):
    return {"policy": {"rules": [{"name": f"r{i}", **row} for i, row in enumerate(rows)]}}


def allow(*to, ports=("any",), **more):
    return {"action": "allow", "to": list(to), "ports": list(ports), **more}


def deny(*to, ports=("any",), **more):
    return {"action": "deny", "to": list(to), "ports": list(ports), **more}


FORBIDDEN = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1", "169.254.169.254",
    "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[ff02::1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[64:ff9b::a00:1]", "[2002:7f00:1::]",
    "[2001:db8::1]",
    "loop.test", "loop6.test", "two.test", "both.test", "private.test", "metadata.test", "mapped.test", "localhost",
]


@pytest.fixture(scope="module")
def public_only(lab, tmp_path_factory):
    """Everything public is allowed, and no more."""
    proxy = Proxy(lab, tmp_path_factory.mktemp("public"), rules(allow("any"))).start()
    yield proxy
    proxy.stop()


@pytest.mark.parametrize("host", FORBIDDEN)
def test_special_use_addresses_need_a_rule_of_their_own(public_only, request, origin, host):
    request.node.proxies = [public_only]
    target = origin(echo)
    response = public_only.refused(f"{host}:{target.port}")
    assert response.status == 403 and response.word() in ("denied", "address_denied", "proxy_loop"), str(response)
    assert target.seen == []


def test_the_wrong_address_of_a_name_is_said_to_be_that(public_only, origin):
    response = public_only.refused(f"loop.test:{origin().port}")
    assert response.word() == "address_denied"
    assert "destination_ip_prohibited" in response.get("Proxy-Status")


ALLOWED = {
    "set": (allow("loopback"), "127.0.0.1", True),
    "set, by name": (allow("loopback"), "loop.test", True),
    "private includes it": (allow("private"), "127.0.0.1", True),
    "CIDR": (allow("127.0.0.0/8"), "127.0.0.1", True),
    "CIDR, by name": (allow("127.0.0.0/8"), "loop.test", True),
    "one address": (allow("127.0.0.1"), "127.0.0.1", True),
    "hosts file": (allow("loopback"), "localhost", True),
    "upper case": (allow("loopback"), "LOOP.Test", True),
    "trailing dot": (allow("loopback"), "loop.test.", True),
    "answer over TCP": (allow("loopback"), "big.test", True),
    "another set": (allow("rfc1918"), "127.0.0.1", False),
    "another CIDR": (allow("127.0.1.0/24"), "127.0.0.1", False),
    "an exact name does not unlock loopback": (allow("loop.test"), "loop.test", False),
    "a suffix unlocks nothing": (allow("*.test"), "loop.test", False),
    "any means public": (allow("any"), "loop.test", False),
    "no rule": (allow("loopback", users=["bob"]), "127.0.0.1", False),
}


@pytest.mark.parametrize("case", ALLOWED, ids=lambda case: case.replace(" ", "-"))
def test_what_unlocks_loopback(start, origin, case):
    rule, host, allowed = ALLOWED[case]
    proxy = start(rules(rule))
    target = origin(echo)
    with proxy.open() as conn:
        response = conn.ask(connect_head(f"{host}:{target.port}"))
        assert response.status == (200 if allowed else 403), str(response)
    if allowed:
        target.only()
    else:
        assert target.seen == []


def test_rules_in_order(start, origin):
    target, secret = origin(echo), origin(echo)
    proxy = start(rules(
        deny("loopback", ports=[secret.port]),
        deny("two.test"),
        allow("loopback", users=["alice"]),
        allow("loopback", users=["bob"], ports=[f"{target.port}"]),
        allow("loopback", users=["md5"], ports=["1-1023"]),
    ))
    answers = {
        (user, host, port): proxy_status(proxy, user, f"{host}:{port}")
        for user in ("alice", "bob", "md5", "sha")
        for host in ("127.0.0.1", "two.test")
        for port in (target.port, secret.port)
    }
    allowed = {key for key, status in answers.items() if status == 200}
    assert allowed == {("alice", "127.0.0.1", target.port), ("bob", "127.0.0.1", target.port)}
    assert set(answers.values()) == {200, 403} and secret.seen == []
    denied = proxy.record("access.jsonl", kind="deny", user="alice", target=f"two.test:{target.port}")
    assert (denied["rule"], denied["reason"], denied["status"]) == ("r1", "denied", 403)
    last = proxy.record("access.jsonl", kind="deny", user="sha", target=f"127.0.0.1:{target.port}")
    assert last["rule"] == "default"


def proxy_status(proxy, user, target):
    with proxy.open() as conn:
        return conn.ask(connect_head(target, user)).status


def test_rules_without_ports_mean_443(start, origin):
    proxy = start({"policy": {"rules": [{"name": "web", "action": "allow", "to": ["loopback"]}]}})
    assert proxy.refused(origin(echo).target).word() == "denied"
    response = proxy.refused("127.77.77.77:443")
    assert response.word() == "dial_refused"  # that far it came


def test_no_rules_no_tunnels(start, origin):
    proxy = start({"policy": {"rules": []}})
    assert proxy.refused(origin(echo).target).status == 403


def test_rule_names_are_not_told_to_strangers(start, origin):
    proxy = start(rules(deny("any", "private", name="hush-hush")))
    response = proxy.refused(origin().target, user=None)
    assert "hush" not in str(response.fields) + response.body.decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "loop.test", "[::ffff:127.0.0.1]"])
def test_the_proxy_is_never_its_own_target(proxy, host):
    response = proxy.refused(f"{host}:{proxy.port}")
    assert (response.status, response.word()) == (403, "proxy_loop")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost"])
def test_a_wildcard_listener_is_never_its_own_target(start, host):
    proxy = start({"listen": [{"address": "0.0.0.0:0"}]})
    proxy.address = ("127.0.0.1", proxy.port)
    response = proxy.refused(f"{host}:{proxy.port}")
    assert (response.status, response.word()) == (403, "proxy_loop")


FAILURES = {
    "unknown.test": (502, "name_unknown", "dns_error"),
    "empty.test": (502, "name_no_address", "dns_error"),
    "broken.test": (502, "dns_failed", "dns_error"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_names_that_do_not_resolve(proxy, name):
    status, word, token = FAILURES[name]
    response = proxy.refused(f"{name}:443")
    assert (response.status, response.word()) == (status, word)
    assert f"error={token}" in response.get("Proxy-Status")


def test_literals_never_reach_the_resolver(proxy, lab, origin):
    before = len(lab.names.queries)
    proxy.tunnel(origin(echo).target).close()
    assert [query for query in lab.names.queries[before:] if "127" in query[0]] == []


def test_a_refused_connection(proxy):
    response = proxy.refused(f"127.0.0.1:{unused_port()}")
    assert (response.status, response.word()) == (502, "dial_refused")
    assert "error=connection_refused" in response.get("Proxy-Status")


def test_no_answer(start, black_hole):
    proxy = start({"deadlines": {"dial": "1s"}})
    response = proxy.refused(black_hole().target)
    assert (response.status, response.word()) == (504, "dial_timeout")


def dialled(proxy, conn):
    record = proxy.record_of(conn, "open")
    return record["address"], record["address_port"]


def test_only_allowed_addresses_of_a_name_are_dialled(start, origin):
    """two.test is 127.0.0.1 and 127.0.0.2: the first is refused by rule, though somebody listens there."""
    proxy = start(rules(allow("127.0.0.2/32")))
    good = origin(echo, "127.0.0.2")
    bad = origin(echo, "127.0.0.1", good.port)
    with proxy.tunnel(f"two.test:{good.port}") as conn:
        conn.send(b"hello")
        assert conn.recv_exactly(5) == b"hello"
        record = proxy.record_of(conn, "open")
        assert dialled(proxy, conn) == ("127.0.0.2", good.port)
    assert record["target"] == f"two.test:{good.port}"
    good.only()
    assert bad.seen == []


def test_the_next_address_is_tried(proxy, origin):
    """Nobody listens at the first one; the record names the one that answered."""
    target = origin(echo, "127.0.0.2")
    with proxy.tunnel(f"two.test:{target.port}") as conn:
        assert dialled(proxy, conn) == ("127.0.0.2", target.port)


def test_the_next_address_is_tried_beside_a_silent_one(proxy, origin, black_hole):
    hole = black_hole("127.0.0.1")
    target = origin(echo, "127.0.0.2", hole.port)
    with proxy.tunnel(f"two.test:{hole.port}") as conn:
        assert dialled(proxy, conn) == ("127.0.0.2", target.port)


def test_the_other_family_is_tried(proxy, origin, ipv6):
    target = origin(echo, "127.0.0.1")
    with proxy.tunnel(f"both.test:{target.port}") as conn:
        assert dialled(proxy, conn) == ("127.0.0.1", target.port)
    target6 = origin(echo, "::1")
    with proxy.tunnel(f"both.test:{target6.port}") as conn:
        assert dialled(proxy, conn) == ("::1", target6.port)


def test_a_source_address_by_configuration(start, origin):
    proxy = start({"dial": {"source_v4": "127.0.0.9"}})
    target = origin(echo)
    with proxy.tunnel(target.target) as conn:
        assert target.only().peer[0] == "127.0.0.9"
        record = proxy.record_of(conn, "open")
        assert (record["local"], record["local_port"]) == target.only().peer


def test_equal_questions_share_a_query(proxy, lab, origin, http):
    """Many tunnels to one name need not as many queries of each kind: answers are kept for their time."""
    target = origin(echo)
    name = f"shared-{http}.test"
    lab.names.zone[name] = ["127.0.0.1"]
    for _ in range(10 * WORKERS):
        proxy.tunnel(f"{name}:{target.port}").close()
    asked = [query for query in lab.names.queries if query[0] == name]
    assert 1 <= len(asked) <= 2 * WORKERS  # A and AAAA, each of every worker
