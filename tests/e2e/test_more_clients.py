"""Package managers, languages and ssh through the proxy, set up the way the README tells people to. Each fetches something
large, with its checksum, and each is sent away once: with a wrong password it has to end by itself and say why."""

import base64
import gzip
import hashlib
import io
import json
import os
import signal
import socket
import ssl
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from client import client_context
from origin import digest, echo, pattern, unused_port
from pki import PASSWORD, run
from proxy import environment
from tools import missing, need
from wait import until

WRONG = "wrong-horse-7Q"
END_S = 60  # a client that takes longer hangs
BUILD_S = 500


KEPT = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG")  # all else might name proxies and CAs of this machine


def end_of(command, env=None, cwd=None, data=b"", timeout=END_S):
    """Runs a client to its end, with the settings of the test alone; all that it printed is in `said`."""
    env = {name: os.environ[name] for name in KEPT if name in os.environ} | (env or {})
    result = subprocess.run(
        list(map(str, command)), env=env, cwd=cwd, input=data, capture_output=True, timeout=timeout
    )
    result.said = (result.stdout + result.stderr).decode(errors="replace")
    return result


def served(command, **options):
    result = end_of(command, **options)
    assert result.returncode == 0, result.said
    return result


def refused(command, word="407", **options):
    result = end_of(command, **options)
    assert result.returncode != 0, f"it did not fail: {result.said}"
    assert word in result.said, result.said
    return result


@pytest.fixture
def site(web):
    """The web origin by its name, which only the proxy can resolve."""
    return f"https://origin.test:{web.port}"


def fresh(folder):
    """Made anew: test_forward_clients.py has the same fixtures, and each file its own run of them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# --- apt ---


@pytest.fixture(scope="session")
def apt_repository(web):
    """(folder below the web origin, name of the package, checksum of its file)"""
    dpkg = need("dpkg-deb", "dpkg")
    top = fresh(web.folder / "apt")
    tree = fresh(web.folder / "apt-package")
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: adit-probe\nVersion: 1.0\nArchitecture: all\nMaintainer: e2e <e2e@origin.test>\n"
        "Description: bytes to be fetched\n"
    )
    (tree / "usr/share/adit-probe").mkdir(parents=True)
    (tree / "usr/share/adit-probe/bytes").write_bytes(pattern(4_000_000))
    run(dpkg, "-Znone", "--root-owner-group", "--build", tree, top / "adit-probe.deb")
    package = (top / "adit-probe.deb").read_bytes()
    index = (
        (tree / "DEBIAN/control").read_text() + f"Filename: ./adit-probe.deb\nSize: {len(package)}\n"
        f"SHA256: {digest(package)}\n\n"
    )
    # An index of a size that real ones have: it is here that one TLS layer within the other has made apt wait for ever.
    for n in range(6000):
        index += (
            f"Package: filler-{n}\nVersion: 1.0\nArchitecture: all\nMaintainer: e2e <e2e@origin.test>\n"
            f"Filename: ./filler-{n}.deb\nSize: 1\nSHA256: {digest(str(n).encode())}\nDescription: filler\n\n"
        )
    files = {"Packages": index.encode(), "Packages.gz": gzip.compress(index.encode(), mtime=0)}
    for name, data in files.items():
        (top / name).write_bytes(data)
    sums = "".join(f" {digest(data)} {len(data)} {name}\n" for name, data in files.items())
    (top / "Release").write_text(f"Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{sums}")
    return "apt", "adit-probe", digest(package)


@pytest.fixture
def apt(proxy, lab, site, apt_repository, tmp_path):
    """apt with folders, sources and settings of its own: nothing of this machine's."""
    program = need("apt-get", "apt")

    def apt(*arguments, password=PASSWORD, run=served):
        top = tmp_path / "apt"
        for folder in ("etc/none", "state/lists/partial", "cache/archives/partial", "log"):
            (top / folder).mkdir(parents=True, exist_ok=True)
        (top / "state/status").touch()
        (top / "etc/sources.list").write_text(f"deb [trusted=yes] {site}/{apt_repository[0]} ./\n")
        config = top / "etc/apt.conf"
        config.write_text(
            f'Dir "{top}";\nDir::Etc "{top}/etc";\nDir::Etc::Parts "none";\nDir::Etc::Main "none.conf";\n'
            'Dir::Etc::SourceList "sources.list";\nDir::Etc::SourceParts "none";\nDir::Etc::TrustedParts "none";\n'
            'Dir::Etc::PreferencesParts "none";\nDir::Etc::NetrcParts "none";\n'
            f'Dir::State "{top}/state";\nDir::State::Status "{top}/state/status";\nDir::Cache "{top}/cache";\n'
            f'Dir::Log "{top}/log";\n'
            'APT::Update::Error-Mode "any";\nAcquire::Languages "none";\nAcquire::Retries "0";\n'
            'Acquire::https::Timeout "20";\n'
            # as root it would become a user who may not look into the folder of the tests
            'APT::Sandbox::User "";\n'
            f'Acquire::https::Proxy "https://alice:{password}@localhost:{proxy.port}";\n'
            f'Acquire::https::CaInfo "{lab.certificates.ca}";\n'
        )
        return run([program, *arguments], env={"APT_CONFIG": str(config)}, cwd=top)

    apt.top = tmp_path / "apt"
    return apt


def test_apt_ten_times_in_a_row(apt, apt_repository):
    _, name, checksum = apt_repository
    for _ in range(10):
        apt("update")
        apt("download", name)
        (package,) = apt.top.glob("*.deb")
        assert digest(package.read_bytes()) == checksum
        package.unlink()
        for index in (apt.top / "state/lists").glob("*Packages*"):
            index.unlink()
        for index in (apt.top / "state/lists").glob("*Release*"):
            index.unlink()


def test_apt_with_a_wrong_password(apt):
    apt("update", password=WRONG, run=refused)


# --- npm ---


@pytest.fixture(scope="session")
def npm_registry(web):
    """(folder below the web origin, checksum of the large file in the package): two packages, one needing the other."""
    need("npm", "npm")
    top = fresh(web.folder / "npm")

    def tarball(name, manifest, files):
        with tarfile.open(top / f"{name}-1.0.0.tgz", "w:gz") as archive:
            for path, data in {"package.json": json.dumps(manifest).encode(), **files}.items():
                entry = tarfile.TarInfo(f"package/{path}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        data = (top / f"{name}-1.0.0.tgz").read_bytes()
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        # origin.test at this port: what the packument says is where the client goes
        url = f"https://origin.test:{web.port}/npm/{name}-1.0.0.tgz"
        version = manifest | {"dist": {"tarball": url, "integrity": integrity}}
        (top / name).write_text(json.dumps(
            {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        ))

    big = pattern(3_000_000)
    tarball("adit-probe-bytes", {"name": "adit-probe-bytes", "version": "1.0.0"}, {"bytes.bin": big})
    tarball(
        "adit-probe",
        {"name": "adit-probe", "version": "1.0.0", "description": "fetched through the proxy",
         "dependencies": {"adit-probe-bytes": "^1.0.0"}},
        {"index.js": b"module.exports = 1;\n"},
    )
    return "npm", digest(big)


@pytest.fixture
def npm(proxy, lab, site, npm_registry, tmp_path):
    program = need("npm", "npm")

    def npm(*arguments, password=PASSWORD, run=served, ca="cafile"):
        home = tmp_path / "npm"
        home.mkdir(exist_ok=True)
        (home / "package.json").write_text('{ "name": "here", "version": "1.0.0", "private": true }\n')
        settings = [
            f"https-proxy=https://alice:{password}@localhost:{proxy.port}",
            f"registry={site}/{npm_registry[0]}/", "fetch-retries=0", "fetch-timeout=20000",
            "audit=false", "fund=false", "update-notifier=false", f"cache={home}/cache",
        ]
        env = {"HOME": str(home), "npm_config_globalconfig": str(home / "global"), "CI": "1"}
        if ca == "cafile":
            settings.append(f"cafile={lab.certificates.ca}")
        else:
            env["NODE_EXTRA_CA_CERTS"] = str(lab.certificates.ca)
        (home / ".npmrc").write_text("".join(line + "\n" for line in settings))
        return run([program, *arguments], env=env, cwd=home)

    npm.top = tmp_path / "npm"
    return npm


def test_the_alpn_of_older_node_agents(proxy, lab, origin):
    """https-proxy-agent before version 6, and with it npm before 10 (Debian 12 has 9.2), offers "http 1.1" to a proxy and
    nothing else. It means HTTP/1.1."""
    context = client_context(lab.certificates.ca, alpn=["http 1.1"])
    with proxy.tunnel(origin(echo).target, context=context) as conn:
        assert conn.tls.selected_alpn_protocol() == "http 1.1"
        conn.send(b"hello")
        assert conn.recv_exactly(5) == b"hello"


@pytest.mark.parametrize("ca", ["cafile", "NODE_EXTRA_CA_CERTS"])
def test_npm(npm, npm_registry, ca):
    assert b"fetched through the proxy" in npm("view", "adit-probe", ca=ca).stdout
    npm("install", "adit-probe", ca=ca)
    modules = npm.top / "node_modules"
    assert (modules / "adit-probe/index.js").is_file()
    assert digest((modules / "adit-probe-bytes/bytes.bin").read_bytes()) == npm_registry[1]


def test_npm_with_a_wrong_password(npm):
    npm("view", "adit-probe", password=WRONG, run=refused)


# --- Go ---

GO_PROGRAM = """
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	for _, url := range os.Args[1:] {
		answer, err := http.Get(url)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		sum := sha256.New()
		n, err := io.Copy(sum, answer.Body)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Printf("%d %d %x\\n", answer.StatusCode, n, sum.Sum(nil))
	}
}
"""


@pytest.fixture(scope="session")
def go_program(tmp_path_factory):
    go = need("go", "golang-go")
    folder = tmp_path_factory.mktemp("go")
    # where the standard library does not come compiled, it takes longer than a test may
    signal.setitimer(signal.ITIMER_REAL, BUILD_S)
    (folder / "main.go").write_text(GO_PROGRAM)
    (folder / "go.mod").write_text("module probe\n\ngo 1.19\n")
    env = {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GOSUMDB": "off"}
    served([go, "build", "-o", folder / "probe", "."], env=env, cwd=folder, timeout=BUILD_S)
    return folder / "probe"


@pytest.fixture
def go(proxy, lab, go_program):
    def go(*urls, password=PASSWORD, run=served):
        env = {
            "HTTPS_PROXY": f"https://alice:{password}@localhost:{proxy.port}",
            "SSL_CERT_FILE": str(lab.certificates.ca),
        }
        return run([go_program, *urls], env=env)

    return go


def test_go(proxy, go, site):
    size = 20_000_000
    lines = go(f"{site}/hello", f"{site}/bytes?n={size}").stdout.decode().splitlines()
    assert lines[0] == f"200 22 {digest(b'hello from the origin' + bytes([10]))}"
    assert lines[1] == f"200 {size} {digest(pattern(size))}"


def test_go_agrees_on_h2_and_then_speaks_http1(lab, go_program):
    """Why the proxy waits for the first bytes: without this test, nobody would know when it has become needless."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, lab.certificates.proxy))
    context.set_alpn_protocols(["h2", "http/1.1"])
    seen = []

    def serve(listener):
        with context.wrap_socket(listener.accept()[0], server_side=True) as conn:
            seen.append((conn.selected_alpn_protocol(), conn.recv(8)))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(END_S)
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        env = {
            "HTTPS_PROXY": f"https://localhost:{listener.getsockname()[1]}", "SSL_CERT_FILE": str(lab.certificates.ca)
        }
        refused([go_program, "https://origin.test/"], word="EOF", env=env)
        server.join(END_S)
    assert seen == [("h2", b"CONNECT ")]


@pytest.mark.parametrize("http2", [True, False])
def test_go_whatever_the_address_offers(start, lab, go_program, site, http2):
    proxy = start({"listen": [{"address": "127.0.0.1:0", "http2": http2}]})
    size = 3_000_000
    env = {"HTTPS_PROXY": f"https://alice:{PASSWORD}@localhost:{proxy.port}", "SSL_CERT_FILE": str(lab.certificates.ca)}
    lines = served([go_program, f"{site}/bytes?n={size}"], env=env).stdout.decode().splitlines()
    assert lines == [f"200 {size} {digest(pattern(size))}"]
    assert proxy.record(kind="close")["protocol"] == "http/1.1"


def test_go_with_a_wrong_password(go, site):
    go(f"{site}/hello", password=WRONG, run=lambda *a, **k: refused(*a, word="Proxy Authentication Required", **k))


# --- python3-requests ---


@pytest.fixture
def session(proxy, lab):
    try:
        import requests
    except ImportError:
        missing("python3-requests is not installed")
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"https": proxy.url()}
        session.verify = str(lab.certificates.ca)
        yield session


def test_requests_uploads(session, site):
    data = pattern(5_000_000)
    answer = session.post(f"{site}/upload", data=data, headers={"Expect": "100-continue"}, timeout=30)
    assert answer.status_code == 200 and answer.text == digest(data)
    pieces = (data[at : at + 10_007] for at in range(0, len(data), 10_007))
    assert session.post(f"{site}/upload", data=pieces, timeout=30).text == digest(data), "chunked"


def test_requests_downloads_as_a_stream(session, site):
    size = 20_000_000
    check, n = hashlib.sha256(), 0
    with session.get(f"{site}/bytes?n={size}", stream=True, timeout=30) as answer:
        for chunk in answer.iter_content(12_345):
            check.update(chunk)
            n += len(chunk)
    assert (n, check.hexdigest()) == (size, digest(pattern(size)))


def test_requests_with_a_wrong_password(proxy, session, site):
    from requests.exceptions import ProxyError

    session.proxies = {"https": proxy.url(password=WRONG)}
    with pytest.raises(ProxyError, match="407 Proxy Authentication Required"):
        session.get(f"{site}/hello", timeout=30)


# --- pip ---


@pytest.fixture(scope="session")
def wheel(web):
    """Checksum of the wheel that the index below simple/ offers."""
    name = "adit_probe-1.0-py3-none-any.whl"
    folder = fresh(web.folder / "simple/adit-probe")
    info = "adit_probe-1.0.dist-info"
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("adit_probe.bin", pattern(3_000_000))
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: adit-probe\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: e2e\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"adit_probe.bin,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    checksum = digest((folder / name).read_bytes())
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{name}#sha256={checksum}">{name}</a>\n')
    return name, checksum


@pytest.fixture
def pip(lab, site, wheel, tmp_path):
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, timeout=END_S).returncode != 0:
        missing("pip is not installed (Debian package python3-pip)")

    def pip(*arguments, env=None, retries=0, run=served):
        command = [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "--retries", retries, "--timeout",
            "20", *arguments, "download", "--no-deps", "--index-url", f"{site}/simple/", "-d", tmp_path / "wheels",
            "adit-probe",
        ]
        settings = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull, "PIP_CERT": str(lab.certificates.ca)}
        return run(command, env=settings | (env or {}))

    pip.folder = tmp_path / "wheels"
    return pip


@pytest.mark.parametrize("by", ["option", "environment"])
def test_pip(pip, proxy, wheel, by):
    if by == "option":
        pip("--proxy", proxy.url())
    else:
        pip(env={"https_proxy": proxy.url()})
    assert digest((pip.folder / wheel[0]).read_bytes()) == wheel[1]


def test_pip_with_a_wrong_password(pip, proxy):
    # it tells the reason only when it tries again
    pip("--proxy", proxy.url(password=WRONG), retries=1, run=refused)


# --- git, by its own settings ---


def test_git_by_its_settings(proxy, lab, web, site, repository, tmp_path):
    env = {"HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}

    def git(*arguments, run=served):
        return run(["git", *arguments], env=env)

    git("config", "--global", "http.proxy", proxy.url())
    git("config", "--global", "http.proxySSLCAInfo", lab.certificates.ca)
    git("config", "--global", "http.sslCAInfo", lab.certificates.ca)
    git("clone", "-q", f"{site}/smart/{repository[0]}", tmp_path / "clone")
    assert digest((tmp_path / "clone/big.bin").read_bytes()) == repository[1]
    git("config", "--global", "http.proxy", proxy.url(password=WRONG))
    git("clone", "-q", f"{site}/smart/{repository[0]}", tmp_path / "never", run=refused)


# --- curl, by its settings ---


def test_curl_by_its_settings(proxy, lab, site, tmp_path):
    (tmp_path / ".curlrc").write_text(
        f'proxy = "https://localhost:{proxy.port}"\nproxy-user = "alice:{PASSWORD}"\n'
        f'proxy-cacert = "{lab.certificates.ca}"\n'
    )
    command = ["curl", "-sS", "--cacert", lab.certificates.ca, f"{site}/hello"]
    assert served(command, env={"HOME": str(tmp_path)}).stdout == b"hello from the origin\n"


# --- the environment alone, as /etc/environment or a systemd unit sets it ---


def test_curl_and_git_by_the_environment_alone(proxy, lab, site, repository, tmp_path):
    env = {
        "HOME": str(tmp_path), "https_proxy": proxy.url(), "HTTPS_PROXY": proxy.url(), "GIT_CONFIG_NOSYSTEM": "1",
        # stands for the system's store, where an operator puts the CA
        "SSL_CERT_FILE": str(lab.certificates.ca), "GIT_SSL_CAINFO": str(lab.certificates.ca),
        "GIT_PROXY_SSL_CAINFO": str(lab.certificates.ca),
    }
    assert served(["curl", "-q", "-sS", "--proxy-cacert", lab.certificates.ca, f"{site}/hello"], env=env).stdout
    served(["git", "clone", "-q", f"{site}/smart/{repository[0]}", tmp_path / "clone"], env=env)
    assert digest((tmp_path / "clone/big.bin").read_bytes()) == repository[1]


def test_curl_with_a_wrong_password(proxy, curl, site):
    result = curl(proxy, f"{site}/hello", password=WRONG, check=False)
    assert result.returncode == 56 and "407" in result.stderr


# --- proxytunnel and ssh ---


class Sshd:
    """A real one, on a port of its own, with keys of its own, for whoever runs the tests."""

    def __init__(self, folder):
        self.program = need("sshd", "openssh-server")
        need("ssh", "openssh-client")
        self.folder = folder
        for name in ("host", "user"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
        self.port = unused_port()
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin prohibit-password\n"
        )
        # The host key stands under the name that is asked for, so a wrong way through the proxy cannot pass.
        key = " ".join((folder / "host.pub").read_text().split()[:2])
        (folder / "known_hosts").write_text(f"[origin.test]:{self.port} {key}\n")
        self.log = folder / "sshd.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [self.program, "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=log, env=environment(),
            )

    def listen(self):
        until(lambda: "Server listening" in self.log.read_text() or self.process.poll() is not None, "sshd")
        assert self.process.poll() is None, self.log.read_text()

    def close(self):
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def ssh(request, start, lab, tmp_path):
    """ssh(command, data): through proxytunnel, to a proxy whose policy allows this port and no other."""
    tunnel = need("proxytunnel", "proxytunnel")
    sshd = Sshd(tmp_path)
    request.addfinalizer(sshd.close)
    sshd.listen()
    rule = {"name": "ssh", "action": "allow", "to": ["loopback"], "ports": [sshd.port]}
    proxy = start({"policy": {"rules": [rule]}})
    config = tmp_path / "ssh_config"

    def ssh(*command, data=b"", password=PASSWORD, run=served, port=sshd.port, ca=lab.certificates.ca):
        (tmp_path / "login").write_text(f"proxy_user=alice\nproxy_passwd={password}\n")
        (tmp_path / "login").chmod(0o600)
        config.write_text(
            f"Host origin.test\n\tPort {port}\n\tIdentityFile {tmp_path}/user\n\tIdentitiesOnly yes\n"
            f"\tUserKnownHostsFile {tmp_path}/known_hosts\n\tStrictHostKeyChecking yes\n\tBatchMode yes\n"
            f"\tProxyCommand {tunnel} -E -p localhost:{proxy.port} -C {ca} "
            f"-F {tmp_path}/login -d %h:%p\n"
        )
        return run(["ssh", "-F", config, "origin.test", *command], data=data)

    ssh.proxy, ssh.sshd = proxy, sshd
    return ssh


def test_ssh_through_proxytunnel(ssh, tmp_path):
    assert ssh("echo", "hello").stdout == b"hello\n"
    data = pattern(10_000_000)
    answer = ssh("sha256sum", data=data).stdout.decode()
    assert answer.split()[0] == digest(data)
    (tmp_path / "large").write_bytes(data)
    assert digest(ssh("cat", tmp_path / "large").stdout) == digest(data)
    record = ssh.proxy.record(kind="close", target=f"origin.test:{ssh.sshd.port}")
    assert record["rule"] == "ssh" and record["reason"] == "ok"


def test_ssh_refused_by_the_proxy(ssh):
    ssh("echo", "hello", password=WRONG, run=refused)
    ssh("echo", "hello", port=unused_port(), run=lambda *a, **k: refused(*a, word="403", **k))


def test_proxytunnel_looks_at_the_certificate(ssh, lab):
    """A password must not go to whoever listens: another CA than the proxy's, and nothing is sent."""
    ssh("echo", "hello", ca=lab.certificates.other[0], run=lambda *a, **k: refused(*a, word="ertificate", **k))
    assert not ssh.proxy.records("strangers.jsonl")
