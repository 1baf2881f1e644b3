"""A name server of the tests' own, over UDP and TCP on 127.0.0.1: a table of names, and some ways to misbehave."""

import socket
import socketserver
import struct
import threading

A, AAAA = 1, 28
SERVFAIL, NXDOMAIN = 2, 3


class NameServer:
    """zone: name -> list of addresses, or "servfail", "silent", or ("truncated", addresses) to force TCP."""

    def __init__(self, zone):
        self.zone = zone
        self.queries = []
        for _ in range(50):  # the two protocols share one port number
            self.udp = socketserver.ThreadingUDPServer(("127.0.0.1", 0), self._handler(self._on_datagram), False)
            self.udp.daemon_threads = True
            self.udp.server_bind()
            self.port = self.udp.server_address[1]
            try:
                self.tcp = socketserver.ThreadingTCPServer(("127.0.0.1", self.port), self._handler(self._on_stream))
                break
            except OSError:
                self.udp.server_close()
        self.tcp.daemon_threads = True
        self.address = f"127.0.0.1:{self.port}"
        for server in (self.udp, self.tcp):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @staticmethod
    def _handler(function):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                function(self.request, self.client_address)

        return Handler

    def _on_datagram(self, request, peer):
        query, sock = request
        if answer := self.answer(query, tcp=False):
            sock.sendto(answer, peer)

    def _on_stream(self, sock, _peer):
        while len(size := sock.recv(2, socket.MSG_WAITALL)) == 2:
            query = sock.recv(struct.unpack("!H", size)[0], socket.MSG_WAITALL)
            if answer := self.answer(query, tcp=True):
                sock.sendall(struct.pack("!H", len(answer)) + answer)

    def answer(self, query, tcp):
        name, kind, question = parse_question(query)
        self.queries.append((name, kind, "tcp" if tcp else "udp"))
        entry = self.zone.get(name)
        if entry == "silent":
            return None
        if entry == "servfail":
            return reply(query, question, SERVFAIL)
        if entry is None:
            return reply(query, question, NXDOMAIN)
        truncated = False
        if isinstance(entry, tuple):
            truncated, entry = not tcp, entry[1]
        if truncated:
            return reply(query, question, 0, truncated=True)
        family = socket.AF_INET6 if kind == AAAA else socket.AF_INET
        wanted = [a for a in entry if (":" in a) == (kind == AAAA)] if kind in (A, AAAA) else []
        return reply(query, question, 0, [(kind, socket.inet_pton(family, a)) for a in wanted])

    def close(self):
        for server in (self.udp, self.tcp):
            server.shutdown()
            server.server_close()


def parse_question(query):
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length
    kind = struct.unpack_from("!H", query, at + 1)[0]
    return ".".join(labels), kind, query[12 : at + 5]


def reply(query, question, code, records=(), truncated=False):
    flags = 0x8180 | code | (0x0200 if truncated else 0)
    head = query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
    body = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 30, len(data)) + data for kind, data in records)
    return head + question + body
