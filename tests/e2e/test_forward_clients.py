"""Programs people use, fetching http:// URLs through the proxy: each gets something large with its checksum, sends
something where it can, and is sent away once."""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
import test_more_clients as more
from client import basic, client_context, forward_head
from http_origin import CLOSE, HttpOrigin, head, response
from origin import Web, digest, pattern
from pki import PASSWORD
from test_more_clients import END_S, WRONG, refused, served
from test_forward import sent_and_taken
from tools import missing, need
from wait import until

SIZE = 20_000_000

# What they fetch there by https is fetched by http here.
apt_repository, npm_registry, go_program, wheel = (
    more.apt_repository, more.npm_registry, more.go_program, more.wheel)


@pytest.fixture(scope="session")
def plain_web(web):
    """What the https origin has, by http."""
    plain = Web(None, web.folder)
    yield plain
    plain.close()


@pytest.fixture
def site(plain_web):
    """Its name, which only the proxy can resolve."""
    return f"http://origin.test:{plain_web.port}"


def by_forwarding(proxy, site, count=1):
    """On record are requests, and no tunnel to this site."""
    place = site.removeprefix("http://")  # another origin may have had the port, but not the name

    def mine():
        found = [r for r in proxy.records() if r["kind"] == "close" and place in r.get("target", "")]
        return found if len(found) >= count else None

    found = until(mine, "the records of the requests")
    assert all(record["method"] != "CONNECT" for record in found)
    return found


# --- curl ---


def test_curl(start, curl, site, tmp_path):
    proxy = start()
    out = tmp_path / "out"
    assert curl(proxy, f"{site}/hello").stdout == "hello from the origin\n"
    curl(proxy, "-o", out, f"{site}/bytes?n={SIZE}")
    assert digest(out.read_bytes()) == digest(pattern(SIZE))
    by_forwarding(proxy, site, 2)


def test_curl_uploads(proxy, curl, site, tmp_path):
    """By length, in chunks, and with Expect: 100-continue, which curl sends by itself from a megabyte on."""
    data = tmp_path / "data"
    data.write_bytes(pattern(SIZE))
    checksum = digest(pattern(SIZE))
    assert curl(proxy, "-T", data, f"{site}/upload").stdout == checksum
    assert curl(proxy, "-T", data, "-H", "Transfer-Encoding: chunked", f"{site}/upload").stdout == checksum
    assert curl(proxy, "--data-binary", f"@{data}", f"{site}/upload").stdout == checksum
    assert curl(proxy, "--data-binary", f"@{data}", "-H", "Expect: 100-continue", f"{site}/upload").stdout == checksum


def test_curl_is_told_early(proxy, curl, origin, tmp_path):
    """413 to an upload of which the origin has seen the head alone: curl has the whole answer."""
    body = pattern(100_000).hex()

    def answer(request):
        yield response(413, "Connection: close", body=body.encode())
        until(lambda: sent_and_taken(request.connection.sock), "the answer to arrive")  # or the reset would overtake it
        yield CLOSE

    target = HttpOrigin(answer, at_head=True)
    origin.keep(target)
    data = tmp_path / "data"
    data.write_bytes(pattern(SIZE))
    for fields in ([], ["-H", "Expect:"]):
        result = curl(proxy, *fields, "-T", data, target.url("/upload", name="origin.test"), check=False)
        assert (result.returncode, len(result.stdout)) == (0, len(body)), result.stderr
        assert result.stdout == body


def test_curl_on_one_connection(start, curl, site, tmp_path):
    """Ten URLs, one handshake."""
    proxy = start()
    result = curl(proxy, *[f"{site}/hello?{i}" for i in range(10)])
    assert result.stdout == "hello from the origin\n" * 10
    assert len({record["connection"] for record in by_forwarding(proxy, site, 10)}) == 1


def test_curl_50_at_once(proxy, curl, site, tmp_path):
    urls, meeting = [], os.urandom(4).hex()
    for i in range(50):
        urls += ["-o", tmp_path / f"out{i}", f"{site}/together?n=50&meeting={meeting}&{i}"]
    curl(proxy, "--parallel", "--parallel-immediate", "--parallel-max", "50", *urls)
    assert {(tmp_path / f"out{i}").read_bytes() for i in range(50)} == {b"all here"}


def test_curl_HEAD_and_1_0_and_options(proxy, curl, site):
    answer = curl(proxy, "--head", f"{site}/README-that-is-not-there", check=False)
    assert answer.stdout.startswith("HTTP/1.1 404")
    assert curl(proxy, "--http1.0", f"{site}/hello").stdout == "hello from the origin\n"
    assert curl(proxy, "--proxy1.0", f"localhost:{proxy.port}", "--proxy", f"https://localhost:{proxy.port}",
                f"{site}/hello").stdout == "hello from the origin\n"
    assert curl(proxy, "--proxy-anyauth", f"{site}/hello").stdout == "hello from the origin\n"


def test_curl_is_sent_away(start, proxy, curl, site, plain_web):
    before = len(plain_web.requests)
    result = curl(proxy, "-w", "%{http_code}", "-o", "/dev/null", f"{site}/hello", password=WRONG)
    assert result.stdout == "407"
    result = curl(proxy, "-w", "%{http_code}", f"http://127.0.0.1:{proxy.port}/")
    assert result.stdout.endswith("403")
    assert len(plain_web.requests) == before


def test_credentials_do_not_reach_the_origin(proxy, curl, site, plain_web):
    curl(proxy, f"{site}/hello?who")
    fields = next(fields for _, path, fields in plain_web.requests if path == "/hello?who")
    assert not {"proxy-authorization", "proxy-connection"} & {name.lower() for name in fields}
    assert fields["Via"] == "1.1 adit" and fields["Host"] == site.removeprefix("http://")


# --- wget, which speaks no TLS to a proxy: behind what stunnel would be ---


class Front:
    """A plain port before the proxy's."""

    def __init__(self, address, context):
        self.address, self.context = address, context
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = self.context.wrap_socket(socket.create_connection(self.address), server_hostname="proxy.test")
            threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

    def _relay(self, near, far):
        far.setblocking(False)
        near.setblocking(False)
        lock = threading.Lock()

        def up():
            near.settimeout(30)
            with contextlib.suppress(OSError):
                while data := near.recv(65536):
                    view = memoryview(data)
                    while view:
                        try:
                            with lock:
                                view = view[far.send(view):]
                        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                            over.wait(0.002)
            over.set()

        over = threading.Event()
        threading.Thread(target=up, daemon=True).start()
        with contextlib.suppress(OSError):
            while not over.is_set():
                try:
                    with lock:
                        data = far.recv(65536)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    over.wait(0.002)
                    continue
                if not data:
                    break
                near.sendall(data)
        near.close()
        far.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def front(proxy, lab):
    front = Front(proxy.address, client_context(lab.certificates.ca))
    yield f"http://localhost:{front.port}"
    front.close()


def test_wget(proxy, front, site, tmp_path):
    wget = need("wget", "wget")

    def run(*arguments, password=PASSWORD, run=served):
        settings = tmp_path / "wgetrc"
        settings.write_text(f"proxy_user = alice\nproxy_password = {password}\nhttp_proxy = {front}\nuse_proxy = on\n")
        return run([wget, "--tries=1", "--timeout=20", *arguments], env={"WGETRC": str(settings)}, cwd=tmp_path)

    run("-q", "-O", tmp_path / "out", f"{site}/bytes?n={SIZE}")
    assert digest((tmp_path / "out").read_bytes()) == digest(pattern(SIZE))
    assert run("-q", "-O", "-", f"{site}/hello", f"{site}/hello?2").stdout == b"hello from the origin\n" * 2
    data = tmp_path / "data"
    data.write_bytes(pattern(3_000_000))
    assert run("-q", "-O", "-", f"--post-file={data}", f"{site}/upload").stdout == digest(pattern(3_000_000)).encode()
    run("-O", tmp_path / "never", f"{site}/hello", password=WRONG, run=refused)
    by_forwarding(proxy, site)


# --- git ---


@pytest.mark.parametrize("protocol", ["dumb", "smart"])
def test_git_clone(proxy, lab, site, repository, tmp_path, protocol):
    name, checksum = repository
    env = {
        "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "http_proxy": proxy.url(),
        "GIT_PROXY_SSL_CAINFO": str(lab.certificates.ca), "GIT_HTTP_LOW_SPEED_LIMIT": "1",
        "GIT_HTTP_LOW_SPEED_TIME": "10",
    }
    url = f"{site}/{name}" if protocol == "dumb" else f"{site}/smart/{name}"
    served(["git", "clone", "-q", url, tmp_path / "clone"], env=env)
    assert digest((tmp_path / "clone/big.bin").read_bytes()) == checksum
    by_forwarding(proxy, site)
    env["http_proxy"] = proxy.url(password=WRONG)
    refused(["git", "clone", "-q", url, tmp_path / "never"], env=env)


# --- apt ---


@pytest.fixture
def apt(proxy, lab, site, apt_repository, tmp_path):
    program = need("apt-get", "apt")
    top = tmp_path / "apt"

    def apt(*arguments, password=PASSWORD, run=served):
        for folder in ("etc/none", "state/lists/partial", "cache/archives/partial", "log"):
            (top / folder).mkdir(parents=True, exist_ok=True)
        (top / "state/status").touch()
        (top / "etc/sources.list").write_text(f"deb [trusted=yes] {site}/{apt_repository[0]} ./\n")
        (top / "etc/apt.conf").write_text(
            f'Dir "{top}";\nDir::Etc "{top}/etc";\nDir::Etc::Parts "none";\nDir::Etc::Main "none.conf";\n'
            'Dir::Etc::SourceList "sources.list";\nDir::Etc::SourceParts "none";\nDir::Etc::TrustedParts "none";\n'
            'Dir::Etc::PreferencesParts "none";\nDir::Etc::NetrcParts "none";\n'
            f'Dir::State "{top}/state";\nDir::State::Status "{top}/state/status";\nDir::Cache "{top}/cache";\n'
            f'Dir::Log "{top}/log";\nAPT::Update::Error-Mode "any";\nAcquire::Languages "none";\n'
            'Acquire::Retries "0";\nAcquire::http::Timeout "20";\nAPT::Sandbox::User "";\n'
            f'Acquire::http::Proxy "https://alice:{password}@localhost:{proxy.port}";\n'
            f'Acquire::https::CaInfo "{lab.certificates.ca}";\n'
        )
        return run([program, *arguments], env={"APT_CONFIG": str(top / "etc/apt.conf")}, cwd=top)

    apt.top = top
    return apt


def test_apt_ten_times_in_a_row(proxy, site, apt, apt_repository):
    """apt pipelines its requests, and asks with If-Modified-Since and Range."""
    _, name, checksum = apt_repository
    for _ in range(10):
        apt("update")
        apt("download", name)
        (package,) = apt.top.glob("*.deb")
        assert digest(package.read_bytes()) == checksum
        package.unlink()
        for pattern_of_lists in ("*Packages*", "*Release*"):
            for index in (apt.top / "state/lists").glob(pattern_of_lists):
                index.unlink()
    by_forwarding(proxy, site, 20)


def test_apt_with_a_wrong_password(apt):
    apt("update", password=WRONG, run=refused)


# --- npm ---


def test_npm(proxy, lab, site, plain_web, npm_registry, tmp_path):
    program = need("npm", "npm")
    folder, checksum = npm_registry
    plain = plain_web.folder / "npm-by-http"
    if not plain.exists():
        shutil.copytree(plain_web.folder / folder, plain)
    for path in plain.iterdir():
        if path.suffix != ".tgz":
            text = json.loads(path.read_text())
            for version in text["versions"].values():
                version["dist"]["tarball"] = f"{site}/npm-by-http/" + version["dist"]["tarball"].rpartition("/")[2]
            path.write_text(json.dumps(text))
    (tmp_path / "package.json").write_text('{ "name": "here", "version": "1.0.0", "private": true }\n')

    def npm(*arguments, password=PASSWORD, run=served):
        url = proxy.url(password=password)
        (tmp_path / ".npmrc").write_text(
            f"proxy={url}\nhttps-proxy={url}\nregistry={site}/npm-by-http/\nfetch-retries=0\nfetch-timeout=20000\n"
            f"audit=false\nfund=false\nupdate-notifier=false\ncache={tmp_path}/cache\ncafile={lab.certificates.ca}\n"
        )
        env = {
            "HOME": str(tmp_path), "npm_config_globalconfig": str(tmp_path / "global"), "CI": "1",
            "NODE_EXTRA_CA_CERTS": str(lab.certificates.ca),
        }
        return run([program, *arguments], env=env, cwd=tmp_path)

    assert b"fetched through the proxy" in npm("view", "adit-probe").stdout
    npm("install", "adit-probe")
    assert digest((tmp_path / "node_modules/adit-probe-bytes/bytes.bin").read_bytes()) == checksum
    by_forwarding(proxy, site, 3)
    npm("view", "adit-probe", "--prefer-online", password=WRONG, run=refused)


# --- Go ---


def test_go(start, lab, site, go_program):
    """Go offers h2 to a proxy, and if that is taken, refuses by itself to ask for http:// URLs ("unsupported scheme"): for
    these it needs a listener without."""
    proxy = start({"listen": [{"address": "127.0.0.1:0", "http2": False}]})
    env = {"HTTP_PROXY": proxy.url(), "SSL_CERT_FILE": str(lab.certificates.ca)}
    lines = served([go_program, f"{site}/hello", f"{site}/bytes?n={SIZE}"], env=env).stdout.decode().splitlines()
    assert lines[0] == f"200 22 {digest(b'hello from the origin' + bytes([10]))}"
    assert lines[1] == f"200 {SIZE} {digest(pattern(SIZE))}"
    by_forwarding(proxy, site, 2)
    env["HTTP_PROXY"] = proxy.url(password=WRONG)
    # the program reports the status of what it got: to it the proxy's answer is the answer
    assert served([go_program, f"{site}/hello"], env=env).stdout.startswith(b"407 ")


# --- Python ---


def test_requests(proxy, lab, site):
    try:
        import requests
    except ImportError:
        missing("python3-requests is not installed")
    data = pattern(5_000_000)
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"http": proxy.url()}
        session.verify = str(lab.certificates.ca)
        assert session.post(f"{site}/upload", data=data, timeout=30).text == digest(data)
        # requests before 2.29 forgets the proxy's login when it sends in chunks, so it is given here
        login = {"Proxy-Authorization": f"Basic {basic('alice')}"}
        pieces = (data[at : at + 10_007] for at in range(0, len(data), 10_007))
        assert session.post(f"{site}/upload", data=pieces, headers=login, timeout=30).text == digest(data), "chunked"
        check, n = hashlib.sha256(), 0
        with session.get(f"{site}/bytes?n={SIZE}", stream=True, timeout=30) as answer:
            for chunk in answer.iter_content(12_345):
                check.update(chunk)
                n += len(chunk)
        assert (n, check.hexdigest()) == (SIZE, digest(pattern(SIZE)))
        session.proxies = {"http": proxy.url(password=WRONG)}
        assert session.get(f"{site}/hello", timeout=30).status_code == 407
    by_forwarding(proxy, site, 3)


def test_urllib(proxy, lab, site):
    """The standard library's: TLS to a proxy for http:// URLs is all it can."""
    def opener(password=PASSWORD):
        return urllib.request.build_opener(
            urllib.request.ProxyHandler({"http": proxy.url(password=password)}),
            urllib.request.HTTPSHandler(context=client_context(lab.certificates.ca)),
        )

    assert opener().open(f"{site}/hello", timeout=20).read() == b"hello from the origin\n"
    assert digest(opener().open(f"{site}/bytes?n={SIZE}", timeout=30).read()) == digest(pattern(SIZE))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener(WRONG).open(f"{site}/hello", timeout=20)
    assert caught.value.code == 407 and b"wrong" in caught.value.read()
    by_forwarding(proxy, site, 2)


def test_pip(proxy, lab, site, wheel, tmp_path):
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, timeout=END_S).returncode != 0:
        missing("pip is not installed (Debian package python3-pip)")
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "--retries", "0", "--timeout",
        "20", "--proxy", proxy.url(), "download", "--no-deps", "--index-url", f"{site}/simple/",
        "--trusted-host", "origin.test", "-d", tmp_path / "wheels", "adit-probe",
    ]
    env = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull, "PIP_CERT": str(lab.certificates.ca)}
    served(command, env=env)
    assert digest((tmp_path / "wheels" / wheel[0]).read_bytes()) == wheel[1]
    by_forwarding(proxy, site, 2)


# --- ws:// ---

WEBSOCKET_ID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3


def websocket_server(request):
    """Checks the handshake, unmasks each text and sends it back; answers a close by a close."""
    key = request.get("Sec-WebSocket-Key").encode()
    accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET_ID).digest()).decode()
    yield head(101, "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}")
    while (first := request.reader.exactly(2)) and len(first) == 2:
        size = first[1] & 0x7F
        if size == 126:
            size = int.from_bytes(request.reader.exactly(2), "big")
        mask, data = request.reader.exactly(4), request.reader.exactly(size)
        data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
        yield first[:1] + length + data
        if first[0] & 0xF == 8:
            yield CLOSE


def test_a_websocket_by_the_book(proxy, origin):
    """RFC 6455 on the wire: handshake, frames of several sizes, close from the client, answered."""
    target = HttpOrigin(websocket_server)
    origin.keep(target)
    key = base64.b64encode(b"sixteen bytes ok").decode()
    fields = ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
              "Origin: http://origin.test"]

    def masked(opcode, data):
        mask = b"\x11\x22\x33\x44"
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        return bytes([0x80 | opcode]) + size + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))

    with proxy.open() as conn:
        conn.send(forward_head(target.url("/chat", name="origin.test"), *fields))
        answer = conn.message()
        assert answer.status == 101
        accept = base64.b64encode(hashlib.sha1(key.encode() + WEBSOCKET_ID).digest()).decode()
        assert answer.get("Sec-WebSocket-Accept") == accept
        for data in (b"hello", b"x" * 125, b"y" * 126, b"z" * 60_000):
            conn.send(masked(1, data))
            size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
            assert conn.recv_exactly(1 + len(size) + len(data)) == b"\x81" + size + data
        conn.send(masked(8, b"\x03\xe8"))
        assert conn.recv_exactly(4) == b"\x88\x02\x03\xe8"
        assert conn.recv_all() == b"" and conn.end == "clean"
        conn.finish()
        record = proxy.record_of(conn)
        assert (record["status"], record["reason"]) == (101, "ok")
