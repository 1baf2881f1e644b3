"""Fixtures: a proxy with a PAC file, a site behind it, and a browser that knows nothing but the PAC file's URL, the
authority that signed the proxy's certificate, and a saved login. The proxy, the certificates, the name server and the
leak gate are those of the end-to-end suite."""

import importlib.util
import os
import random
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "e2e"))

import pki  # noqa: E402
import proxy as program  # noqa: E402

from chromium import Chromium  # noqa: E402
from firefox import Firefox  # noqa: E402
from website import Site  # noqa: E402

# Where node_modules is, and where the pictures go.
BUILD = Path(os.environ.get("ADIT_BROWSERS", TOP / "build/browsers"))
TEST_TIMEOUT_S = 240

# The protocols between browser and proxy: what each is called in records, and how a listener is configured for it.
PROTOCOLS = {"h1": ("http/1.1", {"http2": "off"}), "h2": ("h2", {})}

HOSTS = ["site.test", *(f"p{i}.site.test" for i in range(1, 21))]


def pytest_configure(config):
    """The fixtures and hooks of the other suite, under a name that does not collide with this file's."""
    spec = importlib.util.spec_from_file_location("e2e_conftest", HERE.parent / "e2e/conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.TEST_TIMEOUT_S = TEST_TIMEOUT_S
    config.pluginmanager.register(module, "e2e_conftest")
    BUILD.mkdir(parents=True, exist_ok=True)


def free_port():
    """One that no outgoing connection is given either: it has to be the same in all lives of a proxy."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(200):
        port = random.randrange(lowest - 12000, lowest)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no free port")


@pytest.fixture(scope="session")
def port():
    """The proxy's: saved logins belong to it."""
    return free_port()


@pytest.fixture(scope="session")
def certificate(lab):
    lab.names.zone.update({host: ["127.0.0.1"] for host in HOSTS})
    return lab.certificates.issue("site", "DNS:site.test,DNS:*.site.test")


@pytest.fixture
def site(certificate):
    site = Site(certificate)
    yield site
    site.close()


@pytest.fixture
def plain_site(certificate):
    """The same without TLS."""
    site = Site(None)
    yield site
    site.close()


@pytest.fixture(scope="session")
def profiles(lab, port, tmp_path_factory):
    """profiles(password): a Firefox profile in which that login is saved, to be copied."""
    made = {}

    def get(password):
        if password not in made:
            folder = tmp_path_factory.mktemp("firefox")
            # Firefox saves a login without a proxy's help, so none is running at this time.
            made[password] = Firefox(folder, ["proxy.test", *HOSTS], lab.certificates.ca, port)
            made[password].save_login("alice", password)
        return made[password].folder

    return get


@pytest.fixture
def protocol(http):
    """As records call the one of this run: the other suite's fixture runs every test once for each."""
    return PROTOCOLS[http][0]


@pytest.fixture(params=["firefox", "chromium"])
def browser(request, lab, port, profiles, tmp_path):
    """browser(password): started, with that password of alice's saved; preferences are Firefox's."""
    running = []

    def start(password=pki.PASSWORD, **preferences):
        folder = tmp_path / request.param
        names = ["proxy.test", *HOSTS]
        if request.param == "firefox":
            each = Firefox(folder, names, lab.certificates.ca, port, template=profiles(password))
            each.prefer({name.replace("__", "."): value for name, value in preferences.items()})
        else:
            each = Chromium(folder, names, lab.certificates.ca, port, BUILD).save_login("alice", password)
        running.append(each)
        return each.start()

    start.name = request.param
    yield start
    for each in running:
        each.stop()


@pytest.fixture
def serve(start, port, http):
    """serve({changes}): the proxy, at the port that browsers know, its PAC file switched on."""

    def make(changes=None):
        base = {
            "listen": [make.listener],
            "http": {"pac": f"proxy.test:{port}"},
            "log": {"level": "debug"},
        }
        return start(program.merge(base, changes or {}))

    make.listener = {"address": f"127.0.0.1:{port}"} | PROTOCOLS[http][1]
    return make


def artefact(request, ending):
    """A file in the build folder, named after the test."""
    return BUILD / (re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-") + ending)


@pytest.fixture
def note(request):
    """note(text): kept beside the pictures."""
    return lambda text: artefact(request, ".txt").write_text(text)


@pytest.fixture
def picture(request):
    """picture(browser, word): a screenshot."""

    def take(browser, word=""):
        path = artefact(request, f"{word and '-' + word}.png")
        browser.screenshot(path)
        assert path.stat().st_size > 2000, "an empty picture"
        return path

    return take


@pytest.fixture(scope="session", autouse=True)
def tools():
    for tool in ("firefox-esr", "chromium", "certutil", "node"):
        assert shutil.which(tool), f"{tool} is not installed"
    assert (BUILD / "node_modules/playwright-core").is_dir(), f"playwright-core is not in {BUILD}"
