"""Clients that are slow, flood, or talk nonsense, each beside a probe: nobody else notices, and nothing stays behind."""

import pytest
from origin import Origin, echo
from probe import FLOOR_S, ROUNDS, SMALL_QUARANTINE, Attack, Probe, times, withstands
from proxy import Proxy

DEADLINES = {"handshake": "1200ms", "head": "1200ms", "stall": "1200ms", "linger": "500ms", "drain": "5s"}
OPEN = {"unauthenticated_per_prefix": "off", "handshakes_per_prefix": "off"}


@pytest.fixture(scope="module")
def place(lab, tmp_path_factory):
    """A proxy that all attacks of this file meet one after the other, with no limit on what one network may do."""
    proxy = Proxy(
        lab, tmp_path_factory.mktemp("attacked"), {"deadlines": DEADLINES, "limits": OPEN}, env=SMALL_QUARANTINE
    ).start()
    proxy.echo = Origin(echo)
    yield proxy
    proxy.stop()
    proxy.echo.close()


@pytest.fixture
def besieged(request, place):
    request.node.proxies = [place]
    return place


@pytest.fixture
def withstand(besieged, tmp_path):
    """withstand("silent", n=...): the shared proxy, attacked."""

    def run(name, seconds=0.6, **options):
        probe = Probe(besieged, besieged.echo.target)
        return withstands(probe, lambda: Attack(tmp_path, name, port=besieged.port, **options), seconds)

    return run


# --- slow in every phase: a crowd goes on until half of it has met its deadline ---


def test_silent_connections(withstand):
    """Two thousand of them; when their time is up, all at once, they come again."""
    withstand("silent", crowd=True, n=2000, network=10)


def test_a_hello_in_drops(withstand):
    """Each byte is progress to TCP and none to the deadline."""
    withstand("drips_hello", crowd=True, n=500, network=11)


def test_a_head_in_drops(withstand):
    withstand("drips_head", crowd=True, n=60, network=12)


def test_clients_that_never_read(withstand):
    """What an endless sender or many questions would make the proxy keep for them is bounded, and then they are gone."""
    withstand("never_reads", crowd=True, n=40, network=13)


def test_clients_that_never_send(withstand, besieged):
    withstand("never_sends", crowd=True, n=80, network=14, target=besieged.echo.target)


# --- floods ---


def test_more_handshakes_than_one_network_may(start, origin, tmp_path):
    """They are closed before TLS, which costs next to nothing; others are not hit."""
    proxy = start({"limits": {"handshakes_per_prefix": "50/s"}}, env=SMALL_QUARANTINE)
    probe = Probe(proxy, origin(echo).target, sources=[f"127.2.0.{i}" for i in range(1, 200)])
    tally = withstands(probe, lambda: Attack(tmp_path, "hellos", port=proxy.port, source="127.1.0.1", per_second=1500))
    assert tally["refused"] > tally["answered"]
    # A full bucket at the beginning of each round, and what ran into it since.
    assert tally["answered"] <= ROUNDS * 50 + 50 * tally["seconds"] + 50
    proxy.said("limit_handshakes")


def test_handshakes_that_all_begin_at_once(start, origin, tmp_path):
    """Hundreds of ClientHellos that one look of the loop finds: whoever comes then does not wait behind all of them, for
    a loop does half a millisecond of such work and then looks again, and networks take turns. One worker: the probe has
    to pass through the very loop that has to answer them, ten times until its byte is back, and meets one handshake of
    theirs each time. That is the work it waits for, and the floor; all of theirs would be half a second."""
    proxy = start({"limits": OPEN, "workers": 1}, env=SMALL_QUARANTINE)
    probe = Probe(proxy, origin(echo).target)
    attack = {"port": proxy.port, "n": times(600), "network": 15, "networks": 2}
    tally = withstands(probe, lambda: Attack(tmp_path, "burst", **attack), seconds=1, floor=3 * FLOOR_S)
    assert tally["answered"] > 0 and "refused" not in tally


def test_garbage(withstand, besieged):
    withstand("garbage", network=16, target=besieged.echo.target)


def test_key_updates(withstand, besieged):
    """More than some without data between them end the connection, in a tunnel and before it."""
    tally = withstand("key_updates", network=17, target=besieged.echo.target)
    assert tally["cut off"] > 2 and "not cut off" not in tally
    besieged.record(reason="client_tls_error")


def test_renegotiation(withstand, besieged):
    """TLS 1.2: refused each time, and soon for good."""
    tally = withstand("renegotiations", network=18, target=besieged.echo.target)
    assert tally["cut off"] > 2 and "not cut off" not in tally
    assert tally["sent"] / tally["cut off"] < 2500


def test_empty_records(withstand, besieged):
    tally = withstand("empty_records", network=19, target=besieged.echo.target)
    assert tally["cut off"] > 2 and "not cut off" not in tally


def test_padding(withstand, besieged):
    """A byte of data in each record of the greatest size goes through, at the price of decrypting it all."""
    assert withstand("padding", 1.5, network=20, target=besieged.echo.target)["sent"] > 100


def test_fat_credentials(withstand, besieged):
    """20 KB of user or password are refused, unhashed, and are nobody's memory afterwards."""
    tally = withstand("fat_credentials", 1.5, network=21, target=besieged.echo.target, per_second=60)
    assert set(tally) <= {"407", "400"} and tally["407"] > 20
