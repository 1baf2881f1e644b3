"""HUP: a new configuration takes hold without dropping what it still permits, and a wrong one changes nothing."""

import signal

from client import connect_head
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


def test_a_wrong_file_changes_nothing(start, origin):
    proxy = start()
    target = origin(echo).target
    with proxy.tunnel(target) as conn:
        good = proxy.config_path.read_text()
        for bad in ("policy: { rules: [] }\nnonsense: 1\n", "listen: [\n", good.replace("users.htpasswd", "nowhere")):
            seen = len(proxy.lines)
            proxy.config_path.write_text(bad)
            proxy.signal(signal.SIGHUP)
            until(lambda: any("nothing was changed" in line for line in proxy.lines[seen:]), "the refusal")
            assert status(proxy, target) == 200
        assert alive(conn)


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
