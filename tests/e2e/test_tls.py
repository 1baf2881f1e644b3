"""TLS towards clients: versions, certificates by name, tickets over workers, and handshakes that go wrong."""

import os
import re
import select
import ssl
import subprocess

import pytest
from client import client_context, connect_head
from origin import unused_port
from pki import run
from proxy import Proxy, adit
from wait import until

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = {"1.2": V12, "1.3": V13}
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: proxy.test\r\n\r\n"


def only(lab, version, **options):
    return client_context(lab.certificates.ca, low=version, high=version, **options)


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_served(proxy, lab, version):
    with proxy.open(only(lab, VERSIONS[version])) as conn:
        assert conn.tls.version() == f"TLSv{version}"
        assert conn.ask(HEALTH).status == 200
        name, _, bits = conn.tls.cipher()
        assert ("GCM" in name or "CHACHA20" in name) and bits >= 128


def s_client(proxy, *arguments, text="", timeout=20, check=False):
    return run(
        "openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", *arguments, text=text, check=check,
        timeout=timeout,
    )


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(proxy, version):
    result = s_client(proxy, version, "-cipher", "ALL:@SECLEVEL=0")
    assert result.returncode != 0 and "protocol version" in result.stderr


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "AES128-GCM-SHA256"])
def test_old_suites_are_refused(proxy, cipher):
    result = s_client(proxy, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
    assert result.returncode != 0 and "handshake failure" in result.stderr


def test_only_1_3_by_configuration(start, lab):
    proxy = start({"tls": {"minimum_version": "1.3"}})
    with pytest.raises(ssl.SSLError):
        proxy.open(only(lab, V12))
    proxy.open(only(lab, V13)).close()


def test_the_name_chooses_the_certificate(start, lab):
    chain, key = map(str, lab.certificates.proxy)
    other_chain, other_key = map(str, lab.certificates.other)
    proxy = start({"tls": {"certificates": [{"chain": chain, "key": key}, {"chain": other_chain, "key": other_key}]}})
    subjects = {}
    for name in ("proxy.test", "other.test", "OTHER.test"):
        with proxy.open(server_name=name) as conn:  # the name is verified, too
            subjects[name] = dict(part[0] for part in conn.tls.getpeercert()["subject"])["commonName"]
    assert subjects == {
        "proxy.test": "adit e2e proxy", "other.test": "adit e2e other", "OTHER.test": "adit e2e other",
    }
    # A stranger's name gets the first one, and so does nobody's.
    context = client_context(lab.certificates.ca, check=False)
    for name in ("stranger.test", None):
        with proxy.open(context, server_name=name) as conn:
            assert ("commonName", "adit e2e proxy") in [part[0] for part in conn.tls.getpeercert()["subject"]]


@pytest.mark.parametrize("offer, chosen", [(["http/1.1"], "http/1.1"), (["foo", "http/1.1"], "http/1.1"), (None, None)])
def test_alpn(proxy, lab, offer, chosen):
    with proxy.open(client_context(lab.certificates.ca, alpn=offer)) as conn:
        assert conn.tls.selected_alpn_protocol() == chosen
        assert conn.ask(HEALTH).status == 200


@pytest.mark.parametrize("version", VERSIONS)
def test_tickets_are_good_on_every_worker(proxy, lab, version):
    """The kernel spreads connections over the workers: 16 of them do not all fall on the one that made a ticket."""
    context = only(lab, VERSIONS[version])
    session = None
    resumed = 0
    for i in range(17):
        with proxy.open(context, session=session) as conn:
            assert conn.ask(HEALTH).status == 200  # in TLS 1.3 the ticket comes behind the handshake
            resumed += conn.tls.session_reused
            session = conn.tls.session
    assert resumed == 16


@pytest.mark.parametrize("version, flag", [("1.2", "-tls1_2"), ("1.3", "-tls1_3")])
def test_one_ticket_per_handshake(proxy, version, flag):
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", flag, "-msg", "-ign_eof"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    out, _ = process.communicate(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", timeout=20)
    assert b"HTTP/1.1 200" in out
    assert len(re.findall(rb"<<<.*Handshake.*NewSessionTicket", out)) == 1


def test_a_resumed_session_still_needs_credentials(proxy, lab, origin):
    target = origin()
    context = only(lab, V12)
    with proxy.tunnel(target.target, context=context) as conn:
        session = conn.tls.session
    with proxy.open(context, session=session) as conn:
        assert conn.tls.session_reused
        assert conn.ask(connect_head(target.target, user=None)).status == 407


def test_renegotiation_is_refused(proxy):
    """A line "R" makes s_client ask for it."""
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", "-tls1_2"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    out, _ = process.communicate(b"R\n", timeout=20)
    assert b"RENEGOTIATING" in out and b"no renegotiation" in out


def test_a_truncated_handshake(proxy):
    """Every proper prefix of a ClientHello, then FIN: closed, quietly."""
    with proxy.tcp() as probe:
        hello = probe.start_tls(proxy.lab.context).hello()
    for size in (1, 4, 5, 6, 50, len(hello) - 1):
        with proxy.tcp() as conn:
            conn.send(hello[:size])
            conn.fin()
            assert not conn.recv_all().startswith(b"HTTP")


def test_a_reset_in_the_handshake(proxy):
    for size in (0, 5, 100):
        conn = proxy.tcp()
        hello = conn.start_tls(proxy.lab.context).hello()
        conn.sock.sendall(hello[:size])
        conn.reset()
    proxy.settle()


def test_a_handshake_byte_by_byte(proxy):
    with proxy.tcp() as conn:
        hello = conn.start_tls(proxy.lab.context).hello()
        for i in range(len(hello)):
            conn.sock.sendall(hello[i : i + 1])
        assert conn.handshake().ask(HEALTH).status == 200


def test_a_client_that_says_goodbye_before_any_request(proxy):
    with proxy.open() as conn:
        conn.finish()
        assert conn.recv_all() == b"" and conn.end in ("clean", "reset")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_goodbye_within_the_head(proxy, lab, version):
    for end in ("finish", "fin", "reset"):
        conn = proxy.open(only(lab, VERSIONS[version]))
        conn.send(b"CONNECT 127.0.0.1:1 HTT")
        getattr(conn, end)()
        conn.close()
    proxy.settle()


def test_key_updates_are_answered(proxy, origin):
    """s_client's "k" line sends a KeyUpdate; the tunnel goes on."""
    target = origin()
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", "-tls1_3", "-servername", "proxy.test"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    # Each line is a read of its own to s_client, or it would not take "k" for a command. Newer ones take a "C" at the
    # beginning for one, too, but not behind the empty line that may stand before a request (RFC 9112 2.2).
    process.stdin.write(b"\r\n" + connect_head(target.target))
    process.stdin.flush()
    seen = target.first()
    for line in (b"before\n", b"k\n", b"after\n"):
        process.stdin.write(line)
        process.stdin.flush()
        if line != b"k\n":
            until(lambda: line in bytes(seen.data), f"{line} at the origin")
        else:
            until(lambda: keyupdate_sent(process), "the key update")
    process.stdin.close()
    process.stdout.read()
    process.wait(20)


def keyupdate_sent(process):
    """s_client writes KEYUPDATE on its standard error as soon as it has asked for one."""
    buffer = getattr(process, "seen_output", b"")
    while select.select([process.stdout], [], [], 0)[0]:
        chunk = os.read(process.stdout.fileno(), 65536)
        if not chunk:
            break
        buffer += chunk
    process.seen_output = buffer
    return b"KEYUPDATE" in buffer


def test_many_handshakes_given_up_at_once(proxy):
    """Fifty connections in all states, then all closed: the leak gate behind this test says whether any is left."""
    conns = []
    for i in range(50):
        conn = proxy.tcp()
        hello = conn.start_tls(proxy.lab.context).hello()
        conn.sock.sendall(hello[: i * len(hello) // 49])
        conns.append(conn)
    for conn in conns:
        conn.close()
    proxy.settle()


def test_a_key_of_another_certificate_is_told_at_start(start, lab, tmp_path):
    """A key that does not belong to its certificate is told at start, and nothing listens."""
    chain, _ = lab.certificates.proxy
    _, key = lab.certificates.other
    port = unused_port()
    proxy = Proxy(lab, tmp_path, {
        "listen": [{"address": f"127.0.0.1:{port}"}], "tls": {"certificates": [{"chain": str(chain), "key": str(key)}]},
    })
    result = adit("serve", "-c", proxy.config_path)
    assert result.returncode not in (0, -6, 99) and "adit: ready" not in result.stderr
    assert str(key) in result.stderr or str(chain) in result.stderr
