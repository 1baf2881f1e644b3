"""Flow control is the back-pressure, and what is advertised is budgeted: streams that stand still cost no memory beyond
that, and harm nobody. Windows are counted here from the frames."""

import contextlib
import socket
import threading

import pytest
from client import BROKEN, basic
from h2client import PREFACE, Code, Setting, get_fields, settings, window_update
from http_origin import head
from origin import deaf, digest, echo, pattern, sink, source
from probe import SMALL_QUARANTINE
from test_hostile_origins import calm, stands_still
from wait import until

KIB, MIB = 1 << 10, 1 << 20
FIRST = 64 * KIB  # of a stream
CAP, MOST = 24 * MIB, 4 * MIB  # of the sum; of one
SLACK = 12 * MIB  # of the allocator, of OpenSSL, of the first tunnels


@pytest.fixture
def lone(start):
    """One worker whose memory is watched."""
    proxy = start({"workers": 1}, env=SMALL_QUARANTINE)
    return proxy


@contextlib.contextmanager
def bob(proxy, target):
    """Another client, who is served before and behind all of it."""
    with proxy.h2() as link:
        stream = link.tunnel(target, "bob")

        def served():
            stream.send(pattern(100_000))
            assert stream.recv_exactly(100_000) == pattern(100_000)
            return True

        served()
        yield served
        served()


# --- to the client ---


def test_windows_are_kept_to(proxy, origin):
    """Not a byte more than was allowed, by stream and connection, through every change of SETTINGS; a window below
    nothing included (RFC 9113 6.9.2)."""
    with proxy.h2(window=100_000, credit=False) as link:
        link.ready()
        tunnel = link.tunnel(origin(source(MIB)).target)

        def comes(total):
            link.until(lambda: tunnel.received >= total, f"{total} bytes")
            link.in_step().silent_for(0.2)
            assert tunnel.received == total

        comes(100_000)
        link.send(settings({Setting.INITIAL_WINDOW_SIZE: 200_000}))
        comes(200_000)
        link.send(settings({Setting.INITIAL_WINDOW_SIZE: 50_000}))
        comes(200_000)
        link.send(window_update(tunnel.id, 150_000))
        comes(200_000)
        link.send(window_update(tunnel.id, 10))
        comes(200_010)
        link.send(settings({Setting.INITIAL_WINDOW_SIZE: 0}))
        link.send(window_update(tunnel.id, 50_001))
        comes(200_011)
        link.send(settings({Setting.INITIAL_WINDOW_SIZE: MIB}))
        link.credit = True
        assert digest(tunnel.recv_all()) == digest(pattern(MIB)) and tunnel.end == "clean"


def test_the_connections_window_is_kept_to(proxy, origin):
    """Two streams with room, and a connection without."""
    with proxy.h2(begin=False, credit=False) as link:
        link.send(PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: MIB}))  # 65535 for the connection
        streams = [link.tunnel(origin(source(MIB)).target) for _ in range(2)]
        received = lambda: sum(stream.received for stream in streams)
        link.until(lambda: received() >= 65535, "the connection's window")
        link.in_step().silent_for(0.2)
        assert received() == 65535
        link.send(window_update(0, 1000))
        link.until(lambda: received() >= 66535, "a thousand more")
        link.in_step()
        assert received() == 66535
        link.send(window_update(0, 16 * MIB))
        link.credit = True
        for stream in streams:
            assert digest(stream.recv_all()) == digest(pattern(MIB))


def test_a_window_of_a_byte(proxy, origin):
    """Slow, and right."""
    with proxy.h2(window=1) as link:
        tunnel = link.tunnel(origin(source(300)).target)
        assert tunnel.recv_all() == pattern(300) and tunnel.end == "clean"


def test_the_end_behind_a_window_that_is_full(proxy, origin):
    """END_STREAM comes with the least of room (RFC 9113 would let it come without; nghttp2 waits)."""
    with proxy.h2(window=1000, credit=False) as link:
        tunnel = link.tunnel(origin(source(1000)).target)
        link.until(lambda: tunnel.received == 1000, "the bytes")
        link.send(window_update(tunnel.id, 1))
        link.until(lambda: tunnel.end, "the end")
        assert (tunnel.received, tunnel.end) == (1000, "clean")


def test_answers_need_a_window_as_well(proxy, origin):
    """HEADERS come, the body waits."""
    with proxy.h2(window=0, credit=False) as link:
        refused = link.connect("127.0.0.1:9", user=None)
        link.until(lambda: refused.headers, "the answer's head")
        link.in_step()
        assert not refused.buffer and refused.end is None
        link.send(window_update(refused.id, 10_000))
        assert refused.recv_all() and refused.end == "clean"


def test_100_streams_whose_client_opens_no_window(lone, origin):
    """A hundred senders stand; none of their bytes is kept for a client that does not want them."""
    other = origin(echo).target
    target = origin(source(2 * MIB))
    with bob(lone, other) as served, lone.h2(window=0) as link:
        link.ready()
        before = lone.rss()
        streams = [link.connect(target.target) for _ in range(100)]
        assert all(stream.response().status == 200 for stream in streams)
        stands_still(lambda: sum(seen.sent for seen in target.seen), "the senders to be held back")
        link.in_step()
        assert sum(stream.received for stream in streams) == 0
        assert lone.rss() - before < SLACK
        served()
        calm(lone)
        link.send(settings({Setting.INITIAL_WINDOW_SIZE: 256 * KIB}))
        link.window = 256 * KIB
        for stream in streams:
            assert digest(stream.recv_all()) == digest(pattern(2 * MIB)) and stream.end == "clean"


def test_100_streams_whose_client_does_not_read(lone, origin):
    """All windows are open as wide as can be, and the client takes nothing from its socket."""
    other = origin(echo).target
    target = origin(source(2 * MIB))
    with bob(lone, other) as served, lone.h2(window=(1 << 31) - 1, receive_buffer=65536) as link:
        link.ready()
        link.send(window_update(0, 1 << 30))
        before = lone.rss()
        streams = [link.connect(target.target, queue=i < 99) for i in range(100)]
        link.reads = False
        stands_still(lambda: sum(seen.sent for seen in target.seen), "the senders to be held back")
        assert lone.rss() - before < SLACK
        served()
        calm(lone)
        link.reads, link.credit = True, False
        for stream in streams:
            assert digest(stream.recv_all()) == digest(pattern(2 * MIB)) and stream.end == "clean"


def test_100_tunnels_that_wait_for_the_same_window(proxy, origin):
    """The connection's. Those who had what they wanted wait at the head of the line with nothing to say; one WINDOW_UPDATE
    is for whoever has."""
    talkers = []

    def talker(seen):
        seen.recv()
        talkers.append(seen)
        seen.origin.released.wait(60)

    target = origin(talker)
    with proxy.h2(begin=False, credit=False) as link:
        link.send(PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: MIB}))  # 65535 for the connection
        link.ready()
        eater = link.tunnel(origin(source(MIB)).target)
        link.until(lambda: link.received == 65535, "the window to be eaten")
        tunnels = []
        for i in range(100):
            tunnels.append(link.tunnel(target.target))
            tunnels[-1].send(b"your turn")
            until(lambda: len(talkers) == i + 1, "the target to have it")
        eater.reset()
        link.in_step()

        def update_for(some):
            """What these have to say, all of it and nothing else."""
            for seen in some:
                seen.send(pattern(150))
            link.in_step().silent_for(0.3)
            before = sum(tunnel.received for tunnel in tunnels)
            link.send(window_update(0, 150 * len(some)))
            link.until(lambda: sum(tunnel.received for tunnel in tunnels) == before + 150 * len(some), "their bytes")

        at_once = 65  # as many are asked in one go: 1 MiB in shares of 16 KiB
        update_for(talkers[:at_once])
        update_for(talkers[at_once:])
        assert {bytes(tunnel.buffer) for tunnel in tunnels} == {pattern(150)}
        target.released.set()


def test_hints_that_nobody_reads(lone, origin, web_origin):
    """Interim heads need no window, but wait like all other bytes: at their origins, and not in here."""
    hint = head(103, "X: " + "y" * 30_000)

    def answer(request):
        for _ in range(190):
            yield hint
        request.connection.origin.released.wait(60)

    target = web_origin(answer)
    login = ("proxy-authorization", f"Basic {basic('alice')}")
    with bob(lone, origin(echo).target) as served, lone.h2(receive_buffer=4096) as link:
        link.ready()
        link.reads = False
        before = lone.rss()
        for i in range(40):
            link.request(get_fields(target.target, "/", "http", fields=[login]), end_stream=True, queue=i < 39)
        until(lambda: len(target.requests) == 40, "all requests to be there")
        sent = stands_still(lambda: sum(request.connection.sent for request in target.requests), "the origins to wait")
        grown = lone.rss() - before
        print(f"{sent / MIB:.0f} MiB sent, {grown / MIB:.1f} MiB more")
        assert grown < 48 * MIB
        served()
        target.released.set()


def test_one_stream_that_is_not_read_does_not_hold_up_the_others(proxy, origin):
    with proxy.h2(window=65535) as link:
        stuck = link.tunnel(origin(source(4 * MIB)).target)
        link.until(lambda: stuck.received == 65535, "its window to be full")
        for _ in range(3):
            other = link.tunnel(origin(source(4 * MIB)).target)
            assert digest(other.recv_all()) == digest(pattern(4 * MIB))
        assert digest(stuck.recv_all()) == digest(pattern(4 * MIB))


def test_a_client_that_takes_nothing_and_the_stall_deadline(start, origin):
    """The stream ends, the connection lives."""
    proxy = start({"deadlines": {"stall": "1s"}})
    with proxy.h2(window=65535, credit=False) as link:
        target = origin(source(16 * MIB))
        stuck, other = link.tunnel(target.target), link.tunnel(origin(echo).target)
        assert proxy.record(kind="close", address_port=target.port, client_port=link.name[1])["reason"] == "stall_timeout"
        other.send(b"hello")
        assert other.recv_exactly(5) == b"hello"
        link.until(lambda: stuck.end, "its end")
        assert stuck.end in BROKEN


# --- from the client ---


def advertised(streams):
    """What the client could still send, as the frames have it."""
    return sum(max(stream.window, 0) for stream in streams if not stream.finished)


class Upload:
    """A stream that is sent as much as its windows permit."""

    def __init__(self, stream, size):
        self.stream, self.left, self.most = stream, memoryview(pattern(size)), stream.window

    def step(self):
        self.most = max(self.most, self.stream.window)
        sent = self.stream.send_some(self.left) if self.left else 0
        self.left = self.left[sent:]
        if not self.left:
            self.stream.finish()
        return sent


def run(link, uploads, most, done=None):
    """Until all are through, or `done`; the sum of windows is looked at after every frame."""
    streams = [upload.stream for upload in uploads]
    while not (done() if done else all(upload.stream.finished for upload in uploads)):
        link.poll()
        assert advertised(streams) <= most, advertised(streams)
        if not sum(upload.step() for upload in uploads) and not all(upload.stream.finished for upload in uploads):
            link.pump()


def test_the_window_of_a_fast_upload_grows(proxy, origin):
    """Beyond what it began with, since it is emptied as soon as it is there; and not beyond its most."""
    with proxy.h2() as link:
        link.ready()
        assert link.peer.get(Setting.INITIAL_WINDOW_SIZE, 65535) <= FIRST
        upload = Upload(link.tunnel(origin(sink).target), 64 * MIB)
        run(link, [upload], MOST)
        assert upload.stream.recv_all().decode() == digest(pattern(64 * MIB))
        assert FIRST < upload.most <= MOST, upload.most


def test_no_more_than_the_configuration_says(start, origin):
    proxy = start({"http2": {"stream_window": "128KiB"}})
    with proxy.h2() as link:
        upload = Upload(link.tunnel(origin(sink).target), 16 * MIB)
        run(link, [upload], 128 * KIB)
        assert upload.stream.recv_all().decode() == digest(pattern(16 * MIB))


def test_the_window_of_a_slow_upload_stays(proxy, origin):
    """Its target takes a little now and then: more room would be of no use."""

    def slow(seen):
        while seen.recv(keep=False) and not seen.origin.released.wait(0.02):
            pass

    with proxy.h2() as link:
        target = origin(slow)
        upload = Upload(link.tunnel(target.target), 32 * MIB)
        target.first().sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KIB)
        # what kernels take at first has gone fast
        run(link, [upload], MOST, lambda: upload.stream.sent > 12 * MIB)
        before, upload.most = upload.stream.sent, 0
        run(link, [upload], MOST, lambda: upload.stream.sent > before + 2 * MIB)
        target.released.set()
        assert upload.most <= MOST


def test_a_stream_whose_target_does_not_read_gets_no_more(start, origin):
    """What the kernels take, and one window; nothing is credited for what lies in the proxy."""
    proxy = start({"workers": 1})
    with proxy.h2() as link:
        link.ready()
        target = origin(deaf)
        upload = Upload(link.tunnel(target.target), 64 * MIB)
        link.sock.settimeout(2)
        try:
            run(link, [upload], MOST)
            raise AssertionError("nothing held the client back")
        except TimeoutError:
            pass
        link.sock.settimeout(20)
        assert upload.stream.window == 0
        assert upload.stream.sent == FIRST + upload.stream.credited
        other = link.tunnel(origin(sink).target)
        other.send(pattern(4 * MIB))
        other.finish()
        assert other.recv_all().decode() == digest(pattern(4 * MIB)), "and the others go on"
        target.released.set()
        run(link, [upload], CAP)
        assert upload.stream.recv_all().decode() == digest(pattern(64 * MIB))


def test_100_uploads_whose_targets_do_not_read(lone, origin):
    """All windows are used to their end: what the proxy holds is at most what it had advertised."""
    target = origin(deaf)
    with bob(lone, origin(echo).target) as served, lone.h2() as link:
        link.ready()
        before = lone.rss()
        uploads = [Upload(link.tunnel(target.target), 8 * MIB) for _ in range(100)]
        link.sock.settimeout(3)
        try:
            run(link, uploads, CAP)
            raise AssertionError("nothing held the client back")
        except TimeoutError:
            pass
        link.sock.settimeout(20)
        assert lone.rss() - before < CAP + SLACK
        served()
        calm(lone)
        for upload in uploads:
            upload.stream.reset()
    until(lambda: len(target.seen) == 100, "all targets")
    target.released.set()
    target.until_over(100)
    assert {seen.end for seen in target.seen} == {"reset"}


def test_100_fast_uploads_share_what_may_be_advertised(start, origin):
    """Counted after every frame."""
    proxy = start({"workers": 1})
    with proxy.h2() as link:
        link.ready()
        target = origin(sink)
        uploads = [Upload(link.tunnel(target.target), MIB) for _ in range(100)]
        run(link, uploads, CAP)
        for upload in uploads:
            assert upload.stream.recv_all().decode() == digest(pattern(MIB))


def test_a_small_budget_admits_fewer_streams(start, origin):
    """What a stream begins with cannot be taken back, so there are no more streams than it suffices for."""
    proxy = start({"http2": {"window": "1MiB"}})
    with proxy.h2() as link:
        link.ready()
        assert link.peer[Setting.MAX_CONCURRENT_STREAMS] == 16
        target = origin(sink)
        uploads = [Upload(link.tunnel(target.target), 4 * MIB) for _ in range(16)]
        run(link, uploads, MIB)
        for upload in uploads:
            assert upload.stream.recv_all().decode() == digest(pattern(4 * MIB))


def test_room_comes_back_with_streams_that_end(start, origin):
    """Hundreds of tunnels one after the other, each with an upload, on one connection: the budget does not leak."""
    proxy = start({"http2": {"window": "2MiB", "streams": 8}, "workers": 1})
    target = origin(echo).target
    with proxy.h2() as link:
        link.ready()
        for i in range(300):
            tunnel = link.tunnel(target)
            tunnel.send(pattern(3000))
            assert tunnel.recv_exactly(3000) == pattern(3000)
            if i % 3 == 0:
                tunnel.reset()
            else:
                tunnel.finish()
                assert tunnel.recv_all() == b""
        upload = Upload(link.tunnel(origin(sink).target), 16 * MIB)
        run(link, [upload], 2 * MIB)
        assert upload.stream.recv_all().decode() == digest(pattern(16 * MIB))
        assert upload.most > FIRST, "it can still grow"


def test_a_reset_gives_the_room_of_its_bytes_back(proxy, origin):
    """Bytes that lie in the proxy for a stream that is reset count no more."""
    target, other = origin(deaf), origin(echo).target
    with proxy.h2() as link:
        link.ready()
        for _ in range(30):
            stuck = link.tunnel(target.target)
            stuck.send_some(pattern(FIRST))
            stuck.reset()
        tunnel = link.tunnel(other)
        payload = pattern(4 * MIB)
        assert digest(tunnel.exchange(payload)) == digest(payload)
    target.released.set()


def test_threads_of_uploads_and_downloads(start, origin):
    """Four connections at once, each with uploads and downloads that go wrong in the middle, and one that does not."""
    proxy = start({"workers": 2})
    wrong = []
    up, down, both = origin(sink).target, origin(source(4 * MIB)).target, origin(echo).target

    def client():
        try:
            with proxy.h2(window=128 * KIB) as link:
                payload = pattern(2 * MIB)
                for i in range(6):
                    aborted = [link.tunnel(up), link.tunnel(down), link.tunnel(both)]
                    aborted[0].send(payload[:200_000])
                    aborted[1].recv_exactly(200_000)
                    aborted[2].send(payload[:50_000])
                    aborted[i % 3].reset(Code.CANCEL)
                    good = link.tunnel(both)
                    if good.exchange(payload) != payload:
                        wrong.append("not its own bytes")
                    for stream in aborted:
                        stream.close()
        except Exception as problem:  # a thread's own failure must become the test's
            wrong.append(repr(problem))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(80)
    assert not wrong, wrong
