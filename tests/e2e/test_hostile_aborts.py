"""Clients that give up, by RST and by FIN, in every phase of a connection and beside a probe: whatever was under way for
them ends, and nothing of it stays."""

import pytest
from origin import Origin, echo
from probe import SMALL_QUARANTINE, Attack, Probe, times, withstands
from proxy import Proxy
from test_auth import slow_line
from wait import until

OPEN = {"unauthenticated_per_prefix": "off", "handshakes_per_prefix": "off"}


@pytest.fixture(scope="module")
def place(lab, tmp_path_factory):
    """A proxy that all of them meet one after the other. A RST ends everything at once, and so does a FIN before the
    request is there; behind that a FIN is only half an end, for the client may still wait for its answer: what was begun
    for it goes on, to its end or to its deadline."""
    users = lab.htpasswd_text + slow_line("slow", 7)
    changes = {
        "limits": OPEN,
        "deadlines": {"handshake": "60s", "head": "60s", "auth": "3s", "resolve": "1s", "dial": "2s", "linger": "500ms",
                      "half_closed": "1s", "drain": "5s"},
    }
    proxy = Proxy(lab, tmp_path_factory.mktemp("given-up"), changes, env=SMALL_QUARANTINE, users=users).start()
    proxy.echo = Origin(echo)
    yield proxy
    proxy.stop()
    proxy.echo.close()


@pytest.fixture
def withstand(request, place, tmp_path):
    request.node.proxies = [place]

    def run(phase, n, **options):
        attack = {"port": place.port, "network": 30, "phase": phase, "times": times(n), **options}
        tally = withstands(Probe(place, place.echo.target), lambda: Attack(tmp_path, "aborts", **attack))
        assert tally["given up"] >= 2 * times(n)

    return run


def every_open_has_its_close(proxy):
    """And one of each."""

    def of(kind):
        return sorted(record["id"] for record in proxy.records() if record["kind"] == kind)

    until(lambda: of("open") and of("open") == of("close"), "the last record")


# As many as are cheap; of the others what fits into a short run.
@pytest.mark.parametrize("phase, n, per_second", [
    ("connect", 2000, 3000), ("hello", 2000, 2500), ("flight", 250, 250), ("handshake", 120, 150), ("head", 120, 150),
])
def test_before_a_request(withstand, phase, n, per_second):
    withstand(phase, n, per_second=per_second)


def test_while_the_password_is_hashed(withstand):
    """Each with another password, so that each would be hashed: those in line are dropped, and one at most goes on."""
    withstand("auth", 100, per_second=120, user="slow")


def test_while_the_name_is_resolved(withstand):
    withstand("resolve", 100, per_second=120, target="silent.test:443")


def test_while_the_target_is_dialled(withstand, black_hole):
    withstand("dial", 100, per_second=120, target=black_hole().target)


def test_at_any_moment_after_the_request(withstand, place):
    """A little later each time: amid the look-up, the dial, the record, the 200 and the first bytes of the tunnel."""
    withstand("later", 100, per_second=120, target=place.echo.target, spread=0.02)
    every_open_has_its_close(place)


@pytest.mark.parametrize("way", ["tunnel", "up", "down"])
def test_in_the_tunnel(withstand, place, way):
    """Idle, with bytes on the way to the target, with bytes on the way to the client."""
    withstand(way, 80, per_second=100)
    every_open_has_its_close(place)
