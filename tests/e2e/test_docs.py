"""What the documents tell people to type works: the examples with jq on real records, each configuration, and the hook
for renewed certificates."""

import json
import os
import re
import signal
import subprocess

import pytest
from proxy import TOP, adit
from tools import need

CONFIGURATION = (TOP / "docs/configuration.md").read_text()
READING = (TOP / "docs/audit.md").read_text().partition("\n## Reading it\n")[2]


def commands(text):
    """{comment: command} of the indented lines."""
    found = {}
    for block in re.findall(r"(?:^    .*\n)+", text, re.M):
        lines = [line[4:] for line in block.splitlines()]
        assert lines[0].startswith("# "), f"an example without a comment: {block}"
        found[lines[0][2:]] = "\n".join(lines[1:])
    return found


EXAMPLES = commands(READING)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", CONFIGURATION, re.M | re.S)


@pytest.fixture
def records(start, web):
    """The folder of a proxy that has seen every kind of record, and the id of an access."""
    proxy = start({
        "policy": {"rules": [
            {"name": "closed", "action": "deny", "to": ["origin.test"], "ports": [22]},
            {"name": "lab", "action": "allow", "to": ["loopback"], "ports": ["any"]},
        ]},
        "audit": {"progress": "50ms"},
        "deadlines": {"drain": "10ms"},
    })
    held = proxy.tunnel(f"127.0.0.1:{web.port}")
    with proxy.tunnel(f"origin.test:{web.port}") as conn:
        done = proxy.record_of(conn, "open")["id"]
    proxy.record(kind="close", id=done)
    proxy.record(kind="progress")
    assert proxy.refused("origin.test:22").status == 403
    proxy.record(kind="deny")
    proxy.kill()
    held.close()
    again = start({"audit": {"directory": str(proxy.audit)}})
    for _ in range(40):  # more than are written one by one; the rest is counted at the end
        assert again.refused("origin.test:443", password="wrong").status == 407
    again.signal(signal.SIGTERM)
    again.wait_stopped()
    with open(proxy.audit / "access.jsonl", "a") as file:
        file.write('{"time":"2026-\n')  # what a kill may leave where nothing can be cut
    return proxy.audit, done


def test_there_are_examples():
    assert len(EXAMPLES) >= 7 and len(blocks("yaml")) >= 5 and len(blocks("sh")) == 1


@pytest.mark.parametrize("what", EXAMPLES)
def test_reading_records(records, what):
    folder, done = records
    jq = need("jq", "jq")
    command = EXAMPLES[what].replace("tail -F", "tail -n +1").replace("www.example.org", "origin.test")
    command = re.sub(r'"01[0-9A-Z]{24}"', f'"{done}"', command)
    if "broken" not in what:
        lines = (folder / "access.jsonl").read_text().splitlines()
        (folder / "access.jsonl").write_text("".join(line + "\n" for line in lines if line.endswith("}")))
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True, timeout=30,
        env=os.environ | {"PATH": f"{os.path.dirname(jq)}:{os.environ['PATH']}"},
    )
    assert result.returncode == 0 and not result.stderr, result.stderr
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert rows, f"it found nothing: {command}"
    if "without an end" in what:
        assert len(rows) == 1 and rows[0][1] == "alice"
    elif "guesses" in what:
        assert sum(int(row[-1]) for row in rows) == 40 and {row[1] for row in rows} <= {"alice", "-"}
    elif "refusals" in what:
        assert rows[0][0].split() == ["1", "closed"] and rows[0][1:] == ["alice", "origin.test:22"]
    elif "one access" in what:
        assert {json.loads(row[0])["kind"] for row in rows} >= {"open", "close"}


@pytest.mark.parametrize("number", range(len(blocks("yaml"))))
def test_configurations_load(lab, tmp_path, number):
    """Each as it stands there, but for the files that it names."""
    config = tmp_path / "adit.yaml"
    config.write_text(blocks("yaml")[number])
    users = tmp_path / "users.htpasswd"
    users.write_text(lab.htpasswd_text)
    users.chmod(0o600)
    secret = tmp_path / "ticket.secret"
    secret.write_text("s" * 64)
    secret.chmod(0o600)
    (tmp_path / "audit").mkdir(mode=0o750)
    chain, key = lab.certificates.proxy
    result = adit(
        "check", "--quiet", "-c", config, "--cert", chain, "--key", key, "--htpasswd", users, "--audit-dir",
        tmp_path / "audit", "--set", f"tls.ticket_secret={secret}",
    )
    assert result.returncode == 0, result.stderr


def test_hook_for_renewed_certificates(start, lab, tmp_path):
    """Files of the documents' names in a folder of the test, and a systemctl that does what the unit's does."""
    chain, key = lab.certificates.proxy
    folder = tmp_path / "adit"
    folder.mkdir()
    for name, source in (("proxy.crt", chain), ("proxy.key", key)):
        (folder / name).write_bytes(source.read_bytes())
    proxy = start({"tls": {"certificates": [{"chain": str(folder / "proxy.crt"), "key": str(folder / "proxy.key")}]}})
    lineage = tmp_path / "lineage"
    lineage.mkdir()
    (lineage / "fullchain.pem").write_bytes(chain.read_bytes() + b"\n")
    (lineage / "privkey.pem").write_bytes(key.read_bytes())
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text(f'#!/bin/sh\n[ "$*" = "reload adit" ] && kill -HUP {proxy.process.pid}\n')
    (programs / "systemctl").chmod(0o755)
    group = subprocess.run(["id", "-gn"], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    hook = tmp_path / "hook"
    hook.write_text(blocks("sh")[0].replace("/etc/adit/", f"{folder}/").replace("-g adit", f"-g {group}"))
    subprocess.run(
        ["sh", hook], check=True, timeout=30,
        env=os.environ | {"RENEWED_LINEAGE": str(lineage), "PATH": f"{programs}:{os.environ['PATH']}"},
    )
    proxy.said("the new configuration is in force")
    assert (folder / "proxy.crt").read_bytes() == (lineage / "fullchain.pem").read_bytes()
    assert (folder / "proxy.key").stat().st_mode & 0o777 == 0o640
    with proxy.open():
        pass
