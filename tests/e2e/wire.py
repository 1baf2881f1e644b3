"""TLS records made by hand, for what no TLS library sends: KeyUpdates in masses, ClientHellos inside a session, padding,
records of any size. The handshake is a library's (client.Conn); its secrets come by the key log. AES-128-GCM only, which
is what the proxy chooses first."""

import hashlib
import hmac
import ssl
import struct
import tempfile
from pathlib import Path

from client import Conn
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HANDSHAKE, DATA = 22, 23
RECORD_MAX = 16384
KEY_UPDATE, KEY_UPDATE_ASKING = b"\x18\x00\x00\x01\x00", b"\x18\x00\x00\x01\x01"


def context(version=ssl.TLSVersion.TLSv1_3):
    """A client context that leaves the secrets in a file; nothing is verified."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.minimum_version = made.maximum_version = version
    if version == ssl.TLSVersion.TLSv1_2:
        made.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256")
    with tempfile.NamedTemporaryFile(prefix="adit-keys.", delete=False) as file:
        made.keylog_filename = file.name
    return made


def _secret(made, label, random):
    for line in reversed(Path(made.keylog_filename).read_text().splitlines()):
        fields = line.split()
        if fields[:2] == [label, random.hex()]:
            return bytes.fromhex(fields[2])
    raise AssertionError(f"no {label} in the key log")


def _expand(secret, label, context, size):
    """HKDF-Expand-Label of RFC 8446 7.1, for one block of SHA-256."""
    name = b"tls13 " + label
    info = struct.pack("!HB", size, len(name)) + name + bytes([len(context)]) + context
    return hmac.digest(secret, info + b"\x01", "sha256")[:size]


def _prf(secret, seed, size):
    """P_SHA256 of RFC 5246 5."""
    out, a = b"", seed
    while len(out) < size:
        a = hmac.digest(secret, a, "sha256")
        out += hmac.digest(secret, a + seed, "sha256")
    return out[:size]


class Wire:
    """What the client writes on a connection, from behind its handshake on; reading stays the library's."""

    def __init__(self, address, made, source=None, timeout=20):
        self.conn = Conn(address, source=source, timeout=timeout)
        try:
            self.sock = self.conn.sock
            hello = self.conn.start_tls(made).hello()
            self.random = hello[11:43]
            self.sock.sendall(hello)
            first = self.sock.recv(65536)
            self.server_random = first[11:43]
            self.conn.incoming.write(first)
            self.conn.handshake()
            assert "AES128-GCM" in self.conn.tls.cipher()[0] or "AES_128_GCM" in self.conn.tls.cipher()[0]
            self.v12 = self.conn.tls.version() == "TLSv1.2"
            if self.v12:
                master = _secret(made, "CLIENT_RANDOM", self.random)
                block = _prf(master, b"key expansion" + self.server_random + self.random, 40)
                self.key, self.iv, self.sequence = AESGCM(block[:16]), block[32:36], 1  # 0 was the Finished
            else:
                self._use(_secret(made, "CLIENT_TRAFFIC_SECRET_0", self.random))
        except BaseException:
            self.conn.close()
            raise

    def _use(self, secret):
        self.secret, self.sequence = secret, 0
        self.key, self.iv = AESGCM(_expand(secret, b"key", b"", 16)), _expand(secret, b"iv", b"", 12)

    def record(self, kind, data, padding=0):
        """One record, encrypted. Padding exists in TLS 1.3 only."""
        number = struct.pack("!Q", self.sequence)
        self.sequence += 1
        if self.v12:
            sealed = self.key.encrypt(self.iv + number, data, number + struct.pack("!BHH", kind, 0x0303, len(data)))
            return struct.pack("!BHH", kind, 0x0303, len(sealed) + 8) + number + sealed
        inner = data + bytes([kind]) + b"\0" * padding
        head = struct.pack("!BHH", DATA, 0x0303, len(inner) + 16)
        nonce = bytes(a ^ b for a, b in zip(self.iv, b"\0\0\0\0" + number))
        return head + self.key.encrypt(nonce, inner, head)

    def key_update(self, asking=False):
        """The record, and the next keys for those behind it."""
        made = self.record(HANDSHAKE, KEY_UPDATE_ASKING if asking else KEY_UPDATE)
        self._use(_expand(self.secret, b"traffic upd", b"", 32))
        return made

    def data(self, data):
        return b"".join(self.record(DATA, data[i : i + RECORD_MAX]) for i in range(0, len(data), RECORD_MAX))


def hello(size=None):
    """A ClientHello as bytes, the same for all who send it: the proxy has all the work and the sender none."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    out = ssl.MemoryBIO()
    try:
        made.wrap_bio(ssl.MemoryBIO(), out, server_hostname="proxy.test").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()[:size]


def noise(number, size):
    """Bytes that mean nothing, the same for the same number."""
    return hashlib.shake_128(struct.pack("!Q", number)).digest(size)
