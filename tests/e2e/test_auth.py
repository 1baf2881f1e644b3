"""Who is let in: every kind of hash Apache's htpasswd makes, and what the others are told."""

import threading

import pytest
from client import basic, connect_head
from origin import echo
from pki import PASSWORD, USERS, htpasswd_line


def authorization(value):
    head = f"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: 127.0.0.1:9\r\nProxy-Authorization: {value}\r\n\r\n"
    return head.encode("latin-1")


@pytest.mark.parametrize("user", USERS)
def test_every_hash_of_apaches_htpasswd(proxy, origin, user):
    target = origin(echo).target
    with proxy.tunnel(target, user=user) as conn:
        conn.send(b"hello")
        assert conn.recv_exactly(5) == b"hello"
    assert proxy.refused(target, user=user, password="not-it").status == 407
    proxy.tunnel(target, user=user).close()  # the right one is still the right one


def test_without_credentials(proxy):
    response = proxy.refused("127.0.0.1:9", user=None)
    assert (response.status, response.word()) == (407, "auth_required")
    assert response.get("Proxy-Authenticate") == 'Basic realm="adit", charset="UTF-8"'


def test_the_realm_is_configured(start):
    proxy = start({"auth": {"realm": "tunnel works"}})
    response = proxy.refused("127.0.0.1:9", user=None)
    assert response.get("Proxy-Authenticate") == 'Basic realm="tunnel works", charset="UTF-8"'


@pytest.mark.parametrize("user, password", [
    ("alice", "not-it"), ("alice", ""), ("alice", PASSWORD + " "), ("alice", PASSWORD[:-1]),
    ("alice", PASSWORD.upper()),
    ("ALICE", PASSWORD), ("nobody", PASSWORD), ("nobody", ""),
])
def test_wrong_credentials(proxy, user, password):
    response = proxy.refused("127.0.0.1:9", user=user, password=password)
    assert (response.status, response.word()) == (407, "auth_failed")
    assert response.get("Proxy-Authenticate", "").startswith('Basic realm="adit"')


MALFORMED = {
    "another scheme": "Bearer abc", "scheme alone": "Basic", "scheme and space": "Basic ", "empty": "",
    "not base64": "Basic !!!!", "cut base64": f"Basic {basic('alice')[:-3]}*", "no colon": "Basic YWxpY2U=",
    "no user": "Basic OnBhc3N3b3Jk", "control character": "Basic YWxpY2U6cGFzcwdvcmQ=", "NUL": "Basic YWxpY2U6AGFzcw==",
    "two tokens": f"Basic {basic('alice')} {basic('alice')}", "text after": f"Basic {basic('alice')}, x",
}


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.replace(" ", "-"))
def test_malformed_credentials(proxy, case):
    with proxy.open() as conn:
        response = conn.ask(authorization(MALFORMED[case]))
        assert response.status == 407 and response.word() in ("auth_malformed", "auth_required"), str(response)
        assert response.get("Proxy-Authenticate")
        assert conn.recv_all() == b""


def test_two_authorization_fields_are_not_a_choice(proxy, origin):
    """The right one beside a wrong one, in either order: nobody may be let in by picking."""
    target = origin()
    good, bad = f"Proxy-Authorization: Basic {basic('alice')}", f"Proxy-Authorization: Basic {basic('alice', 'x')}"
    for fields in ([good, bad], [bad, good]):
        with proxy.open() as conn:
            response = conn.ask(connect_head(target.target, user=None, fields=fields))
            assert response.status in (400, 407)
    assert target.seen == []


def test_overlong_passwords_are_wrong(proxy):
    """Beyond 512 bytes nothing is hashed; and bcrypt's 72 bytes are the hash's limit, not a prefix that would do."""
    for password in ("x" * 513, "x" * 4000, PASSWORD + "\x20" * 500):
        response = proxy.refused("127.0.0.1:9", password=password)
        assert (response.status, response.word()) == (407, "auth_failed")


def test_a_password_of_utf_8_and_colons(start, origin):
    password = "p:ä:ß:€ "
    proxy = start(users=htpasswd_line("carol", password) + "\n")
    proxy.tunnel(origin().target, "carol", password).close()


def test_equal_logins_at_once(proxy, origin):
    """They share one hash, and each gets its answer."""
    target = origin(echo).target
    answers = []

    def one():
        with proxy.open() as conn:
            answers.append(conn.ask(connect_head(target, "sha512")).status)

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [200] * 20


def test_a_client_that_leaves_while_its_password_is_checked(start):
    """bcrypt of cost 12 takes a while; the answer finds nobody, and nothing is left."""
    proxy = start(users=slow_line("slow", 12))
    for _ in range(5):
        conn = proxy.open()
        conn.send(connect_head("127.0.0.1:9", "slow", "a-guess"))
        conn.reset()
    proxy.settle()


def slow_line(user, cost):
    """A well-formed bcrypt line of this cost that nobody has the password of."""
    return f"{user}:$2y${cost:02d}$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234\n"


class TestThrottle:
    THROTTLE = {"auth": {"throttle": {"failures": 3, "window": "10m", "per_prefix": "1000/min"}}}

    def fail(self, proxy, times, user="alice", source=None, first=0):
        return [
            proxy.refused("127.0.0.1:9", user=user, password=f"guess-{i}", source=source).status
            for i in range(first, first + times)
        ]

    def test_distinct_wrong_passwords_are_throttled(self, start):
        proxy = start(self.THROTTLE)
        statuses = self.fail(proxy, 5)
        assert statuses[:3] == [407] * 3 and statuses[-1] == 429
        response = proxy.refused("127.0.0.1:9", password="guess-99")
        assert (response.status, response.word()) == (429, "auth_throttled")
        assert 1 <= int(response.get("Retry-After")) <= 600

    def test_the_same_wrong_password_counts_once(self, start):
        proxy = start(self.THROTTLE)
        statuses = [proxy.refused("127.0.0.1:9", password="the-same").status for _ in range(12)]
        assert statuses == [407] * 12

    def test_a_cached_right_password_still_works(self, start, origin):
        proxy = start(self.THROTTLE)
        target = origin(echo).target
        proxy.tunnel(target).close()
        assert self.fail(proxy, 6)[-1] == 429
        proxy.tunnel(target).close()

    def test_other_users_of_the_prefix_are_not_hit(self, start, origin):
        proxy = start(self.THROTTLE)
        assert self.fail(proxy, 6)[-1] == 429
        proxy.tunnel(origin(echo).target, user="bob").close()

    def test_other_prefixes_are_not_hit(self, start, origin):
        proxy = start(self.THROTTLE)
        assert self.fail(proxy, 6, source="127.0.1.1")[-1] == 429
        proxy.tunnel(origin(echo).target, source="127.0.2.1").close()

    def test_spraying_over_many_users(self, start):
        proxy = start({"auth": {"throttle": {"failures": 100, "window": "10m", "per_prefix": "5/min"}}})
        statuses = [proxy.refused("127.0.0.1:9", user=f"user{i}", password="Spring2026").status for i in range(9)]
        assert statuses[0] == 407 and statuses[-1] == 429

    def test_off(self, start):
        proxy = start({"auth": {"throttle": "off"}})
        assert self.fail(proxy, 15) == [407] * 15


def test_a_full_queue_says_try_again(start):
    """One thread, slow hashes, room for few: the rest is told so at once instead of waiting."""
    proxy = start({"auth": {"threads": 1, "queue": 2}, "deadlines": {"auth": "5s"}}, users=slow_line("slow", 12))
    conns = [proxy.open() for _ in range(8)]
    for i, conn in enumerate(conns):
        conn.send(connect_head("127.0.0.1:9", "slow", f"guess-{i}"))
    words = []
    for conn in conns:
        words.append(conn.response().word())
        conn.close()
    assert "auth_busy" in words and set(words) <= {"auth_busy", "auth_failed", "auth_timeout"}
