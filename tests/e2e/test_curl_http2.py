"""curl over HTTP/2 to the proxy (--proxy-http2). Without a curl that can (8.1 and later; scripts/newer-curl fetches one)
this file is skipped."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from http_origin import HttpOrigin, response
from origin import digest, pattern
from pki import PASSWORD
from wait import until

SIZE = 20_000_000
NEWER = Path(__file__).resolve().parents[2] / "build/curl/curl"


def speaks_http2(program):
    try:
        said = subprocess.run([program, "--help", "all"], capture_output=True, text=True, timeout=30).stdout
    except OSError:
        return False
    return "--proxy-http2" in said


@pytest.fixture(scope="session")
def program():
    for path in shutil.which("curl"), str(NEWER):
        if path and speaks_http2(path):
            return path
    pytest.skip("this curl has no --proxy-http2, and scripts/newer-curl has fetched none")


@pytest.fixture
def curl2(curl, program):
    return lambda proxy, *arguments, **options: curl(proxy, "--proxy-http2", *arguments, program=program, **options)


def over_h2(proxy, port, count=1):
    """The records of what went to this port of an origin: so many, all over HTTP/2."""
    def ended():
        found = [r for r in proxy.records() if r["kind"] == "close" and f":{port}/" in r["target"] + "/"]
        return found if len(found) >= count else None

    found = until(ended, "the records")
    assert len(found) == count and {record["protocol"] for record in found} == {"h2"}
    return found


def test_download_and_upload(start, curl2, web, tmp_path):
    proxy = start()
    out, data = tmp_path / "out", tmp_path / "data"
    data.write_bytes(pattern(SIZE))
    curl2(proxy, "-o", out, f"{web.url}/bytes?n={SIZE}")
    assert digest(out.read_bytes()) == digest(pattern(SIZE))
    assert curl2(proxy, "-T", data, f"{web.url}/upload").stdout == digest(pattern(SIZE))
    up, down = sorted(over_h2(proxy, web.port, 2), key=lambda record: record["bytes_down"])
    assert down["bytes_down"] > SIZE and up["bytes_up"] > SIZE


@pytest.mark.parametrize("inner", ["--http1.1", "--http2"])
def test_what_is_spoken_inside(start, curl2, web, inner):
    proxy = start()
    urls = [f"{web.url}/hello?{i}" for i in range(10)]
    assert curl2(proxy, inner, *urls).stdout == "hello from the origin\n" * 10
    over_h2(proxy, web.port)  # one tunnel for all


def test_50_at_once(start, curl2, web, tmp_path):
    proxy = start()
    urls, meeting = [], os.urandom(4).hex()
    for i in range(50):
        urls += ["-o", tmp_path / f"out{i}", f"{web.url}/together?n=50&meeting={meeting}&{i}"]
    curl2(proxy, "--parallel", "--parallel-immediate", "--parallel-max", "50", "--http1.1", *urls)
    assert {(tmp_path / f"out{i}").read_bytes() for i in range(50)} == {b"all here"}
    over_h2(proxy, web.port, 50)


def test_forwarded(start, curl2, origin):
    """An http:// URL: a request over HTTP/2 and no tunnel."""
    proxy = start()
    target = HttpOrigin(lambda request: iter([response(body=pattern(SIZE))]))
    origin.keep(target)
    answer = curl2(proxy, "-o", "/dev/null", "-w", "%{http_code} %{size_download} %{http_version}", target.url()).stdout
    assert answer == f"200 {SIZE} 2"
    assert [record["method"] for record in over_h2(proxy, target.port)] == ["GET"]


def test_http_by_a_tunnel(start, curl2, origin):
    proxy = start()
    target = HttpOrigin(lambda request: iter([response(body=b"by a tunnel")]))
    origin.keep(target)
    assert curl2(proxy, "--proxytunnel", target.url()).stdout == "by a tunnel"
    assert [record["method"] for record in over_h2(proxy, target.port)] == ["CONNECT"]


@pytest.mark.parametrize("user, password, reason", [
    ("alice", "wrong", "auth_failed"), (None, None, "auth_required"), ("bob", PASSWORD, "denied"),
])
def test_sent_away(start, curl2, web, user, password, reason):
    """Once, and at once. curl does not say with which status, over HTTP/2."""
    rule = {"name": "alices", "action": "allow", "users": ["alice"], "to": ["loopback"], "ports": ["any"]}
    proxy = start({"policy": {"rules": [rule]}})
    assert curl2(proxy, f"{web.url}/hello", user=user, password=password, check=False).returncode == 56
    [record] = until(lambda: proxy.records() + proxy.records("strangers.jsonl"), "the record")
    assert (record["reason"], record["protocol"]) == (reason, "h2")


def test_an_address_without_http2(start, curl2, web):
    """ALPN: the two agree on HTTP/1.1."""
    proxy = start({"listen": [{"address": "127.0.0.1:0", "http2": False}]})
    assert curl2(proxy, f"{web.url}/hello").stdout == "hello from the origin\n"
    assert {r["protocol"] for r in proxy.records()} == {"http/1.1"}
