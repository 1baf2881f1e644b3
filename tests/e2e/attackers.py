"""Hostile clients. Each runs as a program of its own, at low priority and at a pace, so that it takes neither the
interpreter nor the processor from the probe beside it: what is tested is whether the proxy's loops are held up, not how
much of a machine there is.

    attackers.py NAME JSON      JSON: {"port": ..., and what the attacker takes}

Says "ready" once the attack is under way, those of a crowd "enough" when they have had it, counts in a last line of
JSON, and ends at SIGTERM, or when it has done what it was to do so many `times`. Addresses are of 127.0.0.0/8: one each
where a limit is for a network, many where it would only hide what is tested."""

import errno
import itertools
import json
import os
import random
import resource
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import time

import wire
from client import PASSWORD, Conn, basic, connect_head

LINGER_0 = struct.pack("ii", 1, 0)
tally = {}


def count(what, n=1):
    tally[what] = tally.get(what, 0) + n


def ready():
    print("ready", flush=True)


class Pace:
    """So many a second, evenly; what was missed is not made up for."""

    def __init__(self, per_second):
        self.gap, self.next = 1 / per_second, time.monotonic()

    def wait(self):
        now = time.monotonic()
        self.next = max(self.next + self.gap, now - 5 * self.gap)
        if self.next > now:
            time.sleep(self.next - now)


def sources(network, n):
    """n addresses of 127.NETWORK.0.0/16."""
    return [f"127.{network}.{i // 250}.{i % 250 + 1}" for i in range(n)]


def tcp(port, source, receive_buffer=None):
    sock = socket.socket()
    sock.settimeout(20)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.bind((source, 0))
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def give_up(sock, how):
    """"reset", or "fin": with what has come so far taken out, for a close before unread bytes is a reset as well."""
    with sock:
        try:
            sock.setblocking(False)
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
            else:
                sock.shutdown(socket.SHUT_WR)
                sock.recv(1 << 20)
        except OSError:
            pass


def put(sock, data):
    """Sends what the kernel takes; False: the other side has had enough."""
    try:
        sock.send(data)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


CONTEXT = None


def tls(port, source, receive_buffer=None):
    """A connection after its handshake. Sessions are not resumed: each costs the proxy a whole one."""
    global CONTEXT
    if CONTEXT is None:
        CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        CONTEXT.check_hostname, CONTEXT.verify_mode = False, ssl.CERT_NONE
    return Conn(("127.0.0.1", port), source=source, receive_buffer=receive_buffer).start_tls(CONTEXT).handshake()


def crowd(make, places, spell, pace):
    """Keeps a connection in each place: those the proxy has closed are made again. spell(sock, i) is said to each of
    them, at the pace, and says whether it still lives. When half of the places have been closed it has done enough."""
    held = [make(place) for place in places]
    ready()
    while True:
        for i in range(len(held)):
            pace.wait()
            if not spell(held[i], i):
                count("closed by the proxy")
                if tally["closed by the proxy"] == len(places) // 2:
                    print("enough", flush=True)
                held[i].close()
                held[i] = make(places[i])


def ended(sock):
    """Has the other side closed? What it has said is thrown away."""
    try:
        while data := sock.recv(65536):
            count("bytes back", len(data))
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


# --- slow ones ---


def silent(port, n, network):
    """TCP, and not a byte."""
    crowd(lambda source: tcp(port, source), sources(network, n), lambda sock, i: not ended(sock), Pace(4000))


def drips_hello(port, n, network):
    """A ClientHello byte after byte, and never the last one."""
    text = wire.hello()[:-1]
    at = [0] * n
    places = list(enumerate(sources(network, n)))

    def make(place):
        at[place[0]] = 0
        return tcp(port, place[1])

    def spell(sock, i):
        at[i] += 1
        return not ended(sock) and (at[i] > len(text) or put(sock, text[at[i] - 1 : at[i]]))

    crowd(make, places, spell, Pace(1500))


class Encrypted:
    """A Conn whose socket does not block any more, with the two calls that crowd needs."""

    def __init__(self, conn):
        self.conn = conn
        conn.sock.setblocking(False)

    def recv(self, n):
        return self.conn.sock.recv(n)

    def send(self, data):
        self.conn.tls.write(data)
        self.conn.sock.send(self.conn.outgoing.read())

    def close(self):
        self.conn.close()


def drips_head(port, n, network):
    """A head byte after byte, each in a record of its own, and never the end of it."""
    text = b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: 127.0.0.1:9\r\nX: " + b"x" * 4000
    at = [0] * n
    places = list(enumerate(sources(network, n)))

    def make(place):
        at[place[0]] = 0
        return Encrypted(tls(port, place[1]))

    def spell(conn, i):
        at[i] += 1
        return not ended(conn) and put(conn, text[at[i] - 1 : at[i]])

    crowd(make, places, spell, Pace(500))


def target_of(serve):
    """A target of the attacker's own: "host:port"."""

    def accept(listener):
        while True:
            threading.Thread(target=serve_one, args=(listener.accept()[0],), daemon=True).start()

    def serve_one(sock):
        with sock:
            try:
                serve(sock)
            except OSError:
                pass

    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def endless(sock):
    """Sends as long as it is taken."""
    while True:
        sock.sendall(b"x" * 65536)


def pours(sock):
    """Sends more than fits on the way, and then no more."""
    sock.sendall(b"x" * (1 << 20))
    swallows(sock)


def swallows(sock):
    while sock.recv(65536):
        pass


def never_reads(port, n, network):
    """Half of them tunnels to a target that sends without end, half of them questions whose answers nobody takes."""
    target = target_of(endless)
    question = b"GET /healthz HTTP/1.1\r\nHost: proxy.test\r\n\r\n" * 100

    def make(place):
        i, source = place
        conn = tls(port, source, receive_buffer=8192)
        if i % 2 == 0:
            conn.send(connect_head(target))
        return Encrypted(conn)

    def spell(conn, i):
        if i % 2 == 0:
            return put(conn, b"x")
        return put(conn, question)

    crowd(make, list(enumerate(sources(network, n))), spell, Pace(100))


def never_sends(port, n, network, target):
    """A handshake, and nothing; or a tunnel, and nothing."""

    def make(place):
        i, source = place
        conn = tls(port, source)
        if i % 4 == 0:
            conn.send(connect_head(target))
        return Encrypted(conn)

    crowd(make, list(enumerate(sources(network, n))), lambda conn, i: not ended(conn), Pace(1000))


# --- floods ---


def answered(sock, timeout=20):
    """Did the proxy say anything before it closed?"""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.poll(timeout * 1000)
    try:
        return len(sock.recv(5)) > 0
    except OSError:
        return False


def hellos(port, source, per_second):
    """Handshakes begun one after the other from one network."""
    text, pace, held = wire.hello(), Pace(per_second), []
    ready()
    begun = time.monotonic()
    while True:
        pace.wait()
        sock = tcp(port, source)
        if not put(sock, text):
            count("refused")
            sock.close()
            continue
        held.append(sock)
        if len(held) >= 50:
            for sock in held:
                count("answered" if answered(sock) else "refused")
                sock.close()
            held = []
            tally["seconds"] = time.monotonic() - begun


def burst(port, n, network, networks):
    """n ClientHellos that are there all at once, again and again."""
    text, places = wire.hello(), sources(network, networks)
    while True:
        held = [tcp(port, places[i % networks]) for i in range(n)]
        time.sleep(0.2)  # they shall all have been accepted
        if "bursts" not in tally:
            ready()
        for sock in held:
            put(sock, text)
        for sock in held:
            count("answered" if answered(sock) else "refused")
        for sock in held:
            sock.close()
        count("bursts")


def lives(sock):
    """All was sent, but it may not have been read yet: whether the end still comes, before a deadline brings it."""
    sock.settimeout(0.8)
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return True
    return False


def drown(make, flood, pace):
    """Connects and floods until the proxy cuts the connection off, again and again."""
    ready()
    while True:
        pace.wait()
        connection = make()
        try:
            for data in flood(connection):
                connection.sock.sendall(data)
                count("sent")
                if select.select([connection.sock], [], [], 0)[0] and not connection.sock.recv(65536):
                    break
            else:
                if lives(connection.sock):
                    count("not cut off")
        except (ConnectionError, TimeoutError):
            pass
        count("cut off")
        connection.conn.close()


def hand_made(port, network, target, version=ssl.TLSVersion.TLSv1_3):
    """Connections with the record layer of our own: one without a request, one with a tunnel, and so on."""
    made, places, tunnel = wire.context(version), itertools.cycle(sources(network, 2500)), itertools.cycle([False, True])

    def make():
        each = wire.Wire(("127.0.0.1", port), made, next(places))
        if next(tunnel):
            each.sock.sendall(each.data(connect_head(target)))
            assert each.conn.response().status == 200
        return each

    return make


def key_updates(port, network, target):
    """Two of four clients want an answer to each. Some come alone, then many at once."""
    asking = itertools.cycle([False, False, True, True])

    def flood(each):
        asks = next(asking)
        for _ in range(20):
            yield each.key_update(asks)
        for _ in range(40):
            yield b"".join(each.key_update(asks) for _ in range(100))

    drown(hand_made(port, network, target), flood, Pace(10))


def renegotiations(port, network, target):
    """ClientHellos inside a TLS 1.2 session."""
    text = wire.hello()[5:]

    def flood(each):
        for _ in range(5000):
            yield each.record(wire.HANDSHAKE, text)

    drown(hand_made(port, network, target, ssl.TLSVersion.TLSv1_2), flood, Pace(10))


def empty_records(port, network, target):
    def flood(each):
        for _ in range(5000):
            yield b"".join(each.record(wire.DATA, b"") for _ in range(20))

    drown(hand_made(port, network, target), flood, Pace(10))


def padding(port, network, target):
    """One byte in sixteen thousand: legal, and all of it has to be decrypted. Paced, for it is only dear."""
    make, pace = hand_made(port, network, target), Pace(400)
    without, each = make(), make()
    without.conn.close()
    ready()
    while True:
        pace.wait()
        each.sock.sendall(each.record(wire.DATA, b"x", wire.RECORD_MAX - 1))
        count("sent")
        each.conn.recv_exactly(1)


def garbage(port, network, target):
    """Every kind of nonsense, to the TLS port and within TLS; each connection until the proxy closes it, or 40 kB."""
    hello = wire.hello()
    openings = [
        lambda i: wire.noise(i, 8),
        lambda i: b"\x16\x03\x01" + wire.noise(i, 400),
        lambda i: b"\x16\x03\x01\xff\xff" + wire.noise(i, 40000),  # a record of 64 KiB
        lambda i: b"\x16\x03\x01\x48\x01" + wire.noise(i, 20000),  # one byte more than a record may have
        lambda i: b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + wire.noise(i, 16380),  # a ClientHello of 16 MiB
        lambda i: b"\x16\x03\x01\x00\x00" * 5000,  # nothing, often
        lambda i: hello[: 20 + i % 200] + wire.noise(i, 300),  # right, and then not any more
        lambda i: b"\x17\x03\x03\x00\x20" + wire.noise(i, 32),
        lambda i: b"\x15\x03\x03\x00\x02\x02\x28" * 100,  # alerts
        lambda i: b"\x80\x2e\x01\x00\x02" + wire.noise(i, 50),  # SSL 2
        lambda i: b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n\r\n" + hello,
        lambda i: b"GET / HTTP/1.1\r\n" * 1000,
        lambda i: b"\x00" * 40000,
    ]
    within = [
        lambda i: wire.noise(i, 40000),
        lambda i: b"\x00" * 40000,
        lambda i: b"CONNECT " + b"x" * 40000,
        lambda i: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + wire.noise(i, 1000),
        lambda i: b"CONNECT 127.0.0.1:9 HTTP/1.1\r\n" + b"a: b\r\n" * 5000,
        lambda i: b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: x\r\n" + b"X" * 40000,
        lambda i: b"\r\n" * 20000,
        lambda i: b"\n" * 40000,
    ]
    places, pace = sources(network, 250), Pace(150)
    ready()
    i = 0
    while True:
        pace.wait()
        i += 1
        source = places[i % len(places)]
        if i % 8 == 0:
            conn = tls(port, source)
            conn.sock.settimeout(20)
            try:
                conn.send(within[i // 8 % len(within)](i))
            except OSError:
                pass
            sock = conn.sock
        else:
            sock = tcp(port, source)
            put(sock, openings[i % len(openings)](i))
        count("sent")
        give_up(sock, "fin" if i % 3 else "reset")


def fat_credentials(port, network, target, per_second):
    """20 KB of user, password or nonsense, and what lies around the bounds."""
    big = 15000  # 20 KB in base64
    values = [
        "Basic " + basic("alice", "x" * big),
        "Basic " + basic("u" * big, "x"),
        "Basic " + basic("u" * (big // 2), "x" * (big // 2)),
        "Basic " + "=" * 20000,
        "Basic " + "!" * 20000,
        "Basic" + " " * 20000 + "x",
        "x" * 20000,
        "Basic " + basic("alice", ":" * big),
        "Basic " + basic("alice", "\x00" * 400),
        "Basic " + basic("alice", "x" * 513),
    ]
    places, pace = sources(network, 250), Pace(per_second)
    ready()
    i = 0
    while True:
        pace.wait()
        i += 1
        with tls(port, places[i % len(places)]) as conn:
            head = connect_head(target, user=None, fields=["Proxy-Authorization: " + values[i % len(values)]])
            count(str(conn.ask(head).status))


def many_refusals(conn, heads):
    """On one connection, where the listener keeps it: what each was answered is counted."""
    for head in heads:
        conn.send(head)
        count(str(conn.response().status))


def made_up_users(port, network, target, times, per_second):
    """Names that nobody has, each with a password of its own, from many networks; ten on a connection, which is what
    one may have wrong in a row."""
    pace, chance = Pace(per_second / 10), random.Random(os.getpid())
    ready()
    for i in range(0, times, 10):
        pace.wait()
        with tls(port, f"127.{network + chance.randrange(8)}.{chance.randrange(250)}.1") as conn:
            names = [f"user-{chance.randrange(1 << 60):x}" for _ in range(10)]
            many_refusals(conn, [connect_head(target, name, f"password of {name}") for name in names])


def strangers(port, network, target, times, networks, per_second):
    """Refusals that need no password, for records that nobody asked for: long ones, with all the bytes allowed."""
    pace, places = Pace(per_second / 20), [f"127.{network}.{i}.1" for i in range(networks)]
    ready()
    for i in range(0, times, 20):
        pace.wait()
        with tls(port, places[i // 20 % networks]) as conn:
            many_refusals(conn, [connect_head(f"{'x' * 60}.{'y' * 60}.{i + k}.test:443", None) for k in range(20)])


# --- those who give up ---


def aborts(port, network, phase, times, target=None, user="alice", per_second=2000, spread=0):
    """So many connections given up in one phase, RST and FIN in turns. spread: up to so many seconds after the request,
    a little later each time."""
    text, pace = wire.hello(), Pace(per_second)
    places = sources(network, 250)
    if target is None:
        target = target_of(pours if phase == "down" else swallows)
    ready()
    for i in range(times):
        pace.wait()
        how, source = ("reset", "fin")[i % 2], places[i % len(places)]
        count("given up")
        if phase in ("connect", "hello", "flight"):
            sock = tcp(port, source)
            if phase != "connect":
                put(sock, text[: len(text) * (i % 7 + 1) // 8] if phase == "hello" else text)
            if phase == "flight":
                answered(sock)
            give_up(sock, how)
            continue
        conn = tls(port, source)
        if phase == "head":
            conn.send(connect_head(target)[: 10 + i % 60])
        elif phase != "handshake":
            conn.send(connect_head(target, user, f"wrong-{i}" if phase == "auth" else PASSWORD))
        if phase in ("tunnel", "down", "up"):
            assert conn.response().status == 200
        if phase == "up":
            conn.send(b"x" * 16384 * (i % 4 + 1))
        if phase == "down":
            conn.recv()
        if spread:
            time.sleep(spread * (i % 100) / 100)
        give_up(conn.sock, how)


def main():
    name, options = sys.argv[1], json.loads(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.nice(10)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        globals()[name](**options)
    except OSError as problem:
        if problem.errno == errno.EADDRNOTAVAIL:
            raise SystemExit("addresses of 127.0.0.0/8 cannot be bound here") from None
        raise
    finally:
        print(json.dumps(tally), flush=True)


if __name__ == "__main__":
    main()
