"""The program under test as a process: its configuration, its life, its files, and the leak gate at its end."""

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import Counter
from pathlib import Path

import client
import h2client
import protocols
from wait import PATIENCE_S, until

TOP = Path(__file__).resolve().parents[2]
READY = re.compile(r"^adit: ready: listening on (\S+):(\d+)$")
STOPPED = "adit: stopped: connections 0, requests 0, tunnels 0"
SANITIZERS = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|UndefinedBehaviorSanitizer|runtime error:")
CLEAN_UP_S = 20.0
WORKERS = int(os.environ.get("ADIT_WORKERS", "2"))  # of every proxy whose test does not say how many

# ThreadSanitizer writes here and lets the program go on, so that a report fails the test that brought it about, whatever
# becomes of the program: conftest.py looks after every test. Programs that have left root behind must be able to write.
REPORTS = Path(tempfile.mkdtemp(prefix="adit-reports."))
REPORTS.chmod(0o1777)
atexit.register(shutil.rmtree, REPORTS, ignore_errors=True)


def binary():
    """$ADIT, or the newest of the places where builds put it."""
    if "ADIT" in os.environ:
        return Path(os.environ["ADIT"]).resolve()
    places = [TOP / "build/asan/adit", TOP / "build/adit", TOP / "adit"]
    found = [place for place in places if place.is_file() and os.access(place, os.X_OK)]
    return max(found, key=lambda place: place.stat().st_mtime) if found else None


def environment(extra=None):
    """Without what would change messages, and with sanitizers that speak up and go on to the end."""
    env = {k: v for k, v in os.environ.items() if k not in ("JOURNAL_STREAM", "NOTIFY_SOCKET", "SSL_CERT_FILE")}
    for name in [name for name in env if name.lower().endswith("_proxy")]:
        del env[name]
    env["ASAN_OPTIONS"] = "detect_leaks=1:exitcode=99:" + env.get("ASAN_OPTIONS", "")
    env["UBSAN_OPTIONS"] = "print_stacktrace=1:" + env.get("UBSAN_OPTIONS", "")
    env["TSAN_OPTIONS"] = f"halt_on_error=0:exitcode=66:log_path={REPORTS}/report:" + env.get("TSAN_OPTIONS", "")
    env.update(extra or {})
    return env


def _has_sanitizer():
    program = binary().read_bytes() if binary() else b""
    return b"__asan_init" in program or b"__tsan_init" in program


PROGRAM_HAS_SANITIZER = _has_sanitizer()


def adit(*arguments, text=None, timeout=60, env=None):
    """Runs a subcommand to its end."""
    return subprocess.run(
        [str(binary()), *map(str, arguments)], input=text, capture_output=True, text=True, timeout=timeout,
        env=environment(env),
    )


def merge(base, changes):
    """Nested tables are merged; everything else is replaced; None takes a key away."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


class Proxy:
    def __init__(self, lab, folder, changes=None, arguments=None, env=None, users=None):
        self.lab = lab
        self.folder = folder
        self.audit = folder / "audit"
        self.audit.mkdir(exist_ok=True)
        self.htpasswd = folder / "users.htpasswd"
        self.htpasswd.write_text(lab.htpasswd_text if users is None else users)
        self.htpasswd.chmod(0o600)
        self.config_path = folder / "adit.yaml"
        self.config = merge(self.defaults(), changes or {})
        self.write_config()
        self.arguments = arguments
        self.env = env
        self.process = None
        self.lines = []
        self.addresses = []

    def defaults(self):
        chain, key = self.lab.certificates.proxy
        return {
            "listen": [{"address": "127.0.0.1:0"}],
            "tls": {"certificates": [{"chain": str(chain), "key": str(key)}]},
            "auth": {"htpasswd": str(self.htpasswd), "throttle": "off"},
            "policy": {"rules": [{"name": "lab", "action": "allow", "to": ["loopback"], "ports": ["any"]}]},
            "audit": {"directory": str(self.audit), "node": "e2e"},
            "dns": {"servers": [self.lab.names.address]},
            "limits": {"handshakes_per_prefix": "off"},
            "deadlines": {"drain": "5s", "audit": "20s"},  # the disk may be busy
            "forward": {"idle": "3s"},  # the leak gate waits for them
            "workers": WORKERS,
        }

    def write_config(self):
        self.config_path.write_text(json.dumps(self.config, indent=2) + "\n")  # JSON is YAML

    # --- life ---

    def start(self):
        arguments = self.arguments or ["serve", "-c", self.config_path]
        self.process = subprocess.Popen(
            [str(binary()), *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace", env=environment(self.env),
        )
        self.reader = threading.Thread(target=self._read_stderr, daemon=True)
        self.reader.start()
        wanted = 1 if self.arguments else len(self.config["listen"])
        until(lambda: len(self.addresses) == wanted or self.process.poll() is not None, "the ready line", 30)
        assert len(self.addresses) == wanted, f"adit ended with {self.process.returncode}:\n{self.stderr()}"
        self.address = self.addresses[0]
        self.port = self.address[1]
        self.baseline = self.descriptors()
        return self

    def _read_stderr(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if match := READY.match(self.lines[-1]):
                self.addresses.append((match[1].strip("[]"), int(match[2])))

    def stderr(self):
        return "\n".join(self.lines)

    def said(self, word, timeout=PATIENCE_S):
        """The first diagnostic line with this in it."""
        return until(lambda: next((line for line in self.lines if word in line), None), f"{word!r} on stderr", timeout)

    def signal(self, number):
        self.process.send_signal(number)

    def descriptors(self):
        """What is open, by kind. Records are left out: how many of these are kept open is the program's choice."""
        kinds = Counter()
        folder = Path(f"/proc/{self.process.pid}/fd")
        for entry in folder.iterdir():
            try:
                target = os.readlink(entry)
            except OSError:
                continue
            if not target.startswith((str(self.audit), str(REPORTS))):
                kinds[target.split(":")[0] if target.startswith(("socket:", "pipe:")) else target] += 1
        return kinds

    def settle(self):
        """Every descriptor that requests had is back."""
        assert self.process.poll() is None, f"adit died with {self.process.returncode}:\n{self.stderr()}"
        last = {}

        def back():
            last["extra"] = self.descriptors() - self.baseline
            return not last["extra"]

        try:
            until(back, "", CLEAN_UP_S)
        except AssertionError:
            self.baseline = self.descriptors()  # told once, to the test that did it
            raise AssertionError(f"descriptors left open: {dict(last['extra'])}") from None

    def stop(self):
        """The leak gate: nothing is left before TERM, and the program itself says so after it."""
        if self.process is None:
            return
        if self.process.poll() is not None:
            raise AssertionError(f"adit died with {self.process.returncode}:\n{self.stderr()}")
        try:
            self.settle()
        finally:
            self.signal(signal.SIGTERM)
            self.wait_stopped()

    def wait_stopped(self):
        try:
            code = self.process.wait(CLEAN_UP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop after TERM:\n{self.stderr()}") from None
        self.reader.join(5)
        text = self.stderr()
        report = REPORTS / f"report.{self.process.pid}"
        if report.exists():
            text += "\n" + report.read_text(errors="replace")
        self.process.stderr.close()
        assert not SANITIZERS.search(text), f"sanitizer report:\n{text}"
        assert code == 0, f"exit status {code}:\n{text}"
        assert self.lines and self.lines[-1] == STOPPED, f"last line is not {STOPPED!r}:\n{text}"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join(5)

    def rss(self):
        """Resident bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    # --- clients ---

    def tcp(self, **options):
        """A connection by which requests are made in the protocol of the test."""
        return {"h1": client.Conn, "h2": h2client.Tunnel}[protocols.current](self.address, **options)

    def h2(self, context=None, **options):
        """An HTTP/2 connection with all that can be done on it."""
        link = h2client.Connection(self.address, **options)
        return link.start_tls(context or self.lab.context).handshake()

    def open(self, context=None, server_name="proxy.test", session=None, **options):
        """A connection after its TLS handshake."""
        conn = self.tcp(**options)
        return conn.start_tls(context or self.lab.context, server_name, session).handshake()

    def ask(self, head, **options):
        """One request on a connection of its own: (response, connection)."""
        conn = self.open(**options)
        return conn.ask(head), conn

    def refused(self, target, user="alice", password=client.PASSWORD, **options):
        """A CONNECT that must not be served; the connection has been closed by the proxy, with close_notify."""
        with self.open(**options) as conn:
            response = conn.ask(client.connect_head(target, user, password))
            assert response.status >= 400, f"served: {response}"
            assert conn.recv_all() == b"" and conn.end == "clean"
            return response

    def tunnel(self, target, user="alice", password=client.PASSWORD, **options):
        conn = self.open(**options)
        response = conn.ask(client.connect_head(target, user, password))
        assert response.status == 200, str(response)
        return conn

    def url(self, user="alice", password=client.PASSWORD):
        return f"https://{user}:{password}@localhost:{self.port}" if user else f"https://localhost:{self.port}"

    # --- records ---

    def records(self, name="access.jsonl"):
        """Complete lines only: the last one may be half written at the moment of the look."""
        path = self.audit / name
        if not path.exists():
            return []
        text = path.read_bytes()
        return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].split(b"\n") if line]

    def _waited_for(self, find, what, name="access.jsonl"):
        try:
            return until(find, "")
        except AssertionError:
            seen = "\n".join(json.dumps(record) for record in self.records(name))
            raise AssertionError(f"no record with {what} in {name}:\n{seen}") from None

    def record(self, name="access.jsonl", **wanted):
        """The first record with these values, waited for."""

        def first():
            return next((r for r in self.records(name) if wanted.items() <= r.items()), None)

        return self._waited_for(first, wanted, name)

    def record_of(self, conn, kind="close"):
        """The record of this client connection's access. Ports come back: the newest access of this one counts, and
        none from before it."""

        def newest():
            mine = self.records_of(conn)
            opened = [r["id"] for r in mine if r["kind"] == "open"]
            if opened:  # its end may be from before it, where a test has set the clock
                mine = [r for r in self.records() if r.get("id") == opened[-1]]
            return next((r for r in mine if r["kind"] == kind), None)

        return self._waited_for(newest, f"kind {kind} of {conn.name}")

    def records_of(self, conn):
        """All of this client connection's."""
        wanted = {"client": conn.name[0], "client_port": conn.name[1]}
        began = getattr(conn, "began", "") or getattr(getattr(conn, "link", None), "began", "")
        return [r for r in self.records() if wanted.items() <= r.items() and r["time"] >= began]
