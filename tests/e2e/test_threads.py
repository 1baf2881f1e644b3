"""Everything at once: clients on all workers, passwords in the pool, records, names, HUP, USR1 and new users beside them.
Worth its time without ThreadSanitizer, for nothing may be lost or mixed up; with it, this is where threads meet."""

import json
import signal
import threading

import pytest
from client import connect_head
from origin import echo
from pki import htpasswd_line, replace_file
from wait import until

CLIENTS = 12
ROUNDS = 20
RELOADS = 15
LAB = {"name": "lab", "action": "allow", "to": ["loopback"], "ports": ["any"]}


class Crowd:
    """Clients that each do the same rounds; what went otherwise than it must is kept."""

    def __init__(self, proxy, steps):
        self.wrong = []
        self.rounds = 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(proxy, steps, i)) for i in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _run(self, proxy, steps, number):
        for i in range(ROUNDS):
            step = steps[(number + i) % len(steps)]
            try:
                problem = step(proxy, number, i)
            except Exception as exc:  # a thread's own failure must become the test's
                problem = repr(exc)
            with self.lock:
                self.rounds += 1
                if problem:
                    self.wrong.append(f"client {number}, round {i}, {step.__name__}: {problem}")

    def join(self):
        for thread in self.threads:
            thread.join(80)
        assert not self.wrong, "\n".join(self.wrong[:20])
        assert self.rounds == CLIENTS * ROUNDS


def served(target, user="alice"):
    def tunnel(proxy, number, i):
        payload = f"{number}-{i} ".encode() * 2000
        with proxy.open() as conn:
            response = conn.ask(connect_head(target, user))
            if response.status != 200:
                return str(response)
            conn.send(payload)
            return None if conn.recv_exactly(len(payload)) == payload else "not its own bytes came back"

    return tunnel


def answered(status, target, user="alice", **options):
    def refusal(proxy, number, i):
        with proxy.open() as conn:
            response = conn.ask(connect_head(target, user, **options))
            return None if response.status == status else str(response)

    return refusal


def wrong_password(target):
    """Each is another one, so each is hashed."""

    def refusal(proxy, number, i):
        with proxy.open() as conn:
            response = conn.ask(connect_head(target, "sha512", f"wrong-{number}-{i}"))
            return None if response.status == 407 else str(response)

    return refusal


def resumed(target):
    """A ticket of one worker on another, while the keys are being renewed."""

    def session(proxy, number, i):
        with proxy.open() as first:
            assert first.ask(connect_head(target, "bob")).status == 200
            ticket = first.tls.session
        with proxy.open(session=ticket) as second:
            return None if second.ask(connect_head(target, "bob")).status == 200 else "not served"

    return session


def aborted(proxy, number, i):
    """In the midst of the handshake, of the head, and of the request."""
    conn = proxy.tcp()
    if i % 3 == 0:
        conn.start_tls(proxy.lab.context)
        conn.sock.sendall(conn.hello()[:100])
    else:
        conn.start_tls(proxy.lab.context).handshake()
        conn.send(connect_head("silent.test:443")[: None if i % 3 == 1 else 20])
    conn.reset()


@pytest.fixture
def busy(start, origin):
    """A proxy, steps for the crowd, and what can be asked of it."""
    proxy = start({"deadlines": {"resolve": "30s"}})
    target = origin(echo)
    local, named = target.target, f"origin.test:{target.port}"
    steps = [
        served(local), served(named, "sha256"), wrong_password(local), resumed(local), answered(403, "10.9.9.9:443"),
        served(named, "md5"), answered(407, local, None), aborted, answered(400, "127.1:443"), served(local, "sha"),
        answered(502, "empty.test:443"), answered(407, local, "nobody"),
    ]
    return proxy, steps


def check_records(proxy):
    """Every tunnel has its two records, whole and once, in the file for all and in the user's."""
    proxy.settle()

    def ids(name, kind):
        return sorted(record["id"] for record in proxy.records(name) if record["kind"] == kind)

    opened = ids("access.jsonl", "open")
    assert len(opened) == len(set(opened)) > CLIENTS
    until(lambda: ids("access.jsonl", "close") == opened, "a close for each open")
    users = [f"users/{path.name}" for path in (proxy.audit / "users").iterdir()]
    until(lambda: sorted(sum((ids(name, "close") for name in users), [])) == opened, "the same in the users' files")


def test_a_crowd_alone(busy):
    proxy, steps = busy
    Crowd(proxy, steps).join()
    check_records(proxy)


def test_a_crowd_beside_reloads_and_signals(busy):
    proxy, steps = busy
    crowd = Crowd(proxy, steps)
    users = proxy.lab.htpasswd_text
    extra = htpasswd_line("zoe") + "\n"
    for i in range(RELOADS):
        seen = crowd.rounds
        proxy.config["policy"] = {"rules": [LAB | {"name": f"lab{i}"}]}
        proxy.config["log"] = {"level": "debug" if i % 2 else "info"}
        replace_file(proxy.config_path, json.dumps(proxy.config))  # the reload before may be reading it
        proxy.signal(signal.SIGHUP)
        replace_file(proxy.htpasswd, users + extra * (i % 2))
        proxy.signal(signal.SIGUSR1)
        until(lambda: crowd.rounds > seen or crowd.rounds == CLIENTS * ROUNDS, "the crowd to go on", 60)
    crowd.join()
    assert "nothing was changed" not in proxy.stderr()
    check_records(proxy)


def test_the_end_amid_a_crowd(start, origin):
    """TERM while requests are in every phase on every worker: each gets an answer or a close, and nothing stays."""
    proxy = start()
    target = origin(echo)
    going = threading.Event()
    opened = []

    def client(number):
        try:
            while True:
                with proxy.open() as conn:
                    conn.ask(connect_head(("silent.test:443", target.target)[number % 2], ("alice", "bob")[number % 3 == 0]))
                    opened.append(number)
                    if len(opened) >= CLIENTS:
                        going.set()
        except (OSError, AssertionError):
            pass  # the end

    threads = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    assert going.wait(60)
    proxy.signal(signal.SIGTERM)
    proxy.wait_stopped()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    records = proxy.records()
    ended = {record["id"] for record in records if record["kind"] == "close"}
    assert all(record["id"] in ended for record in records if record["kind"] == "open")
