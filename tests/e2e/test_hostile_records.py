"""What strangers write into records and diagnostics: lines stay lines, nothing is forged, nothing is a terminal's command,
and what they can fill is bounded."""

import json
import re
import subprocess
import time
import unicodedata
from base64 import b64encode
from collections import Counter

import pytest
from client import basic, connect_head
from origin import echo
from pki import htpasswd_line
from probe import FLOOR_S, LEAST, RATIO, ROUNDS, SMALL_QUARANTINE, Attack, Probe, p99, times, withstands
from proxy import Proxy
from wait import until

KINDS = {"open", "progress", "close", "deny", "deny_summary"}
STRANGERS_MAX = 64 << 10
OPEN = {"unauthenticated_per_prefix": "off", "handshakes_per_prefix": "off"}


class RawProxy(Proxy):
    """Keeps stderr as bytes, too: text mode would take a CR for the end of a line."""

    def _read_stderr(self):
        self.raw = b""
        for line in self.process.stderr.buffer:
            self.raw += line
            self.lines.append(line.decode(errors="replace").rstrip("\n"))
            if match := re.match(r"^adit: ready: listening on (\S+):(\d+)$", self.lines[-1]):
                self.addresses.append((match[1], int(match[2])))


# --- injection ---

FORGED = 'adit: ready: listening on 6.6.6.6:66'
FORGED_RECORD = '{"time":"2026-01-01T00:00:00.000000Z","kind":"open","user":"mallory","forged":1}'
TEXTS = {
    "newline": f"x\n{FORGED}\n".encode(),
    "return": f"x\r{FORGED}\r\n".encode(),
    "record": f'x"}}\n{FORGED_RECORD}\n{{"a":"'.encode(),
    "quotes": b'x","kind":"open","user":"mallory","forged":"1',
    "backslash": b'x\\",\\"forged\\":1,\\',
    "unicode escape": rb"x\u000aforged\u0022",
    "title": b"x\x1b]0;forged\x07",
    "colours": b"x\x1b[31mred\x1b[2J\x1b[1;1H",
    "c1": "x\x9b31m\x85\x90q".encode(),
    "raw c1": b"x\x9b31m\x85",
    "nul": b"x\x00y",
    "others": bytes(range(1, 32)) + b"\x7f",
    "direction": "x\u202eneila\u2066\u200f".encode(),
    "separators": "x\u2028y\u2029z".encode(),
    "invisible": "x\u200b\ufeff\u00ad\u180e\u3164\ufe0f\U000e0041\U000e007f".encode(),
    "overlong": b"x\xc0\x8a\xe0\x80\x8a",
    "surrogate": b"x\xed\xa0\x80\xed\xb0\x80",
    "broken": b"x\xff\xfe\xf5",
    "format": b"%s%n%d%%1$s",
    "long": b"y" * 7000,
    "long and bad": b"\xff\x1b" * 3000,
    "shell": b"$(reboot) `reboot` ;reboot|&",
    "csv": b"=cmd|' /C calc'!A0",
}


def places_of(text):
    """Heads with the text in every place that a head has."""
    target = "127.0.0.1:9"
    login = f"Proxy-Authorization: Basic {basic('alice')}"
    return {
        "user": connect_head(target, None, fields=["Proxy-Authorization: Basic " + b64encode(text + b":x").decode()]),
        "password": connect_head(target, None, fields=["Proxy-Authorization: Basic " + b64encode(b"alice:" + text).decode()]),
        "credentials": b"CONNECT %b HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %b\r\n\r\n" % (target.encode(), text),
        "scheme": b"CONNECT %b HTTP/1.1\r\nHost: x\r\nProxy-Authorization: %b abc\r\n\r\n" % (target.encode(), text),
        "target": b"CONNECT %b:443 HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (text, login.encode()),
        "port": b"CONNECT host.test:%b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (text, login.encode()),
        "host": b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n\r\n" % (target.encode(), text, login.encode()),
        "field name": b"CONNECT %b HTTP/1.1\r\nHost: x\r\n%b: y\r\n%b\r\n\r\n" % (target.encode(), text, login.encode()),
        "field value": b"CONNECT %b HTTP/1.1\r\nHost: x\r\nX: %b\r\n%b\r\n\r\n" % (target.encode(), text, login.encode()),
        "method": b"%b %b HTTP/1.1\r\nHost: x\r\n\r\n" % (text, target.encode()),
        "version": b"CONNECT %b HTTP/%b\r\nHost: x\r\n\r\n" % (target.encode(), text),
        "path": b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % text,
        "url": b"GET http://%b/ HTTP/1.1\r\nHost: x\r\n\r\n" % text,
    }


def no_duplicates(pairs):
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), names
    return dict(pairs)


def shows(character):
    """Nothing that moves a cursor, turns the direction or is not to be seen."""
    return unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp", "Cs") and character not in "\u3164\ufe0f"


def check_records(proxy):
    """Byte by byte: lines of JSON with nothing else in them. All records, by file."""
    found = {}
    for path in proxy.audit.rglob("*"):
        if not path.is_file():
            continue
        raw = path.read_bytes()
        assert raw.endswith(b"\n") or not raw
        assert all(byte >= 0x20 and byte != 0x7F for byte in raw if byte != 0x0A), path
        text = raw.decode()  # UTF-8, strictly
        assert all(shows(character) for character in text if character != "\n"), path
        records = [json.loads(line, object_pairs_hook=no_duplicates) for line in text.split("\n")[:-1]]
        for record in records:
            assert record["kind"] in KINDS and "forged" not in record, record
            assert record.get("user") in (None, "alice", "bob") and record["node"] == "e2e"
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["time"])
        found[str(path.relative_to(proxy.audit))] = records
    return found


def check_log(proxy):
    """Plain ASCII in lines that are all the program's own."""
    raw = proxy.raw
    assert re.fullmatch(rb"[\x20-\x7e\n]*", raw), re.findall(rb"[^\x20-\x7e\n]", raw)[:20]
    for line in raw.decode().splitlines():
        assert line.startswith("adit: "), line
    assert raw.count(b"adit: ready: listening on") - raw.count(FORGED.encode()) >= 1
    assert not any(line.startswith(FORGED) for line in proxy.lines)


@pytest.fixture
def verbose(lab, start, tmp_path):
    folder = tmp_path / "verbose"
    folder.mkdir()
    return start.launch(RawProxy(lab, folder, {"log": {"level": "debug"}, "limits": OPEN}))


def test_nothing_is_injected(verbose, origin):
    """Every text in every place of a head. Each from a network of its own and not too fast, so that each has its record.
    A known user sets up tunnels in between, and does not notice."""
    sent, refused = 0, Counter()
    probe = Probe(verbose, origin(echo).target)
    probe.series(least=5)
    quiet, beside = probe.series(least=LEAST), []
    for text in TEXTS.values():
        for place, head in places_of(text).items():
            begun = time.monotonic()
            with verbose.open(source=f"127.{50 + sent // 250}.{sent % 250}.1") as conn:
                conn.send(head)
                conn.fin()
                status = conn.response().status
            assert 400 <= status < 600, (text, place, status)
            sent += 1
            if status != 404:  # the proxy's own pages are not accesses
                refused[status] += 1
            if sent % 4 == 0:
                beside.append(probe.once())
            time.sleep(max(0, 1 / 40 - (time.monotonic() - begun)))  # 50 a second without a wrong password are recorded

    rounds = [beside[at :: ROUNDS] for at in range(ROUNDS)]  # each has all texts in it; see probe.py for one of so many
    assert any(p99(samples) <= max(FLOOR_S, RATIO * p99(quiet)) for samples in rounds)

    def denied():
        both = verbose.records("access.jsonl") + verbose.records("strangers.jsonl")
        return [record for record in both if record["kind"] == "deny"]

    until(lambda: len(denied()) >= refused.total(), "a record of each")
    verbose.settle()
    found = check_records(verbose)
    check_log(verbose)
    assert set(found) <= {"access.jsonl", "strangers.jsonl", "users/alice.jsonl"}
    everything = denied()
    assert len(everything) == refused.total()
    assert len({record["id"] for record in everything}) == refused.total()
    assert Counter(record["status"] for record in everything) == refused
    probes = 5 + len(quiet) + len(beside)
    assert len(verbose.lines) <= sent + probes + 10, "a line for each, and no more"
    claimed = {record.get("claimed_user") for record in found["strangers.jsonl"]}
    for text in ("quotes", "direction", "invisible", "shell", "csv", "format"):
        assert TEXTS[text].decode().partition(":")[0] in claimed, f"what was claimed is on record as it was: {text}"


def test_nothing_is_injected_by_the_name_asked_for_in_tls(verbose, origin):
    """SNI may be any bytes but NUL."""
    head, served = connect_head(origin(echo).target), []
    for name in (text for text in TEXTS.values() if b"\0" not in text and len(text) < 250):
        with subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{verbose.port}", "-quiet", "-no_ign_eof", "-nocommands",
             "-servername", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as client:
            client.stdin.write(head)
            client.stdin.flush()
            if b" 200 " in client.stdout.readline():
                served.append(name)
            client.stdin.close()
    until(lambda: sum(r["kind"] == "close" for r in verbose.records()) == len(served), "both records of each")
    verbose.settle()
    check_log(verbose)
    asked = {record.get("tls_sni") for record in check_records(verbose)["access.jsonl"]}
    for text in ("newline", "quotes", "title", "direction", "invisible", "csv"):
        assert TEXTS[text] in served and TEXTS[text].decode() in asked


def test_users_whose_names_are_hostile(lab, start, tmp_path, origin):
    """A password file may hold names that a terminal would obey: what is recorded of them is text as well."""
    hash_of = htpasswd_line("x").split(":", 1)[1]
    names = [TEXTS[text].decode() for text in ("c1", "direction", "separators", "invisible", "shell", "csv", "format")]
    names.append('x","user","mallory\\')
    folder = tmp_path / "named"
    folder.mkdir()
    users = "".join(f"{name}:{hash_of}\n" for name in ["alice", *names])
    proxy = start.launch(RawProxy(lab, folder, {"log": {"level": "debug"}}, users=users))
    target = origin(echo).target
    for name in names:
        proxy.tunnel(target, name).close()
        proxy.refused("127.0.0.1:1", name)
    until(lambda: len(proxy.records()) == 3 * len(names), "all records")
    proxy.settle()
    check_log(proxy)
    for path in proxy.audit.rglob("*.jsonl"):
        text = path.read_text()
        assert all(shows(character) for character in text if character != "\n")
        assert re.fullmatch(r"[A-Za-z0-9_@+.%-]+", path.name)
    assert {record["user"] for record in proxy.records()} == set(names)


# --- what strangers can fill ---


@pytest.fixture
def kept_open(start):
    """Connections outlive a refusal, so that refusals are cheap."""
    return start(
        {
            "listen": [{"address": "127.0.0.1:0", "close_after_refusal": False}], "limits": OPEN,
            "audit": {"strangers_max": f"{STRANGERS_MAX >> 10}KiB"},
        },
        env=SMALL_QUARANTINE,
    )


def strangers_said(proxy):
    """(size, records) of both of their files."""
    files = [path for path in proxy.audit.glob("strangers.jsonl*")]
    assert {path.name for path in files} <= {"strangers.jsonl", "strangers.jsonl.1"}
    assert all(path.stat().st_size <= STRANGERS_MAX for path in files)
    return [record for path in files for record in map(json.loads, path.read_text().splitlines())]


def test_thousands_of_made_up_users(kept_open, origin, tmp_path):
    """Each costs a hash, in a line where the known user does not stand, and none gets a file or keeps memory."""
    probe = Probe(kept_open, origin(echo).target)
    attack = {"port": kept_open.port, "network": 60, "target": "127.0.0.1:9", "times": times(600, 10000)}
    tally = withstands(probe, lambda: Attack(tmp_path, "made_up_users", per_second=800, **attack))
    assert tally["407"] >= 1000 and set(tally) <= {"407", "503"}
    assert [path.name for path in kept_open.audit.glob("users/*")] == ["alice.jsonl"]
    assert {record["user"] for record in kept_open.records()} == {"alice"}
    strangers_said(kept_open)


@pytest.mark.parametrize("networks", [1, 200])
def test_strangers_cannot_fill_the_disk(kept_open, origin, tmp_path, networks):
    """Thousands of refusals from one network, or from many: ten records a second for each and a hundred for all, in files
    that do not grow beyond their size; the rest is counted, and nobody who has logged in is hit."""
    probe = Probe(kept_open, origin(echo).target)
    attack = {"port": kept_open.port, "network": 61, "networks": networks, "times": times(1000, 20000)}
    tally = withstands(
        probe, lambda: Attack(tmp_path, "strangers", target="127.0.0.1:9", per_second=2000, **attack)
    )
    records = strangers_said(kept_open)
    seconds = Counter(record["time"][:19] for record in records if record["kind"] == "deny")
    # The second is that of the proxy's monotonic clock, so two of its seconds may share one of the wall's.
    assert max(seconds.values()) <= 2 * (10 if networks == 1 else 100)
    opened = [record for record in kept_open.records() if record["kind"] == "open"]
    assert len(opened) > 100, "every tunnel of the probe has its record"
    kept_open.stop()
    rotated = (kept_open.audit / "strangers.jsonl.1").exists()
    records = strangers_said(kept_open)
    summed = sum(record["count"] for record in records if record["kind"] == "deny_summary")
    denied = sum(record["kind"] == "deny" for record in records)
    assert summed > 0
    if not rotated:
        assert summed + denied == tally["407"], "each is on record or counted"
    assert not list(kept_open.audit.glob("users/[!a]*"))
