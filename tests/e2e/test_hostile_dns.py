"""Name servers that lie, break off, stay silent or die, and names whose owner wants to reach what is behind the proxy.

127.0.0.2 stands for a public address: the policy names it beside `any`. 127.0.0.1 and all its disguises are private to
it, and somebody listens there on the same port: whatever a name server says, nobody may ever arrive there."""

import contextlib
import ipaddress
import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import nameserver as ns
import protocols
import pytest
from client import connect_head
from nameserver import AAAA, A, NameServer, Stream, address, alias, message, record
from origin import echo
from proxy import Proxy
from wait import until

GOOD, BAD = "127.0.0.2", "127.0.0.1"
RULES = {"rules": [{"name": "public", "action": "allow", "to": ["any", f"{GOOD}/32"], "ports": ["any"]}]}


def settings(*servers, **deadlines):
    return {
        "policy": RULES,
        "dns": {"servers": [server.address for server in servers]},
        # Whatever is dialled by mistake, nothing can leave this machine: the one has no route out, the other is not
        # an address of it.
        "dial": {"source_v4": "127.0.0.9", "source_v6": "2001:db8::9"},
        "deadlines": {"resolve": "4s", **deadlines},
        "workers": 1,  # each has a cache of its own
    }


class World:
    """Name servers count their questions and proxies remember answers: each protocol has its own of both."""

    def __init__(self, lab, folder):
        self.names = NameServer({})
        self.outside = Proxy(lab, folder("outside"), settings(self.names)).start()
        self.impatient = Proxy(lab, folder("impatient"), settings(self.names, resolve="1200ms")).start()

    def close(self):
        self.outside.stop()
        self.impatient.stop()
        self.names.close()


@pytest.fixture(scope="module")
def worlds(lab, tmp_path_factory):
    made = {}

    def world():
        if protocols.current not in made:
            made[protocols.current] = World(lab, tmp_path_factory.mktemp)
        return made[protocols.current]

    yield world
    for each in made.values():
        each.close()


@pytest.fixture
def names(worlds):
    return worlds().names


@pytest.fixture
def _outside(worlds):
    return worlds().outside


@pytest.fixture
def _impatient(worlds):
    return worlds().impatient


@pytest.fixture
def outside(request, _outside):
    """A proxy that lets users out to public addresses, and nowhere else."""
    request.node.proxies = [_outside]
    yield _outside
    _outside.settle()


@pytest.fixture
def either(request, _outside, _impatient):
    """The same, or one that waits shorter, for answers that need not come in time."""

    def choose(expected):
        chosen = _impatient if "dns_timeout" in expected and "ok" not in expected else _outside
        request.node.proxies = [chosen]
        return chosen

    yield choose
    for proxy in request.node.proxies:
        proxy.settle()


class Pair:
    """The same port at the public address and at the private ones."""

    def __init__(self, origin):
        for attempt in range(20):
            self.good = origin(echo, GOOD)
            self.port = self.good.port
            try:
                self.secrets = [origin(echo, host, self.port) for host in (BAD, "127.255.255.254")]
                return
            except OSError:  # taken by somebody else
                if attempt == 19:
                    raise


@pytest.fixture
def pair(origin):
    pair = Pair(origin)
    yield pair
    assert [seen.peer for secret in pair.secrets for seen in secret.seen] == []


@dataclass
class Outcome:
    status: int
    word: str
    record: dict

    @property
    def address(self):
        return self.record.get("address")


def visit(proxy, target):
    """A CONNECT, and five bytes both ways when it is served. The record has to agree with what the client saw."""
    with proxy.open() as conn:
        response = conn.ask(connect_head(target))
        word = response.word()
        if response.status == 200:
            word = "ok"
            conn.send(b"hello")
            assert conn.recv_exactly(5) == b"hello"
            conn.finish()
            assert conn.recv_all() == b"" and conn.end == "clean"
        kind = "close" if response.status == 200 else "deny"
        entry = proxy.record(kind=kind, target=target, client_port=conn.name[1])
    assert (entry["reason"], entry["status"], entry["user"]) == (word, response.status, "alice")
    if kind == "close":
        assert (entry["bytes_up"], entry["bytes_down"]) == (5, 5)
    else:
        assert "bytes_up" not in entry and "bytes_down" not in entry
    return Outcome(response.status, word, entry)


def served(outcome):
    assert (outcome.status, outcome.address) == (200, GOOD), outcome
    return True


def refused_for_the_address(outcome):
    assert (outcome.status, outcome.word) == (403, "address_denied"), outcome
    return True


# --- names that become private ---


def turning(*turns, ttl=0, kind=A):
    """The n-th question of each kind gets the n-th answer, later ones the last."""

    def entry(ask):
        return ask.reply(turns[min(ask.number, len(turns)) - 1], ttl=ttl)

    return entry


@pytest.mark.parametrize("private", [[BAD], ["10.1.2.3"], ["::1"], ["::ffff:127.0.0.1"], ["169.254.169.254"]])
def test_a_name_that_becomes_private(outside, names, pair, private):
    """TTL 0: the second tunnel is judged by the second answer."""
    name = f"turns-{private[0].replace(':', '-')}.test"
    names.zone[name] = turning([GOOD], private)
    assert served(visit(outside, f"{name}:{pair.port}"))
    assert refused_for_the_address(visit(outside, f"{name}:{pair.port}"))
    assert len(pair.good.seen) == 1 and names.count(name, A) == 2, "TTL 0 is not kept"


def test_a_name_that_becomes_public(outside, names, pair):
    """A refusal is no verdict about the name for ever."""
    names.zone["improves.test"] = turning([BAD], [GOOD])
    assert refused_for_the_address(visit(outside, f"improves.test:{pair.port}"))
    assert served(visit(outside, f"improves.test:{pair.port}"))


def test_what_is_kept_was_checked(outside, names, pair):
    """Within its TTL the first answer holds: nobody is asked a second time, so nothing else can be dialled."""
    names.zone["kept.test"] = turning([GOOD], [BAD], ttl=300)
    for _ in range(5):
        assert served(visit(outside, f"kept.test:{pair.port}"))
    assert names.count("kept.test", A) == 1


def test_what_is_kept_is_checked_each_time(start, names, pair):
    """The cache knows no users: bob may go to private addresses, alice gets the same answer and may not."""
    rules = [{"name": "bob", "action": "allow", "users": ["bob"], "to": [GOOD, "10.0.0.0/8"], "ports": ["any"]}]
    proxy = start({**settings(names, dial="500ms"), "policy": {"rules": rules + RULES["rules"]}})
    names.zone["of-bob.test"] = ["10.255.255.1"]
    with proxy.open() as conn:
        assert conn.ask(connect_head(f"of-bob.test:{pair.port}", "bob")).status in (502, 504)  # allowed that far
    assert refused_for_the_address(visit(proxy, f"of-bob.test:{pair.port}"))
    assert names.count("of-bob.test", A) == 1


def test_a_name_that_turns_with_every_look(outside, names, pair):
    """One look-up per tunnel, and what it said is both judged and dialled: between the two there is no other."""
    names.zone["spins.test"] = lambda ask: ask.reply([GOOD if ask.number % 2 else BAD], ttl=0)
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(lambda _: visit(outside, f"spins.test:{pair.port}"), range(48)))
    assert {outcome.status for outcome in outcomes} == {200, 403}
    for outcome in outcomes:
        assert served(outcome) if outcome.status == 200 else refused_for_the_address(outcome)
    assert len(pair.good.seen) == sum(outcome.status == 200 for outcome in outcomes)
    assert names.count("spins.test", A) <= 48


MIXED = [
    [GOOD, BAD], [BAD, GOOD], [BAD, "10.0.0.1", GOOD, "192.168.1.1"], [GOOD, "::1"], [GOOD, "::ffff:127.0.0.1"],
    [GOOD, "::ffff:10.0.0.1", "64:ff9b::7f00:1"],
]


@pytest.mark.parametrize("answer", MIXED, ids=",".join)
def test_of_mixed_answers_the_allowed_address_alone(outside, names, origin, pair, answer):
    name = f"mixed{MIXED.index(answer)}.test"
    names.zone[name] = answer
    assert served(visit(outside, f"{name}:{pair.port}"))


@pytest.mark.parametrize("answer", MIXED, ids=",".join)
def test_the_private_address_is_no_second_choice(outside, names, pair, answer):
    """The public one refuses the connection; that is the end of it."""
    name = f"fallback{MIXED.index(answer)}.test"
    names.zone[name] = answer
    pair.good.close()
    outcome = visit(outside, f"{name}:{pair.port}")
    assert (outcome.status, outcome.word, outcome.address) == (502, "dial_refused", GOOD)


DISGUISES = [
    BAD, "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.31.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254",
    "169.254.0.1", "192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0.0.0.0", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2002:7f00:1::", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254",
    "ff02::1", "2001:db8::1", "100::1",
]


@pytest.mark.parametrize("disguise", DISGUISES)
def test_no_disguise_of_a_private_address(outside, names, pair, disguise):
    name = f"disguise{DISGUISES.index(disguise)}.test"
    names.zone[name] = [disguise]
    outcome = visit(outside, f"{name}:{pair.port}")
    assert refused_for_the_address(outcome)
    # The record has the address as it would have been dialled.
    assert ipaddress.ip_address(outcome.address) == plain(ipaddress.ip_address(disguise))


def plain(where):
    return getattr(where, "ipv4_mapped", None) or where


ALIASES = {
    "to a private address": lambda ask: [alias("inside.test"), address(BAD, owner="inside.test")],
    "to localhost": lambda ask: [alias("localhost"), address(BAD, owner="localhost")],
    "two steps": lambda ask: [
        alias("one.test"), alias("two.test", owner="one.test"), address(BAD, owner="two.test"),
    ],
}


@pytest.mark.parametrize("case", ALIASES, ids=lambda case: case.replace(" ", "-"))
def test_an_alias_to_what_is_private(outside, names, pair, case):
    name = f"alias{list(ALIASES).index(case)}.test"
    names.zone[name] = lambda ask: message(ask, ALIASES[case](ask) if ask.kind == A else ())
    assert refused_for_the_address(visit(outside, f"{name}:{pair.port}"))


def test_an_alias_does_not_borrow_the_rule_of_its_target(start, names):
    """The exact name opens private networks; another name that leads to it does not."""
    rules = [{"name": "wiki", "action": "allow", "to": ["wiki.test"], "ports": ["any"]}]
    proxy = start({**settings(names, dial="300ms"), "policy": {"rules": rules + RULES["rules"]}})
    names.zone["wiki.test"] = ["10.255.255.1"]
    names.zone["evil.test"] = lambda ask: message(
        ask, [alias("wiki.test"), address("10.255.255.1", owner="wiki.test")] if ask.kind == A else ()
    )
    assert visit(proxy, "wiki.test:9").word.startswith("dial_")
    assert refused_for_the_address(visit(proxy, "evil.test:9"))


def test_an_alias_for_a_while_only(outside, names, pair):
    """The TTL that counts is the least of the chain: here the alias's."""
    def entry(ask):
        target = GOOD if ask.number == 1 else BAD
        return message(ask, [alias("x.test", ttl=0), address(target, owner="x.test", ttl=300)] if ask.kind == A else ())

    names.zone["short-alias.test"] = entry
    assert served(visit(outside, f"short-alias.test:{pair.port}"))
    assert refused_for_the_address(visit(outside, f"short-alias.test:{pair.port}"))


def test_a_name_that_becomes_the_proxy_itself(start, names):
    loopback = {"rules": [{"name": "lab", "action": "allow", "to": ["loopback"], "ports": ["any"]}]}
    proxy = start({**settings(names), "policy": loopback})
    names.zone["itself.test"] = turning([GOOD], [BAD])
    assert visit(proxy, f"itself.test:{proxy.port}").word == "dial_refused"
    outcome = visit(proxy, f"itself.test:{proxy.port}")
    assert (outcome.status, outcome.word) == (403, "proxy_loop")


# --- messages that lie ---


def other_id(ask, step=1):
    return (struct.unpack("!H", ask.query[:2])[0] + step) & 0xFFFF


def first(*lies):
    """These, and then the truth."""
    return lambda ask: [lie(ask) for lie in lies] + [ask.reply([GOOD])]


def lie(ask, **options):
    return message(ask, [address(BAD if ask.kind == A else "::1")], **options)


def from_elsewhere(ask):
    """A forger who knows everything, at another port, is first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(lie(ask), ask.peer)
    return ask.reply([GOOD])


def question_for(name, kind):
    return ns.encode_name(name) + struct.pack("!HH", kind, 1)


def only(kind, entry):
    """The other family is said to have no addresses."""
    return lambda ask: entry(ask) if ask.kind == kind else ask.reply()


def noise(n):
    return lambda _ask: os.urandom(n)


def with_id(body):
    return lambda ask: ask.query[:2] + body


# Each of them is followed by the truth, which has to be heard.
BEFORE_THE_TRUTH = {
    "another id": first(*[lambda ask, step=step: lie(ask, number=other_id(ask, step)) for step in range(1, 40)]),
    "another name in the question": first(lambda ask: lie(ask, question=question_for("other.test", ask.kind))),
    "another type in the question": first(lambda ask: lie(ask, question=question_for(ask.name, 15))),
    "from another port": from_elsewhere,
    "no bytes": first(lambda _ask: b""),
    "a few bytes": first(*[noise(n) for n in range(1, 12)]),
    "noise": first(*[noise(n) for n in (12, 40, 512, 4096, 9000)]),
    "zeros": first(lambda _ask: bytes(512)),
    "the question alone, cut": first(lambda ask: ask.query[:2] + ask.query[2:11]),
}


@pytest.mark.parametrize("case", BEFORE_THE_TRUTH, ids=lambda case: case.replace(" ", "-"))
def test_a_lie_before_the_truth(outside, names, pair, case):
    name = f"lie{list(BEFORE_THE_TRUTH).index(case)}.test"
    names.zone[name] = BEFORE_THE_TRUTH[case]
    assert served(visit(outside, f"{name}:{pair.port}"))


def truth(ask):
    return [address(GOOD)] if ask.kind == A else []


def chain(steps, end, owner=None):
    """n0 is n1 is n2 ... and the last one has the address."""
    rows = [alias("n1.test")]
    rows += [alias(f"n{i + 1}.test", owner=f"n{i}.test") for i in range(1, steps)]
    return rows + ([address(end, owner=owner or f"n{steps}.test")] if end else [])


def pointer(at):
    return struct.pack("!H", 0xC000 | at)


def after_question(ask):
    return 12 + len(ask.question)


OK = ("ok",)
NO_ADDRESS = ("name_no_address",)
FAILED = ("dns_failed",)
UNUSABLE = ("name_no_address", "dns_failed", "dns_timeout")
HARMLESS = UNUSABLE + OK  # which one depends on the library's release: it ends, and ends well

# What is said to both families, and how it may end.
ANSWERS = {
    "nothing": (lambda ask: ask.reply(), NO_ADDRESS),
    "no such name": (lambda ask: ask.reply(code=ns.NXDOMAIN), ("name_unknown",)),
    "no such name, with an address": (lambda ask: message(ask, truth(ask), ns.NXDOMAIN), ("name_unknown",)),
    "server failure": (lambda ask: ask.reply(code=ns.SERVFAIL), FAILED),
    "refused": (lambda ask: ask.reply(code=ns.REFUSED), FAILED),
    "not implemented": (lambda ask: ask.reply(code=ns.NOTIMP), FAILED),
    "format error": (lambda ask: ask.reply(code=ns.FORMERR), FAILED),
    "format error at EDNS": (lambda ask: ask.reply(code=ns.FORMERR) if ask.edns else ask.reply([GOOD]), OK),
    "a code of no meaning": (lambda ask: ask.reply(code=13), UNUSABLE),
    "one family fails": (only(A, lambda ask: ask.reply(code=ns.SERVFAIL)), FAILED),
    "one family fails, the other has it": (
        lambda ask: ask.reply([GOOD], code=0 if ask.kind == A else ns.SERVFAIL), OK,
    ),
    "silence": (lambda _ask: None, ("dns_timeout",)),
    "one family silent": (only(AAAA, lambda _ask: None), ("dns_timeout",)),
    "the other family silent": (lambda ask: ask.reply([GOOD]) if ask.kind == A else None, OK),
    "only wrong ids": (lambda ask: lie(ask, number=other_id(ask)), ("dns_timeout",)),
    "only noise": (noise(300), ("dns_timeout",)),
    "the question sent back": (lambda ask: ask.query, UNUSABLE),
    "an address of another name": (
        lambda ask: message(ask, [address(GOOD, owner="other.test")] if ask.kind == A else ()), NO_ADDRESS,
    ),
    "other names beside ours": (
        lambda ask: message(ask, [address(BAD, owner="other.test"), *truth(ask)] if ask.kind == A else ()), OK,
    ),
    "an address beside the answer": (lambda ask: message(ask, additional=truth(ask)), NO_ADDRESS),
    "an address with the authority": (lambda ask: message(ask, authority=truth(ask)), NO_ADDRESS),
    "another class": (
        lambda ask: message(ask, [address(GOOD, family=ns.CHAOS)] if ask.kind == A else ()), UNUSABLE,
    ),
    "the other family's address": (
        lambda ask: message(ask, [address("::1" if ask.kind == A else GOOD)]), NO_ADDRESS,
    ),
    "an address of three bytes": (
        lambda ask: message(ask, [record(A, b"\x7f\x00\x02")] if ask.kind == A else ()), UNUSABLE,
    ),
    "an address of five bytes": (
        lambda ask: message(ask, [record(A, b"\x7f\x00\x00\x02\x02")] if ask.kind == A else ()), UNUSABLE,
    ),
    "an IPv6 address of four bytes": (
        lambda ask: message(ask, [record(AAAA, b"\x7f\x00\x00\x02")] if ask.kind == AAAA else ()), UNUSABLE,
    ),
    "a length beyond the end": (
        lambda ask: message(ask, [record(ask.kind, bytes(4), length=4000)]), UNUSABLE,
    ),
    "more records counted than there": (lambda ask: message(ask, truth(ask), counts=(1, 4000, 0, 0)), UNUSABLE),
    "fewer records counted than there": (lambda ask: message(ask, truth(ask), counts=(1, 0, 0, 0)), NO_ADDRESS),
    "no question counted": (lambda ask: message(ask, truth(ask), counts=(0, 1, 0, 0)), HARMLESS),
    "a name that points at itself": (
        lambda ask: message(ask, [address(GOOD, owner=pointer(after_question(ask)))]), UNUSABLE,
    ),
    "two names that point at each other": (
        lambda ask: message(ask, [
            address(GOOD, owner=pointer(after_question(ask) + 16)),
            address(GOOD, owner=pointer(after_question(ask))),
        ]),
        UNUSABLE,
    ),
    "a name that points beyond the end": (lambda ask: message(ask, [address(GOOD, owner=pointer(16383))]), UNUSABLE),
    "a name of labels without end": (
        lambda ask: message(ask, [address(GOOD, owner=b"\x3f" + b"x" * 63)] * 40), UNUSABLE,
    ),
    "a label of a kind that is not": (lambda ask: message(ask, [address(GOOD, owner=b"\x80x\x00")]), UNUSABLE),
    "an alias that points at itself": (
        lambda ask: message(ask, [alias(pointer(after_question(ask) + 12))]), UNUSABLE,
    ),
    "an alias of itself": (lambda ask: message(ask, [alias(ask.name)]), UNUSABLE),
    "a circle of aliases": (
        lambda ask: message(ask, [alias("b.test"), alias("c.test", owner="b.test"), alias(ask.name, owner="c.test")]),
        UNUSABLE,
    ),
    "an alias to nowhere": (lambda ask: message(ask, [alias("nowhere.test")]), UNUSABLE),
    "a short chain": (only(A, lambda ask: message(ask, chain(3, GOOD))), OK),
    "a long chain": (only(A, lambda ask: message(ask, chain(100, GOOD))), HARMLESS),
    "a long chain to nowhere": (only(A, lambda ask: message(ask, chain(100, None))), UNUSABLE),
    "a chain that is broken": (only(A, lambda ask: message(ask, chain(3, GOOD, owner="n9.test"))), UNUSABLE),
    "a message cut short": (lambda ask: message(ask, truth(ask) or [address("::1")])[:-3], UNUSABLE),
    "a message of nothing but its head": (with_id(b"\x81\x80" + bytes(8)), UNUSABLE),
    "noise under our id": (with_id(b"\x81\x80" + bytes([0xA5]) * 700), UNUSABLE),
    "many other records": (
        lambda ask: message(ask, [record(ns.TXT, b"\xff" + b"x" * 255)] * 10 + truth(ask)), OK,
    ),
    "the same address often": (lambda ask: message(ask, truth(ask) * 60), OK),
    "the same message often": (lambda ask: [ask.reply([GOOD])] * 20, OK),
    "a TTL of 68 years": (lambda ask: ask.reply([GOOD], ttl=0x7FFFFFFF), OK),
    "a TTL below zero": (lambda ask: ask.reply([GOOD], ttl=0x80000000), OK),
    "the greatest TTL": (lambda ask: ask.reply([GOOD], ttl=0xFFFFFFFF), OK),
    "labels of any bytes": (
        lambda ask: message(ask, [alias(b"\x04\x00\x1b\n\xff\x00"), address(GOOD, owner=b"\x04\x00\x1b\n\xff\x00")]
                            if ask.kind == A else ()),
        HARMLESS,
    ),
}


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case.replace(" ", "-"))
def test_an_answer(either, names, pair, case):
    entry, expected = ANSWERS[case]
    check_answer(either(expected), names, pair, f"answer{list(ANSWERS).index(case)}.test", entry, expected, [GOOD])


def check_answer(proxy, names, pair, name, entry, expected, good_answer):
    names.zone[name] = entry
    outcome = visit(proxy, f"{name}:{pair.port}")
    assert outcome.word in expected, outcome
    if outcome.word == "ok":
        assert served(outcome)
    # The next name suffers nothing from it. (A busy machine may need more time than the impatient proxy has.)
    names.zone[f"after-{name}"] = good_answer
    def after():
        outcome = visit(proxy, f"after-{name}:{pair.port}")
        return outcome if outcome.word != "dns_timeout" else None

    assert served(until(after, "the next name's answer"))


def test_nobody_is_poisoned(outside, names, pair):
    """What an answer says about other names is not kept: neither beside its own nor in the other sections."""
    extra = [address(BAD, owner="victim.test", ttl=3600)]
    names.zone["poison.test"] = lambda ask: message(ask, truth(ask) + extra, 0, extra, extra)
    names.zone["victim.test"] = [GOOD]
    visit(outside, f"poison.test:{pair.port}")
    assert served(visit(outside, f"victim.test:{pair.port}"))
    assert names.count("victim.test", A) == 1


# --- how long it is kept ---


def test_a_giant_ttl_is_cut(start, names, pair):
    """By dns.ttl_max; until then nobody is asked."""
    settled = settings(names)
    settled["dns"]["ttl_max"] = "1s"
    proxy = start(settled)
    names.zone["giant.test"] = turning([GOOD], [BAD], ttl=0x7FFFFFFF)
    assert served(visit(proxy, f"giant.test:{pair.port}"))
    until(lambda: visit(proxy, f"giant.test:{pair.port}").status == 403, "the second answer")
    assert names.count("giant.test", A) == 2


@pytest.mark.parametrize("ttl", [0, 0x80000000, 0xFFFFFFFF])
def test_no_time_at_all(outside, names, pair, ttl):
    """Zero, and what RFC 2181 8 says is to be taken for zero."""
    name = f"ttl-{ttl:x}.test"
    names.zone[name] = turning([GOOD], [BAD], ttl=ttl)
    assert served(visit(outside, f"{name}:{pair.port}"))
    assert refused_for_the_address(visit(outside, f"{name}:{pair.port}"))


def test_failures_are_not_kept(outside, names, pair):
    names.zone["heals.test"] = lambda ask: ask.reply([GOOD]) if healed else ask.reply(code=ns.SERVFAIL)
    healed = False
    assert visit(outside, f"heals.test:{pair.port}").word == "dns_failed"
    healed = True
    assert served(visit(outside, f"heals.test:{pair.port}"))


# --- truncated, and over TCP ---


def tcp_only(entry):
    return lambda ask: entry(ask) if ask.tcp else ask.reply(truncated=True)


def cut_stream(ask, at):
    whole = ask.reply([GOOD])
    return Stream((struct.pack("!H", len(whole)) + whole)[:at])


# What TCP carries once UDP has said "too long".
OVER_TCP = {
    "the truth": (lambda ask: ask.reply([GOOD]), OK),
    "a thousand addresses": (lambda ask: ask.reply([GOOD] + [f"10.9.{i // 250}.{i % 250}" for i in range(1000)]), OK),
    "truncated again": (lambda ask: ask.reply(truncated=True), UNUSABLE),
    "nothing": (lambda _ask: Stream(b""), UNUSABLE),
    "half a length": (lambda ask: cut_stream(ask, 1), UNUSABLE),
    "half a message": (lambda ask: cut_stream(ask, 20), UNUSABLE),
    "all but one byte": (lambda ask: cut_stream(ask, -1), UNUSABLE),
    "a length of zero": (lambda _ask: Stream(b"\x00\x00" * 8), UNUSABLE),
    "a length of one": (lambda _ask: Stream(b"\x00\x01x"), UNUSABLE),
    "noise": (lambda _ask: Stream(bytes([0x5A]) * 5000), UNUSABLE),
    "silence": (lambda _ask: None, UNUSABLE),
    "another id, then the truth": (first(lambda ask: lie(ask, number=other_id(ask))), OK),
    "often": (lambda ask: [ask.reply([GOOD])] * 20, OK),
    "server failure": (lambda ask: ask.reply(code=ns.SERVFAIL), FAILED),
}


@pytest.mark.parametrize("case", OVER_TCP, ids=lambda case: case.replace(" ", "-"))
def test_over_tcp(either, names, pair, case):
    entry, expected = OVER_TCP[case]
    name = f"tcp{list(OVER_TCP).index(case)}.test"
    check_answer(either(expected), names, pair, name, tcp_only(entry), expected, ("truncated", [GOOD]))
    assert names.count(name, way="tcp") > 0


def test_a_truncated_answer_is_not_taken_for_the_whole(outside, names, pair):
    names.zone["partly.test"] = lambda ask: ask.reply([GOOD]) if ask.tcp else ask.reply([BAD], truncated=True)
    assert served(visit(outside, f"partly.test:{pair.port}"))


def test_tcp_refused(start, pair):
    server = NameServer({"long.test": ("truncated", [GOOD]), "short.test": [GOOD]}, tcp=False)
    with contextlib.closing(server):
        proxy = start(settings(server))
        assert visit(proxy, f"long.test:{pair.port}").word in ("dns_failed", "dns_timeout")
        assert served(visit(proxy, f"short.test:{pair.port}"))
        proxy.settle()


# --- slow, dead, and back ---


class Gate:
    """An answer that waits until it is let go."""

    def __init__(self, entry):
        self.entry = entry
        self.open = threading.Event()

    def __call__(self, ask):
        self.open.wait(30)
        return self.entry(ask)


def test_a_slow_answer(outside, names, pair):
    """It comes while the client waits, after the first question was repeated."""
    gate = names.zone["slow.test"] = Gate(lambda ask: ask.reply([GOOD]))
    with outside.open() as conn:
        conn.send(connect_head(f"slow.test:{pair.port}"))
        until(lambda: names.count("slow.test", A) >= 2, "the question to be repeated")
        gate.open.set()
        assert conn.response().status == 200
    outside.record(kind="close", target=f"slow.test:{pair.port}")


def test_an_answer_after_the_deadline(outside, names, pair):
    """The client has had its refusal; the answer finds nobody, and harms nobody."""
    gate = names.zone["late.test"] = Gate(lambda ask: ask.reply([BAD]))
    assert visit(outside, f"late.test:{pair.port}").word == "dns_timeout"
    gate.open.set()
    names.zone["late.test"] = [GOOD]
    assert visit(outside, f"late.test:{pair.port}").word in ("ok", "address_denied", "dns_timeout")
    names.zone["on-time.test"] = [GOOD]
    assert served(visit(outside, f"on-time.test:{pair.port}"))


def test_a_client_that_leaves_before_the_answer(outside, names, pair):
    gate = names.zone["left.test"] = Gate(lambda ask: ask.reply([GOOD]))
    with outside.open() as conn:
        conn.send(connect_head(f"left.test:{pair.port}"))
        until(lambda: names.count("left.test", A), "the question")
        conn.reset()
    gate.open.set()
    assert outside.record(kind="deny", target=f"left.test:{pair.port}")["reason"] in ("client_gone", "client_reset")
    assert pair.good.seen == []


@pytest.mark.parametrize("way", ["udp", "tcp"])
def test_a_server_that_dies_and_comes_back(start, pair, way):
    """While it is dead what is known is served from memory, the rest fails at once; back, it is asked as if nothing had
    been."""
    entry = [GOOD] if way == "udp" else ("truncated", [GOOD])
    zone = {name: entry for name in ("known.test", "back0.test", "back1.test", "back2.test")}
    server = NameServer(zone)
    proxy = start(settings(server))
    assert served(visit(proxy, f"known.test:{pair.port}"))
    for turn in range(3):
        server.stop()
        assert visit(proxy, f"back{turn}.test:{pair.port}").word in ("dns_failed", "dns_timeout")
        assert served(visit(proxy, f"known.test:{pair.port}"))
        server.start()
        assert served(visit(proxy, f"back{turn}.test:{pair.port}"))
    server.close()
    proxy.settle()


def test_a_server_that_dies_over_an_answer(start, pair):
    """Asked by TCP, it is gone before it has said all."""
    server = NameServer({})
    started = threading.Event()

    def entry(ask):
        if ask.tcp:
            started.set()
        return cut_stream(ask, 10) if ask.tcp else ask.reply(truncated=True)

    server.zone["gone.test"] = entry
    proxy = start(settings(server))
    with proxy.open() as conn:
        conn.send(connect_head(f"gone.test:{pair.port}"))
        assert started.wait(20)
        server.stop()
        assert conn.response().word() in ("dns_failed", "dns_timeout")
    assert proxy.record(kind="deny", target=f"gone.test:{pair.port}")["status"] in (502, 504)


FIRST_SERVERS = {
    "dead": None,
    "silent": lambda _ask: None,
    "failing": lambda ask: ask.reply(code=ns.SERVFAIL),
    "refusing": lambda ask: ask.reply(code=ns.REFUSED),
    "without the function": lambda ask: ask.reply(code=ns.NOTIMP),
    "noisy": noise(200),
    "lying about the id": lambda ask: lie(ask, number=other_id(ask)),
}


@pytest.mark.parametrize("case", FIRST_SERVERS, ids=lambda case: case.replace(" ", "-"))
def test_the_second_server_helps(start, names, pair, case):
    bad = NameServer({name: FIRST_SERVERS[case] for name in ("help0.test", "help1.test")})
    if case == "dead":
        bad.stop()
    names.zone["help0.test"] = names.zone["help1.test"] = [GOOD]
    with contextlib.closing(bad):
        proxy = start(settings(bad, names, resolve="5s"))
        for name in ("help0.test", "help1.test"):
            assert served(visit(proxy, f"{name}:{pair.port}"))
        proxy.settle()


def test_both_servers_dead(start, names, pair):
    bad = [NameServer({}), NameServer({})]
    for server in bad:
        server.stop()
    proxy = start(settings(*bad, resolve="5s"))
    assert visit(proxy, f"help0.test:{pair.port}").word in ("dns_failed", "dns_timeout")
    assert visit(proxy, f"{GOOD}:{pair.port}").status == 200


# --- many at once ---


def test_others_beside_names_that_are_not_answered(start, names, pair):
    """Names wait for a silent server until no more may be asked at a time: the rest are told so at once. Who goes to an
    address, to a name that is known, or to one that is answered, does not wait for them."""
    changes = settings(names, resolve="60s")
    changes["dns"]["queries"] = 20
    proxy = start(changes)
    names.zone["known-before.test"] = [GOOD]
    assert served(visit(proxy, f"known-before.test:{pair.port}"))
    gates = []
    for i in range(40):
        gates.append(Gate(lambda ask: ask.reply()))
        names.zone[f"wait{i}.test"] = gates[-1]
    conns = [proxy.open() for _ in range(40)]
    for i, conn in enumerate(conns[:19]):
        conn.send(connect_head(f"wait{i}.test:{pair.port}"))
    until(lambda: all(names.count(f"wait{i}.test", A) for i in range(19)), "19 questions")
    for i in range(5):  # one place is left for the others
        names.zone[f"beside{i}.test"] = [GOOD]
        assert served(visit(proxy, f"beside{i}.test:{pair.port}"))
        assert served(visit(proxy, f"{GOOD}:{pair.port}"))
        assert served(visit(proxy, f"known-before.test:{pair.port}"))
    conns[19].send(connect_head(f"wait19.test:{pair.port}"))
    until(lambda: names.count("wait19.test", A), "the last place to be taken")
    for i, conn in enumerate(conns[20:], 20):
        conn.send(connect_head(f"wait{i}.test:{pair.port}"))
    assert [conn.response().word() for conn in conns[20:]] == ["dns_busy"] * 20
    assert served(visit(proxy, f"known-before.test:{pair.port}"))
    for conn in conns:
        conn.reset()
    for gate in gates:
        gate.open.set()  # nobody waits for these any more; their end gives the sockets back
    proxy.settle()
    until(lambda: len([r for r in proxy.records() if r["kind"] == "deny"]) == 40, "a record of each")
    reasons = [r["reason"] for r in proxy.records() if r["kind"] == "deny"]
    assert sorted(set(reasons)) == ["client_reset", "dns_busy"] and reasons.count("dns_busy") == 20, reasons
