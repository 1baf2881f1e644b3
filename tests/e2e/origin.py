"""Destinations for tunnels, in threads of the test process: each notes what reached it and how it ended."""

import functools
import hashlib
import http.server
import os
import random
import socket
import ssl
import struct
import subprocess
import threading
from collections import Counter
from urllib.parse import parse_qs, urlsplit

from wait import until

CHUNK = 65536
_BLOCK = random.Random(20260401).randbytes(1 << 20)


def pattern(size):
    """Bytes that compress badly and differ at every offset that matters; the same for the same size."""
    return (_BLOCK * (size // len(_BLOCK) + 1))[:size]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def reset(sock):
    """RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Seen:
    """One connection as its origin saw it."""

    def __init__(self, sock, peer):
        self.sock = sock
        self.peer = peer
        self.data = bytearray()
        self.sent = 0
        self.end = None  # "fin", "reset", or None as long as it lives
        self.done = False

    def recv(self, keep=True):
        try:
            chunk = self.sock.recv(CHUNK)
        except OSError:
            self.end = "reset"
            return b""
        if not chunk:
            self.end = "fin"
        elif keep:
            self.data += chunk
        return chunk

    def send(self, data):
        view = memoryview(data)
        while view:
            n = self.sock.send(view[:CHUNK])
            self.sent += n
            view = view[n:]

    def fin(self):
        self.sock.shutdown(socket.SHUT_WR)


class Origin:
    """Listens on a port of its own; handler(seen) runs in a thread per connection."""

    def __init__(self, handler, host="127.0.0.1", port=0):
        self.handler = handler
        self.seen = []
        self.released = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, port), family=family, backlog=256)
        self.host, self.port = self.listener.getsockname()[:2]
        self.target = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, peer = self.listener.accept()
            except OSError:
                return
            seen = Seen(sock, peer)
            seen.origin = self
            self.seen.append(seen)
            threading.Thread(target=self._serve, args=(seen,), daemon=True).start()

    def _serve(self, seen):
        try:
            self.handler(seen)
        except OSError:
            seen.end = seen.end or "reset"
        finally:
            seen.sock.close()
            seen.done = True

    def first(self):
        return until(lambda: self.seen and self.seen[0], "a connection at the origin")

    def only(self):
        seen = self.first()
        assert len(self.seen) == 1
        return seen

    def until_over(self, count):
        """So many connections have come, and all are over. Those that the kernel has taken come later than their 200."""
        until(lambda: len(self.seen) >= count and all(seen.done for seen in self.seen), f"{count} ends at the origin")
        assert len(self.seen) == count

    def close(self):
        self.released.set()
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        for seen in self.seen:
            try:
                seen.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


# --- what origins do ---


def echo(seen):
    while chunk := seen.recv():
        seen.send(chunk)
    seen.fin()


def sink(seen):
    """Reads to the end, then answers with the checksum of it."""
    check = hashlib.sha256()
    while chunk := seen.recv(keep=False):
        check.update(chunk)
        seen.sent += 0
    if seen.end == "fin":
        seen.send(check.hexdigest().encode())
        seen.fin()


def late(size):
    """Says nothing until the client has finished, then sends so much."""

    def handler(seen):
        while seen.recv():
            pass
        if seen.end == "fin":
            seen.send(pattern(size))

    return handler


def source(size):
    """Sends so much as fast as it is taken and finishes; then waits for the client to finish."""

    def handler(seen):
        data = pattern(size)
        seen.send(data)
        seen.fin()
        while seen.recv():
            pass

    return handler


def greet(seen):
    """Speaks first, as mail servers do."""
    seen.send(b"220 ready\r\n")
    echo(seen)


def finish_first(seen):
    """Says goodbye and finishes, but goes on listening."""
    seen.send(b"bye")
    seen.fin()
    while seen.recv():
        pass


def reset_after(size):
    def handler(seen):
        while len(seen.data) < size and seen.recv():
            pass
        reset(seen.sock)

    return handler


def silent(seen):
    """Reads and says nothing."""
    while seen.recv():
        pass


def deaf(seen):
    """Does not read until released; then answers with the checksum of everything."""
    seen.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    seen.origin.released.wait(60)
    sink(seen)


class BlackHole:
    """A port whose queue is full: the kernel drops every further SYN."""

    def __init__(self, host="127.0.0.1", port=0):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.target = f"{host}:{self.port}"
        self.fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((host, self.port))
            self.fillers.append(filler)
        until(self._full, "the queue of the black hole to be full")

    def _full(self):
        probe = socket.socket()
        probe.settimeout(0.05)
        try:
            probe.connect(self.listener.getsockname())
        except TimeoutError:
            return True
        finally:
            self.fillers.append(probe)
        return False

    def close(self):
        for sock in [self.listener, *self.fillers]:
            sock.close()


def unused_port(host="127.0.0.1"):
    """A port where nobody listens: bound once, so it is free, and given back."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        return sock.getsockname()[1]


# --- https ---


class WebHandler(http.server.SimpleHTTPRequestHandler):
    """/hello, /bytes?n=, /upload, /together?n=&meeting= (answers when n requests are there), files, and git's smart
    protocol."""

    protocol_version = "HTTP/1.1"
    web = None

    def log_message(self, *args):
        pass

    def _answer(self, body, kind="application/octet-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _note(self):
        self.web.requests.append((self.command, self.path, dict(self.headers)))

    def do_GET(self):
        self._note()
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/hello":
            self._answer(b"hello from the origin\n", "text/plain")
        elif url.path == "/bytes":
            self._answer(pattern(int(query["n"][0])))
        elif url.path == "/together":
            self._answer(self.web.together(query["meeting"][0], int(query["n"][0])))
        elif url.path.startswith("/smart/"):
            self._git(url)
        else:
            super().do_GET()

    def do_POST(self):
        self._note()
        url = urlsplit(self.path)
        if url.path.startswith("/smart/"):
            self._git(url)
        else:
            self._answer(digest(self._body()).encode(), "text/plain")

    do_PUT = do_POST

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _git(self, url):
        """git http-backend as a CGI program."""
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.web.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": url.path.removeprefix("/smart"),
            "QUERY_STRING": url.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        result = subprocess.run(
            ["git", "http-backend"], input=self._body(), env=environment, capture_output=True, timeout=30
        )
        head, _, body = result.stdout.partition(b"\r\n\r\n")
        kind = "application/octet-stream"
        for line in head.decode().split("\r\n"):
            name, _, value = line.partition(": ")
            if name.lower() == "content-type":
                kind = value
        self._answer(body, kind)


class _WebServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def get_request(self):
        # The handshake happens at the first read, in the connection's own thread.
        sock, peer = super().get_request()
        if self.tls is None:
            return sock, peer
        return self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), peer

    def handle_error(self, request, client_address):
        pass


class Web:
    """An https origin with a certificate of the tests' own authority; without one, an http origin."""

    def __init__(self, certificate, folder, host="127.0.0.1", handler=WebHandler):
        self.folder = folder
        self.requests = []
        self._lock = threading.Condition()
        self._gathered = Counter()
        handler = type("Handler", (handler,), {"web": self})

        class Server(_WebServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self.server = Server((host, 0), functools.partial(handler, directory=str(folder)))
        self.server.tls = None
        if certificate is not None:
            self.server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.server.tls.load_cert_chain(*certificate)
        self.port = self.server.server_address[1]
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def together(self, meeting, n):
        """Answers once n requests of this name stand here at the same time."""
        with self._lock:
            self._gathered[meeting] += 1
            self._lock.notify_all()
            complete = self._lock.wait_for(lambda: self._gathered[meeting] >= n, timeout=30)
            if not complete:
                self._gathered[meeting] -= 1  # it goes
        return b"all here" if complete else b"alone"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
