"""What an operator installs beside the program, tried with the programs that read it: the systemd unit, the rotation of
records, fail2ban's filter and jail."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import threading

import pytest
from client import basic, client_context, connect_head
from conftest import has_ipv6
from origin import echo, unused_port
from pki import USERS, replace_file, run
from proxy import TOP, binary, environment
from tools import missing, need
from wait import until

DIST = TOP / "dist"
LONG_S = 400
HOSTS = ["127.0.0.3", "::1"] if has_ipv6() else ["127.0.0.3"]

# --- the systemd unit ---

# (whether configure found libsystemd, and which): Type=, and whether systemd needs to be told how to reload
UNITS = {None: ("exec", True), "252": ("notify", True), "253": ("notify-reload", False)}


def unit_text(version):
    """As make writes it."""
    kind, tells = UNITS[version]
    text = (DIST / "adit.service.in").read_text().replace("@bindir@", str(binary().parent))
    text = text.replace("@sysconfdir@", "/etc").replace("@service_type@", kind)
    return text if tells else "".join(line for line in text.splitlines(True) if not line.startswith("ExecReload="))


def systemd_version():
    words = run(need("systemd-analyze", "systemd"), "--version").stdout.split()
    return int(words[1].split(".")[0])


@pytest.fixture(params=UNITS)
def unit(request, tmp_path):
    path = tmp_path / "adit.service"
    path.write_text(unit_text(request.param))
    return path


def test_unit_is_valid(unit):
    """Every line is known, and what it starts is there. Manual pages and the account come with the installation."""
    result = run(need("systemd-analyze", "systemd"), "verify", "--man=no", unit, check=False)
    complaints = [line for line in (result.stdout + result.stderr).splitlines() if "adit.service" in line]
    if systemd_version() < 253:
        complaints = [line for line in complaints if not line.endswith("service type, ignoring: notify-reload")]
    assert result.returncode == 0 and not complaints, complaints


def test_unit_is_hardened(unit):
    """An exposure of at most 2.0; the option takes tenths."""
    command = [need("systemd-analyze", "systemd"), "security", "--offline=yes", "--no-pager"]
    result = run(*command, "--threshold=20", unit, check=False)
    assert result.returncode == 0, result.stdout
    assert float(re.search(r"exposure level for adit.service: ([\d.]+)", result.stdout)[1]) < 2.0


@pytest.mark.parametrize("version", UNITS)
def test_configure_chooses_the_type(version, tmp_path):
    """With a pkg-config that speaks of another libsystemd."""
    signal.setitimer(signal.ITIMER_REAL, LONG_S)
    if not os.environ.get("ADIT_TESTS_NEED_ALL"):
        pytest.skip("runs configure: only where everything is tested")
    folder = tmp_path / "build"
    folder.mkdir()
    tool = tmp_path / "pkg-config"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f"*'libsystemd >= '*) for word do wanted=$word; done; [ {version or 0} -ge ${{wanted##*>= }} ] ;;\n"
        f"*libsystemd*) {'exit 1' if version is None else ': nothing'} ;;\n"
        '*) exec pkg-config "$@" ;;\n'
        "esac\n"
    )
    tool.chmod(0o755)
    for command in ([TOP / "configure", "-q", f"PKG_CONFIG={tool}", "--bindir=/opt/bin"], ["make", "-s", "dist/adit.service"]):
        subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, timeout=LONG_S)
    text = (folder / "dist/adit.service").read_text()
    kind, tells = UNITS[version]
    assert f"\nType={kind}\n" in text and ("\nExecReload=" in text) == tells
    assert "@" not in re.sub(r"@(system-service|privileged|resources)\b", "", text)
    assert "\nExecStart=/opt/bin/adit serve -c " in text


def syscall_set(name):
    """The names in one of systemd's sets, with those in the sets within it."""
    names = set()
    for line in run(need("systemd-analyze", "systemd"), "syscall-filter", name).stdout.splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            names |= syscall_set(word)
        elif word and not word.startswith("#"):
            names.add(word)
    return names


def allowed_syscalls():
    """What the lines SystemCallFilter= of the unit add up to, read as systemd.exec(5) says. What a service may always
    call has a set of its own."""
    allowed = syscall_set("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit_text("252"), re.M):
        names = set()
        for word in line.removeprefix("~").split():
            names |= syscall_set(word) if word.startswith("@") else {word}
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


@pytest.fixture
def confined(monkeypatch, tmp_path):
    """The program with every system call outside of the unit's filter failing as it does there. strace does it in the
    kernel: what is allowed runs at its own speed. Returns what was seen of it: the forbidden calls, and all socket()."""
    strace = need("strace", "strace")
    probe = subprocess.run([strace, "-f", "-e", "trace=none", "true"], capture_output=True, text=True, timeout=30)
    if probe.returncode != 0:
        missing(f"strace may not trace here: {probe.stderr}")
    real = binary()
    # Sanitizers ask for more than the program does, and the search for leaks cannot work under another tracer.
    sanitizer = {"personality"} if re.search(b"__[at]san_init", real.read_bytes()) else set()
    allowed = allowed_syscalls() | {"execve"} | sanitizer
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")

    def names(calls):
        return ",".join(f"?{name}" for name in sorted(calls))

    wrapper, log = tmp_path / "adit", tmp_path / "calls"
    wrapper.write_text(
        f"#!/bin/sh\nexec {strace} -D -q -f --seccomp-bpf -o {log} -e signal=none -e 'trace=!{names(allowed - {'socket'})}'"
        f" -e 'inject=!{names(allowed)}:error=EPERM' {real} \"$@\"\n"
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("ADIT", str(wrapper))

    def calls():
        lines = [line.split(None, 1)[1].strip() for line in log.read_text().splitlines()]
        return [line for line in lines if not line.startswith(("+++", "<..."))]

    return calls


def test_unit_allows_what_the_program_does(confined, start, origin):
    """A life in short: logins of every kind, names, both protocols, records, reload, rotation, drain."""
    allowed = allowed_syscalls()
    assert {"read", "socket"} <= allowed and not {"ptrace", "chown", "setuid", "nice"} & allowed, "the sets are odd"
    proxy = start({"listen": [{"address": "[::]:0"}]})
    for user in USERS:
        with proxy.tunnel(f"big.test:{origin(echo).port}", user) as conn:
            conn.send(b"hello")
            assert conn.recv_exactly(5) == b"hello"
            conn.finish()
            assert conn.recv_all() == b""
    with proxy.tunnel(origin(echo, HOSTS[-1]).target) as conn:
        assert proxy.refused(f"127.0.0.1:{unused_port()}").status == 502
        assert proxy.refused("10.1.2.3:443").status == 403
        assert proxy.refused("127.0.0.1:1", password="wrong").status == 407
        proxy.signal(signal.SIGHUP)
        proxy.said("the new configuration is in force")
        (proxy.audit / "access.jsonl").rename(proxy.audit / "access.jsonl.1")
        proxy.signal(signal.SIGUSR1)
        until(lambda: (proxy.audit / "access.jsonl").exists(), "a new file")
        proxy.config_path.write_text("nonsense: 1\n")
        proxy.signal(signal.SIGHUP)
        proxy.said("nothing was changed")
        replace_file(proxy.htpasswd, proxy.lab.htpasswd_text.splitlines(True)[0])
        proxy.said(": 1 users in force")
    proxy.stop()
    calls = confined()
    families = {match[1] for call in calls if (match := re.match(r"socket\((\w+)", call))}
    (listed,) = re.findall(r"^RestrictAddressFamilies=(.*)$", unit_text("252"), re.M)
    assert {"AF_INET"} <= families <= set(listed.split())
    others = [call for call in calls if not call.startswith("socket(")]
    assert not others, others[:20]


# --- rotation ---


def rotation(proxy, folder):
    """The shipped file, with the folder, the account and the way to the process of a test, and numbers for days: a
    test rotates more than once a day, and seconds as names hang on clocks that do not agree (time(2) lags)."""
    text = (DIST / "adit.logrotate").read_text()
    for old, new in (
        ("/var/log/adit", str(proxy.audit)), ("\tsu adit adit\n", ""),
        ("\tdateext\n", ""),
        ("systemctl kill --signal=USR1 adit.service", f"kill -USR1 {proxy.process.pid}"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "logrotate.conf"
    path.write_text(text)
    return path


def test_shipped_rotation_loses_nothing(start, origin, tmp_path):
    """Logins, refusals and wrong passwords go on while the files are rotated: each record is in one file of everything
    and in one file of its user, once."""
    program = need("logrotate", "logrotate")
    proxy = start()
    config = rotation(proxy, tmp_path)
    target = origin(echo).target
    done, served, denied, problems = threading.Event(), [], [], []

    def client(user):
        try:
            while not done.is_set():
                with proxy.open() as conn:
                    assert conn.ask(connect_head(target, user)).status == 200
                    served.append((user, conn.name[1]))
                with proxy.open() as conn:
                    assert conn.ask(connect_head("10.1.2.3:443", user)).status == 403
                    denied.append(user)
                if user == "alice":
                    proxy.refused(target, user, "wrong")
        except Exception as problem:
            problems.append(problem)

    users = ("alice", "bob", "alice")
    threads = [threading.Thread(target=client, args=(user,)) for user in users]
    for thread in threads:
        thread.start()

    def rotated(name):
        return sorted(proxy.audit.glob(f"{name}.*"))

    try:
        for n in range(1, 4):
            before = len(served)
            until(lambda: len(served) > before + 20 or problems, "traffic")
            run(program, "-f", "-s", tmp_path / "state", config)
            assert len(rotated("access.jsonl")) == n
            for name in ("access.jsonl", "users/alice.jsonl", "users/bob.jsonl"):
                until(lambda: (proxy.audit / name).is_file() and (proxy.audit / name).stat().st_size, f"a new {name}")
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert not problems, problems
    proxy.settle()  # with the last tunnel gone, its record is on its way
    proxy.stop()
    assert any(path.suffix == ".gz" for path in rotated("access.jsonl")), "older ones are compressed"

    def everything(name):
        lines = []
        for path in [*rotated(name), proxy.audit / name]:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert data.endswith(b"\n"), path
            lines += [record for record in map(json.loads, data.splitlines()) if record["kind"] != "deny_summary"]
        keys = [(record["id"], record["kind"]) for record in lines]
        assert len(keys) == len(set(keys)), f"{name}: a record is in two places"
        return {key: record for key, record in zip(keys, lines)}

    records = everything("access.jsonl")
    opened = [(r["user"], r["client_port"]) for r in records.values() if r["kind"] == "open"]
    assert sorted(opened) == sorted(served)
    assert sum(r["kind"] == "close" for r in records.values()) == len(served)
    assert sum(r["kind"] == "deny" for r in records.values()) == len(denied)
    for user in set(users):
        mine = everything(f"users/{user}.jsonl")
        assert mine == {key: record for key, record in records.items() if record["user"] == user}
    assert everything("strangers.jsonl"), "rotated as well"


# --- fail2ban ---

FILTER = DIST / "fail2ban/filter.d/adit.conf"


def banned(log):
    """The addresses that fail2ban takes out of a file, one for each line that counts."""
    command = [need("fail2ban-regex", "fail2ban"), "-o", "<ip>", log, FILTER]
    return run(*command).stdout.split()


# What strangers may call themselves, or where they may want to go, so as to have another's address banned.
FORGERIES = [
    'x","client":"198.51.100.7","client_port":1,"reason":"auth_failed"}',
    'x\\","client":"198.51.100.7","client_port":1,"reason":"auth_failed"}',
    'x\n{"time":"2026-01-01T00:00:00.000000Z","kind":"deny","client":"198.51.100.7","reason":"auth_failed"}',
    '198.51.100.7', '<HOST>198.51.100.7', '","reason":"auth_failed"', "\u2028198.51.100.7", "\\", '\\"', "x" * 400,
]


def test_fail2ban_finds_wrong_passwords(start, origin):
    proxy = start({"listen": [{"address": "[::]:0"}]})
    target = origin(echo).target
    for host in HOSTS:
        proxy.address = ("127.0.0.1" if "." in host else "::1", proxy.port)
        assert proxy.refused(target, password="wrong", source=host).word() == "auth_failed"
        assert proxy.refused(target, "nobody", source=host).word() == "auth_failed"
        assert proxy.refused(target, None, source=host).word() == "auth_required"
        with proxy.tunnel(target, source=host):
            pass
        assert proxy.refused("10.1.2.3:443", source=host).status == 403
    until(lambda: len(proxy.records("strangers.jsonl")) == 3 * len(HOSTS), "the records")
    assert banned(proxy.audit / "strangers.jsonl") == [host for host in HOSTS for _ in range(2)]
    assert not banned(proxy.audit / "access.jsonl"), "a user's own refusals and accesses are none"


def test_fail2ban_is_not_fooled(start, origin, lab):
    """Every text that a stranger can write into a record, refused for the password and for something else."""
    proxy = start()
    target = origin(echo).target
    failed = []
    for n, text in enumerate(FORGERIES):
        host = f"127.0.{n + 1}.4"  # refusals of one network are put on record one by one up to a rate
        with proxy.open(source=host) as conn:
            answer = conn.ask(connect_head(target, text.replace(":", ";"), "wrong"))
            assert answer.status == 407
            if answer.word() == "auth_failed":
                failed.append(host)
        with proxy.open(source=host) as conn:
            head = b"CONNECT " + text.replace("\n", "").replace(" ", "").encode() + b" HTTP/1.1\r\nHost: x\r\n"
            login = basic(text.replace(":", ";"), "wrong")
            answer = conn.ask(head + f"Proxy-Authorization: Basic {login}\r\n\r\n".encode())
            assert answer.status >= 400
            if answer.word() == "auth_failed":
                failed.append(host)
        with proxy.open(source=host) as conn:
            head = b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nUser-Agent: " + text.replace("\n", "").encode() + b"\r\n\r\n"
            assert conn.ask(head).status >= 400
    assert len(failed) >= len(FORGERIES) - 2, "names with line breaks are no names; all others were tried"
    with proxy.open(client_context(lab.certificates.ca, check=False), FORGERIES[0], source="127.0.77.4") as conn:
        assert conn.ask(connect_head(target, password="wrong")).status == 407
        failed.append("127.0.77.4")
    records = until(lambda: (seen := proxy.records("strangers.jsonl")) and len(seen) > 3 * len(FORGERIES) and seen, "all")
    assert sum(r["reason"] == "auth_failed" for r in records) == len(failed)
    assert sorted(banned(proxy.audit / "strangers.jsonl")) == sorted(failed)
    # the same texts within our own lines: a line that is cut, or preceded by something, is no record
    lines = (proxy.audit / "strangers.jsonl").read_text().splitlines()
    good = next(line for line in lines if '"auth_failed"' in line)
    odd = proxy.folder / "odd.jsonl"
    odd.write_text("".join(f"{line}\n" for line in (
        good[:-1], f"x{good}", f'{{"time":"x","note":{good}}}', good.replace('"deny"', '"deny_summary"'),
        good.replace('"auth_failed"', '"auth_required"'), good.replace('"auth_failed"', '"auth_throttled"'),
    )))
    assert not banned(odd)


class Fail2ban:
    """A server of the test's own: its configuration, socket and database, and an action that only writes addresses."""

    def __init__(self, folder, proxy):
        self.program = need("fail2ban-server", "fail2ban")
        self.folder = folder
        config = folder / "fail2ban"
        shutil.copytree("/etc/fail2ban", config)
        for jail in (config / "jail.d").glob("*"):
            jail.unlink()
        shutil.copy(FILTER, config / "filter.d/adit.conf")
        shutil.copy(DIST / "fail2ban/jail.d/adit.conf", config / "jail.d/adit.conf")
        self.bans = folder / "bans"
        (config / "action.d/note.conf").write_text(f"[Definition]\nactionban = echo <ip> >> {self.bans}\n")
        (config / "jail.d/zz-test.local").write_text(
            f"[adit]\nlogpath = {proxy.audit}/strangers.jsonl\naction = note\nignoreself = false\nmaxretry = 5\n"
        )
        (config / "fail2ban.local").write_text(
            f"[Definition]\nlogtarget = {folder}/fail2ban.log\nsocket = {folder}/socket\npidfile = {folder}/pid\n"
            "dbfile = None\n"
        )
        command = [self.program, "-c", config, "-s", folder / "socket", "-p", folder / "pid"]
        run(*command, "-t")
        self.process = subprocess.Popen(
            [*map(str, command), "-f", "start"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=environment({"TZ": "Asia/Tokyo"}),  # the time in a record is that of UTC
        )
        until(lambda: "Jail 'adit' started" in self.log() or self.process.poll() is not None, "the jail", 60)
        assert self.process.poll() is None, self.log()

    def log(self):
        path = self.folder / "fail2ban.log"
        return path.read_text() if path.exists() else ""

    def banned(self):
        return self.bans.read_text().split() if self.bans.exists() else []

    def close(self):
        self.process.terminate()
        self.process.wait(30)


def test_fail2ban_bans_who_guesses(start, origin, tmp_path):
    """The shipped jail in a real server, whose last step is written down instead of done."""
    proxy = start()
    jail = Fail2ban(tmp_path, proxy)
    try:
        target = origin(echo).target
        for n in range(6):
            proxy.refused(target, password=f"guess {n}", source="127.0.0.5")
            proxy.refused(target, None, source="127.0.0.6")
            with proxy.tunnel(target, source="127.0.0.6"):
                pass
        until(lambda: "127.0.0.5" in jail.banned(), "the ban", 30)
        assert set(jail.banned()) == {"127.0.0.5"}, jail.log()
    finally:
        jail.close()
