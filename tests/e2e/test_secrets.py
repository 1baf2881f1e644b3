"""A password is nowhere: not in records, diagnostics, or what targets see; and after the check not in memory either."""

import base64
import os
import re
from pathlib import Path

import pytest
from client import BROKEN, Cut, basic, connect_head
from origin import echo
from pki import htpasswd_line
from probe import TSAN
from proxy import adit
from wait import until

SECRET = "zK9-unmistakable-phrase-Qw3"
WRONG = "xV2-another-wrong-phrase-Lm8"
EARLY = b"yT4-bytes-of-the-tunnel-itself"


def traces(user, password):
    """The forms a password could stand in: itself, base64 of the pair, and its middle at each of three shifts."""
    found = {password.encode(), basic(user, password).encode()}
    for shift in range(3):
        text = base64.b64encode(b"x" * shift + password.encode())
        found.add(text[4:-4])
    return found


def everything_written(proxy):
    texts = [path.read_bytes() for path in proxy.audit.rglob("*") if path.is_file()]
    return b"\n".join([*texts, proxy.stderr().encode()])


@pytest.fixture
def secretive(start):
    return start(
        {"log": {"level": "debug"}, "workers": 1},
        users=htpasswd_line("carol", SECRET) + "\n" + htpasswd_line("dan", SECRET, ["-5", "-r", "1000"]) + "\n"
        + htpasswd_line("erin", SECRET, ["-m"]) + "\n" + htpasswd_line("fred", SECRET, ["-s"]) + "\n",
    )


USERS = ["carol", "dan", "erin", "fred"]


def refuse_head(conn, head):
    """400; or HTTP/2 breaks the stream."""
    try:
        assert conn.ask(head).status == 400
    except Cut:
        assert conn.end in BROKEN


def exercise(proxy, target):
    """Right, wrong, unknown, with early data, in a head that is refused, in one that is never finished."""
    for user in USERS:
        with proxy.open() as conn:
            assert conn.ask(connect_head(target.target, user, SECRET) + EARLY).status == 200
            assert conn.recv_exactly(len(EARLY)) == EARLY
        assert proxy.refused(target.target, user, WRONG).status == 407
    assert proxy.refused(target.target, "nobody", WRONG).status == 407
    for field in ("Content-Length: 5", "Transfer-Encoding: chunked", "Bad Name: x"):
        with proxy.open() as conn:
            refuse_head(conn, connect_head(target.target, "carol", SECRET, fields=[field]))
    with proxy.open() as conn:
        conn.send(connect_head(target.target, "carol", SECRET)[:-2])
        conn.finish()
        conn.recv_all()
    login = basic("carol", SECRET)
    request = f"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nProxy-Authorization: Basic {login}\r\n\r\n"
    response, conn = proxy.ask(request.encode())
    conn.close()
    assert response.status == 502  # nobody listens there
    proxy.refused("127.0.0.1:1", "carol", SECRET)
    proxy.settle()


def test_passwords_are_written_nowhere(secretive, origin):
    target = origin(echo)
    exercise(secretive, target)
    written = everything_written(secretive)
    assert b"carol" in written
    for user in [*USERS, "nobody"]:
        for password in (SECRET, WRONG):
            for trace in traces(user, password):
                assert trace not in written
                assert all(trace not in seen.data for seen in target.seen)
    assert b"roxy-" not in b"".join(bytes(seen.data) for seen in target.seen)


# The sanitizers' shadows on x86-64: terabytes of marks, no data of the program. ThreadSanitizer's are the shadow, what
# it knows of heap blocks, and histories of threads, which lie where AddressSanitizer has the heap.
SHADOWS = [range(0x010000000000, 0x550000000000), range(0x600000000000, 0x640000000000)] if TSAN else [
    range(0x00007FFF7000, 0x10007FFF8000)]
LINE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)$")
PIECE = 1 << 22


def regions(pid):
    """Writable memory with something in it: (begin, end, name)."""
    region = None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if match := LINE.match(line):
            begin, end = int(match[1], 16), int(match[2], 16)
            shadow = any(begin in each for each in SHADOWS)
            region = (begin, end, match[4]) if "w" in match[3] and not shadow else None
        elif line.startswith("Rss:") and region and int(line.split()[1]) > 0:
            yield region


def find_in_memory(pid, needles):
    """(needle, region, address) of the first hit of each needle."""
    longest = max(map(len, needles))
    pattern = re.compile(b"|".join(map(re.escape, sorted(needles))))
    hits = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for begin, end, name in regions(pid):
            at, tail = begin, b""
            while at < end:
                try:
                    memory.seek(at)
                    data = memory.read(min(PIECE, end - at))
                except (OSError, OverflowError):
                    break
                if not data:
                    break
                text = tail + data
                hits += [(m[0], name or "anonymous", hex(at - len(tail) + m.start())) for m in pattern.finditer(text)]
                tail = text[-longest:]
                at += len(data)
    return sorted(set(hits))


@pytest.fixture
def readable(secretive):
    try:
        with open(f"/proc/{secretive.process.pid}/mem", "rb", buffering=0):
            return secretive
    except OSError as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the memory of another process cannot be read here: {problem}")


def test_the_search_itself_finds_what_is_there(readable, origin):
    """Bytes of a tunnel are no secret, so nobody wipes the realm or the user names: those must be found."""
    exercise(readable, origin(echo))
    assert find_in_memory(readable.process.pid, {b"carol:$2y$", b"users.htpasswd"})


def test_passwords_do_not_stay_in_memory(readable, origin):
    """The answer goes out while the last thread is still tidying up, so it is looked for more than once."""
    exercise(readable, origin(echo))
    needles = set()
    for user in [*USERS, "nobody"]:
        for password in (SECRET, WRONG):
            needles |= traces(user, password)
    last = []

    def clean():
        last[:] = find_in_memory(readable.process.pid, needles)
        return not last

    try:
        until(clean, "", 5)
    except AssertionError:
        raise AssertionError(f"still in memory: {last}") from None


@pytest.mark.parametrize("phase", ["dial", "resolve", "tunnel"])
def test_passwords_are_gone_before_the_target_is_reached(readable, origin, black_hole, phase):
    """The request is still in work; its password is not there any more."""
    targets = {
        "dial": lambda: black_hole().target,
        "resolve": lambda: "silent.test:443",
        "tunnel": lambda: origin(echo).target,
    }
    target = targets[phase]()
    with readable.open() as conn:
        conn.send(connect_head(target, "carol", SECRET))
        if phase == "tunnel":
            assert conn.response().status == 200
        elif phase == "resolve":
            until(lambda: any(q[0] == "silent.test" for q in readable.lab.names.queries), "the query")
        if hasattr(conn, "link"):
            conn.link.in_step()  # HPACK's table is gone when the client has acknowledged that there is none
        needles = traces("carol", SECRET)
        until(lambda: not find_in_memory(readable.process.pid, needles), "the password to be gone", 3)


def test_passwords_on_the_command_line_are_not_asked_for():
    """`adit passwd` reads them from the terminal or from stdin; there is no option to give one."""
    assert "--password" not in adit("passwd", "--help").stdout


@pytest.mark.parametrize("line", [
    f"GET http://carol:{SECRET}@site.test/ HTTP/1.1", f"CONNECT carol:{SECRET}@site.test:443 HTTP/1.1",
    f"CONNECT site.test:443@carol:{SECRET}@x HTTP/1.1",
])
def test_a_password_in_a_target_is_not_recorded(secretive, line):
    response, conn = secretive.ask(f"{line}\r\nHost: site.test\r\n\r\n".encode())
    conn.close()
    assert response.status == 400
    secretive.record("strangers.jsonl", kind="deny", status=400)
    until(lambda: "bad_" in secretive.stderr(), "the line in the log")
    assert SECRET.encode() not in everything_written(secretive)
