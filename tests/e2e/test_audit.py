"""The record: before the 200, complete, per user, whatever names people give themselves; and what comes without it."""

import json
import os
import re
import shutil
import signal
import threading
import time
from datetime import datetime

import pytest
from client import connect_head
from origin import echo, silent
from pki import htpasswd_line, run
from proxy import Proxy, adit
from wait import until

ULID = re.compile(r"^[0-9A-HJKMNP-TV-Z]{26}$")


def test_open_and_close_of_a_tunnel(proxy, origin, http):
    target = origin(echo)
    with proxy.tunnel(f"origin.test:{target.port}") as conn:
        opened = proxy.record_of(conn, "open")
        conn.send(b"four")
        assert conn.recv_exactly(4) == b"four"
        conn.finish()
        assert conn.recv_all() == b""
        closed = proxy.record_of(conn)
        cipher = conn.tls.cipher()[0]
    expected = {
        "node": "e2e", "user": "alice", "client": "127.0.0.1", "client_port": conn.name[1], "listener": "127.0.0.1",
        "listener_port": proxy.port, "tls_version": "TLSv1.3", "tls_cipher": cipher, "tls_sni": "proxy.test",
        "protocol": {"h1": "http/1.1", "h2": "h2"}[http], "method": "CONNECT", "target": f"origin.test:{target.port}", "address": "127.0.0.1",
        "address_port": target.port, "local": "127.0.0.1", "local_port": target.only().peer[1], "rule": "lab",
        "status": 200,
    }
    assert {key: opened.get(key) for key in expected} == expected
    assert {key: closed.get(key) for key in expected} == expected
    assert ULID.match(opened["id"]) and opened["id"] == closed["id"]
    assert opened["connection"] == closed["connection"] != opened["id"]
    assert (closed["reason"], closed["bytes_up"], closed["bytes_down"], closed["half_close"]) == ("ok", 4, 4, "clean")
    assert closed["duration_ms"] >= 0
    first, last = (datetime.fromisoformat(record["time"].replace("Z", "+00:00")) for record in (opened, closed))
    assert first <= last and abs(time.time() - last.timestamp()) < 120


def test_protocol_1_0_is_told(proxy, origin):
    with proxy.open() as conn:
        assert conn.ask(connect_head(origin().target, version="1.0", host=False)).status == 200
        assert proxy.record_of(conn, "open")["protocol"] == "http/1.0"


def test_the_record_stands_before_the_200(proxy, origin):
    """Looked at without waiting, each time at the moment the 200 is there."""
    target = origin(echo).target
    for _ in range(20):
        with proxy.tunnel(target) as conn:
            kinds = [r["kind"] for r in proxy.records() if r.get("client_port") == conn.name[1]]
            assert "open" in kinds


def test_kill_9_loses_no_record(start, lab, origin):
    """Clients connect as fast as they can when the process is killed. Whoever got a 200 is on record."""
    target = origin(echo).target
    for round_number in range(6):
        proxy = start()
        served, lock, stop = [], threading.Lock(), threading.Event()

        def client():
            while not stop.is_set():
                try:
                    with proxy.tcp(timeout=10) as conn:
                        conn.start_tls(lab.context).handshake()
                        if conn.ask(connect_head(target)).status == 200:
                            with lock:
                                served.append(conn.name[1])
                except (OSError, AssertionError):
                    return

        clients = [threading.Thread(target=client, daemon=True) for _ in range(6)]
        for each in clients:
            each.start()
        until(lambda: len(served) >= 10 + 7 * round_number, "some tunnels")
        proxy.kill()
        stop.set()
        for each in clients:
            each.join(20)
        recorded = {r["client_port"] for r in proxy.records() if r["kind"] == "open"}
        missing = set(served) - recorded
        assert not missing, f"{len(missing)} of {len(served)} tunnels without a record"


def test_records_of_a_killed_process_are_continued(lab, tmp_path, start, origin):
    """A line that was cut by a crash does not spoil the next one."""
    proxy = start.launch(Proxy(lab, tmp_path))
    proxy.tunnel(origin().target).close()
    proxy.record(kind="close")
    proxy.kill()
    with open(proxy.audit / "access.jsonl", "a") as file:
        file.write('{"time":"2026-01-01T00:00:00.000000Z","kind":"op')
    again = start.launch(Proxy(lab, tmp_path))
    with again.tunnel(origin().target) as conn:
        lines = (again.audit / "access.jsonl").read_text().splitlines()
    good = []
    for line in lines:
        try:
            good.append(json.loads(line))
        except ValueError:
            pass
    assert len(lines) - len(good) <= 1
    assert [r for r in good if r["kind"] == "open" and r["client_port"] == conn.name[1]]


def test_files_per_user(start, origin):
    proxy = start()
    target = origin(echo).target
    for user in ("alice", "bob"):
        proxy.tunnel(target, user).close()
        proxy.record(f"users/{user}.jsonl", kind="close")
    proxy.refused("127.0.0.1:1", "bob")
    proxy.record("users/bob.jsonl", kind="deny", reason="dial_refused")
    assert {r["user"] for r in proxy.records("users/alice.jsonl")} == {"alice"}
    assert {r["user"] for r in proxy.records("users/bob.jsonl")} == {"bob"}
    whole = {(r["id"], r["kind"]) for r in proxy.records()}
    parts = {(r["id"], r["kind"]) for user in ("alice", "bob") for r in proxy.records(f"users/{user}.jsonl")}
    assert whole == parts


def test_files_are_not_for_everyone(start, origin):
    proxy = start()
    proxy.tunnel(origin().target).close()
    proxy.refused("127.0.0.1:9", user=None)
    for name in ("access.jsonl", "strangers.jsonl", "users/alice.jsonl"):
        path = proxy.audit / name
        until(path.exists, name)
        assert path.stat().st_mode & 0o007 == 0


def test_refusals_of_strangers_have_their_own_file(start):
    proxy = start()
    proxy.refused("127.0.0.1:9", user=None)
    proxy.refused("127.0.0.1:9", user="mallory", password="x")
    proxy.refused("127.0.0.1:9", user="alice", password="x")
    required = proxy.record("strangers.jsonl", reason="auth_required")
    assert (required["kind"], required["status"], required["target"]) == ("deny", 407, "127.0.0.1:9")
    for claimed in ("mallory", "alice"):
        record = proxy.record("strangers.jsonl", reason="auth_failed", claimed_user=claimed)
        assert "user" not in record
    assert proxy.records() == []
    assert not list(proxy.audit.glob("users/*")), "a claimed name is nobody's file"


def test_storms_of_strangers_are_summarised(start):
    """At most 10 records a second for one network, whatever it sends."""
    proxy = start()
    for _ in range(40):
        proxy.refused("127.0.0.1:9", user=None)
    times = [r["time"][:19] for r in proxy.records("strangers.jsonl") if r["kind"] == "deny"]
    assert times and len(times) < 40
    # A bucket refills by 10 a second: in any one second no more than a full one and its refill.
    assert max(times.count(second) for second in set(times)) <= 20


HOSTILE = [
    "../../evil", "..", ".", "/etc/passwd", "a/b", "a\\b", "Alice", "ALICE", "a b", "%61lice", "a\"b", "ä", "x" * 250,
    "con.jsonl", "-rf", "*", "a'; drop", "{}", "\u202eeman",
]


def test_hostile_user_names(lab, start, origin):
    """Each has a file of its own inside users/, and nothing appears anywhere else."""
    hash_of = htpasswd_line("x").split(":", 1)[1]
    proxy = start(users="".join(f"{name}:{hash_of}\n" for name in ["alice", *HOSTILE]))
    before = {path for path in proxy.folder.rglob("*")}
    target = origin(echo).target
    ports = {}
    for name in ["alice", *HOSTILE]:
        with proxy.tunnel(target, name) as conn:
            ports[conn.name[1]] = name
    until(lambda: sum(r["kind"] == "close" for r in proxy.records()) == len(ports), "all records")
    assert {r["client_port"]: r["user"] for r in proxy.records()} == ports
    proxy.settle()
    files = {path for path in proxy.folder.rglob("*")} - before - {proxy.audit / "users"}
    assert {path.parent for path in files} == {proxy.audit / "users"}
    by_file = {path.name: {r["user"] for r in proxy.records(f"users/{path.name}")} for path in files}
    assert sorted(map(len, by_file.values())) == [1] * len(ports), by_file
    assert by_file["alice.jsonl"] == {"alice"}
    assert all(re.fullmatch(r"[A-Za-z0-9_.%-]+", name) and not name.startswith((".", "-")) for name in by_file)
    assert not (proxy.folder.parent / "evil.jsonl").exists()


def test_hostile_texts_of_strangers(start):
    """Whatever is claimed or asked, a line is one line of plain JSON."""
    proxy = start()
    proxy.refused("127.0.0.1:9", user='evil"\\\u202e\u2028', password="x")
    for line in (b'CONNECT evil"\\{}:443', b"CONNECT \xff\xfe\xc3:443", b"GET /\x1b]0;title\x07", b"\x80\x81 x"):
        response, conn = proxy.ask(line + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        conn.close()
        assert response.status >= 400
    until(lambda: len(proxy.records("strangers.jsonl")) == 5, "five records")
    raw = (proxy.audit / "strangers.jsonl").read_bytes()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", raw)
    assert "\u202e" not in raw.decode() and "\u2028" not in raw.decode()
    assert raw.count(b"\n") == 5
    assert proxy.record("strangers.jsonl", claimed_user='evil"\\\u202e\u2028')
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", proxy.stderr())


def test_progress_of_living_tunnels(start, origin):
    proxy = start({"audit": {"progress": "200ms"}})
    target = origin(echo)
    with proxy.tunnel(target.target) as conn:
        conn.send(b"hello")
        assert conn.recv_exactly(5) == b"hello"
        record = proxy.record(kind="progress", bytes_up=5, bytes_down=5)
        assert record["id"] == proxy.record_of(conn, "open")["id"] and "reason" not in record


def test_usr1_opens_the_files_again(start, origin):
    proxy = start()
    target = origin(echo).target
    with proxy.tunnel(target) as old:
        for name in ("access.jsonl", "users/alice.jsonl"):
            path = proxy.audit / name
            path.rename(f"{path}.1")
        proxy.signal(signal.SIGUSR1)
        until((proxy.audit / "access.jsonl").exists, "a new access.jsonl")
        with proxy.tunnel(target) as conn:
            assert proxy.record_of(conn, "open")
        proxy.record_of(conn)
    # The tunnel that was open over it ends in the new files.
    assert proxy.record_of(old)["kind"] == "close"
    assert [r["kind"] for r in proxy.records("access.jsonl.1")] == ["open"]
    assert proxy.record("users/alice.jsonl", client_port=old.name[1], kind="close")


def test_rotation_under_load_loses_nothing(start, origin):
    proxy = start()
    target = origin(echo).target
    ports = []
    for i in range(30):
        with proxy.tunnel(target) as conn:
            ports.append(conn.name[1])
        if i % 5 == 2:
            (proxy.audit / "access.jsonl").rename(proxy.audit / f"access.jsonl.{i}")
            proxy.signal(signal.SIGUSR1)
            until((proxy.audit / "access.jsonl").exists, "a new access.jsonl")

    def recorded(kind):
        everything = [r for path in proxy.audit.glob("access.jsonl*") for r in proxy.records(path.name)]
        return sorted(r["client_port"] for r in everything if r["kind"] == kind)

    until(lambda: len(recorded("close")) == len(ports), "the last record")
    assert recorded("open") == recorded("close") == sorted(ports)


def break_directory(proxy):
    """A file stands where the directory was: as root, permissions would stop nobody."""
    shutil.move(proxy.audit, f"{proxy.audit}.away")
    proxy.audit.write_text("not a directory\n")
    proxy.signal(signal.SIGUSR1)


def mend_directory(proxy):
    proxy.audit.unlink()
    shutil.move(f"{proxy.audit}.away", proxy.audit)


def test_without_a_record_nothing_is_let_through_and_it_heals(start, origin):
    proxy = start()
    target = origin(echo)
    living = proxy.tunnel(target.target)
    target.first()
    break_directory(proxy)
    try:
        until(lambda: status(proxy, target) == 503, "the refusal")
        reached = len(target.seen)
        response = proxy.refused(target.target)
        assert (response.status, response.word()) == (503, "audit_unavailable")
        # What was let through before goes on.
        living.send(b"hello")
        assert living.recv_exactly(5) == b"hello"
    finally:
        mend_directory(proxy)
    until(lambda: status(proxy, target) == 200, "it to heal by itself")
    for seen in target.seen[reached:]:
        assert seen.data == b""
    living.close()
    said = [line for line in proxy.lines if line.startswith("adit: error: audit:")]
    assert 1 <= len(said) <= 3, said  # once for each file at most, not once for each request


def status(proxy, target):
    with proxy.open() as conn:
        return conn.ask(connect_head(target.target)).status


def test_let_through_and_counted_by_configuration(start, origin):
    proxy = start({"audit": {"on_failure": "allow"}})
    target = origin(echo)
    break_directory(proxy)
    try:
        for _ in range(10):
            proxy.tunnel(target.target).close()
    finally:
        mend_directory(proxy)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or run("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield disk
    run("umount", "-l", disk, check=False)  # lazily: the proxy still has its files open


def test_a_full_disk(lab, small_disk, start, origin):
    proxy = start.launch(Proxy(lab, small_disk))
    target = origin(echo)
    proxy.tunnel(target.target).close()
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    until(lambda: status(proxy, target) == 503, "the disk to be full for the record, too")
    assert proxy.refused(target.target).word() == "audit_unavailable"
    filler.unlink()
    until(lambda: status(proxy, target) == 200, "it to heal by itself")
    proxy.settle()
    for line in (proxy.audit / "access.jsonl").read_text().splitlines():
        json.loads(line)  # no half line in the middle, either


def test_an_unusable_directory_is_told_at_start(lab, tmp_path):
    proxy = Proxy(lab, tmp_path, {"audit": {"directory": str(tmp_path / "nowhere")}})
    result = adit("serve", "-c", proxy.config_path)
    assert result.returncode not in (0, 99) and result.returncode > 0
    assert "nowhere" in result.stderr and "adit: ready" not in result.stderr


def test_the_end_by_shutdown_is_on_record(start, origin):
    proxy = start({"deadlines": {"drain": "500ms"}})
    conn = proxy.tunnel(origin(silent).target)
    proxy.signal(signal.SIGTERM)
    proxy.wait_stopped()
    assert proxy.record_of(conn)["reason"] == "shutdown"
    conn.close()
