"""What systemd is told (sd_notify(3)): ready, reloading and since when, ready again whatever came of it, stopping. A
socket of the test stands for systemd's."""

import os
import signal
import socket
import time

import pytest
from client import connect_head
from origin import echo
from pki import run
from proxy import binary
from tools import missing


class Manager:
    """Each datagram as a table of its lines."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + path)
        self.sock.settimeout(15)
        self.name = "@" + path
        self.told = []

    def next(self):
        text = self.sock.recv(65536).decode()
        self.told.append(dict(line.split("=", 1) for line in text.splitlines() if line))
        return self.told[-1]

    def until(self, name, value="1"):
        """Everything up to the datagram with this in it, itself included, as one list."""
        first = len(self.told)
        while self.next().get(name) != value:
            pass
        return self.told[first:]

    def is_quiet(self):
        self.sock.setblocking(False)
        try:
            return not self.next()
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(15)


@pytest.fixture
def manager():
    if "libsystemd" not in run("ldd", binary()).stdout:
        missing("adit was built without libsystemd (Debian package libsystemd-dev)")
    manager = Manager(f"adit-e2e-{os.getpid()}-{time.monotonic_ns()}")
    yield manager
    manager.sock.close()


@pytest.fixture
def noticed(start, manager):
    return start(env={"NOTIFY_SOCKET": manager.name})


def now_us():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def status_of(proxy, target, user="alice"):
    with proxy.open() as conn:
        return conn.ask(connect_head(target, user)).status


def reloaded(proxy, manager):
    """What was told about one reload, and that it was told by the rules; the statuses of it."""
    began = now_us()
    proxy.signal(signal.SIGHUP)
    told = manager.until("READY")
    first = next(n for n, lines in enumerate(told) if "RELOADING" in lines)
    assert told[first]["RELOADING"] == "1" and first < len(told) - 1
    assert began <= int(told[first]["MONOTONIC_USEC"]) <= now_us(), "in the same datagram, and by this clock"
    assert not any({"READY", "STOPPING"} & lines.keys() for lines in told[:-1])
    return [lines["STATUS"] for lines in told if "STATUS" in lines]


def test_ready_means_that_it_serves(noticed, manager, origin):
    told = manager.until("READY")
    assert not any({"RELOADING", "STOPPING"} & lines.keys() for lines in told)
    assert status_of(noticed, origin(echo).target) == 200


def test_reloads_are_told(noticed, manager, origin):
    manager.until("READY")
    target = origin(echo).target
    rule = {"name": "lab", "action": "allow", "to": ["loopback"], "ports": ["any"], "users": ["alice"]}
    noticed.config["policy"] = {"rules": [rule]}
    noticed.write_config()
    for _ in range(3):
        said = reloaded(noticed, manager)
        assert not any("nothing was changed" in text for text in said)
        # ready again is no promise for later: it is in force already
        assert status_of(noticed, target, "bob") == 403


def test_a_reload_that_fails_is_told_and_over(noticed, manager, origin):
    manager.until("READY")
    good = noticed.config_path.read_text()
    for bad in ("nonsense: 1\n", "listen: [\n", good.replace("users.htpasswd", "nowhere")):
        noticed.config_path.write_text(bad)
        said = reloaded(noticed, manager)
        assert said and "nothing was changed" in said[-1], said
        assert status_of(noticed, origin(echo).target) == 200
    noticed.config_path.unlink()
    assert "nothing was changed" in reloaded(noticed, manager)[-1]
    noticed.config_path.write_text(good)
    assert "nothing was changed" not in reloaded(noticed, manager)[-1], "the old status does not stay"


def test_stopping(noticed, manager, origin):
    manager.until("READY")
    with noticed.tunnel(origin(echo).target) as conn:
        noticed.signal(signal.SIGTERM)
        manager.until("STOPPING")
        conn.send(b"still here")
        assert conn.recv_exactly(10) == b"still here", "stopping is told when it begins, not when it ends"
        conn.finish()
        conn.recv_all()
    noticed.wait_stopped()
    assert manager.is_quiet(), "nothing is told twice"


def test_nobody_to_tell(start, tmp_path, origin):
    """A socket that is not there, or no socket at all, changes nothing."""
    for name in (str(tmp_path / "nowhere"), "@" + "adit-e2e-nobody", "not a path"):
        proxy = start(env={"NOTIFY_SOCKET": name})
        assert status_of(proxy, origin(echo).target) == 200
