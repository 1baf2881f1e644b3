"""Programs people use, as they come from Debian's packages."""

import os
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest
from client import basic
from origin import digest
from proxy import environment


@pytest.fixture
def git(proxy, lab, tmp_path):
    assert shutil.which("git"), "git is not installed"

    def run(*arguments, user="alice", check=True):
        env = environment({
            "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSL_CAINFO": str(lab.certificates.ca), "GIT_PROXY_SSL_CAINFO": str(lab.certificates.ca),
            "https_proxy": proxy.url(user), "no_proxy": "",
            "GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "10",
        })
        result = subprocess.run(["git", *map(str, arguments)], env=env, capture_output=True, text=True, timeout=60)
        assert not check or result.returncode == 0, result.stderr
        return result

    return run


@pytest.mark.parametrize("protocol", ["dumb", "smart"])
def test_git_clone(git, web, repository, tmp_path, protocol):
    name, checksum = repository
    url = f"{web.url}/{name}" if protocol == "dumb" else f"{web.url}/smart/{name}"
    git("clone", "-q", url, tmp_path / "clone")
    assert (tmp_path / "clone/README").read_text() == "cloned through the proxy\n"
    assert digest((tmp_path / "clone/big.bin").read_bytes()) == checksum


def test_git_without_a_login(git, web, repository, tmp_path):
    result = git("clone", "-q", f"{web.url}/{repository[0]}", tmp_path / "clone", user=None, check=False)
    assert result.returncode != 0 and "407" in result.stderr


def test_openssl_s_client(proxy, lab, web):
    """The way by hand: verified certificate, a CONNECT typed in, an end without error."""
    head = f"CONNECT 127.0.0.1:{web.port} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {basic('alice')}\r\n\r\n"
    result = subprocess.run(
        ["openssl", "s_client", "-connect", f"localhost:{proxy.port}", "-CAfile", lab.certificates.ca,
         "-verify_return_error", "-servername", "proxy.test", "-quiet", "-no_ign_eof"],
        input=head.encode() + b"not TLS", capture_output=True, timeout=30,
    )
    assert result.returncode == 0, result.stderr


def test_python_urllib_speaks_no_tls_to_proxies(proxy):
    """What a client without support for https proxies sends gets the sentence that says so."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"https": f"http://localhost:{proxy.port}"}))
    with pytest.raises(urllib.error.URLError) as caught:
        opener.open("https://origin.test/", timeout=20)
    assert "400" in str(caught.value)


def test_curl_options_of_everyday(proxy, curl, web, lab, tmp_path):
    """Several sites over one curl, an upload that expects 100-continue, options about TLS."""
    assert curl(proxy, f"{web.url}/hello", f"https://origin.test:{web.port}/hello").stdout.count("hello") == 2
    data = tmp_path / "data"
    data.write_bytes(os.urandom(2_000_000))
    answer = curl(proxy, "-H", "Expect: 100-continue", "--data-binary", f"@{data}", f"{web.url}/upload").stdout
    assert answer == digest(data.read_bytes())
    for flags in (["--tlsv1.3"], ["--proxy-tlsv1"], ["--proxy-ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"], ["--http2"]):
        assert curl(proxy, *flags, f"{web.url}/hello").stdout == "hello from the origin\n"


def test_curl_with_the_environment_alone(proxy, web, lab):
    env = environment({"https_proxy": proxy.url(), "no_proxy": ""})
    ca = lab.certificates.ca
    command = ["curl", "-q", "-sS", "--proxy-cacert", ca, "--cacert", ca, f"{web.url}/hello"]
    result = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, timeout=30)
    assert result.stdout == "hello from the origin\n", result.stderr


INNER = [b"\x16\x03\x03\x00\x04aaaa", b"\x17\x03\x03\x00\x05bbbbb", b"\x17\x03\x03\x00\x06cccccc"]


@pytest.mark.parametrize("partial", [b"", b"\x17\x03\x03\x01\x00begun"], ids=["whole", "and-a-beginning"])
def test_the_last_inner_record_comes_in_a_record_of_its_own(proxy, origin, partial):
    """git of Debian (libcurl with GnuTLS) takes one inner TLS record, then waits for its socket. When more of them came
    in one outer record it waits for ever, unless something is left in the socket: so the last complete one must be."""

    def burst(seen):
        seen.recv()
        seen.send(b"".join(INNER) + partial)
        seen.recv()

    with proxy.tunnel(origin(burst).target) as conn:
        conn.send(b"x")
        everything, pieces = b"".join(INNER) + partial, []
        while sum(map(len, pieces)) < len(everything):
            pieces.append(conn.recv())  # a read never returns more than one record
        assert b"".join(pieces) == everything
        assert INNER[-1] in pieces or INNER[-1] + partial in pieces
