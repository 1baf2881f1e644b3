"""The origin that browsers visit: the pages beside this file, the paths of the e2e suite's origin, and a WebSocket at
/echo that sends back what it gets (RFC 6455, without extensions)."""

import base64
import hashlib
import struct
from pathlib import Path

import origin

PAGES = Path(__file__).resolve().parent / "pages"
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class SiteHandler(origin.WebHandler):
    def do_GET(self):
        if self.path == "/echo" and self.headers.get("Upgrade", "").lower() == "websocket":
            self._note()
            self.close_connection = True
            self._echo()
        else:
            super().do_GET()

    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")  # one page asks many names
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def _echo(self):
        accept = base64.b64encode(hashlib.sha1((self.headers["Sec-WebSocket-Key"] + GUID).encode()).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        kind, message = None, bytearray()
        while True:
            final, code, payload = self._frame()
            if code == CLOSE:
                self._send(CLOSE, payload)
                return
            if code == PING:
                self._send(PONG, payload)
            elif code in (TEXT, BINARY, CONTINUATION):
                kind = kind if code == CONTINUATION else code
                message += payload
                if final:
                    self._send(kind, bytes(message))
                    kind, message = None, bytearray()

    def _frame(self):
        first, second = self.rfile.read(2)
        size = second & 127
        if size == 126:
            size = struct.unpack("!H", self.rfile.read(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self.rfile.read(8))[0]
        assert second & 128, "a client's frame must be masked"
        mask, payload = self.rfile.read(4), self.rfile.read(size)
        whole = (mask * (size // 4 + 1))[:size]
        payload = (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(size, "big")
        return bool(first & 128), first & 15, payload

    def _send(self, code, payload):
        size = len(payload)
        if size < 126:
            length = struct.pack("!B", size)
        elif size < 65536:
            length = struct.pack("!BH", 126, size)
        else:
            length = struct.pack("!BQ", 127, size)
        self.wfile.write(bytes([128 | code]) + length + payload)


class Site(origin.Web):
    def __init__(self, certificate):
        super().__init__(certificate, PAGES, handler=SiteHandler)

    def paths(self, path):
        """The requests that came for this path."""
        return [request for request in self.requests if request[1].split("?")[0] == path]
