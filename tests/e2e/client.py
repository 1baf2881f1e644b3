"""A client with all the freedom real ones have: TLS over memory buffers, so that every byte, every alert and every FIN
is sent when a test says so and not when a library thinks fit."""

import base64
import select
import socket
import ssl
import struct
from dataclasses import dataclass, field
from datetime import datetime, timezone

import protocols
from pki import PASSWORD

CHUNK = 65536
TIMEOUT_S = 20.0


def basic(user, password=PASSWORD):
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def connect_head(target, user="alice", password=PASSWORD, version="1.1", host=True, fields=()):
    lines = [f"CONNECT {target} HTTP/{version}"]
    if host:
        lines.append(f"Host: {target}")
    if user is not None:
        lines.append(f"Proxy-Authorization: Basic {basic(user, password)}")
    lines += fields
    return "".join(line + "\r\n" for line in lines).encode() + b"\r\n"


def forward_head(url, *fields, method="GET", user="alice", password=PASSWORD, version="1.1", host=True):
    """A request for http://AUTHORITY/PATH as a proxy is asked for it; `host` may be another one than the URL's."""
    lines = [f"{method} {url} HTTP/{version}"]
    if host is not False:
        lines.append(f"Host: {url.split('/')[2].split('?')[0] if host is True else host}")
    if user is not None:
        lines.append(f"Proxy-Authorization: Basic {basic(user, password)}")
    lines += fields
    return "".join(line + "\r\n" for line in lines).encode("latin-1") + b"\r\n"


BROKEN = ("truncated", "reset")  # ends that nobody may take for a clean one


class Cut(AssertionError):
    """The connection ended within a message."""


@dataclass
class Response:
    version: str
    status: int
    reason: str
    fields: list
    body: bytes = b""
    names: list = field(default_factory=list)
    trailers: list = field(default_factory=list)
    interim: list = field(default_factory=list)  # the 1xx before it

    def get(self, name, default=None):
        values = [value for key, value in self.fields if key.lower() == name.lower()]
        return ", ".join(values) if values else default

    def word(self):
        """Our own word for what happened, out of Proxy-Status."""
        status = self.get("Proxy-Status", "")
        for part in status.split(";"):
            key, _, value = part.strip().partition("=")
            if key == "details":
                return value.strip('"')
        return None

    def __str__(self):
        return f"{self.status} {self.reason} {self.fields} {self.body[:200]!r}"


def client_context(ca, low=ssl.TLSVersion.TLSv1_2, high=ssl.TLSVersion.TLSv1_3, alpn=None, check=True):
    """alpn: None is what the protocol of the test needs."""
    alpn = protocols.alpn() if alpn is None else alpn
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python sets it; here a truncation must not look like an end
    context.minimum_version, context.maximum_version = low, high
    if alpn:
        context.set_alpn_protocols(alpn)
    if not check:
        context.check_hostname = False
    return context


class Reader:
    """What can be done with whatever has recv and send."""

    late_fields = None  # where messages are streams: what stands behind a body that has ended

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def recv_exactly(self, size):
        data = bytearray()
        while len(data) < size:
            chunk = self.recv(size - len(data))
            if not chunk:
                raise Cut(f"{len(data)} of {size} bytes, then end: {self.end}")
            data += chunk
        return bytes(data)

    def recv_all(self):
        data = bytearray()
        while chunk := self.recv():
            data += chunk
        return bytes(data)

    # --- HTTP ---

    def _line(self):
        line = bytearray()
        while not line.endswith(b"\r\n"):
            byte = self.recv(1)
            if not byte:
                raise Cut(f"end ({self.end}) within a response head after {bytes(line)!r}")
            line += byte
        return line[:-2].decode("latin-1")

    def response(self, tunnel=True):
        """One response; a 2xx has no body when it answers CONNECT."""
        status_line = self._line()
        version, status, reason = (status_line.split(" ", 2) + [""])[:3]
        assert version.startswith("HTTP/1."), status_line
        fields = []
        while line := self._line():
            name, _, value = line.partition(":")
            fields.append((name, value.strip()))
        response = Response(version, int(status), reason, fields)
        if not (tunnel and 200 <= response.status < 300):
            length = response.get("Content-Length")
            response.body = self.recv_all() if length is None else self.recv_exactly(int(length))
        return response

    def ask(self, head):
        self.send(head)
        return self.response(tunnel=head.startswith(b"CONNECT"))

    def _fields(self):
        fields = []
        while line := self._line():
            name, colon, value = line.partition(":")
            assert colon and name and name == name.strip(), f"no field line: {line!r}"
            fields.append((name, value.strip()))
        return fields

    def response_head(self):
        status_line = self._line()
        version, status, reason = (status_line.split(" ", 2) + [""])[:3]
        assert version in ("HTTP/1.0", "HTTP/1.1") and status.isdigit() and len(status) == 3, status_line
        return Response(version, int(status), reason, self._fields())

    def message(self, method="GET"):
        """One final response to a request of this method, read as strictly as RFC 9112 6.3 has it; Cut when it breaks
        off. What comes until the end of the connection is whole only with a close_notify."""
        interim = []
        while (response := self.response_head()).status < 200 and response.status != 101:
            interim.append(response)
        response.interim = interim
        length, coding = response.get("Content-Length"), response.get("Transfer-Encoding")
        if method == "HEAD" or response.status in (101, 204, 304):
            return response
        if self.late_fields is not None:
            response.body = self.recv_all()
            if self.end != "clean" or len(response.body) != int(length or len(response.body)):
                raise Cut(f"{len(response.body)} bytes, then end: {self.end}")
            response.trailers = self.late_fields()
            return response
        assert length is None or coding is None, f"length and coding: {response}"
        if coding is not None:
            assert coding == "chunked" and response.version == "HTTP/1.1", str(response)
            body = bytearray()
            while size := int(self._line().split(";")[0], 16):
                body += self.recv_exactly(size)
                assert self.recv_exactly(2) == b"\r\n"
            response.body, response.trailers = bytes(body), self._fields()
        elif length is not None:
            response.body = self.recv_exactly(int(length))
        else:
            response.body = self.recv_all()
            if self.end != "clean":
                raise Cut(f"{len(response.body)} bytes, then end: {self.end}")
        return response

    def get(self, url, *fields, body=b"", **options):
        """Asks for a URL by its absolute form, and takes the answer."""
        self.send(forward_head(url, *fields, **options) + body)
        return self.message(options.get("method", "GET"))


class Conn(Reader):
    """One connection. `end` says how the other side finished: "clean" (close_notify, or FIN without TLS), "truncated"
    (FIN without close_notify), "reset"."""

    def __init__(self, address, source=None, timeout=TIMEOUT_S, receive_buffer=None):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.settimeout(timeout)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect(address[:2])
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.name = self.sock.getsockname()
        self.began = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # as records have it
        self.tls = None
        self.end = None
        self.buffer = bytearray()

    # --- TLS ---

    def start_tls(self, context, server_name="proxy.test", session=None):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=server_name, session=session)
        return self

    def handshake(self):
        while True:
            try:
                self.tls.do_handshake()
                self._flush()
                return self
            except ssl.SSLWantReadError:
                self._flush()
                raw = self.sock.recv(CHUNK)
                if not raw:
                    raise ConnectionError("closed during the handshake")
                self.incoming.write(raw)

    def hello(self):
        """The bytes of the ClientHello, unsent."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def _flush(self):
        if data := self.outgoing.read():
            self.sock.sendall(data)

    # --- bytes ---

    def send(self, data):
        if self.tls is None:
            self.sock.sendall(data)
            return
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view[:16384]) :]
            self._flush()

    def queue(self, data):
        """To go out together with what comes next."""
        self.tls.write(data)

    def send_record_by_record(self, pieces):
        """Each piece in a record and a segment of its own."""
        for piece in pieces:
            self.send(piece)

    def recv(self, limit=CHUNK):
        """Some bytes, or b"" at the end; see `end`."""
        if self.buffer:
            data = bytes(self.buffer[:limit])
            del self.buffer[:limit]
            return data
        while self.end is None:
            if self.tls is not None and (data := self._decrypt(limit)):
                return data
            if self.end is not None:
                break
            try:
                raw = self.sock.recv(CHUNK)
            except ConnectionResetError:
                self.end = "reset"
                break
            if self.tls is None:
                if not raw:
                    self.end = "clean"
                self.buffer += raw[limit:]
                return raw[:limit]
            if raw:
                self.incoming.write(raw)
            else:
                self.incoming.write_eof()
        return b""

    def _decrypt(self, limit):
        try:
            data = self.tls.read(limit)
            if not data:
                self.end = "clean"
            return data
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLZeroReturnError:
            self.end = "clean"
        except ssl.SSLError as problem:
            # The one class or the other, depending on whether this side has sent its close_notify.
            if not isinstance(problem, ssl.SSLEOFError) and problem.reason != "UNEXPECTED_EOF_WHILE_READING":
                raise
            self.end = "truncated"
        return b""

    def exchange(self, data, finish=True):
        """Sends all of data while receiving, then close_notify if wanted, then receives to the end."""
        self.sock.setblocking(False)
        view, waiting, received, finished = memoryview(data), b"", bytearray(self.buffer), not finish
        self.buffer.clear()
        try:
            while self.end is None:
                if not waiting and view:
                    view = view[self.tls.write(view[:16384]) :]
                    waiting = self.outgoing.read()
                if not waiting and not view and not finished:
                    self._say_close()
                    received += self.buffer
                    self.buffer.clear()
                    waiting, finished = self.outgoing.read(), True
                readable, writable, _ = select.select([self.sock], [self.sock] if waiting else [], [], TIMEOUT_S)
                if not readable and not writable:
                    raise AssertionError(f"nothing moves: {len(view)} bytes to send, {len(received)} received")
                if writable:
                    waiting = waiting[self.sock.send(waiting) :]
                if readable:
                    self._receive_into(received)
        finally:
            self.sock.settimeout(TIMEOUT_S)
        return bytes(received)

    def _receive_into(self, received):
        try:
            raw = self.sock.recv(CHUNK * 4)
        except ConnectionResetError:
            self.end = "reset"
            return
        if raw:
            self.incoming.write(raw)
        else:
            self.incoming.write_eof()
        while self.end is None:
            data = self._decrypt(CHUNK)
            if not data:
                return
            received += data

    # --- ends ---

    def _say_close(self):
        # What has come already is taken out first, for OpenSSL reads on within SSL_shutdown.
        while self.end is None and (data := self._decrypt(CHUNK)):
            self.buffer += data
        try:
            self.tls.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLError):
            pass

    def finish(self):
        """close_notify, and no FIN: this side is done, the other may go on."""
        self._say_close()
        self._flush()

    def fin(self):
        """A bare FIN: to TLS a truncation."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()
