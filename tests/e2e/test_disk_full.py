"""A real disk that is full: records in a small tmpfs. Needs root, for the mount."""

import json
import os
import subprocess

import pytest
from client import connect_head
from origin import echo
from proxy import Proxy
from wait import until

SIZE = 256 * 1024


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no tmpfs here: {made.stderr.strip()}")
    yield folder  # asked for before `start`, whose proxy must have gone by then
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    """To the last byte."""
    with open(folder / "ballast", "ab", buffering=0) as file:
        for chunk in (4096, 256, 16, 1):
            try:
                while True:
                    file.write(bytes(chunk))
            except OSError:
                pass


def open_proxy(start, lab, tmp_path, small_disk, on_failure):
    proxy = Proxy(lab, tmp_path, {"audit": {"directory": str(small_disk), "on_failure": on_failure}})
    proxy.audit = small_disk
    return start.launch(proxy)


def no_torn_line(proxy):
    for path in [proxy.audit / "access.jsonl", *proxy.audit.glob("users/*.jsonl")]:
        lines = path.read_bytes().split(b"\n")
        assert lines[-1] == b"", f"{path.name} ends within a line"
        for line in lines[:-1]:
            json.loads(line)


def test_nothing_is_let_through(small_disk, start, lab, tmp_path, origin):
    proxy = open_proxy(start, lab, tmp_path, small_disk, "deny")
    target = origin(echo).target
    with proxy.tunnel(target) as living:
        fill(small_disk)
        # A page that is begun may still take some records.
        refused = until(lambda: (answer := ask(proxy, target)).status != 200 and answer, "a refusal")
        assert (refused.status, refused.word()) == (503, "audit_unavailable")
        for _ in range(5):
            assert proxy.refused(target).word() == "audit_unavailable"
        proxy.said("nothing is let through")
        living.send(b"on and on")
        assert living.recv_exactly(9) == b"on and on"
        (small_disk / "ballast").unlink()
        until(lambda: ask(proxy, target).status == 200, "room again")
        proxy.said("writing again")
        # what had to wait is on record now
        until(lambda: sum(r.get("reason") == "audit_unavailable" for r in proxy.records()) >= 6, "the refusals")
        no_torn_line(proxy)
        served = {r["id"] for r in proxy.records() if r["kind"] == "open"}
        refusals = {r["id"] for r in proxy.records() if r.get("reason") == "audit_unavailable"}
    # an open may stand in access.jsonl whose user's file was full: then its deny says so
    for record in proxy.records("users/alice.jsonl"):
        assert record["kind"] != "open" or record["id"] in served - refusals or record["id"] in refusals
    living_id = proxy.record_of(living, "open")["id"]
    proxy.record(kind="close", id=living_id)


def test_or_all_of_it_and_counted(small_disk, start, lab, tmp_path, origin):
    proxy = open_proxy(start, lab, tmp_path, small_disk, "allow")
    target = origin(echo).target
    ports = []
    with proxy.tunnel(target):
        fill(small_disk)
        for _ in range(12):
            with proxy.tunnel(target) as conn:
                ports.append(conn.name[1])
        proxy.said("requests go on without a record")
        (small_disk / "ballast").unlink()

        def ended():
            return {r["client_port"] for r in proxy.records() if r["kind"] == "close"}

        until(lambda: ask(proxy, target).status == 200 and set(ports) <= ended(), "the records that were kept")
        proxy.said("writing again")
    no_torn_line(proxy)


def ask(proxy, target):
    """The answer; a tunnel that comes of it is closed."""
    with proxy.open() as conn:
        return conn.ask(connect_head(target))
