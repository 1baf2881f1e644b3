"""An HTTP/1.1 origin that sends exactly the bytes a test orders, piece by piece, and keeps exactly the bytes it got. It
judges nothing by itself: what is a good request or response is the test's to say.

    target = web_origin(lambda request: response(200, body=b"hello"))
    target.requests[0].line, .fields, .raw_body ...

An answer is bytes, or a list of pieces, or a generator of pieces (which may wait, read the body, look at files between
them). A piece is bytes, or one of FIN, RESET, CLOSE. Behind an answer the next request of the connection is read."""

import socket

from origin import Origin, reset

FIN, RESET, CLOSE = object(), object(), object()
PHRASES = {100: "Continue", 103: "Early Hints", 200: "OK", 204: "No Content", 304: "Not Modified"}


def head(status=200, *fields, version="1.1"):
    lines = [f"HTTP/{version} {status} {PHRASES.get(status, 'Whatever')}", *fields]
    return "".join(line + "\r\n" for line in lines).encode("latin-1") + b"\r\n"


def response(status=200, *fields, body=b"", version="1.1"):
    """With its length."""
    return head(status, *fields, f"Content-Length: {len(body)}", version=version) + body


def chunks(*parts, extension="", trailers=()):
    """A chunked body; each part is a chunk."""
    made = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension.encode(), part) for part in parts)
    return made + f"0{extension}\r\n".encode() + "".join(line + "\r\n" for line in trailers).encode("latin-1") + b"\r\n"


def chunked(*parts, status=200, fields=(), extension="", trailers=()):
    return head(status, "Transfer-Encoding: chunked", *fields) + chunks(*parts, extension=extension, trailers=trailers)


def field_lines(raw):
    """[(name, value)] of raw lines; what is no field shows itself as a name without value."""
    fields = []
    for line in raw.decode("latin-1").split("\r\n"):
        if line:
            name, colon, value = line.partition(":")
            fields.append((name, value.strip(" \t") if colon else None))
    return fields


class Request:
    def __init__(self, connection, reader, raw):
        self.connection, self.reader, self.head = connection, reader, raw
        line, _, rest = raw.partition(b"\r\n")
        self.line = line.decode("latin-1")
        self.method, _, rest_of_line = self.line.partition(" ")
        self.target = rest_of_line.rpartition(" ")[0]
        self.fields = field_lines(rest)
        self.body, self.raw_body, self.trailers = b"", b"", []
        self.complete = False  # the body has come to its end

    def all(self, name):
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name, default=None):
        return ", ".join(self.all(name)) if self.all(name) else default

    def names(self):
        return [name.lower() for name, _ in self.fields]

    def read(self):
        """The body, to its end; False when it breaks off."""
        if not self.complete:
            self.complete = self._chunks() if self.get("Transfer-Encoding") else self._length()
        return self.complete

    def _length(self):
        self.body = self.raw_body = self.reader.exactly(int(self.get("Content-Length", 0)))
        return len(self.body) == int(self.get("Content-Length", 0))

    def _chunks(self):
        parts, raw = [], bytearray()
        try:
            while True:
                line = self.reader.line()
                raw += line
                size = int(line.split(b";")[0], 16)
                if size == 0:
                    break
                data = self.reader.exactly(size + 2)
                raw += data
                if len(data) < size + 2:
                    return False
                parts.append(data[:-2])
            lines = bytearray()
            while (line := self.reader.line()) != b"\r\n":
                lines += line
            self.trailers = field_lines(bytes(lines))
            raw += lines + b"\r\n"
        except (EOFError, ValueError):
            return False
        finally:
            self.body, self.raw_body = b"".join(parts), bytes(raw)
        return True


class Reader:
    """Bytes of a connection, which all stay in its `data` as well unless told otherwise."""

    def __init__(self, seen):
        self.seen, self.buffer = seen, bytearray()

    def more(self):
        if self.seen.end:
            return False  # a reset is told once, and then looks like an end
        chunk = self.seen.recv(keep=self.seen.origin.keep)
        self.buffer += chunk
        return bool(chunk)

    def take(self, size):
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def exactly(self, size):
        """So many bytes, or what came before the end."""
        while len(self.buffer) < size and self.more():
            pass
        return self.take(size)

    def line(self):
        at = 0
        while (end := self.buffer.find(b"\n", at)) < 0:
            at = len(self.buffer)
            if not self.more():
                raise EOFError
        return self.take(end + 1)

    def head(self):
        """A head with its empty line; None at the end of the connection."""
        at = 0
        while (end := self.buffer.find(b"\r\n\r\n", at)) < 0:
            at = max(0, len(self.buffer) - 3)
            if not self.more():
                return None
        return self.take(end + 4)


def hello(request):
    return head(200, "Content-Length: 5") if request.method == "HEAD" else response(body=b"hello")


class HttpOrigin(Origin):
    """`at_head`: the answer is asked for as soon as the head is there, and reads the body itself (request.read())."""

    def __init__(self, answer=hello, host="127.0.0.1", port=0, at_head=False, keep=True):
        self.answer, self.at_head, self.keep = answer, at_head, keep
        self.requests = []
        super().__init__(self._talk, host, port)

    def url(self, path="/", name=None):
        return f"http://{name}:{self.port}{path}" if name else f"http://{self.target}{path}"

    def _talk(self, seen):
        seen.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = Reader(seen)
        while (raw := reader.head()) is not None:
            request = Request(seen, reader, raw)
            if self.at_head:
                self.requests.append(request)
            else:
                request.read()
                self.requests.append(request)
                if not request.complete:
                    return
            answer = self.answer(request)
            for piece in [answer] if isinstance(answer, bytes) else answer or []:
                if piece is CLOSE:
                    return
                if piece is RESET:
                    reset(seen.sock)
                    return
                if piece is FIN:
                    seen.fin()
                else:
                    seen.send(piece)
