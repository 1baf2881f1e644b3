"""An HTTP/2 client that can send everything, right or wrong: frames are made here byte by byte, only header blocks come
from python3-hpack.

`Connection` is a TLS connection with frames on it, `Stream` one of its streams. `Tunnel` has one stream at a time and is
used like client.Conn: it takes a request as HTTP/1.1 text and gives the answer as such, so that a test needs not know by
which protocol it speaks."""

import select
import ssl
import struct
import time
from dataclasses import dataclass
from enum import IntEnum

import hpack
from client import BROKEN, CHUNK, PASSWORD, Conn, Reader, Response, basic

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_MAX = 16384
WINDOW = 65535  # of streams and connections before anybody has said anything
WINDOW_MAX = (1 << 31) - 1
STREAM_MAX = (1 << 31) - 1


class Kind(IntEnum):
    DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
    PRIORITY_UPDATE = 0x10


class Flag(IntEnum):
    END_STREAM = ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Code(IntEnum):
    (
        NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR,
        REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY,
        HTTP_1_1_REQUIRED,
    ) = range(14)


class Setting(IntEnum):
    HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
        range(1, 7)
    )
    ENABLE_CONNECT_PROTOCOL = 8
    NO_RFC7540_PRIORITIES = 9


@dataclass
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    def number(self, at=0):
        return struct.unpack_from("!I", self.payload, at)[0]


# --- frames as bytes ---


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    """`length` may say something else than what is there."""
    length = len(payload) if length is None else length
    return struct.pack("!BHBBI", length >> 16, length & 0xFFFF, kind, flags, stream) + payload


def data(stream, payload=b"", flags=0, padding=None):
    if padding is not None:
        payload, flags = bytes([padding]) + payload + bytes(padding), flags | Flag.PADDED
    return frame(Kind.DATA, flags, stream, payload)


def settings(values=(), flags=0, stream=0):
    """`values`: a mapping or pairs, of which one may come twice."""
    pairs = values.items() if isinstance(values, dict) else values
    return frame(Kind.SETTINGS, flags, stream, b"".join(struct.pack("!HI", key, value) for key, value in pairs))


def settings_ack():
    return settings(flags=Flag.ACK)


def ping(payload=b"12345678", flags=0, stream=0):
    return frame(Kind.PING, flags, stream, payload)


def rst_stream(stream, code=Code.CANCEL):
    return frame(Kind.RST_STREAM, 0, stream, struct.pack("!I", code))


def window_update(stream, increment):
    return frame(Kind.WINDOW_UPDATE, 0, stream, struct.pack("!I", increment))


def goaway(last=0, code=Code.NO_ERROR, debug=b""):
    return frame(Kind.GOAWAY, 0, 0, struct.pack("!II", last, code) + debug)


def dependency(on=0, weight=16, exclusive=False):
    """RFC 7540's priority, as PRIORITY and HEADERS carry it."""
    return struct.pack("!IB", on | (0x80000000 if exclusive else 0), weight - 1)


def header_frames(stream, block, end_stream=False, pieces=1, priority=None):
    """HEADERS, and CONTINUATION for the other pieces."""
    size = max(1, -(-len(block) // pieces))
    size = min(size, FRAME_MAX - 5)
    parts = [block[i : i + size] for i in range(0, len(block), size)] or [b""]
    flags = (Flag.END_STREAM if end_stream else 0) | (Flag.PRIORITY if priority else 0)
    out = []
    for i, part in enumerate(parts):
        last = Flag.END_HEADERS if i == len(parts) - 1 else 0
        if i == 0:
            out.append(frame(Kind.HEADERS, flags | last, stream, (priority or b"") + part))
        else:
            out.append(frame(Kind.CONTINUATION, last, stream, part))
    return b"".join(out)


def literal(name, value):
    """A field as HPACK's literal without indexing, and without Huffman: names and values may be any bytes."""
    name, value = (text.encode("latin-1") if isinstance(text, str) else text for text in (name, value))
    return b"\0" + _string(name) + _string(value)


def _string(text):
    return _integer(len(text), 7, 0) + text


def _integer(value, bits, first):
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = bytearray([first | most]), value - most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def literals(fields):
    return b"".join(literal(name, value) for name, value in fields)


def table_size(size):
    """HPACK's instruction to change the size of the table."""
    return _integer(size, 5, 0x20)


def connect_fields(target, user="alice", password=PASSWORD, fields=()):
    out = [(":method", "CONNECT"), (":authority", target)]
    if user is not None:
        out.append(("proxy-authorization", f"Basic {basic(user, password)}"))
    return out + list(fields)


def get_fields(authority, path, scheme="https", method="GET", fields=()):
    return [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path), *fields]


# --- a connection ---


class Connection(Conn):
    """After handshake(): the preface has been sent. What the other side says is taken in while something is waited for
    or sent; every frame but the bytes of DATA is kept in `frames`. Conn's `end` is that of the TLS connection.

    `window`: what a stream may be sent before it is credited; `credit`: whether it ever is; `settings`: more of these;
    `begin`: whether the preface goes out by itself."""

    def __init__(self, address, window=4 << 20, credit=True, settings=None, begin=True, **options):
        super().__init__(address, **options)
        self.window, self.credit, self.own, self.begins = window, credit, dict(settings or {}), begin
        self.waiting = bytearray()  # ciphertext
        self.shaking, self.busy = True, False
        self.broken = False  # nothing can be sent any more
        self.reads = True
        self.pongs, self.answers_pings, self.acks_settings = [], True, True
        self.streams, self.next_id = {}, 1
        self.frames, self.goaways, self.acks = [], [], 0
        self.peer = {}
        self.send_window, self.credited, self.received, self.uncredited = WINDOW, 0, 0, 0
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.decoder.max_header_list_size = 1 << 20
        self.block = None  # (stream, flags, bytes) of a header block that goes on

    def handshake(self):
        super().handshake()
        self.shaking = False
        assert self.tls.selected_alpn_protocol() == "h2", self.tls.selected_alpn_protocol()
        if self.begins:
            self.begin()
        return self

    def begin(self):
        first = {Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: self.window} | self.own
        # As much for the connection as browsers give.
        self.send(PREFACE + settings(first) + window_update(0, (15 << 20) - WINDOW))
        return self

    # --- out ---

    def _flush(self):
        if self.shaking:
            super()._flush()
            return
        self.waiting += self.outgoing.read()
        if not self.busy:
            self._push()

    def _push(self):
        """Sends what waits; reads meanwhile, for the other side may have to be rid of something first."""
        self.busy = True
        try:
            while self.waiting and not self.broken:
                timeout = self.sock.gettimeout()
                sources = [self.sock] if self.reads and self.end is None else []
                readable, writable, _ = select.select(sources, [self.sock], [], timeout)
                if not readable and not writable:
                    raise TimeoutError("nothing can be sent")
                if writable:
                    try:
                        del self.waiting[: self.sock.send(self.waiting)]
                    except BlockingIOError:
                        pass
                    except OSError:
                        self.broken = True
                if readable:
                    self._take()
        finally:
            self.busy = False

    def queue(self, data):
        """To go out together with what comes next; behind our own close_notify nothing can."""
        view = memoryview(data)
        try:
            while view:
                view = view[self.tls.write(view[:16384]) :]
        except ssl.SSLError as error:
            if error.reason != "PROTOCOL_IS_SHUTDOWN":
                raise
        self.waiting += self.outgoing.read()

    def send(self, data):
        """Bytes of HTTP/2. When the other side has closed, nothing happens: `broken`, and `end` once it is read."""
        if self.end is None and not self.broken:
            self.queue(data)
            if not self.busy:
                self._push()

    # --- in ---

    def _take(self):
        """What the socket has, once it is readable."""
        try:
            raw = self.sock.recv(4 * CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.end = "reset"
            self._over()
            return
        if raw:
            self.incoming.write(raw)
        else:
            self.incoming.write_eof()
        self._decode()

    def _decode(self):
        nested, self.busy = self.busy, True
        try:
            while self.end is None and (plain := self._decrypt(CHUNK)):
                self.buffer += plain
            self._frames()
            if self.end is not None:
                self._over()
        finally:
            self.busy = nested
        if not nested:
            self._push()

    def _frames(self):
        at, size = 0, len(self.buffer)
        try:
            while size - at >= 9:
                high, low, kind, flags, stream = struct.unpack_from("!BHBBI", self.buffer, at)
                length = high << 16 | low
                if size - at < 9 + length:
                    break
                payload = bytes(self.buffer[at + 9 : at + 9 + length])
                at += 9 + length
                self._frame(Frame(kind, flags, stream & STREAM_MAX, payload))
        finally:
            del self.buffer[:at]

    def _frame(self, got):
        if got.kind == Kind.DATA:
            self.frames.append(Frame(got.kind, got.flags, got.stream, b""))
            self._data(got)
            return
        self.frames.append(got)
        handler = getattr(self, "_" + Kind(got.kind).name.lower(), None)
        if handler:
            handler(got)

    def _data(self, got):
        stream = self.at(got.stream)
        payload = got.payload[1 : len(got.payload) - got.payload[0]] if got.flags & Flag.PADDED else got.payload
        assert stream.headers is not None, "DATA before HEADERS"
        stream.got_data(payload, len(got.payload) - len(payload))
        if got.flags & Flag.END_STREAM:
            stream.got_end()
        self.received += len(got.payload)
        self.uncredited += len(got.payload)
        if self.credit and self.uncredited >= 1 << 16:
            self.send(window_update(0, self.uncredited))
            self.uncredited = 0

    def _headers(self, got):
        assert not got.flags & (Flag.PADDED | Flag.PRIORITY), got
        self.block = (got.stream, got.flags, got.payload)
        self._block_end(got.flags)

    def _continuation(self, got):
        stream, flags, payload = self.block
        assert stream == got.stream, got
        self.block = (stream, flags, payload + got.payload)
        self._block_end(got.flags)

    def _block_end(self, flags):
        if flags & Flag.END_HEADERS:
            (stream, first, payload), self.block = self.block, None
            fields = [(text(name), text(value)) for name, value in self.decoder.decode(payload, raw=True)]
            self.at(stream).got_headers(fields)
            if first & Flag.END_STREAM:
                self.at(stream).got_end()

    def _rst_stream(self, got):
        self.at(got.stream).got_reset(Code(got.number()))

    def _settings(self, got):
        if got.flags & Flag.ACK:
            self.acks += 1
            return
        for at in range(0, len(got.payload), 6):
            key, value = struct.unpack_from("!HI", got.payload, at)
            if key == Setting.INITIAL_WINDOW_SIZE:
                for stream in self.streams.values():
                    stream.window += value - self.peer.get(key, WINDOW)
            if key == Setting.HEADER_TABLE_SIZE:
                self.encoder.header_table_size = min(value, 4096)
            self.peer[key] = value
        if self.acks_settings:
            self.send(settings_ack())

    def _ping(self, got):
        if got.flags & Flag.ACK:
            self.pongs.append(got.payload)
        elif self.answers_pings:
            self.send(ping(got.payload, Flag.ACK))

    def _goaway(self, got):
        self.goaways.append((got.number(), Code(got.number(4)), got.payload[8:]))

    def _window_update(self, got):
        if got.stream == 0:
            self.send_window += got.number()
            self.credited += got.number()
        elif got.stream in self.streams:
            self.streams[got.stream].window += got.number()
            self.streams[got.stream].credited += got.number()

    def _over(self):
        for stream in self.streams.values():
            stream.got_reset(None, "reset" if self.end == "reset" else "truncated")

    def pump(self):
        """Waits until something has come. False: the connection has ended."""
        if self.end is None:
            readable, _, _ = select.select([self.sock], [], [], self.sock.gettimeout())
            if not readable:
                raise TimeoutError("nothing comes")
            self._take()
        return self.end is None

    def poll(self):
        """Takes what is there already."""
        while self.end is None and select.select([self.sock], [], [], 0)[0]:
            self._take()
        return True

    def until(self, condition, what):
        """Takes in frames until the condition holds."""
        while not (value := condition()):
            if self.end is not None:
                raise AssertionError(f"connection over ({self.end}, {self.goaways}) before: {what}")
            try:
                self.pump()
            except TimeoutError:
                raise AssertionError(f"not in time: {what}; {self.frames[-20:]}") from None
        return value

    def until_end(self):
        """Everything up to the end of the connection: (how, the last GOAWAY's code)."""
        while self.pump():
            pass
        return self.end, self.goaways[-1][1] if self.goaways else None

    def ready(self):
        """Both sides' SETTINGS are in force."""
        self.until(lambda: self.acks and self.peer, "SETTINGS and their acknowledgement")
        return self

    def in_step(self, payload=b"in step?"):
        """Whatever was sent before has been read by the other side, and its answers are here."""
        seen = len(self.pongs)
        self.send(ping(payload))
        self.until(lambda: len(self.pongs) > seen, "the PING's answer")
        return self

    def silent_for(self, seconds):
        """Takes in what comes meanwhile."""
        over = time.monotonic() + seconds
        while self.end is None and (left := over - time.monotonic()) > 0:
            if select.select([self.sock], [], [], left)[0]:
                self._take()

    def of_kind(self, kind, stream=None):
        return [f for f in self.frames if f.kind == kind and stream in (None, f.stream)]

    # --- streams ---

    def at(self, number):
        if number not in self.streams:
            self.streams[number] = Stream(self, number)
        return self.streams[number]

    def stream(self):
        """The next one, about which nothing has been said yet."""
        self.next_id += 2
        return self.at(self.next_id - 2)

    def request(self, fields, end_stream=False, block=None, **options):
        """A stream with its HEADERS sent; `block` are other bytes than these fields make."""
        made = self.stream()
        made.send_headers(fields, end_stream, block, **options)
        return made

    def connect(self, target, user="alice", password=PASSWORD, fields=(), **options):
        return self.request(connect_fields(target, user, password, fields), **options)

    def tunnel(self, target, user="alice", password=PASSWORD, **options):
        """A stream whose CONNECT was answered by 200."""
        made = self.connect(target, user, password, **options)
        response = made.response()
        assert response.status == 200, str(response)
        return made


def text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value


class Stream(Reader):
    """`end`: None, "clean" (END_STREAM), "reset" (RST_STREAM, or the connection was), "truncated" (the connection
    ended); `code`: of the RST_STREAM, which may come behind a clean end, too."""

    def __init__(self, link, number):
        self.link, self.id = link, number
        self.window = link.peer.get(Setting.INITIAL_WINDOW_SIZE, WINDOW)
        self.credited = self.sent = self.received = self.uncredited = 0
        self.headers, self.interim, self.trailers = None, [], None
        self.buffer = bytearray()
        self.end, self.code = None, None
        self.finished = False  # by this side

    # --- what came ---

    def got_headers(self, fields):
        if self.headers is not None:
            self.trailers = fields
        elif dict(fields)[":status"].startswith("1"):
            self.interim.append(fields)
        else:
            self.headers = fields

    def got_data(self, payload, padding):
        self.received += len(payload)
        self.uncredited += padding
        self.buffer += payload

    def got_end(self):
        self.end = self.end or "clean"

    def got_reset(self, code, how="reset"):
        self.code = code if self.code is None else self.code
        self.end = self.end or how

    # --- in ---

    def recv(self, limit=CHUNK):
        while not self.buffer and self.end is None and self.link.pump():
            pass
        taken = bytes(self.buffer[:limit])
        del self.buffer[:limit]
        self._credit(len(taken))
        return taken

    def _credit(self, n):
        self.uncredited += n
        if self.link.credit and self.end is None and self.uncredited >= min(1 << 16, self.link.window // 2 or 1):
            self.link.send(window_update(self.id, self.uncredited))
            self.uncredited = 0

    def response(self, tunnel=True):
        """The final response; with its body, unless it is the 200 of a tunnel."""
        while self.headers is None and self.end is None:
            self.link.pump()
        assert self.headers is not None, f"no response, end: {self.end} {self.code!r}, {self.link.goaways}"
        names = [name for name, _ in self.headers]
        assert names[0] == ":status" and not any(name.startswith(":") for name in names[1:]), names
        assert all(name == name.lower() for name in names)
        fields = self.headers[1:]
        response = Response("HTTP/2", int(self.headers[0][1]), "", fields)
        response.interim = self.interim
        if not (tunnel and 200 <= response.status < 300):
            response.body = self.recv_all()
            response.trailers = self.trailers or []
        return response

    def code_of_end(self):
        """Waits for the end; the code of its RST_STREAM, or None."""
        self.recv_all()
        return self.code

    # --- out ---

    def send_headers(self, fields, end_stream=False, block=None, pieces=1, priority=None, queue=False):
        if block is None:
            block = self.link.encoder.encode([(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields])
        out = header_frames(self.id, block, end_stream, pieces, priority)
        self.finished = end_stream
        self.link.queue(out) if queue else self.link.send(out)
        return self

    def room(self):
        return min(self.window, self.link.send_window)

    def _gone(self):
        if self.link.broken or self.end in BROKEN or self.code is not None:
            raise ConnectionResetError(f"stream {self.id}: {self.end} {self.code!r}")

    def send_some(self, view, end_stream=False):
        """As much as windows permit now, in frames of full size; returns how much."""
        out, at = bytearray(), 0
        most = self.link.peer.get(Setting.MAX_FRAME_SIZE, FRAME_MAX)
        while at < len(view) and (n := min(self.room(), len(view) - at, most)) > 0:
            last = end_stream and at + n == len(view)
            out += data(self.id, bytes(view[at : at + n]), Flag.END_STREAM if last else 0)
            at += n
            self.window -= n
            self.link.send_window -= n
            self.sent += n
            self.finished = self.finished or last
        if out:
            self.link.send(out)
        return at

    def send(self, payload):
        """All of it, waiting for windows; ConnectionResetError when the stream has broken."""
        view = memoryview(payload)
        while view:
            self.link.poll()
            if self.headers is not None and self.code == Code.NO_ERROR:
                return  # it has its answer, and the rest is not wanted: RFC 9113 8.1
            self._gone()
            sent = self.send_some(view[:CHUNK])
            view = view[sent:]
            if view and not sent:
                self.link.pump()

    def exchange(self, payload, finish=True):
        """Sends all of it while receiving, then END_STREAM if wanted, then receives to the end."""
        view, received = memoryview(payload), bytearray()
        while True:
            received += self.buffer
            taken = len(self.buffer)
            self.buffer.clear()
            self._credit(taken)  # more may come while this is sent
            if self.end is not None and not self.buffer:
                return bytes(received)
            self.link.poll()
            sent = 0
            if view and self.room() > 0 and self.code is None:
                sent = self.send_some(view[: 4 * CHUNK])
                view = view[sent:]
            if not view and finish and not self.finished:
                self.finish()
            elif not sent and not self.buffer and self.end is None:
                try:
                    self.link.pump()
                except TimeoutError:
                    raise AssertionError(f"nothing moves: {len(view)} bytes to send, {len(received)} received") from None

    def finish(self):
        """END_STREAM: this side is done, the other may go on."""
        if not self.finished:
            self.finished = True
            self.link.send(data(self.id, b"", Flag.END_STREAM))

    def reset(self, code=Code.CANCEL):
        self.end = self.end or "reset"
        self.finished = True
        self.link.send(rst_stream(self.id, code))

    def close(self):
        """Nothing of it is wanted any more."""
        if not (self.finished and self.end is not None) and self.code is None and self.link.end is None:
            self.reset()


# --- in the place of an HTTP/1.1 connection ---


def fields_of(head):
    """HTTP/1.1's head as HTTP/2 has it: (fields, bytes of body that follow, or None when there is no end to them)."""
    lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = lines[0].split(" ")
    given = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
    host = next((value for name, value in given if name == "host"), None)
    fields = [field for field in given if field[0] != "host"]
    length = int(next((value for name, value in fields if name == "content-length"), 0))
    if method == "CONNECT":
        return [(":method", method), (":authority", target), *fields], None
    scheme, authority, path = "https", host, target
    if "://" in target:
        scheme, _, rest = target.partition("://")
        authority = rest.split("/")[0].split("?")[0]
        path = rest[len(authority) :] or ("*" if method == "OPTIONS" else "/")
        path = path if path[0] in "/*" else "/" + path
    return get_fields(authority, path, scheme, method, fields), length


def head_text(headers):
    """The fields of a response as HTTP/1.1 has them."""
    lines = [f"HTTP/1.1 {headers[0][1]} ", *(f"{name}: {value}" for name, value in headers[1:])]
    return "".join(line + "\r\n" for line in lines).encode("latin-1") + b"\r\n"


class Tunnel(Reader):
    """A connection with one stream at a time, used like client.Conn. `reset` ends the stream by RST_STREAM, and only
    then the connection; `end` is that of the stream."""

    def __init__(self, address, receive_buffer=None, **options):
        window = WINDOW if receive_buffer else 4 << 20
        self.link = Connection(address, window=window, receive_buffer=receive_buffer, **options)
        self.sock, self.name = self.link.sock, self.link.name
        self.stream, self.head, self.shown = None, bytearray(), 0
        self.rendered, self.answered, self.left = bytearray(), False, None

    def start_tls(self, *arguments, **options):
        self.link.start_tls(*arguments, **options)
        return self

    def handshake(self):
        self.link.handshake()
        return self

    def hello(self):
        return self.link.hello()

    @property
    def tls(self):
        return self.link.tls

    @property
    def end(self):
        if self.stream is not None and not self._unread():
            return self.stream.end
        return None if self.stream is not None else self.link.end

    def _unread(self):
        return self.rendered or self.stream.buffer or (self.stream.headers is not None and not self.answered)

    # --- out ---

    def _over(self):
        """The stream has had its answer and is no tunnel: what comes next is another request."""
        return self.stream.end is not None and not self._unread() and not self._is_tunnel()

    def _is_tunnel(self):
        return self.left is None and self.stream.headers is not None and self.stream.headers[0][1][0] == "2"

    def _start(self, data, queue=False):
        """Takes the head off; None as long as it is not complete."""
        if self.stream is not None and self._over():
            self.stream.close()
            self.stream, self.answered = None, False
        if self.stream is not None:
            return data
        self.head += data
        if (at := self.head.find(b"\r\n\r\n")) < 0:
            return None
        fields, self.left = fields_of(bytes(self.head[: at + 4]))
        rest = bytes(self.head[at + 4 :])
        self.head.clear()
        self.stream = self.link.request(fields, end_stream=self.left == 0, queue=queue or bool(rest))
        return rest

    def _body(self, data):
        """What of it is this request's, and whether that is its end."""
        if self.left is None:
            return data, False
        data = data[: self.left]
        self.left -= len(data)
        return data, self.left == 0

    def send(self, data):
        rest = self._start(data)
        if rest:
            rest, last = self._body(rest)
            self.stream.send(rest)
            if last:
                self.stream.finish()

    def queue(self, data):
        rest = self._start(data, queue=True)
        if rest:
            self.stream.window -= len(rest)
            self.link.send_window -= len(rest)
            self.link.queue(globals()["data"](self.stream.id, rest))

    def exchange(self, data, finish=True):
        rest = self._start(data)
        received = self.stream.exchange(rest, finish)
        self._render()
        shown = bytes(self.rendered)
        self.rendered.clear()
        return shown + received

    # --- in ---

    def _render(self):
        stream = self.stream
        for fields in stream.interim[self.shown :]:
            self.rendered += head_text(fields)
        self.shown = len(stream.interim)
        if stream.headers is not None and not self.answered:
            self.answered, self.shown = True, 0
            stream.interim = []
            self.rendered += head_text(stream.headers)

    def recv(self, limit=CHUNK):
        if self.stream is None:
            while self.link.pump():
                pass
            return b""
        while not self.answered and not self.rendered:
            self._render()
            if self.rendered or self.stream.end is not None:
                break
            if not self.link.pump():  # the connection is over, and this stream was none of its
                self._render()
                break
        if self.rendered:
            out = bytes(self.rendered[:limit])
            del self.rendered[:limit]
            return out
        return self.stream.recv(limit)

    def late_fields(self):
        return self.stream.trailers or []

    # --- ends ---

    def finish(self):
        self.stream.finish() if self.stream is not None else self.link.finish()

    def reset(self):
        if self.stream is not None:
            self.stream.reset()
            self.close()
        else:
            self.link.reset()

    def close(self):
        self.link.close()
