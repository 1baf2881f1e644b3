"""What a remote worker's browser does, with nothing set but one URL: a page, large and many transfers, a WebSocket, a
wrong password, a proxy that is restarted, and what it does on the wire when it is asked for its login."""

import datetime

import origin as origins
import pki
import pytest
from client import connect_head
from wait import stays, until

MEGABYTES_20 = 20_000_000


def refusals(proxy, site, reason):
    """The refusals of this reason to browsers that wanted to go to the site."""
    return [
        record for name in ("strangers.jsonl", "access.jsonl") for record in proxy.records(name)
        if record["kind"] == "deny" and record["reason"] == reason and record["target"].endswith(f":{site.port}")
    ]


def opens(proxy, site):
    return [r for r in proxy.records() if r["kind"] == "open" and r["target"].endswith(f":{site.port}")]


def url(site, path="/", host="site.test"):
    return f"https://{host}:{site.port}{path}"


def page_is_there(browser, site):
    problem = browser.open(url(site))
    assert problem is None, problem
    assert browser.run("document.title") == "through the tunnel"


def test_page(serve, site, browser, picture, protocol):
    proxy = serve()
    worker = browser()
    page_is_there(worker, site)
    assert worker.run("document.getElementById('script').textContent") == "the script runs"
    assert worker.run("document.getElementById('picture').complete")
    assert worker.run("document.getElementById('picture').naturalWidth") == 64
    assert worker.run("getComputedStyle(document.body).color") == "rgb(20, 40, 60)"
    up = worker.run("upload('/upload', 5000000)")
    assert up["there"] == up["here"]
    picture(worker)
    worker.stop()
    tunnels = opens(proxy, site)
    assert tunnels
    for record in tunnels:
        assert (record["user"], record["protocol"], record["tls_sni"]) == ("alice", protocol, "proxy.test")
    # Asked without credentials first, then with the saved ones; never with wrong ones.
    assert 1 <= len(refusals(proxy, site, "auth_required")) <= 6
    assert not refusals(proxy, site, "auth_failed")


def test_ten_large_fetches(serve, site, browser, picture):
    proxy = serve()
    worker = browser()
    page_is_there(worker, site)
    sizes = [MEGABYTES_20 + i for i in range(10)]
    results = worker.run(f"fetchAll({[f'/bytes?n={size}' for size in sizes]})")
    picture(worker)
    worker.stop()
    assert [result.get("error") for result in results] == [None] * 10
    assert [result["size"] for result in results] == sizes
    assert [result["sum"] for result in results] == [origins.digest(origins.pattern(size)) for size in sizes]

    def closed():
        return [r for r in proxy.records() if r["kind"] == "close" and r["target"].endswith(f":{site.port}")]

    until(lambda: len(closed()) == len(opens(proxy, site)), "the ends of all tunnels on record")
    assert sum(record["bytes_down"] for record in closed()) > sum(sizes)


def test_websocket(serve, site, browser, picture):
    serve()
    worker = browser()
    page_is_there(worker, site)
    sizes = [0, 1, 125, 126, 65535, 65536, 1_000_000, 5_000_000]
    result = worker.run(f"echo('wss://site.test:{site.port}/echo', {sizes})")
    picture(worker)
    assert result["opened"] and result["same"]
    assert result["sizes"] == sizes and result["texts"] == len(sizes)
    assert result["code"] == 4321 and result["clean"]
    assert len(site.paths("/echo")) == 1


def test_thirty_at_once(serve, site, browser, picture):
    """Each is answered only when all of them have arrived. Browsers open six connections to a name, so: five names."""
    proxy = serve()
    worker = browser()
    page_is_there(worker, site)
    urls = [url(site, f"/together?n=30&i={i}", f"p{i % 5 + 1}.site.test") for i in range(30)]
    results = worker.run(f"fetchAll({urls})")
    picture(worker)
    assert [result.get("error") for result in results] == [None] * 30
    assert {result["sum"] for result in results} == {origins.digest(b"all here")}
    assert len({record["connection"] for record in opens(proxy, site)}) >= 30


def test_wrong_password(serve, site, browser, picture, note):
    """The worker is told, the proxy is not asked for ever, and the right password still opens the door."""
    proxy = serve({"auth": {"throttle": None}})
    worker = browser("not-the-password")
    problem = worker.open(url(site))
    until(lambda: refusals(proxy, site, "auth_failed"), "the wrong password at the proxy")
    picture(worker)
    asked = len(refusals(proxy, site, "auth_failed"))
    stays(lambda: len(refusals(proxy, site, "auth_failed")) <= asked, "no further attempt by itself", 3)
    note("".join(lines(every_access(proxy))))
    assert problem, "the page was there"
    assert asked <= 12
    assert not opens(proxy, site) and not site.requests
    assert not refusals(proxy, site, "auth_throttled")
    with proxy.open() as right:
        assert right.ask(connect_head(f"site.test:{site.port}", "alice", pki.PASSWORD)).status == 200
    worker.stop()


def test_restart_under_it(serve, site, browser, picture):
    proxy = serve()
    worker = browser()
    page_is_there(worker, site)
    proxy.signal(15)
    proxy.wait_stopped()
    seen = len(site.requests)
    assert worker.open(url(site)), "a page without a proxy"
    picture(worker, "down")
    assert len(site.requests) == seen, "the browser went around the proxy"
    again = serve()
    page_is_there(worker, site)
    assert worker.run("document.getElementById('script').textContent") == "the script runs"
    picture(worker, "up")
    assert opens(again, site)
    worker.stop()


@pytest.mark.parametrize("close", ["on", "off"])
def test_login_on_the_wire(serve, site, browser, close, note):
    """Closing after the 407, as RFC 9931 wants it, or leaving the connection open: the page is there both times."""
    proxy = serve({"listen": [serve.listener | {"close_after_refusal": close}]})
    worker = browser()
    page_is_there(worker, site)
    worker.stop()
    until(lambda: ends(proxy) == len(opens(proxy, site)), "the ends of all tunnels on record")
    records = every_access(proxy)
    note(f"close_after_refusal: {close}\n" + "".join(lines(records)))
    to_site = [record for record in records if record["target"].endswith(f":{site.port}")]
    assert to_site[0]["status"] == 407 and "claimed_user" not in to_site[0], "credentials before it was asked for them"
    denied = {record["connection"] for record in to_site if record["kind"] == "deny"}
    opened = {record["connection"] for record in to_site if record["kind"] == "open"}
    assert opened
    if close == "on":
        assert not denied & opened


def every_access(proxy):
    """What was asked of the proxy, by anybody, in order."""
    records = [record for name in ("strangers.jsonl", "access.jsonl") for record in proxy.records(name)]
    return sorted((r for r in records if r["kind"] in ("deny", "open")), key=lambda record: record["time"])


def ends(proxy):
    return sum(record["kind"] == "close" for record in proxy.records())


def lines(records):
    """One for each: seconds since the first, number of the connection, what was asked, what was answered."""
    numbers = {}
    for record in records:
        number = numbers.setdefault(record["connection"], len(numbers) + 1)
        time = datetime.datetime.fromisoformat(record["time"])
        since = (time - datetime.datetime.fromisoformat(records[0]["time"])).total_seconds()
        yield f"{since:7.3f} s  connection {number:2}  {record['method']} {record['target'][:40]:40}  " \
            f"{record['status']} {record.get('reason', '')} {record.get('user') or record.get('claimed_user', '-')}\n"
