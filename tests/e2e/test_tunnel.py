"""Bytes through a tunnel: both half-closes in both TLS versions, resets, truncation, and memory under a slow reader."""

import ssl
import subprocess
import threading

import pytest
from client import client_context, connect_head
from origin import deaf, digest, echo, finish_first, late, pattern, reset_after, silent, sink, source
from wait import until

MIB = 1 << 20
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(params=VERSIONS)
def context(request, lab):
    return client_context(lab.certificates.ca, low=VERSIONS[request.param], high=VERSIONS[request.param])


def test_the_client_finishes_and_still_receives(proxy, origin, context):
    target = origin(late(MIB))
    with proxy.tunnel(target.target, context=context) as conn:
        conn.send(b"that is all")
        conn.finish()
        assert conn.recv_all() == pattern(MIB) and conn.end == "clean"
        record = proxy.record_of(conn)
    seen = target.only()
    assert (bytes(seen.data), seen.end) == (b"that is all", "fin")
    assert (record["reason"], record["bytes_up"], record["bytes_down"]) == ("ok", 11, MIB)
    assert record["half_close"] == "clean"


def test_the_target_finishes_and_still_receives(proxy, origin, context):
    target = origin(finish_first)
    with proxy.tunnel(target.target, context=context) as conn:
        assert conn.recv_all() == b"bye" and conn.end == "clean"
        conn.send(pattern(MIB))
        conn.finish()
        record = proxy.record_of(conn)
    target.until_over(1)  # the kernel had its bytes, and the record was written
    seen = target.only()
    assert digest(seen.data) == digest(pattern(MIB)) and seen.end == "fin"
    assert (record["reason"], record["bytes_up"], record["bytes_down"]) == ("ok", MIB, 3)


def test_a_truncated_client_still_receives(proxy, origin, context):
    """FIN without close_notify: a half-close to the tunnel, and a word in the record."""
    target = origin(late(MIB))
    with proxy.tunnel(target.target, context=context) as conn:
        conn.send(b"cut")
        conn.fin()
        assert conn.recv_all() == pattern(MIB)
        record = proxy.record_of(conn)
    assert (bytes(target.only().data), target.only().end) == (b"cut", "fin")
    assert record["half_close"] == "truncated" and record["bytes_down"] == MIB


def test_both_finish_at_once(proxy, origin, context):
    target = origin(finish_first)
    with proxy.tunnel(target.target, context=context) as conn:
        conn.finish()
        assert conn.recv_all() == b"bye" and conn.end == "clean"
        assert proxy.record_of(conn)["reason"] == "ok"


def test_finish_with_bytes_still_under_way(proxy, origin, context):
    """close_notify behind a megabyte that the target has not read yet: all of it arrives first."""
    target = origin(sink)
    with proxy.tunnel(target.target, context=context) as conn:
        conn.send(pattern(4 * MIB))
        conn.finish()
        assert conn.recv_all().decode() == digest(pattern(4 * MIB))
        assert conn.end == "clean"


def test_a_reset_by_the_client(proxy, origin, context):
    target = origin(silent)
    conn = proxy.tunnel(target.target, context=context)
    conn.send(b"x")
    until(lambda: target.only().data, "the byte to arrive")
    conn.reset()
    seen = target.only()
    until(lambda: seen.done, "the end at the origin")
    record = proxy.record_of(conn)
    assert (record["reason"], record["bytes_up"]) == ("client_reset", 1)
    assert seen.end == "reset", "a reset stays one"


def test_a_reset_by_the_target(proxy, origin, context):
    target = origin(reset_after(1))
    with proxy.tunnel(target.target, context=context) as conn:
        conn.send(b"x")
        assert conn.recv_all() == b"" and conn.end in ("truncated", "reset"), "no clean end for an unclean one"
        assert proxy.record_of(conn)["reason"] == "target_reset"


def test_bytes_before_a_reset_are_counted(proxy, origin):
    target = origin(echo)
    conn = proxy.tunnel(target.target)
    conn.send(b"hello")
    assert conn.recv_exactly(5) == b"hello"
    conn.reset()
    record = proxy.record_of(conn)
    assert (record["bytes_up"], record["bytes_down"]) == (5, 5)


def test_broken_records_of_a_client(proxy, origin, context):
    target = origin(silent)
    with proxy.tunnel(target.target, context=context) as conn:
        conn.sock.sendall(b"\x17\x03\x03\x00\x20" + b"\xaa" * 32)
        until(lambda: target.only().done, "the end at the origin")
        assert proxy.record_of(conn)["reason"] == "client_tls_error"


@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 65536, 65537, 5 * MIB])
def test_echo_of_all_sizes(proxy, origin, context, size):
    data = pattern(size)
    with proxy.tunnel(origin(echo).target, context=context) as conn:
        assert digest(conn.exchange(data)) == digest(data)
        assert conn.end == "clean"


def test_many_small_pieces(proxy, origin):
    target = origin(echo)
    with proxy.tunnel(target.target) as conn:
        for i in range(2000):
            conn.send(bytes([i % 251]))
        assert conn.recv_exactly(2000) == bytes(i % 251 for i in range(2000))


def test_20_megabytes_each_way_at_once(proxy, origin):
    data = pattern(20_000_000)
    with proxy.tunnel(origin(echo).target) as conn:
        assert digest(conn.exchange(data)) == digest(data)
        record = proxy.record_of(conn)
    assert record["bytes_up"] == record["bytes_down"] == 20_000_000


# Without a quarantine of freed memory, which would count as growth.
SMALL_QUARANTINE = {"ASAN_OPTIONS": "quarantine_size_mb=1:thread_local_quarantine_size_kb=64"}
ALLOWED_GROWTH = 24 * MIB
STREAM = 96 * MIB


def stalled(progress):
    """Waits until a counter has stood still for a second (looked at a hundred times)."""
    state = {"value": -1, "same": 0}

    def still():
        value = progress()
        state["same"] = state["same"] + 1 if value == state["value"] and value else 0
        state["value"] = value
        return state["same"] >= 100

    until(still, "the sender to be held back", 40)
    return state["value"]


def test_a_stalled_client_does_not_fill_memory(start, origin):
    proxy = start({"tunnel": {"buffer": "256KiB"}, "workers": 1}, env=SMALL_QUARANTINE)
    target = origin(source(STREAM))
    with proxy.tunnel(target.target, receive_buffer=65536) as conn:
        before = proxy.rss()
        sent = stalled(lambda: target.first().sent)
        assert sent < STREAM, "nothing held the sender back"
        assert proxy.rss() - before < ALLOWED_GROWTH
        assert digest(conn.recv_all()) == digest(pattern(STREAM))
        assert conn.end == "clean"


def test_a_stalled_target_does_not_fill_memory(start, origin):
    proxy = start({"tunnel": {"buffer": "256KiB"}, "workers": 1}, env=SMALL_QUARANTINE)
    target = origin(deaf)
    with proxy.tunnel(target.target) as conn:
        before = proxy.rss()
        data, taken, answer = pattern(STREAM), [0], []

        def send():
            for at in range(0, STREAM, 65536):
                conn.send(data[at : at + 65536])
                taken[0] = at
            conn.finish()
            answer.append(conn.recv_all())

        conn.sock.settimeout(60)
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        sent = stalled(lambda: taken[0])
        assert sent < STREAM - 65536, "nothing held the sender back"
        assert proxy.rss() - before < ALLOWED_GROWTH
        target.released.set()
        sender.join(60)
        assert answer == [digest(data).encode()]


def test_one_stalled_tunnel_does_not_stop_the_others(start, origin):
    """One worker, so they share its loop."""
    proxy = start({"workers": 1})
    stuck = origin(source(STREAM))
    with proxy.tunnel(stuck.target, receive_buffer=65536):
        stalled(lambda: stuck.first().sent)
        with proxy.tunnel(origin(echo).target) as conn:
            assert digest(conn.exchange(pattern(MIB))) == digest(pattern(MIB))


# --- openssl s_client, which is nobody's model of a client, and common ---


def s_client(proxy, flag):
    return subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", flag, "-quiet", "-no_ign_eof",
         "-nocommands"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("flag", ["-tls1_2", "-tls1_3"])
def test_s_client_ends_cleanly(proxy, origin, flag):
    """At the end of its input it sends close_notify."""
    target = origin(silent)
    process = s_client(proxy, flag)
    process.stdin.write(connect_head(target.target) + b"some bytes")
    process.stdin.flush()
    seen = target.first()
    until(lambda: bytes(seen.data) == b"some bytes", "the bytes at the origin")
    process.stdin.close()
    until(lambda: seen.done, "the end at the origin")
    assert seen.end == "fin"
    record = proxy.record(kind="close", address_port=target.port, local_port=target.only().peer[1])
    assert (record["half_close"], record["bytes_up"]) == ("clean", 10)
    process.wait(20)
    process.stdout.close()


@pytest.mark.parametrize("flag", ["-tls1_2", "-tls1_3"])
def test_s_client_killed_is_truncation(proxy, origin, flag):
    """The kernel closes for it: FIN, and no close_notify."""
    target = origin(silent)
    process = s_client(proxy, flag)
    process.stdin.write(connect_head(target.target) + b"some bytes")
    process.stdin.flush()
    assert process.stdout.readline().startswith(b"HTTP/1.1 200")
    seen = target.first()
    until(lambda: bytes(seen.data) == b"some bytes", "the bytes at the origin")
    process.kill()
    process.wait(20)
    until(lambda: seen.done, "the end at the origin")
    record = proxy.record(kind="close", address_port=target.port, local_port=target.only().peer[1])
    assert record["bytes_up"] == 10
    assert record.get("half_close") == "truncated" or record["reason"] == "client_reset"
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("flag", ["-tls1_2", "-tls1_3"])
def test_s_client_receives_all_to_the_close_notify(proxy, origin, flag):
    target = origin(source(MIB))
    process = s_client(proxy, flag)
    process.stdin.write(connect_head(target.target))
    process.stdin.flush()
    out = process.stdout.read()
    assert out.partition(b"\r\n\r\n")[2] == pattern(MIB)
    process.stdin.close()
    process.stdout.close()
    assert process.wait(20) == 0
    assert proxy.record(kind="close", address_port=target.port, local_port=target.only().peer[1])["reason"] == "ok"
