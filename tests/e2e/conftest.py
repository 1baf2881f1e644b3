"""Fixtures: one lab per run (certificates, names, users), one proxy shared by the tests that change nothing, and a
way to start further ones. Whatever is started passes the leak gate when its test is over."""

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

import client
import nameserver
import origin as origins
import pki
import protocols
import proxy as program
from http_origin import HttpOrigin

TEST_TIMEOUT_S = 90 * max(1.0, float(os.environ.get("ADIT_E2E_SCALE", "1")))  # see probe.py

ZONE = {
    "origin.test": ["127.0.0.1"],
    "loop.test": ["127.0.0.1"],
    "loop6.test": ["::1"],
    "two.test": ["127.0.0.1", "127.0.0.2"],
    "both.test": ["::1", "127.0.0.1"],
    "private.test": ["10.1.2.3"],
    "metadata.test": ["169.254.169.254"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "empty.test": [],
    "broken.test": "servfail",
    "silent.test": "silent",
    "big.test": ("truncated", ["127.0.0.1"]),
}


class Lab:
    """What all proxies of a run share."""

    def __init__(self, folder):
        self.folder = folder
        self.certificates = pki.Certificates(folder)
        self.contexts = {}
        self.htpasswd_text = "".join(
            pki.htpasswd_line(user, options=options) + "\n" for user, options in pki.USERS.items()
        )
        self.names = nameserver.NameServer(dict(ZONE))

    @property
    def context(self):
        """Of the protocol of the test."""
        if protocols.current not in self.contexts:
            self.contexts[protocols.current] = client.client_context(self.certificates.ca)
        return self.contexts[protocols.current]


def pytest_collection_modifyitems(config, items):
    if program.binary() is None:
        raise pytest.UsageError("no adit to test: build it, or name it in $ADIT")


def pytest_generate_tests(metafunc):
    """The same tests by each protocol."""
    choice = protocols.of(metafunc.module.__name__ + ".py", metafunc.definition.originalname)
    metafunc.parametrize("http", choice, indirect=True)


@pytest.fixture(autouse=True)
def http(request):
    """The protocol by which this run of the test speaks with the proxy: "h1" or "h2"."""
    protocols.current = request.param
    yield request.param
    protocols.current = "h1"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """Nothing takes for ever: a test, fixtures and all, has a bound of its own."""

    def expired(_number, _frame):
        raise AssertionError(f"the test took more than {TEST_TIMEOUT_S} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, TEST_TIMEOUT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def no_thread_report():
    """Set up first, so it looks when the proxies of the test are gone. A report of the shared proxy counts once."""
    seen = {path: path.stat().st_size for path in program.REPORTS.iterdir()}
    yield
    new = []
    for path in sorted(program.REPORTS.iterdir()):
        with path.open("rb") as file:
            file.seek(seen.get(path, 0))
            new.append(file.read().decode(errors="replace"))
    assert not "".join(new), "ThreadSanitizer has reported:\n" + "".join(new)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what the proxies of the test had to say."""
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    for proxy in getattr(item, "proxies", []):
        report.sections.append(("adit.yaml", json.dumps(proxy.config)))
        report.sections.append(("stderr of adit", "\n".join(proxy.lines[-40:])))
        for name in ("access.jsonl", "strangers.jsonl"):
            path = proxy.audit / name
            if path.is_file():
                report.sections.append((name, "\n".join(path.read_text(errors="replace").splitlines()[-6:])))


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.names.close()


@pytest.fixture(scope="session")
def _shared(lab, tmp_path_factory):
    """The shared proxy; a new one when the last one died, so that one fault fails one test."""
    current = []

    def get():
        if not current or current[-1].process.poll() is not None:
            current.append(program.Proxy(lab, tmp_path_factory.mktemp("shared")).start())
        return current[-1]

    yield get
    if current:
        current[-1].stop()


@pytest.fixture
def proxy(request, _shared):
    """The shared proxy: more than one worker, no throttle, loopback targets allowed. Nothing may be left behind in it."""
    shared = _shared()
    request.node.proxies = [shared]
    yield shared
    shared.settle()


@pytest.fixture
def start(request, lab, tmp_path):
    """start({changes to the configuration}): a proxy of this test's own."""
    proxies = request.node.proxies = []

    def start(changes=None, **options):
        folder = tmp_path / f"proxy{len(proxies)}"
        folder.mkdir()
        return launch(program.Proxy(lab, folder, changes, **options))

    def launch(proxy):
        proxies.append(proxy)
        return proxy.start()

    start.launch = launch
    yield start
    problems = []
    for proxy in proxies:
        try:
            if proxy.process is not None and proxy.process.returncode is None:
                proxy.stop()
        except AssertionError as problem:
            problems.append(str(problem))
    assert not problems, "\n".join(problems)


@pytest.fixture
def origin():
    """origin(handler, host): a destination that goes away with the test."""
    made = []

    def make(handler=origins.echo, host="127.0.0.1", port=0):
        made.append(origins.Origin(handler, host, port))
        return made[-1]

    make.keep = made.append
    yield make
    for each in made:
        each.close()


@pytest.fixture
def web_origin(origin):
    """web_origin(answer): an HTTP origin that answers as it is told."""

    def make(*arguments, **options):
        made = HttpOrigin(*arguments, **options)
        origin.keep(made)
        return made

    return make


@pytest.fixture
def black_hole(origin):
    def make(host="127.0.0.1", port=0):
        hole = origins.BlackHole(host, port)
        origin.keep(hole)
        return hole

    return make


@pytest.fixture(scope="session")
def web(lab, tmp_path_factory):
    web = origins.Web(lab.certificates.origin, tmp_path_factory.mktemp("web"))
    yield web
    web.close()


@pytest.fixture(scope="session")
def web6(lab, tmp_path_factory):
    if not has_ipv6():
        pytest.skip("no IPv6 on the loopback interface")
    web = origins.Web(lab.certificates.origin, tmp_path_factory.mktemp("web6"), "::1")
    yield web
    web.close()


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.fixture
def ipv6():
    if not has_ipv6():
        pytest.skip("no IPv6 on the loopback interface")


@pytest.fixture
def curl(lab, tmp_path):
    """curl(proxy, *arguments): the real one, with nothing but what is said here."""
    assert shutil.which("curl"), "curl is not installed"

    def run(proxy, *arguments, user="alice", password=pki.PASSWORD, check=True, timeout=60, program="curl"):
        command = [
            program, "-q", "-sS", "--max-time", "50", "--proxy", f"https://localhost:{proxy.port}",
            "--proxy-cacert", lab.certificates.ca, "--cacert", lab.certificates.ca,
        ]
        if user:
            credentials = tmp_path / "curl.conf"
            credentials.write_text(f'proxy-user = "{user}:{password}"\n')
            command += ["-K", credentials]
        env = os.environ.copy()
        os.environ.update(no_proxy="", NO_PROXY="")
        try:
            return pki.run(*command, *arguments, check=check, timeout=timeout)
        finally:
            os.environ.clear()
            os.environ.update(env)

    return run


@pytest.fixture
def repository(web):
    """A small git repository below the web origin: (path below it, checksum of the file big.bin)."""
    work = web.folder / "work"
    bare = web.folder / "project.git"
    if not bare.exists():
        work.mkdir()
        (work / "README").write_text("cloned through the proxy\n")
        (work / "big.bin").write_bytes(origins.pattern(2_000_000))
        name = ["-c", "user.name=e2e", "-c", "user.email=e2e@origin.test", "-c", "init.defaultBranch=main"]
        pki.run("git", *name, "init", "-q", work)
        pki.run("git", *name, "-C", work, "add", ".")
        pki.run("git", *name, "-C", work, "commit", "-q", "-m", "first")
        pki.run("git", "clone", "-q", "--bare", work, bare)
        pki.run("git", "-C", bare, "update-server-info")
    return bare.name, origins.digest(Path(work / "big.bin").read_bytes())
