"""Clients that keep the proxy busy with frames that cost them nothing: each connection has a budget. Over it: GOAWAY
ENHANCE_YOUR_CALM, a record, and the end of that connection alone."""

import contextlib
import time

import pytest
from client import basic
from h2client import (
    PREFACE, Code, Flag, Kind, Setting, connect_fields, data, dependency, frame, get_fields, header_frames, literals, ping, rst_stream,
    settings, table_size, window_update,
)
from origin import echo, silent, source
from probe import SMALL_QUARANTINE
from wait import until

CALM = Code.ENHANCE_YOUR_CALM
MOST = 40_000  # frames, by which time it has to be over
EMPTY_TABLE = table_size(0)
LOGIN = ("proxy-authorization", f"Basic {basic('alice')}")


class Flood:
    """What is sent again and again: prepare(link) once, then so many at a time."""

    def __init__(self, link, target, hole):
        self.link, self.target, self.hole = link, target, hole

    def request(self, fields, end=False):
        stream = self.link.stream()
        return stream.id, header_frames(stream.id, EMPTY_TABLE + literals(fields), end)


def rapid_reset(f):
    """HEADERS and at once RST_STREAM: the work is done, and the stream does not count."""
    number, text = f.request(connect_fields(f.target))
    return text + rst_stream(number)


def rapid_reset_of_strangers(f):
    number, text = f.request(connect_fields(f.target, user=None))
    return text + rst_stream(number)


def rapid_reset_of_pages(f):
    number, text = f.request(get_fields("proxy.test", "/healthz"), end=True)
    return text + rst_stream(number)


def rapid_reset_of_dials(f):
    number, text = f.request(connect_fields(f.hole))
    return text + rst_stream(number)


# MadeYouReset: the proxy is brought to reset what it has begun to serve


def made_to_reset_by_window_overflow(f):
    number, text = f.request(connect_fields(f.target))
    return text + window_update(number, (1 << 31) - 1)


def made_to_reset_by_trailers(f):
    number, text = f.request(connect_fields(f.target))
    return text + header_frames(number, EMPTY_TABLE + literals([("a", "b")]), True)


def made_to_reset_by_second_headers(f):
    number, text = f.request(connect_fields(f.target))
    return text + header_frames(number, EMPTY_TABLE + literals(connect_fields(f.target)))


def made_to_reset_by_content_length(f):
    fields = get_fields(f.target, "/", "http", "POST", [("content-length", "1"), LOGIN])
    number, text = f.request(fields)
    return text + data(number, b"12", Flag.END_STREAM)


def malformed_requests(f):
    return f.request([(":method", "CONNECT"), (":path", "/")])[1]


def empty_data(f):
    return data(f.opened.id, b"")


def empty_padded_data(f):
    f.opened.window -= 1
    return data(f.opened.id, b"", padding=0)


def pings(f):
    return ping()


def many_settings(f):
    return settings({Setting.INITIAL_WINDOW_SIZE: 70000})


def empty_settings(f):
    return settings()


def priorities(f):
    return frame(Kind.PRIORITY, 0, f.opened.id, dependency())


def priorities_of_idle_streams(f):
    f.link.next_id += 2
    return frame(Kind.PRIORITY, 0, f.link.next_id, dependency())


def priority_updates(f):
    return frame(Kind.PRIORITY_UPDATE, 0, 0, f.opened.id.to_bytes(4, "big") + b"u=1")


def window_updates(f):
    return window_update(0, 1)


def window_updates_of_a_stream(f):
    return window_update(f.opened.id, 1)


def window_updates_of_dead_streams(f):
    return window_update(f.dead.id, 1)


def resets_of_dead_streams(f):
    return rst_stream(f.dead.id)


def unknown_frames(f):
    return frame(0xBB, 0, 0, b"")


def large_unknown_frames(f):
    return frame(0xBB, 0, 0, bytes(16000))


def answered_pings(f):
    return ping(flags=Flag.ACK)


def tiny_frames_of_small_windows(f):
    """One byte of window for the download at a time, so that each costs a frame."""
    return window_update(f.download.id, 1)


FLOODS = [
    rapid_reset, rapid_reset_of_strangers, rapid_reset_of_pages, rapid_reset_of_dials,
    made_to_reset_by_window_overflow, made_to_reset_by_trailers, made_to_reset_by_second_headers,
    made_to_reset_by_content_length, malformed_requests, empty_data, empty_padded_data,
    pings, many_settings, empty_settings, priorities, priorities_of_idle_streams,
    priority_updates, window_updates, window_updates_of_a_stream, window_updates_of_dead_streams,
    resets_of_dead_streams, unknown_frames, large_unknown_frames, answered_pings, tiny_frames_of_small_windows,
]


@contextlib.contextmanager
def bystander(proxy, target):
    """Another user's tunnel, which shall not notice; it is looked at again in the end."""
    with proxy.h2(source="127.0.0.77") as link:
        stream = link.tunnel(target, "bob")
        yield stream
        unharmed(stream)


def unharmed(stream):
    stream.send(b"unharmed")
    assert stream.recv_exactly(8) == b"unharmed"


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
def test_a_flood(start, origin, black_hole, flood):
    proxy = start({"workers": 1})
    target = origin(echo)
    with bystander(proxy, target.target) as other, proxy.h2() as link:
        link.ready()
        f = Flood(link, target.target, black_hole().target if "dials" in flood.__name__ else None)
        f.opened, f.dead = link.tunnel(origin(silent).target), link.tunnel(target.target)
        f.dead.reset()
        if flood is tiny_frames_of_small_windows:
            link.send(settings({Setting.INITIAL_WINDOW_SIZE: 0}))
            f.download = link.tunnel(origin(source(1 << 20)).target)
        link.in_step()
        sent = 0
        while link.end is None and not link.goaways and sent < MOST:
            link.send(b"".join(flood(f) for _ in range(50)))
            if "made" in flood.__name__ or "malformed" in flood.__name__:  # more at a time would be too many streams
                last = link.at(link.next_id - 2)
                link.until(lambda: last.code is not None or link.goaways or link.end, "the stream to be reset")
            link.poll()
            sent += 50
        assert sent < MOST, "nobody minded"
        assert link.until_end()[1] == CALM
        unharmed(other)
        abuse = until(lambda: found(proxy, "h2_abuse", link.name[1]), "the record of it")
        assert {record["protocol"] for record in abuse} == {"h2"}


def found(proxy, reason, port):
    return [r for name in ("access.jsonl", "strangers.jsonl") for r in proxy.records(name)
            if r.get("reason") == reason and r.get("client_port") == port]


# --- within a header block, where nothing else may be sent ---

BLOCKS = {
    "empty CONTINUATION": lambda: frame(Kind.CONTINUATION, 0, 1, b""),
    "CONTINUATION of a byte": lambda: frame(Kind.CONTINUATION, 0, 1, b"\x82"),
    "CONTINUATION of fields": lambda: frame(Kind.CONTINUATION, 0, 1, literals([("x-%d" % i, "y" * 100) for i in range(100)])),
    "CONTINUATION of table sizes": lambda: frame(Kind.CONTINUATION, 0, 1, EMPTY_TABLE * 1000),
    "CONTINUATION of one endless value": lambda: frame(Kind.CONTINUATION, 0, 1, b"y" * 16000),
}


@pytest.mark.parametrize("case", BLOCKS, ids=lambda case: case.replace(" ", "-"))
def test_a_header_block_without_end(start, origin, case):
    proxy = start(env=SMALL_QUARANTINE)
    with bystander(proxy, origin(echo).target), proxy.h2() as link:
        link.ready()
        before = proxy.rss()
        begin = EMPTY_TABLE + literals(connect_fields("127.0.0.1:9"))
        if "endless" in case:
            begin += b"\0\1x" + b"\x7f\xff\xff\xff\x07"  # 16 MB of a value
        link.send(frame(Kind.HEADERS, 0, 1, begin))
        sent, piece = 0, BLOCKS[case]()
        while link.end is None and not link.goaways and sent < 64 << 20:
            link.send(piece * 10)
            link.poll()
            sent += 10 * len(piece)
        assert sent < 64 << 20, "nobody minded"
        assert link.until_end()[1] in (CALM, Code.PROTOCOL_ERROR, Code.COMPRESSION_ERROR)
        assert proxy.rss() - before < 16 << 20


def test_a_bomb_of_headers(start, origin):
    """One small frame that stands for megabytes, by the indexed fields of HPACK: bounded, and 431 at most."""
    proxy = start(env=SMALL_QUARANTINE)
    before = proxy.rss()
    with proxy.h2(begin=False) as link:
        # before SETTINGS are acknowledged there is a table of 4096 bytes
        bomb = literals(connect_fields("127.0.0.1:9")) + b"\x40\1x" + b"\x7f\xb1\x1e" + b"y" * 4000 + b"\xbe" * 10_000
        stream = link.stream()
        link.send(PREFACE + settings() + header_frames(1, bomb))
        while stream.headers is None and stream.code is None and not link.goaways and link.end is None:
            link.pump()
        assert link.goaways or stream.code or stream.response().status == 431
    assert proxy.rss() - before < 8 << 20


# --- and of clients who take no answer ---

MOST_UNREAD = 16 << 20  # bytes; what sockets take of them is less


def refused_without_a_look(number):
    """Above the limit of streams: nothing in a small frame, for a RST_STREAM."""
    return header_frames(number, b"\x82")


def requests_without_a_login(number):
    return header_frames(number, EMPTY_TABLE + literals([(":method", "CONNECT"), (":authority", "origin.test:1")]))


def pings_without_an_end(_):
    return ping()


def on_their_way(proxy, link):
    """Bytes that lie in sockets: (towards the client, towards the proxy); None when one of them is gone."""
    ports, queues = (link.name[1], proxy.port), {}
    with open("/proc/net/tcp", encoding="ascii") as table:
        for row in (line.split() for line in list(table)[1:]):
            local, remote = (int(address.rpartition(":")[2], 16) for address in row[1:3])
            if {local, remote} == set(ports) and row[3] == "01":
                queues[local] = [int(n, 16) for n in row[4].split(":")]  # not acknowledged, not read
    if len(queues) < 2:
        return None
    (up, down_here), (down, up_there) = (queues[port] for port in ports)
    return down + down_here, up + up_there


def fill_with_answers(proxy, link):
    """Until no more of them leave the proxy, or it reads no more: never more requests than it allows at a time."""
    filled, same = 0, 0
    while same < 4 and not link.broken:
        send_many(link, requests_without_a_login, 100)
        seen = []

        def read_or_held_back():
            seen.append(on_their_way(proxy, link))
            return seen[-1] is None or seen[-1][1] == 0 or len(seen) > 300 and seen[-300:] == seen[-1:] * 300

        until(read_or_held_back, "it to read them")
        if seen[-1] is None or seen[-1][1] > 0:
            break
        filled, same = seen[-1][0], same + 1 if seen[-1][0] == filled else 0


def send_many(link, kind, count):
    out = b"".join(kind(link.next_id + 2 * i) for i in range(count))
    link.next_id += 2 * count
    link.send(out)
    return len(out)


@pytest.mark.parametrize("kind", [refused_without_a_look, requests_without_a_login, pings_without_an_end],
                         ids=lambda kind: kind.__name__)
def test_a_flood_of_a_stranger_who_does_not_read(start, origin, kind):
    """Answers that nobody takes are not gathered: either it is the end of him, or nothing more is read from him."""
    proxy = start({"workers": 1}, env=SMALL_QUARANTINE)
    with bystander(proxy, origin(echo).target), proxy.h2(begin=False, receive_buffer=2048, timeout=3) as link:
        link.reads = False  # so that the proxy's SETTINGS are never acknowledged, either: its limits are not in force
        link.send(PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: (1 << 31) - 1}) + window_update(0, 1 << 30))
        fill_with_answers(proxy, link)
        before = most = proxy.rss()
        sent = 0
        try:
            while not link.broken and sent < MOST_UNREAD:
                sent += send_many(link, kind, 2000)
                most = max(most, proxy.rss())
        except TimeoutError:
            pass  # held back
        most = max(most, proxy.rss())
        print(f"{sent >> 10} KiB, {'the end' if link.broken else 'held back'}; resident +{(most - before) >> 10} KiB")
        assert most - before < 16 << 20
        assert sent < MOST_UNREAD, "nobody minded"


# --- and what is no flood ---


def test_a_browser_that_closes_all_its_pages(proxy, origin):
    """A full house of tunnels, reset at once, four times over; and it goes on."""
    target = origin(echo).target
    with proxy.h2() as link:
        link.ready()
        for _ in range(2):
            streams = [link.connect(target, queue=i < 99) for i in range(100)]
            assert all(stream.response().status == 200 for stream in streams)
            link.send(b"".join(rst_stream(stream.id) for stream in streams))
            for stream in streams:
                stream.end = "reset"
            link.in_step()
        unharmed(link.tunnel(target))
        assert not link.goaways


def test_a_tunnel_after_the_other(proxy, origin):
    """RST_STREAM is how many clients end a tunnel that they have used; so often none is an attack."""
    target = origin(echo).target
    with proxy.h2() as link:
        link.ready()
        other = link.tunnel(target)
        for _ in range(1500):
            tunnel = link.tunnel(target)
            tunnel.send(b"x")
            assert tunnel.recv_exactly(1) == b"x"
            tunnel.reset(Code.CANCEL)
            assert not link.goaways and link.end is None
        unharmed(other)


def test_a_busy_tunnel_may_update_its_windows(proxy, origin):
    """As often as after each frame, on stream and connection, through a long download."""
    with proxy.h2(window=65535) as link:
        link.credit = False
        tunnel = link.tunnel(origin(source(24 << 20)).target)
        while tunnel.end is None:
            if not tunnel.buffer:
                link.pump()
            n = len(tunnel.buffer)
            tunnel.buffer.clear()
            while n > 0 and link.end is None:
                step = min(n, 4096)
                link.queue(window_update(0, step) + window_update(tunnel.id, step))
                n -= step
            link.send(b"")
        assert tunnel.end == "clean" and tunnel.received == 24 << 20 and not link.goaways


def test_many_small_messages_are_no_flood(proxy, origin):
    """Ten thousand frames of one byte each way, as an interactive session has them."""
    with proxy.h2() as link:
        tunnel = link.tunnel(origin(echo).target)
        for i in range(200):
            tunnel.window -= 50
            link.send_window -= 50
            link.send(b"".join(data(tunnel.id, b"k") for _ in range(50)))
            assert tunnel.recv_exactly(50) == b"k" * 50
        assert not link.goaways


def test_pings_of_a_patient_client(proxy, origin):
    """Some a second are nobody's business."""
    with proxy.h2() as link:
        tunnel = link.tunnel(origin(echo).target)
        began = time.monotonic()
        for i in range(100):
            link.in_step(b"%08d" % i)
            unharmed(tunnel)
        assert not link.goaways and time.monotonic() - began < 60
