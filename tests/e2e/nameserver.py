"""A name server of the tests' own, over UDP and TCP on 127.0.0.1: a table of names, and all ways to misbehave.

What a name is answered with stands in the zone: a list of addresses, "servfail", "silent", ("truncated", addresses) to
force TCP, or a function of the question (an `Ask`). It returns a message or a list of messages, which may be any bytes,
`Stream(bytes)` for what a TCP connection carries to its end, or None to be silent; it may take its time."""

import contextlib
import socket
import socketserver
import struct
import threading
from dataclasses import dataclass

A, NS, CNAME, TXT, AAAA, OPT = 1, 2, 5, 16, 28, 41
FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 1, 2, 3, 4, 5
CHAOS = 3
ASKED = b"\xc0\x0c"  # as the owner of a record: the name of the question


class Stream(bytes):
    """Sent as it is, without a length before it; then the TCP connection ends."""


@dataclass
class Ask:
    """One question as it came."""

    name: str
    kind: int
    tcp: bool
    query: bytes
    question: bytes
    peer: tuple
    number: int  # so many questions of this name and kind came, this one included

    @property
    def edns(self):
        return b"\x00" + struct.pack("!H", OPT) in self.query[12 + len(self.question) :]

    def reply(self, addresses=(), ttl=30, code=0, **options):
        """An answer with those of the addresses that are of the kind asked for."""
        return message(self, [address(a, ttl=ttl) for a in addresses if kind_of(a) == self.kind], code, **options)


class _Udp(socketserver.ThreadingUDPServer):
    daemon_threads = True
    max_packet_size = 65535


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


class NameServer:
    def __init__(self, zone, tcp=True):
        self.zone = zone
        self.queries = []
        self.faults = []  # of the zone's functions: they are the tests' own
        self.port = 0
        self._with_tcp = tcp
        self._servers = []
        self._lock = threading.Lock()
        self.start()
        self.address = f"127.0.0.1:{self.port}"

    def start(self):
        """Again after a stop: at the same port."""
        for attempt in range(50):  # the two protocols share one port number
            udp = _Udp(("127.0.0.1", self.port), self._handler(self._on_datagram))
            try:
                # Without TCP the port is taken all the same, and refuses connections.
                tcp = _Tcp(udp.server_address, self._handler(self._on_stream), self._with_tcp)
                if not self._with_tcp:
                    tcp.server_bind()
                break
            except OSError:
                udp.server_close()
                if attempt == 49:
                    raise
        self.port = udp.server_address[1]
        self._servers = [udp, tcp]
        for server in self._servers[: 2 if self._with_tcp else 1]:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        """Dead: the port is closed, and the kernel says so to who asks."""
        for server in self._servers[: 2 if self._with_tcp else 1]:
            server.shutdown()
        for server in self._servers:
            server.server_close()
        self._servers = []
        assert not self.faults, self.faults

    close = stop

    def count(self, name, kind=None, way=None):
        """How many questions for the name came."""
        return sum(1 for n, k, w in list(self.queries) if n == name and kind in (None, k) and way in (None, w))

    @staticmethod
    def _handler(function):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):  # who asked may be gone, or we are
                    function(self.request, self.client_address)

        return Handler

    def _on_datagram(self, request, peer):
        query, sock = request
        for answer in self.answers(query, False, peer):
            sock.sendto(answer, peer)

    def _on_stream(self, sock, peer):
        while len(size := sock.recv(2, socket.MSG_WAITALL)) == 2:
            query = sock.recv(struct.unpack("!H", size)[0], socket.MSG_WAITALL)
            for answer in self.answers(query, True, peer):
                if isinstance(answer, Stream):
                    sock.sendall(answer)
                    return
                sock.sendall(struct.pack("!H", len(answer)) + answer)

    def answers(self, query, tcp, peer):
        name, kind, question = parse_question(query)
        with self._lock:
            self.queries.append((name, kind, "tcp" if tcp else "udp"))
            number = self.count(name, kind)
        try:
            answer = self.answer(Ask(name, kind, tcp, query, question, peer, number))
        except Exception as problem:
            self.faults.append(problem)
            raise
        if answer is None:
            return []
        return answer if isinstance(answer, list) else [answer]

    def answer(self, ask):
        entry = self.zone.get(ask.name)
        if entry == "silent":
            return None
        if entry == "servfail":
            return ask.reply(code=SERVFAIL)
        if entry is None:
            return ask.reply(code=NXDOMAIN)
        if callable(entry):
            return entry(ask)
        if isinstance(entry, tuple):
            return ask.reply(entry[1]) if ask.tcp else ask.reply(truncated=True)
        return ask.reply(entry)


# --- the wire ---


def parse_question(query):
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length
    kind = struct.unpack_from("!H", query, at + 1)[0]
    return ".".join(labels), kind, query[12 : at + 5]


def kind_of(text):
    return AAAA if ":" in text else A


def encode_name(text):
    labels = [label.encode("latin-1") for label in text.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\x00"


def record(kind, data, owner=ASKED, ttl=30, family=1, length=None):
    """owner: encoded, or a name as text. length: instead of the data's own."""
    if isinstance(owner, str):
        owner = encode_name(owner)
    return owner + struct.pack("!HHIH", kind, family, ttl, len(data) if length is None else length) + data


def address(text, **options):
    return record(kind_of(text), socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text), **options)


def alias(target, **options):
    return record(CNAME, target if isinstance(target, bytes) else encode_name(target), **options)


def message(
    ask, answers=(), code=0, authority=(), additional=(), truncated=False, flags=0x8180, number=None, question=None,
    counts=None,
):
    """number: the id, when not that of the question. counts: of the four sections, when they lie."""
    head = ask.query[:2] if number is None else struct.pack("!H", number)
    counts = counts or (1, len(answers), len(authority), len(additional))
    head += struct.pack("!HHHHH", flags | code | (0x0200 if truncated else 0), *counts)
    question = ask.question if question is None else question
    return head + question + b"".join([*answers, *authority, *additional])
