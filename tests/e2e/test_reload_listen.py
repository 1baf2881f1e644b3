"""HUP and the addresses to listen on: added and removed without a refused or broken connection anywhere else."""

import shutil
import signal
import socket
import subprocess

import pytest
from client import connect_head
from origin import echo
from test_reload import alive, reload, status
from wait import until


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def entry(port, host="127.0.0.1", **more):
    return {"address": f"{host}:{port}"} | more


def at(proxy, port, host="127.0.0.1"):
    proxy.address = (host, port)
    return proxy


def in_force(proxy, **changes):
    seen = len(proxy.lines)
    reload(proxy, **changes)
    until(lambda: any("in force" in line or "nothing was changed" in line for line in proxy.lines[seen:]), "the reload")
    return "\n".join(proxy.lines[seen:])


def listens(port, host="127.0.0.1"):
    try:
        socket.create_connection((host, port), timeout=5).close()
        return True
    except ConnectionRefusedError:
        return False


@pytest.fixture
def four(start):
    """A proxy with four workers on a known port."""
    port = free_port()
    proxy = start({"workers": 4, "listen": [entry(port)]})
    yield proxy
    in_force(proxy, listen=[entry(port)])  # as at the start, so no more descriptors than then


def test_an_address_is_added_and_removed(four, origin):
    target = origin(echo).target
    first, second = four.port, free_port()
    with four.tunnel(target) as old:
        assert "in force" in in_force(four, listen=[entry(first), entry(second)])
        for _ in range(12):  # all workers take part
            assert status(at(four, second), target) == 200
            assert status(at(four, first), target) == 200
        with at(four, second).tunnel(target) as new:
            assert "in force" in in_force(four, listen=[entry(second)])
            until(lambda: not listens(first), "the first address to be closed")
            assert alive(old) and alive(new), "a tunnel does not depend on the door it came by"
            assert status(at(four, second), target) == 200
        in_force(four, listen=[entry(first)])
        assert status(at(four, first), target) == 200
        until(lambda: not listens(second), "the second address to be closed")
        assert alive(old)


def test_who_waits_at_a_door_that_closes_is_served(four, origin):
    """The queue of each worker's socket is emptied before it is closed."""
    target = origin(echo).target
    first, second = four.port, free_port()
    four.signal(signal.SIGSTOP)
    waiting = [at(four, first).tcp() for _ in range(40)]
    four.config["listen"] = [entry(second)]
    four.write_config()
    four.signal(signal.SIGHUP)
    four.signal(signal.SIGCONT)
    four.said("in force")
    for conn in waiting:
        conn.start_tls(four.lab.context, "proxy.test").handshake()
        assert conn.ask(connect_head(target)).status == 200
        conn.close()
    at(four, second)


def test_a_taken_address_changes_nothing(four, origin):
    target = origin(echo).target
    first, free = four.port, free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken, four.tunnel(target) as conn:
        taken_port = taken.getsockname()[1]
        said = in_force(four, listen=[entry(free), entry(taken_port)], policy={"rules": []})
        assert f"cannot listen on 127.0.0.1:{taken_port}: Address already in use" in said
        assert "nothing was changed" in said
        assert not listens(free), "nothing half done"
        assert status(at(four, first), target) == 200 and alive(conn)


def test_two_proxies_do_not_share_a_port_by_reload(start, lab, origin):
    one, two = start(), start()
    said = in_force(two, listen=[entry(one.port)])
    assert "Address already in use" in said and "nothing was changed" in said


def test_nor_beside_an_address_of_its_own_on_that_port(start):
    """The same port on another address is no overlap: sharing it would take half of the other proxy's connections."""
    port = free_port()
    start({"listen": [entry(port)]})
    two = start({"listen": [entry(port, "127.0.0.2")]})
    said = in_force(two, listen=[entry(port, "127.0.0.2"), entry(port)])
    assert "Address already in use" in said and "nothing was changed" in said


def test_what_a_start_would_refuse_a_reload_refuses(start):
    port = free_port()
    proxy = start({"listen": [entry(port, "0.0.0.0")]})
    said = in_force(proxy, listen=[entry(port, "0.0.0.0"), entry(port)])
    assert "overlaps entry 1" in said and "nothing was changed" in said


def test_from_every_address_to_one_and_back(start, ipv6, origin):
    """[::] takes IPv4 as well, so the old and the new address overlap while the one is opened and the other closed."""
    target = origin(echo).target
    port = free_port()
    proxy = start({"listen": [entry(port, "[::]")]})
    at(proxy, port)
    for listen in (entry(port, "0.0.0.0"), entry(port), entry(port, "[::]"), entry(port, "[::1]")):
        assert "in force" in in_force(proxy, listen=[listen])
        at(proxy, port, "::1" if "[::1]" in listen["address"] else "127.0.0.1")
        assert status(proxy, target) == 200
    until(lambda: not listens(port), "IPv4 to be closed")
    proxy.settle()


def test_own_addresses_are_never_a_target(four, origin):
    first, second = four.port, free_port()
    refused = lambda port: at(four, first).refused(f"127.0.0.1:{port}").word()
    with socket.create_server(("127.0.0.1", second)):
        assert status(four, f"127.0.0.1:{second}") == 200
    in_force(four, listen=[entry(first), entry(second)])
    assert refused(second) == "proxy_loop"
    in_force(four, listen=[entry(first)])
    with socket.create_server(("127.0.0.1", second)):
        assert status(at(four, first), f"127.0.0.1:{second}") == 200


def test_ports_the_system_chose_stay(start, origin):
    """Port 0 means the port it means already; a second such entry gets another one."""
    target = origin(echo).target
    proxy = start()
    port = proxy.port
    in_force(proxy, listen=[entry(0), entry(0, close_after_refusal=False)])
    assert status(proxy, target) == 200 and proxy.port == port
    in_force(proxy, listen=[entry(0)])
    assert status(proxy, target) == 200
    proxy.settle()


def test_a_port_by_its_number_or_by_chance_is_one_address(start, origin):
    """No second socket for what is open already."""
    target = origin(echo).target
    proxy = start()
    for listen in ([entry(proxy.port)], [entry(proxy.port), entry(0)], [entry(proxy.port)]):
        in_force(proxy, listen=listen)
        assert status(proxy, target) == 200
    proxy.settle()


def test_an_address_that_the_machine_gets_later_is_the_proxys_own(start):
    """[::] and 0.0.0.0 stand for every address of the machine, also those it has not yet."""
    late = "192.0.2.77"
    change = lambda what: subprocess.run(["ip", "addr", what, f"{late}/32", "dev", "lo"], capture_output=True)
    port = free_port()
    rule = {"name": "late", "action": "allow", "to": [f"{late}/32"], "ports": ["any"]}
    proxy = at(start({"listen": [entry(port, "0.0.0.0")], "policy": {"rules": [rule]}, "deadlines": {"dial": "1s"}}), port)
    if not shutil.which("ip") or change("add").returncode != 0:
        pytest.skip("no right to give this machine an address")
    try:
        def word():
            with proxy.open() as conn:
                return conn.ask(connect_head(f"{late}:{port}")).word()

        until(lambda: word() == "proxy_loop", "the new address to be known")
    finally:
        change("del")
