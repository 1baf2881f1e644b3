"""HUP: a new configuration takes hold without dropping what it still permits, and a wrong one changes nothing."""

import datetime
import signal

from client import BROKEN, connect_head
from nameserver import NameServer
from origin import echo
from pki import write_htpasswd
from wait import until

LAB = {"name": "lab", "action": "allow", "to": ["loopback"], "ports": ["any"]}


def reload(proxy, **changes):
    proxy.config.update(changes)
    proxy.write_config()
    proxy.signal(signal.SIGHUP)


def status(proxy, target, user="alice"):
    with proxy.open() as conn:
        return conn.ask(connect_head(target, user)).status


def alive(conn):
    conn.send(b"hello")
    return conn.recv_exactly(5) == b"hello"


def test_new_rules(start, origin):
    proxy = start()
    target = origin(echo).target
    with proxy.tunnel(target) as conn:
        reload(proxy, policy={"rules": [LAB | {"users": ["alice"]}]})
        until(lambda: status(proxy, target, "bob") == 403, "the new rule")
        assert status(proxy, target) == 200
        assert alive(conn), "what the new rules permit goes on"


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def time_of(record):
    return datetime.datetime.fromisoformat(record["time"].replace("Z", "+00:00"))


def test_new_rules_revoke_what_they_refuse(start, origin):
    """Within a second of being in force, in all workers, whatever their number; nobody else notices."""
    proxy = start({"workers": 4})
    target = origin(echo).target
    bobs = [proxy.tunnel(target, "bob") for _ in range(150)]
    with proxy.tunnel(target) as conn:
        reload(proxy, policy={"rules": [LAB | {"name": "alice-only", "users": ["alice"]}]})
        proxy.said("the new configuration is in force")
        in_force = now()
        for each in bobs:
            each.recv_all()
            assert each.end in BROKEN
        assert alive(conn)
        closes = [proxy.record_of(each) for each in bobs]
        assert {(close["reason"], close["status"], close["user"], close["rule"]) for close in closes} == {
            ("revoked", 200, "bob", "default")}
        assert max(map(time_of, closes)) - in_force < datetime.timedelta(seconds=1)
    for each in bobs:
        each.close()
    assert proxy.record_of(conn)["rule"] == "alice-only", "the rule that lets it go on"


def test_a_name_is_judged_with_the_address_that_was_dialled(start, origin):
    proxy = start()
    target = f"origin.test:{origin(echo).port}"
    with proxy.tunnel(target) as conn:
        reload(proxy, policy={"rules": [LAB, {"name": "no", "action": "deny", "to": ["any"]}]})
        proxy.said("in force")
        assert alive(conn)
        reload(proxy, policy={"rules": [{"name": "no", "action": "deny", "to": ["127.0.0.0/8"], "ports": ["any"]}, LAB]})
        conn.recv_all()
        assert proxy.record_of(conn)["rule"] == "no"


def test_new_limits_and_buffer(start, origin):
    proxy = start()
    target = origin(echo).target
    with proxy.tunnel(target) as conn:
        reload(proxy, limits={"connections": 1}, tunnel={"buffer": "16MiB"})
        proxy.said("in force")
        try:
            assert not proxy.open().close()
            raise AssertionError("a second connection is above the new limit")
        except OSError:
            pass
        assert alive(conn)
        seen = len(proxy.lines)
        reload(proxy, limits={"connections": 10})
        until(lambda: any("in force" in line for line in proxy.lines[seen:]), "the second reload")
        with proxy.tunnel(target) as other:
            other.send(b"x" * 3_000_000)
            assert other.recv_exactly(3_000_000) == b"x" * 3_000_000


def test_asked_twice_while_at_it(start, origin):
    """The last file counts, however many signals came before it."""
    proxy = start()
    target = origin(echo).target
    for i in range(20):
        reload(proxy, policy={"rules": [LAB | {"users": ["alice" if i % 2 else "bob"]}]})
    until(lambda: status(proxy, target, "bob") == 403 and status(proxy, target) == 200, "the last rules")


def test_new_certificates(start, lab, origin):
    proxy = start()
    with proxy.tunnel(origin(echo).target) as conn:
        chain, key = map(str, lab.certificates.other)
        reload(proxy, tls={"certificates": [{"chain": chain, "key": key}]})

        def renewed():
            try:
                proxy.open(server_name="other.test").close()
                return True
            except OSError:
                return False

        until(renewed, "the new certificate")
        assert alive(conn)


def test_another_htpasswd(start, origin):
    proxy = start()
    target = origin(echo).target
    other = write_htpasswd(proxy.folder / "other", [proxy.lab.htpasswd_text.splitlines()[0]])
    reload(proxy, auth=proxy.config["auth"] | {"htpasswd": str(other)})
    until(lambda: status(proxy, target, "bob") == 407, "the new file")
    assert status(proxy, target) == 200


def refused(proxy):
    """What is said about a reload that changes nothing."""
    seen = len(proxy.lines)
    proxy.signal(signal.SIGHUP)
    until(lambda: any("nothing was changed" in line for line in proxy.lines[seen:]), "the refusal")
    return "\n".join(proxy.lines[seen:])


def test_a_wrong_file_changes_nothing_and_says_why(start, lab, origin, tmp_path):
    proxy = start()
    target = origin(echo).target
    good, path = proxy.config_path.read_text(), proxy.config_path
    chain, key = map(str, lab.certificates.proxy)
    foreign = str(lab.certificates.other[1])
    folder = str(proxy.audit)
    with proxy.tunnel(target) as conn:
        for bad, words in {
            "policy: { rules: [] }\nnonsense: 1\n": f"{path}:2:1: nonsense: ",
            "listen: [\n": f"{path}:",
            good.replace("users.htpasswd", "nowhere"): "nowhere: ",
            good.replace(chain, "/nowhere/chain.pem"): "/nowhere/chain.pem",
            good.replace(key, foreign): "does not belong",
            good.replace(folder, "/nowhere/audit"): "audit: directory /nowhere/audit: ",
            good.replace('"certificates"', '"ticket_secret": "/nowhere/secret", "certificates"'): "tls.ticket_secret: ",
        }.items():
            assert bad != good
            path.write_text(bad)
            said = refused(proxy)
            assert words in said and "could not go back" not in said, said
            assert status(proxy, target) == 200
        assert alive(conn)
        assert proxy.record_of(conn, "open")["status"] == 200
    path.write_text(good)


def test_a_ticket_secret_that_cannot_be_read_leaves_the_audit_where_it_was(start, origin, tmp_path):
    proxy = start()
    target = origin(echo).target
    other = tmp_path / "other-audit"
    other.mkdir()
    before = proxy.config["audit"], proxy.config["tls"]
    proxy.config.update(audit=before[0] | {"directory": str(other)}, tls=before[1] | {"ticket_secret": "/nowhere"})
    proxy.write_config()
    assert "could not go back" not in refused(proxy)
    with proxy.tunnel(target) as conn:
        assert proxy.record_of(conn, "open")["status"] == 200
    proxy.config.update(audit=before[0], tls=before[1])
    proxy.write_config()


def test_the_audit_moves(start, origin, tmp_path):
    proxy = start()
    target = origin(echo).target
    other = tmp_path / "other-audit"
    other.mkdir()
    with proxy.tunnel(target):
        reload(proxy, audit=proxy.config["audit"] | {"directory": str(other), "node": "moved"})
        proxy.said("in force")
        proxy.audit = other
        with proxy.tunnel(target) as conn:
            assert proxy.record_of(conn, "open")["node"] == "moved"


def test_what_else_a_reload_changes(start, origin, lab):
    """Realm, deadlines, name servers, source address, limits, level of the log."""
    proxy = start()
    names = NameServer({"elsewhere.test": ["127.0.0.1"]})
    seen = origin(echo)
    try:
        assert status(proxy, f"elsewhere.test:{seen.port}") == 502
        reload(
            proxy, auth=proxy.config["auth"] | {"realm": "another"}, deadlines={"drain": "5s", "head": "2s"},
            dns={"servers": [names.address]}, dial={"source_v4": "127.0.0.5"}, log={"level": "info"},
            limits={"handshakes_per_prefix": "off", "unauthenticated_per_prefix": 3},
        )
        proxy.said("in force")
        with proxy.open() as conn:
            assert "another" in conn.ask(connect_head("127.0.0.1:9", None)).get("Proxy-Authenticate")
        with proxy.tunnel(f"elsewhere.test:{seen.port}") as conn:
            assert proxy.record_of(conn, "open")["local"] == "127.0.0.5"
        with proxy.open() as conn:
            conn.send(b"CONNECT")
            assert conn.response().status == 408
        proxy.settle()
        strangers = [proxy.open() for _ in range(3)]
        try:
            proxy.open().close()
            raise AssertionError("a fourth stranger is above the new limit")
        except OSError:
            pass
        for each in strangers:
            each.close()
        proxy.said("auth_required")  # level info
    finally:
        names.close()


def test_reloads_under_load_drop_nothing(start, origin):
    proxy = start()
    target = origin(echo).target
    with proxy.tunnel(target) as conn:
        for i in range(25):
            proxy.signal(signal.SIGHUP)
            assert status(proxy, target) == 200
            assert alive(conn)


def test_what_becomes_of_a_refused_connection(start):
    proxy = start()
    listen = proxy.config["listen"][0]

    def says():
        with proxy.open() as conn:
            return conn.ask(connect_head("nowhere.test:443", None)).get("Connection")

    assert says() == "close"
    reload(proxy, listen=[listen | {"close_after_refusal": False}])
    until(lambda: says() == "keep-alive", "the switch to be off")


def test_a_reload_that_fails_late_is_taken_back(start, origin, tmp_path):
    """The audit directory is the last part that can be wrong: what came before it must not stay."""
    proxy = start()
    target = origin(echo).target
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(64)))
    secret.chmod(0o600)
    before = proxy.config["audit"], proxy.config["tls"]
    reload(proxy, audit=before[0] | {"directory": str(tmp_path / "nowhere")},
           tls=before[1] | {"ticket_secret": str(secret)})
    until(lambda: "nothing was changed" in proxy.stderr(), "the reload to fail")
    assert "could not go back" not in proxy.stderr()
    with proxy.tunnel(target) as conn:
        assert alive(conn)
        assert proxy.record_of(conn, "open")["status"] == 200, "records go where they went"
    proxy.config.update(audit=before[0], tls=before[1])
    proxy.write_config()
