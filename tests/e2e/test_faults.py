"""The whole program while calls fail: every n-th of a kind in turn, disks that are full, clocks that jump. It must go
on by itself, and nobody may be told anything wrong. For builds with --enable-faults."""

import contextlib
import json
import re
import shutil
import signal
import ssl
import time

import faults
import protocols
import pytest
from client import client_context, connect_head
from origin import echo, pattern, sink, source
from wait import until

pytestmark = faults.needed

HOUR = 3600
BYTES = 20_000


@pytest.fixture
def spoilt(start, tmp_path):
    """spoilt({changes}): a proxy with its faults: (proxy, faults)."""

    def make(changes=None):
        faulty = faults.Faults(tmp_path)
        return start(changes, env=faulty.env), faulty

    return make


def access(proxy, target, timeout=8):
    """A whole access of which anything may fail: (status or None, whether everything came back and ended well)."""
    data = pattern(BYTES)
    conn = None
    try:
        conn = proxy.tcp(timeout=timeout)
        conn.start_tls(proxy.lab.context).handshake()
        status = conn.ask(connect_head(target)).status
    except (OSError, AssertionError):
        return None, False, conn and conn.name[1]
    finally:
        if conn and conn.end:
            conn.close()
    with conn:
        if status != 200:
            return status, False, conn.name[1]
        try:
            got = conn.exchange(data)
        except (OSError, AssertionError):
            return status, False, conn.name[1]
        assert data.startswith(got), "bytes that were never sent"
        return status, got == data and conn.end == "clean", conn.name[1]


def serves_again(proxy, target):
    until(lambda: access(proxy, target)[1], "an access to which nothing happens to be served", 30)


# --- the n-th call of a kind ---

CALLS = [
    "alloc:fail", "libevent:fail", "recv:EAGAIN", "recv:ENOBUFS", "send:EAGAIN", "send:ENOBUFS", "accept:EMFILE",
    "accept:ECONNABORTED", "socket:EMFILE", "socket:ENOBUFS", "connect:EINTR", "connect:EADDRNOTAVAIL", "connect:EAGAIN",
    "udpsend:EAGAIN", "udpsend:ENOBUFS", "udprecv:EAGAIN", "udprecv:ECONNREFUSED", "epoll:ENOSPC", "wait:EINTR",
    "write:ENOSPC", "write:EINTR", "write:short", "open:EMFILE",
]
SHORT = {name: "3s" for name in ("handshake", "head", "auth", "resolve", "dial", "dial_address", "idle", "stall")}


@pytest.mark.parametrize("call", CALLS)
def test_the_nth_call_fails(spoilt, origin, call):
    """An access by a name nobody asked for before, with name server, dial, record and half-closes."""
    proxy, faulty = spoilt({"deadlines": SHORT | {"linger": "1s"}, "workers": 1})
    target = origin(echo)
    serves_again(proxy, target.target)
    answered = {}
    for n in range(1, 200):
        name = f"n{n}.{call.replace(':', '-').lower()}.test"
        proxy.lab.names.zone[name] = ["127.0.0.1"]
        proxy.signal(signal.SIGUSR1)  # files of records are opened anew
        with faulty.during(f"{call}@{n}"):
            status, good, port = access(proxy, f"{name}:{target.port}")
            proxy.settle()
            hits = faulty.hits()
        if status is not None:
            answered[port] = status
        assert status is None or status == 200 or status >= 400
        if n % 5 == 0 or not hits or call.startswith(("write", "open")):  # no failure is left for the next round
            serves_again(proxy, target.target)
        if not hits and call != "wait:EINTR":
            assert good, f"nothing happened, and it was not served: {status}"
            break
        if call == "wait:EINTR" and n > 30:  # an idle loop waits too
            break
    else:
        pytest.fail("there is always one more")
    assert n > 1, "there is no such call"
    one_ending_each(proxy, answered)


def one_ending_each(proxy, answered):
    """Nobody has two last records, and a 200 has its open."""
    lines = proxy.records()
    ends = [r["id"] for r in lines if r["kind"] in ("close", "deny")]
    assert len(ends) == len(set(ends))
    opened = {r["client_port"] for r in lines if r["kind"] == "open"}
    assert {port for port, status in answered.items() if status == 200} <= opened


@pytest.mark.parametrize("call,step", [("alloc:fail", 5), ("openssl:fail", 151), ("open:EMFILE", 1)])
def test_a_reload_that_fails(spoilt, origin, call, step):
    """All or nothing, whatever is missing; and the next one works."""
    proxy, faulty = spoilt({"workers": 2})
    target = origin(echo).target

    def reload():
        seen = len(proxy.lines)
        proxy.signal(signal.SIGHUP)
        words = ("configuration is in force", "nothing was changed", "lines were left out")  # for want of memory, too
        until(lambda: any(word in line for line in proxy.lines[seen:] for word in words), "the end of the reload", 30)

    with proxy.tunnel(target) as conn:
        conn.send(b"here")  # after the 200 its set-up goes on for a while
        assert conn.recv_exactly(4) == b"here"
        for n in range(1, 3000, step):
            with faulty.during(f"{call}@{n}"):
                reload()
                hits = faulty.hits()
            if not hits:
                break
            if n % (4 * step) == 1:
                serves_again(proxy, target)
        seen = len(proxy.lines)
        reload()
        assert any("configuration is in force" in line for line in proxy.lines[seen:])
        conn.send(b"still here")
        assert conn.recv_exactly(10) == b"still here"
    serves_again(proxy, target)


# --- records' borders ---


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("besides", ["", ",send:EAGAIN=3,recv:EINTR=7", ",send:short=40,recv:short=40"],
                         ids=["alone", "blocked", "short"])
def test_eagain_at_every_record_border(spoilt, origin, version, besides):
    """Three megabytes each way: the client's socket blocks before each record, both ways, takes one record at a time,
    and gives its header in pieces of one to five bytes."""
    size = 3_000_000
    proxy, faulty = spoilt()
    context = client_context(proxy.lab.certificates.ca, high=version)
    echoes, sinks, sources = origin(echo), origin(sink), origin(source(size))
    with faulty.during("tls:borders" + besides):
        for target, sent in ((echoes, pattern(size)), (sinks, pattern(size)), (sources, b"")):
            with proxy.tcp(timeout=60) as conn:
                conn.start_tls(context).handshake()
                assert conn.ask(connect_head(target.target)).status == 200
                got = conn.exchange(sent)
                assert conn.end == "clean"
            if target is echoes:
                assert got == sent
            elif target is sources:
                assert got == pattern(size)
            else:
                assert target.only().end == "fin" and len(got) == 64
        assert faulty.hits() > 500
    proxy.settle()


# --- disks ---


def whole_lines(proxy, name="access.jsonl"):
    """(good, bad) lines."""
    good, bad = [], []
    for line in (proxy.audit / name).read_bytes().split(b"\n"):
        if not line:
            continue
        try:
            good.append(json.loads(line))
        except ValueError:
            bad.append(line)
    return good, bad


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EFBIG"])
def test_a_disk_that_takes_nothing(spoilt, origin, error):
    proxy, faulty = spoilt()
    target = origin(echo).target
    with proxy.tunnel(target) as living:
        with faulty.during(f"write:{error}@1+"):
            for _ in range(5):
                assert proxy.refused(target).word() == "audit_unavailable"
            living.send(b"on and on")
            assert living.recv_exactly(9) == b"on and on"
            proxy.said("nothing is let through")
        serves_again(proxy, target)
        proxy.said("writing again")
    until(lambda: sum(r.get("reason") == "audit_unavailable" for r in proxy.records()) >= 5, "the refusals, kept meanwhile")
    assert not whole_lines(proxy)[1] and not whole_lines(proxy, "users/alice.jsonl")[1]


@pytest.mark.parametrize("cut", ["", ",truncate:EIO@1+"], ids=["cut", "uncut"])
def test_a_line_that_the_disk_tore(spoilt, origin, cut):
    """Half of it is written, then the disk is full. It is cut off; where that fails too, at most it is unreadable."""
    proxy, faulty = spoilt()
    target = origin(echo).target
    serves_again(proxy, target)
    proxy.record("users/alice.jsonl", kind="close")  # the last that is written
    with faulty.during("write:short@1,write:ENOSPC@2+" + cut):
        assert proxy.refused(target).word() == "audit_unavailable"
    serves_again(proxy, target)
    until(lambda: any(r.get("reason") == "audit_unavailable" for r in whole_lines(proxy)[0]), "the refusal on record")
    good, bad = whole_lines(proxy)
    assert len(bad) == (1 if cut else 0)
    assert len({r["id"] for r in good if r["kind"] == "open"}) == sum(r["kind"] == "open" for r in good)


def test_a_full_disk_may_be_allowed(spoilt, origin):
    proxy, faulty = spoilt({"audit": {"on_failure": "allow"}})
    target = origin(echo).target
    ports = set()
    with faulty.during("write:ENOSPC@1+"):
        for _ in range(5):
            status, good, port = access(proxy, target)
            assert good, status
            ports.add(port)
        proxy.said("requests go on without a record")
    serves_again(proxy, target)
    proxy.said("writing again")
    until(lambda: ports <= {r["client_port"] for r in proxy.records() if r["kind"] == "close"}, "the records, kept meanwhile")
    assert ports <= {r["client_port"] for r in proxy.records() if r["kind"] == "open"}
    assert not whole_lines(proxy)[1]


@pytest.mark.parametrize("fault", ["rename:EIO@1+", "rename:ENOSPC@1+", "open:EMFILE@1+"])
def test_strangers_whose_file_cannot_be_rotated(spoilt, origin, fault):
    """They go unrecorded; users are served, and it is made good by itself."""
    proxy, faulty = spoilt({"audit": {"strangers_max": "4KiB"}, "workers": 1})
    target = origin(echo).target
    with faulty.during(fault):
        with proxy.tunnel(target) if fault[0] == "r" else contextlib.nullcontext():
            until(lambda: proxy.refused(target, user=None) and "go unrecorded" in proxy.stderr(), "a line about it", 30)
    serves_again(proxy, target)
    until(lambda: proxy.refused(target, user=None) and (proxy.audit / "strangers.jsonl.1").exists(), "the rotation", 30)
    assert (proxy.audit / "strangers.jsonl.1").stat().st_size <= 4096
    assert not whole_lines(proxy, "strangers.jsonl.1")[1]


def test_a_folder_of_users_that_cannot_be_made(spoilt, origin):
    """rm -r under the proxy, and no room to make it again."""
    proxy, faulty = spoilt()
    target = origin(echo).target
    serves_again(proxy, target)
    proxy.record("users/alice.jsonl", kind="close")
    shutil.rmtree(proxy.audit / "users")
    with faulty.during("mkdir:ENOSPC@1+"):
        assert proxy.refused(target).word() == "audit_unavailable"
        assert not (proxy.audit / "users").exists()
    serves_again(proxy, target)
    assert proxy.records("users/alice.jsonl")


# --- clocks ---

STEPS = [2 * HOUR, -5 * HOUR, 13 * HOUR, -30 * 24 * HOUR, 400 * 24 * HOUR, -1, 0]


def seconds(record):
    return time.mktime(time.strptime(record["time"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone


def test_the_clock_jumps_while_tunnels_live(spoilt, origin):
    """Hours forward and back: durations are as long as they were, only the records' time follows."""
    proxy, faulty = spoilt({"audit": {"progress": "100ms"}, "deadlines": {"lifetime": "1h"}, "workers": 1})
    target = origin(echo)
    name = f"origin.test:{target.port}"
    with proxy.tunnel(name) as conn:
        opened = proxy.record_of(conn, "open")
        questions = len(proxy.lab.names.queries)
        for step in STEPS:
            faulty.set(f"clock:{step:+d}")

            def on_time():
                found = [r for r in proxy.records() if r["id"] == opened["id"] and r["kind"] == "progress"]
                return [r for r in found[-3:] if abs(seconds(r) - time.time() - step) < 120]

            until(lambda: len(on_time()) == 3, f"progress records {step} s from now")
            conn.send(b"alive")
            assert conn.recv_exactly(5) == b"alive"
            with proxy.tunnel(name) as another:
                another.send(b"new")
                assert another.recv_exactly(3) == b"new"
                assert abs(seconds(proxy.record(kind="open", client_port=another.name[1])) - time.time() - step) < 120
            assert proxy.refused(target.target, password="wrong").status == 407
        assert len(proxy.lab.names.queries) == questions, "names were forgotten with the time of day"
        conn.finish()
        assert conn.recv_all() == b"" and conn.end == "clean"
        closed = proxy.record_of(conn)
    assert closed["reason"] == "ok" and 0 <= closed["duration_ms"] < 80_000
    assert all(0 <= r["duration_ms"] < 80_000 for r in proxy.records() if r["kind"] in ("close", "progress"))
    ids = [r["id"] for r in proxy.records() if r["kind"] == "open"]
    assert len(ids) == len(set(ids)) == 1 + len(STEPS)


@pytest.mark.parametrize("secret", [False, True], ids=["random", "secret"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_tickets_when_the_clock_jumps(spoilt, origin, tmp_path, version, secret):
    """A ticket is taken or a full handshake made; nobody is sent away, and new tickets are good."""
    (tmp_path / "secret").write_text("0123456789abcdef" * 4)
    proxy, faulty = spoilt({"tls": {"ticket_secret": str(tmp_path / "secret")}} if secret else {})
    target = origin(echo).target
    context = client_context(proxy.lab.certificates.ca, high=version)

    def visit(session=None):
        with proxy.tcp() as conn:
            conn.start_tls(context, session=session).handshake()
            assert conn.ask(connect_head(target)).status == 200
            conn.send(b"x")
            assert conn.recv_exactly(1) == b"x"
            return conn.tls.session_reused, conn.tls.session

    session = visit()[1]
    assert visit(session)[0], "tickets do not work at all"
    for step in STEPS:
        faulty.set(f"clock:{step:+d}")
        visit(session)
        session = visit()[1]
        assert visit(session)[0], f"a ticket made {step} s from now is not taken"


@pytest.mark.parametrize("step", [-5 * HOUR, 13 * HOUR])
def test_deadlines_do_not_look_at_the_clock_on_the_wall(spoilt, origin, step):
    proxy, faulty = spoilt({"deadlines": {"handshake": "1s", "head": "1s", "idle": "1s", "half_closed": "1h"}})
    with proxy.tcp() as silent, proxy.open() as slow, proxy.tunnel(origin(echo).target) as idle:
        faulty.set(f"clock:{step:+d}")
        with contextlib.suppress(ConnectionResetError):
            assert silent.sock.recv(1) == b""
        slow.recv_all()
        idle.recv_all()
        assert proxy.record_of(idle)["reason"] == "idle_timeout"


def test_a_stop_amid_all_of_it(spoilt, origin):
    """TERM while calls fail left and right: the stop is in order all the same (the fixture looks)."""
    proxy, faulty = spoilt({"deadlines": {"drain": "2s"}})
    target = origin(echo).target
    most = {"h1": 37, "h2": 397}[protocols.current]  # of the allocations of an access, which are more with nghttp2's
    faulty.set(f"recv:EAGAIN=3,send:short=5,wait:EINTR=2,alloc:fail={most},accept:EMFILE=3,clock:-7200")
    served = [access(proxy, target)[1] for _ in range(40)]
    assert any(served)
    proxy.settle()
    proxy.signal(signal.SIGTERM)
    assert proxy.process.wait(20) == 0
    proxy.reader.join(5)
    assert re.search(r"^adit: stopped: connections 0, requests 0, tunnels 0$", proxy.stderr(), re.MULTILINE)
