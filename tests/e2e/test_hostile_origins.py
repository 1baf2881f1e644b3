"""Destinations that mean no good: silent, deaf, endless, dripping, or gone at the wrong moment. For each: the tunnel
ends as the deadlines say, the record has the right reason and the right bytes, memory and CPU stay bounded, and other
users notice nothing."""

import contextlib
import os
import socket
import threading

import pytest
from client import BROKEN, connect_head
from origin import BlackHole, deaf, digest, echo, pattern, reset, silent, unused_port
from wait import until

KIB, MIB = 1 << 10, 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
BUFFER = 64 * KIB
# Kernel buffers grow by themselves up to what the system allows.
KERNEL = sum(int(open(f"/proc/sys/net/ipv4/tcp_{name}").read().split()[2]) for name in ("rmem", "wmem"))
SMALL_QUARANTINE = {"ASAN_OPTIONS": "quarantine_size_mb=1:thread_local_quarantine_size_kb=64"}


def cpu_s(proxy):
    with open(f"/proc/{proxy.process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def calm(proxy):
    """Nothing spins: the program has used next to no CPU within some half second."""

    def rests():
        before = cpu_s(proxy)
        threading.Event().wait(0.5)
        return cpu_s(proxy) - before <= 0.05

    until(rests, "the proxy to be at rest")


def dialling(proxy, port):
    """The addresses to which the proxy's connections are on their way, as the kernel has it."""
    own = set()
    for entry in os.listdir(f"/proc/{proxy.process.pid}/fd"):
        with contextlib.suppress(OSError):
            own.add(os.readlink(f"/proc/{proxy.process.pid}/fd/{entry}"))
    found = []
    with open("/proc/net/tcp") as file:
        for fields in map(str.split, file.readlines()[1:]):
            host, _, its_port = fields[2].partition(":")
            if fields[3] == "02" and int(its_port, 16) == port and f"socket:[{fields[9]}]" in own:  # SYN_SENT
                found.append(socket.inet_ntoa(bytes.fromhex(host)[::-1]))
    return found


def others_are_served(proxy, target, times=5):
    """Bob comes, uses his tunnel and goes, while whatever it is goes on."""
    for _ in range(times):
        with proxy.tunnel(target, user="bob") as conn:
            assert digest(conn.exchange(pattern(10000))) == digest(pattern(10000)) and conn.end == "clean"


def ended(proxy, conn, reason, up=None, down=None):
    """The close record, with its reason and bytes; each may be a range."""
    record = proxy.record_of(conn)
    assert (record["reason"], record["status"], record["user"]) == (reason, 200, "alice"), record
    for wanted, key in ((up, "bytes_up"), (down, "bytes_down")):
        if wanted is not None:
            assert record[key] in (wanted if isinstance(wanted, range) else [wanted]), f"{key}: {record[key]}, {wanted}"
    return record


def to(least, most):
    return range(least, most + 1)


def stands_still(count, what):
    """Waits until a counter that has moved has not moved for a second (looked at a hundred times)."""
    state = {"value": 0, "same": 0}

    def still():
        value = count()
        state["same"] = state["same"] + 1 if value == state["value"] and value else 0
        state["value"] = value
        return state["same"] >= 100

    until(still, what, 40)
    return state["value"]


def endless(seen):
    """Sends until somebody stops it, and then looks how."""
    block = pattern(64 * KIB)
    try:
        while not seen.origin.released.is_set():
            seen.send(block)
    except ConnectionError:
        seen.end = "reset"


# --- nobody there ---


def test_refusal(proxy):
    port = unused_port()
    with proxy.open() as conn:
        response = conn.ask(connect_head(f"127.0.0.1:{port}"))
        record = proxy.record_of(conn, "deny")
    assert (response.status, response.word()) == (502, "dial_refused")
    wanted = {"reason": "dial_refused", "status": 502, "address": "127.0.0.1", "address_port": port, "rule": "lab"}
    assert wanted.items() <= record.items() and "bytes_up" not in record


def test_many_black_holes_at_once(start, origin, black_hole):
    """Sixty dials hang; each ends by the deadline with its record, and bob has his tunnels meanwhile."""
    proxy = start({"deadlines": {"dial": "4s"}})
    hole, target = black_hole(), origin(echo).target
    conns = [proxy.open() for _ in range(60)]
    for conn in conns:
        conn.send(connect_head(hole.target))
    until(lambda: len(dialling(proxy, hole.port)) == 60, "sixty dials")
    others_are_served(proxy, target)
    calm(proxy)
    for conn in conns:
        response = conn.response()
        assert (response.status, response.word()) == (504, "dial_timeout")
        record = proxy.record_of(conn, "deny")
        assert (record["reason"], record["status"], record["address_port"]) == ("dial_timeout", 504, hole.port)
        conn.close()
    assert dialling(proxy, hole.port) == []
    proxy.settle()


def test_a_black_hole_of_which_the_client_has_enough(proxy, black_hole):
    hole = black_hole()
    conn = proxy.open()
    conn.send(connect_head(hole.target))
    until(lambda: dialling(proxy, hole.port), "the dial")
    conn.reset()
    until(lambda: not dialling(proxy, hole.port), "the dial to be given up")
    assert proxy.record_of(conn, "deny")["reason"] == "client_reset"


# --- a hundred addresses ---

MOST = 16  # addresses of one name that are looked at
HUNDRED = [f"127.0.4.{i}" for i in range(1, 101)]


def at_the_same_port(origin, first, hosts):
    """Black holes at these addresses, all at one port; and that port."""
    for attempt in range(20):
        made = []
        try:
            for host in [first, *hosts]:
                made.append(BlackHole(host, made[0].port if made else 0))
            break
        except OSError:
            for hole in made:
                hole.close()
            if attempt == 19:
                raise
    for hole in made:
        origin.keep(hole)
    return made[0].port


class Watch:
    """Which addresses the proxy dials, from now on."""

    def __init__(self, proxy, port):
        self.all, self.most = set(), 0
        self.over = threading.Event()

        def look():
            while not self.over.wait(0.02):
                now = dialling(proxy, port)
                self.all |= set(now)
                self.most = max(self.most, len(now))

        self.thread = threading.Thread(target=look, daemon=True)
        self.thread.start()

    def stop(self):
        self.over.set()
        self.thread.join(20)


def test_a_hundred_addresses_one_of_them_good(proxy, lab, origin):
    """Some are black holes, some refuse; the good one is found, though it is the last of those that are looked at."""
    port = at_the_same_port(origin, HUNDRED[0], [HUNDRED[3], HUNDRED[9]])
    target = origin(echo, HUNDRED[MOST - 1], port)
    lab.names.zone["hundred.test"] = HUNDRED
    others = origin(echo).target
    with proxy.open() as conn:
        conn.send(connect_head(f"hundred.test:{port}"))
        others_are_served(proxy, others, 2)
        assert conn.response().status == 200
        conn.send(b"hello")
        assert conn.recv_exactly(5) == b"hello"
        conn.finish()
        assert conn.recv_all() == b""
        record = ended(proxy, conn, "ok", 5, 5)
    assert (record["address"], record["target"]) == (HUNDRED[MOST - 1], f"hundred.test:{port}")
    assert len(target.seen) == 1


def test_a_hundred_addresses_the_good_one_too_far(proxy, lab, origin):
    """No more than so many are dialled; what they said is the answer."""
    port = at_the_same_port(origin, HUNDRED[0], [])
    far = origin(echo, HUNDRED[MOST], port)
    lab.names.zone["too-far.test"] = HUNDRED
    response = proxy.refused(f"too-far.test:{port}")
    assert (response.status, response.word()) in ((502, "dial_refused"), (504, "dial_timeout"))
    assert proxy.record(kind="deny", target=f"too-far.test:{port}")["reason"] == response.word()
    assert far.seen == []


@pytest.mark.parametrize("key", ["dial", "dial_address"])
def test_a_hundred_black_holes(start, lab, origin, key):
    """The deadline of the whole, or that of each, ends it; never more than the first few are dialled."""
    proxy = start({"deadlines": {"dial": "1500ms"} if key == "dial" else {"dial_address": "2s", "dial": "30s"}})
    port = at_the_same_port(origin, HUNDRED[0], HUNDRED[1:MOST])
    lab.names.zone["holes.test"] = HUNDRED
    watch = Watch(proxy, port)
    with proxy.open() as conn:
        response = conn.ask(connect_head(f"holes.test:{port}"))
        watch.stop()
        record = proxy.record_of(conn, "deny")
    assert (response.status, response.word(), record["reason"]) == (504, "dial_timeout", "dial_timeout")
    assert watch.all <= set(HUNDRED[:MOST]) and 1 < len(watch.all)
    if key == "dial_address":
        assert len(watch.all) == MOST and watch.most < MOST
    assert dialling(proxy, port) == []


def test_the_same_address_a_hundred_times(start, lab, black_hole):
    """Is dialled once."""
    proxy = start({"deadlines": {"dial": "1s"}})
    hole = black_hole()
    lab.names.zone["same.test"] = ["127.0.0.1"] * 100
    watch = Watch(proxy, hole.port)
    assert proxy.refused(f"same.test:{hole.port}").word() == "dial_timeout"
    watch.stop()
    assert (watch.all, watch.most) == ({"127.0.0.1"}, 1)


# --- there, and gone ---


def test_closes_at_once(proxy, origin):
    target = origin(lambda seen: None)
    with proxy.tunnel(target.target) as conn:
        assert conn.recv_all() == b"" and conn.end == "clean"
        conn.finish()
        ended(proxy, conn, "ok", 0, 0)


def test_closes_at_once_and_the_client_goes_on(proxy, origin):
    """What comes after the end of both directions there is answered with a reset."""
    target = origin(lambda seen: None)
    with proxy.tunnel(target.target) as conn:
        assert conn.recv_all() == b"" and conn.end == "clean"
        sent = send_until_broken(conn)
        ended(proxy, conn, "target_reset", to(1, sent), 0)


def send_until_broken(conn, most=1 << 40):
    """Sends on and on; how much of it went out before the other side had enough."""
    block, sent = pattern(64 * KIB), 0
    conn.sock.settimeout(30)
    with contextlib.suppress(ConnectionError):
        while sent < most:
            conn.send(block)
            sent += len(block)
    return sent + len(block)


def test_resets_at_once(proxy, origin):
    """Seen while dialling or after the 200: either is said by the right word, and both sides agree."""
    target = origin(lambda seen: reset(seen.sock))
    for _ in range(20):
        with proxy.open() as conn:
            response = conn.ask(connect_head(target.target))
            if response.status == 200:
                assert conn.recv_all() == b"" and conn.end in BROKEN
                ended(proxy, conn, "target_reset", 0, 0)
            else:
                assert (response.status, response.word()) == (502, "dial_reset")
                assert proxy.record_of(conn, "deny")["reason"] == "dial_reset"


def test_speaks_before_the_client(proxy, origin):
    """All of it arrives, behind the 200."""
    def eager(seen):
        seen.send(pattern(MIB))
        echo(seen)

    target = origin(eager)
    with proxy.tunnel(target.target) as conn:
        assert conn.recv_exactly(MIB) == pattern(MIB)
        conn.send(b"at last")
        conn.finish()
        assert conn.recv_all() == b"at last" and conn.end == "clean"
        ended(proxy, conn, "ok", 7, MIB + 7)


def test_speaks_and_is_gone_before_the_client_says_a_word(proxy, origin):
    target = origin(lambda seen: seen.send(b"220 and goodbye\r\n"))
    with proxy.tunnel(target.target) as conn:
        assert conn.recv_all() == b"220 and goodbye\r\n" and conn.end == "clean"
        conn.finish()
        ended(proxy, conn, "ok", 0, 17)


@pytest.mark.parametrize("size", [1, 100 * KIB, 3 * MIB])
def test_a_reset_in_mid_download(proxy, origin, size):
    """The client gets a part, no clean end, and the record says how much."""
    def half(seen):
        seen.origin.released.wait(30)
        seen.send(pattern(size))
        reset(seen.sock)

    target = origin(half)
    with proxy.tunnel(target.target) as conn:
        target.released.set()
        data = conn.recv_all()
        assert conn.end in BROKEN
        assert data == pattern(size)[: len(data)]
        ended(proxy, conn, "target_reset", 0, len(data))


def test_a_reset_in_mid_upload(proxy, origin):
    def half(seen):
        while len(seen.data) < MIB and seen.recv():
            pass
        reset(seen.sock)

    target = origin(half)
    with proxy.tunnel(target.target) as conn:
        sent = send_until_broken(conn)
        ended(proxy, conn, "target_reset", to(MIB, sent), 0)
    assert target.only().data == pattern(64 * KIB) * (len(target.only().data) // (64 * KIB)) + pattern(
        len(target.only().data) % (64 * KIB)
    )


def test_a_reset_while_an_upload_waits(proxy, origin):
    """The target took nothing and breaks off: nothing of that may look like its end to the client, who listens."""
    def deaf_and_gone(seen):
        seen.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        seen.send(b"a part of something")
        seen.origin.released.wait(60)
        reset(seen.sock)

    target = origin(deaf_and_gone)
    with proxy.tunnel(target.target) as conn:
        sent = send_until_full(conn)
        target.released.set()
        assert conn.recv_all() == b"a part of something" and conn.end in BROKEN
        ended(proxy, conn, "target_reset", to(1, sent), 19)


def send_until_full(conn):
    """Sends until the other side has taken nothing for a second; how much of it went out."""
    block, sent = pattern(64 * KIB), 0
    timeout = conn.sock.gettimeout()
    conn.sock.settimeout(1)
    with contextlib.suppress(TimeoutError):
        while True:
            conn.send(block)
            sent += len(block)
    conn.sock.settimeout(timeout)
    return sent + len(block)


def test_a_reset_while_the_client_does_not_read(proxy, origin):
    """The proxy has stopped reading, so it cannot know; the client hears of it when it reads on."""
    def stop(seen):
        with contextlib.suppress(OSError):
            while not seen.origin.released.is_set():
                seen.sock.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    seen.send(pattern(64 * KIB))
        reset(seen.sock)

    target = origin(stop)
    with proxy.tunnel(target.target, receive_buffer=65536) as conn:
        stands_still(lambda: target.first().sent, "the sender to be held back")
        target.released.set()
        until(lambda: target.only().done, "the reset")
        calm(proxy)
        size = len(conn.recv_all())
        assert conn.end in BROKEN and size > 0
        ended(proxy, conn, "target_reset", 0, size)


# --- endless ---


def leave_by_reset(conn):
    conn.reset()


def leave_by_close(conn):
    """FIN, or RST when bytes wait unread: as the kernel closes for a program that was killed."""
    conn.close()


def leave_by_the_book(conn):
    """close_notify, FIN, and nobody there any more."""
    conn.finish()
    conn.close()


LEAVING = {"reset": leave_by_reset, "close": leave_by_close, "close_notify": leave_by_the_book}


@pytest.mark.parametrize("how", LEAVING)
def test_an_endless_sender_whose_client_left_while_held_back(start, origin, how):
    """Nothing moves, the client goes: nothing more is taken from the sender, and it sees its connection reset."""
    proxy = start({"tunnel": {"buffer": BUFFER}, "audit": {"progress": "100ms"}, "workers": 1})
    target = origin(endless)
    conn = proxy.tunnel(target.target, receive_buffer=65536)

    def taken():
        return max((r["bytes_down"] for r in proxy.records() if r["kind"] == "progress"), default=0)

    before = stands_still(taken, "the sender to be held back")
    LEAVING[how](conn)
    seen = target.only()
    until(lambda: seen.done, "the end at the origin")
    assert seen.end == "reset"
    # One read may have been under way: bytes on their way to the client need not have stood quite still.
    record = ended(proxy, conn, "client_reset", 0, to(before, before + 2 * BUFFER))
    # The kernel answers a close with bytes unread by a reset: that is no end of the client's upload.
    assert record.get("half_close") == ("clean" if how == "close_notify" else None)
    proxy.settle()


@pytest.mark.parametrize("how", LEAVING)
def test_an_endless_sender_whose_client_left_in_full_flow(start, origin, how):
    proxy = start({"tunnel": {"buffer": BUFFER}, "workers": 1})
    target = origin(endless)
    conn = proxy.tunnel(target.target)
    received = 0
    while received < 8 * MIB:
        received += len(conn.recv())
    before = target.first().sent
    LEAVING[how](conn)
    after = target.first().sent
    seen = target.only()
    until(lambda: seen.done, "the end at the origin")
    assert seen.end == "reset"
    # On its way at that moment: the kernel's buffers of both connections, and one of the proxy's.
    assert seen.sent - max(before, after) <= 2 * KERNEL + 4 * BUFFER
    ended(proxy, conn, "client_reset", 0, to(received, seen.sent))
    proxy.settle()


def test_endless_senders_whose_clients_do_not_read(start, origin):
    """Thirty of them cost thirty buffers and not more; one worker serves bob beside them; and all of it comes back."""
    proxy = start({"tunnel": {"buffer": BUFFER}, "workers": 1}, env=SMALL_QUARANTINE)
    count = 30
    target, other = origin(endless), origin(echo).target
    others_are_served(proxy, other)
    conns = [proxy.tunnel(origin(silent).target) for _ in range(count)]
    for conn in conns:
        conn.close()
    proxy.settle()
    before = proxy.rss()  # whatever tunnels need at all is there
    conns = [proxy.tunnel(target.target, receive_buffer=65536) for _ in range(count)]
    sent = stands_still(lambda: sum(seen.sent for seen in target.seen), "all senders to be held back")
    assert sent <= count * (2 * KERNEL + 4 * BUFFER)
    # A buffer of ciphertext each, what OpenSSL holds, and the allocator's waste; but no growth with what was sent.
    assert proxy.rss() - before <= count * 4 * BUFFER + 16 * MIB
    others_are_served(proxy, other)
    calm(proxy)
    for conn in conns:
        conn.reset()
    for conn in conns:
        ended(proxy, conn, "client_reset", 0, to(1, sent))
    target.until_over(count)
    assert {seen.end for seen in target.seen} == {"reset"}
    proxy.settle()
    others_are_served(proxy, other)


def closed_by_the_proxy(proxy, conn, http):
    """Nothing is left of it, though the client has not closed yet; an HTTP/2 connection may serve others."""
    if http == "h2":
        conn.close()
    proxy.settle()


def test_an_endless_sender_and_the_stall_deadline(start, origin, http):
    """The client is there, and takes nothing."""
    proxy = start({"tunnel": {"buffer": BUFFER}, "deadlines": {"stall": "1s"}})
    target = origin(endless)
    with proxy.tunnel(target.target, receive_buffer=65536) as conn:
        ended(proxy, conn, "stall_timeout", 0, to(1, target.first().sent + KERNEL))
        until(lambda: target.only().done, "the end at the origin")
        assert target.only().end == "reset"
        closed_by_the_proxy(proxy, conn, http)


# --- a drop at a time ---


class Drips:
    """Each message leaves when the one before has arrived at the client."""

    def __init__(self, size, count):
        self.size, self.count = size, count
        self.turn = threading.Semaphore(0)

    def __call__(self, seen):
        seen.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = pattern(self.size)
        for _ in range(self.count):
            self.turn.acquire(timeout=30)
            seen.send(data)
        seen.fin()
        while seen.recv():
            pass

    def cost(self, proxy, target):
        """CPU of the proxy for all of them."""
        with proxy.tunnel(target.target) as conn:
            before = cpu_s(proxy)
            for _ in range(self.count):
                self.turn.release()
                assert conn.recv_exactly(self.size) == pattern(self.size)
            spent = cpu_s(proxy) - before
            assert conn.recv_all() == b"" and conn.end == "clean"
            conn.finish()
            ended(proxy, conn, "ok", 0, self.size * self.count)
        return spent


def test_single_bytes_cost_no_more_than_messages(start, origin):
    """A byte costs a turn of the loop, like a message of a usual size does; and not a growing share of anything."""
    proxy = start({"workers": 1})
    count = 2000
    drops, messages = Drips(1, count), Drips(1000, count)
    few = drops.cost(proxy, origin(drops))
    many = messages.cost(proxy, origin(messages))
    assert few <= 3 * many + 0.2
    calm(proxy)


def drip(seen):
    seen.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while not seen.origin.released.wait(0.05):
        seen.send(b".")


def test_drips_end_with_the_tunnels_lifetime(start, origin):
    """They keep a tunnel from being idle, by right, also one whose client has finished; but not for ever."""
    proxy = start({"deadlines": {"idle": "1500ms", "half_closed": "1500ms", "lifetime": "4s"}})
    target = origin(drip)
    with proxy.tunnel(target.target) as conn:
        conn.finish()
        data = conn.recv_all()
        assert len(data) > 10 and conn.end in BROKEN
        ended(proxy, conn, "lifetime", 0, len(data))
    until(lambda: target.only().done, "the end at the origin")


def test_urgent_bytes_are_no_bytes(start, origin):
    """TCP's out-of-band bytes reach nobody: they neither keep the tunnel alive nor make the loop spin."""
    proxy = start({"deadlines": {"idle": "2s"}, "workers": 1})

    def urge(seen):
        while not seen.origin.released.wait(0.02):
            seen.sock.send(b"!", socket.MSG_OOB)

    target = origin(urge)
    with proxy.tunnel(target.target) as conn:
        before = cpu_s(proxy)
        assert conn.recv_all() == b""
        spent = cpu_s(proxy) - before
        record = ended(proxy, conn, "idle_timeout", 0, 0)
        assert spent <= record["duration_ms"] / 1000 / 4
    until(lambda: target.only().done, "the end at the origin")


# --- deaf ---


def test_says_nothing_for_ever(start, origin):
    """Accepts, reads, and is silent: the idle deadline, counted from the last byte."""
    proxy = start({"deadlines": {"idle": "2s"}})
    target = origin(silent)
    with proxy.tunnel(target.target) as conn:
        conn.send(b"hello?")
        assert conn.recv_all() == b"" and conn.end in BROKEN
        ended(proxy, conn, "idle_timeout", 6, 0)
    until(lambda: target.only().done, "the end at the origin")
    assert (bytes(target.only().data), target.only().end) == (b"hello?", "reset")


def test_finishes_and_reads_for_ever(start, origin):
    """The upload goes on after the target's end, to its last byte; what is over after the half-closed deadline is the
    silence behind it."""
    proxy = start({"deadlines": {"half_closed": "1s"}})

    def finish_then_read(seen):
        seen.fin()
        silent(seen)

    target = origin(finish_then_read)
    with proxy.tunnel(target.target) as conn:
        assert conn.recv_all() == b"" and conn.end == "clean"
        conn.send(pattern(4 * MIB))
        until(lambda: len(target.only().data) == 4 * MIB, "the upload")
        ended(proxy, conn, "half_closed_timeout", 4 * MIB, 0)
    assert digest(target.only().data) == digest(pattern(4 * MIB))
    until(lambda: target.only().done, "the end at the origin")


def finish_and_be_deaf(seen):
    seen.fin()
    deaf(seen)


@pytest.mark.parametrize("handler", [deaf, finish_and_be_deaf])
@pytest.mark.parametrize("finish", [False, True], ids=["endless", "finished"])
def test_takes_nothing(start, origin, http, handler, finish):
    """A window of zero while the client uploads: it is held back, its bytes wait in bounded memory, and the stall
    deadline ends it. A client that has finished is no exception."""
    proxy = start({"tunnel": {"buffer": BUFFER}, "deadlines": {"stall": "2s"}, "workers": 1}, env=SMALL_QUARANTINE)
    other = origin(echo).target
    others_are_served(proxy, other)
    target = origin(handler)
    before = proxy.rss()
    with proxy.tunnel(target.target) as conn:
        if finish:
            # More than the target's kernel takes, less than all that is between: so that the client can finish.
            size = 9 * MIB // 2
            if http == "h1":
                conn.send(pattern(size))
            else:  # its window ends before that; an end needs none
                size = send_until_full(conn)
            conn.finish()
        else:
            sender = threading.Thread(target=send_until_broken, args=(conn,), daemon=True)
            sender.start()
        others_are_served(proxy, other)
        record = ended(proxy, conn, "stall_timeout", to(1, 2 * KERNEL + 4 * BUFFER), 0)
        assert record["bytes_up"] <= (size if finish else 1 << 40)
        assert proxy.rss() - before <= 8 * BUFFER + 16 * MIB
        if not finish:
            sender.join(20)
            assert not sender.is_alive(), "the client is told"
        closed_by_the_proxy(proxy, conn, http)


def test_sips(start, origin):
    """One byte now and then opens no window: to the other side nothing moves, and the deadline is not fooled."""
    proxy = start({"tunnel": {"buffer": BUFFER}, "deadlines": {"stall": "2s"}})

    def sip(seen):
        seen.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        while not seen.origin.released.wait(0.02):
            seen.data += seen.sock.recv(1)

    target = origin(sip)
    with proxy.tunnel(target.target) as conn:
        sender = threading.Thread(target=send_until_broken, args=(conn,), daemon=True)
        sender.start()
        ended(proxy, conn, "stall_timeout", to(1, 2 * KERNEL + 4 * BUFFER), 0)
        sender.join(20)
        assert not sender.is_alive()
    target.released.set()


def test_slow_is_not_dead(start, origin):
    """A target that takes its time, but takes, is waited for; longer than the deadline in all."""
    proxy = start({"tunnel": {"buffer": BUFFER}, "deadlines": {"stall": "1500ms"}})

    def slow(seen):
        seen.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        while seen.recv():
            seen.origin.released.wait(0.02)
        seen.fin()

    target = origin(slow)
    with proxy.tunnel(target.target) as conn:
        conn.sock.settimeout(60)
        conn.send(pattern(8 * MIB))
        conn.finish()
        assert conn.recv_all() == b"" and conn.end == "clean"
        record = ended(proxy, conn, "ok", 8 * MIB, 0)
    assert record["duration_ms"] > 1500, "it was to take longer than the deadline"
    assert digest(target.only().data) == digest(pattern(8 * MIB))
