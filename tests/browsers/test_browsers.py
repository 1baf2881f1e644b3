"""What a remote worker's browser does, with nothing set but one URL: pages by https:// and http://, large and many
transfers, WebSockets, a wrong password, sites that are refused, a proxy that is reloaded, drained and restarted, and
what it does on the wire when it is asked for its login. All of it over HTTP/1.1 and over HTTP/2."""

import datetime
import hashlib
import os
import signal
from collections import Counter

import origin as origins
import pki
import pytest
from client import connect_head
from wait import stays, until

MEGABYTES_20 = 20_000_000


def for_site(record, site):
    """Asked for as a tunnel to it, or as a URL of it."""
    return f":{site.port}/" in f"{record['target']}/"


def refusals(proxy, site, reason):
    """The refusals of this reason to browsers that wanted to go to the site."""
    return [
        record for name in ("strangers.jsonl", "access.jsonl") for record in proxy.records(name)
        if record["kind"] == "deny" and record["reason"] == reason and for_site(record, site)
    ]


def opens(proxy, site):
    return [record for record in proxy.records() if record["kind"] == "open" and for_site(record, site)]


def url(site, path="/", host="site.test"):
    return f"{'https' if site.server.tls else 'http'}://{host}:{site.port}{path}"


def page_is_there(browser, site, host="site.test"):
    problem = browser.open(url(site, host=host))
    assert problem is None, problem
    assert browser.run("document.title") == "through the tunnel"


def shared(records):
    """How many of the accesses came by the connection that had the most of them."""
    return max(Counter(record["connection"] for record in records).values())


def assert_carried(records, http, at_least):
    """Over HTTP/2 accesses share a connection, over HTTP/1.1 each tunnel has its own."""
    assert {record["protocol"] for record in records} == {{"h1": "http/1.1", "h2": "h2"}[http]}
    if http == "h2":
        assert shared(records) >= at_least
    else:
        assert shared(records) == 1


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


def echoes(worker, target, sizes):
    result = worker.run(f"echo('{target}', {sizes})")
    assert result["opened"] and result["same"]
    assert result["sizes"] == sizes and result["texts"] == len(sizes)
    assert result["code"] == 4321 and result["clean"]


def test_websocket(serve, site, browser, picture, http):
    """To another host than the page's, where the proxy is asked for a tunnel: docs/configuration.md says why."""
    proxy = serve()
    worker = browser()
    page_is_there(worker, site)
    echoes(worker, f"wss://p1.site.test:{site.port}/echo", [0, 1, 125, 126, 65535, 65536, 1_000_000, 5_000_000])
    picture(worker)
    assert len(site.paths("/echo")) == 1
    assert_carried(opens(proxy, site), http, 2)


def test_websocket_beside_its_page(serve, site, browser, picture, protocol):
    """To the page's own host; Firefox gives HTTP/2 up for that, and is offered HTTP/1.1."""
    proxy = serve()
    worker = browser()
    page_is_there(worker, site)
    for n in range(1, 4):
        echoes(worker, f"wss://site.test:{site.port}/echo", [0, 1, 65536, 1_000_000])
        assert len(site.paths("/echo")) == n
    picture(worker)
    assert opens(proxy, site)[0]["protocol"] == protocol


def test_thirty_at_once(serve, site, browser, picture, http):
    """Each is answered only when all of them have arrived. Browsers open six connections to a name, so: five names."""
    proxy = serve()
    worker = browser()
    page_is_there(worker, site)
    names = [f"p{i}.site.test" for i in range(1, 6)]
    # Firefox, asked for several of a name not yet heard of, makes as many connections to the proxy before it knows that
    # these are HTTP/2, and then holds some requests back as if the name spoke HTTP/2 too. So: a name is heard of first.
    for name in names:
        assert "error" not in worker.run(f"fetchAll({[url(site, '/bytes?n=1', name)]})")[0]
    meeting = os.urandom(4).hex()
    urls = [url(site, f"/together?n=30&meeting={meeting}&i={i}", names[i % 5]) for i in range(30)]
    results = worker.run(f"fetchAll({urls})")
    assert [result.get("error") for result in results] == [None] * 30
    assert {result["sum"] for result in results} == {origins.digest(b"all here")}
    picture(worker)
    assert len(opens(proxy, site)) >= 30
    assert_carried(opens(proxy, site), http, 10)


def test_wrong_password(serve, site, browser, picture, note, http):
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
    # Firefox asks again by itself over HTTP/2, on ever new streams, until it is told 429
    assert len(refusals(proxy, site, "auth_throttled")) <= (3 if http == "h2" else 0)
    with proxy.open() as right:
        assert right.ask(connect_head(f"site.test:{site.port}", "alice", pki.PASSWORD)).status == 200
    worker.stop()


def test_restart_under_it(serve, site, browser, picture):
    """With another page than the one for which the login was asked: docs/configuration.md says why."""
    proxy = serve()
    worker = browser()
    page_is_there(worker, site)
    page_is_there(worker, site, "p1.site.test")
    proxy.signal(15)
    proxy.wait_stopped()
    seen = len(site.requests)
    assert worker.open(url(site, host="p1.site.test")), "a page without a proxy"
    picture(worker, "down")
    assert len(site.requests) == seen, "the browser went around the proxy"
    again = serve()
    page_is_there(worker, site, "p1.site.test")
    assert worker.run("document.getElementById('script').textContent") == "the script runs"
    picture(worker, "up")
    assert opens(again, site)
    worker.stop()


@pytest.mark.parametrize("close", ["on", "off"])
def test_login_on_the_wire(serve, site, browser, close, note, http):
    """Closing after the 407, as RFC 9931 wants it, or leaving the connection open: the page is there both times. Over
    HTTP/2 only the stream ends, and the login comes by the same connection."""
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
    if http == "h2":
        assert denied & opened
    elif close == "on":
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
        user = record.get("user") or record.get("claimed_user", "-")
        yield f"{since:7.3f} s  connection {number:2}  {record['method']} {record['target'][:40]:40}  " \
            f"{record.get('status', '-')} {record.get('reason', '')} {user}\n"


# --- http:// ---


def requests(proxy, site, method):
    return [record for record in opens(proxy, site) if record["method"] == method]


def test_plain_page(serve, plain_site, browser, picture, http, note):
    """A page by http:// with pictures from five other origins, a form, an upload: forwarded, all of it on record."""
    proxy = serve()
    worker = browser()
    problem = worker.open(url(plain_site, "/plain.html"))
    assert problem is None, problem
    assert worker.run("document.title") == "in the clear"
    assert worker.run("document.getElementById('script').textContent") == "the script runs"
    assert worker.run("getComputedStyle(document.body).color") == "rgb(20, 40, 60)"
    sources = [url(plain_site, f"/picture.svg?i={i}", f"p{i % 5 + 1}.site.test") for i in range(20)]
    assert worker.run(f"pictures({sources})") == [64] * 20
    bytes_up = bytes((i * 31 + (i >> 8)) & 255 for i in range(3_000_000))
    assert worker.run("post('/upload', 3000000)") == hashlib.sha256(bytes_up).hexdigest()
    worker.run("(document.getElementById('text').value = 'posted', document.getElementById('form').submit())")
    answer = hashlib.sha256(b"text=posted").hexdigest()
    until(lambda: answer in (worker.run("document.getElementById('answer').contentDocument?.body?.textContent") or ""),
          "the answer to the form")
    assert worker.run("post('/upload', 0)") == hashlib.sha256(b"").hexdigest()
    picture(worker)
    worker.stop()
    note("".join(lines(every_access(proxy))))
    gets, posts = requests(proxy, plain_site, "GET"), requests(proxy, plain_site, "POST")
    assert len(gets) >= 23 and len(posts) == 3 and not requests(proxy, plain_site, "CONNECT")
    assert {record["user"] for record in gets + posts} == {"alice"}
    assert {record["protocol"] for record in gets + posts} == {{"h1": "http/1.1", "h2": "h2"}[http]}
    if http == "h2":
        assert shared(gets) >= 15
    for _, path, fields in plain_site.requests:
        assert "Proxy-Authorization" not in fields and "Proxy-Connection" not in fields, path
        assert fields["Via"].endswith("adit"), path


def test_plain_websocket(serve, plain_site, browser, picture, http):
    """Browsers ask for a tunnel. No empty message: over HTTP/2 Chromium 156 never sends one, whatever the proxy."""
    proxy = serve()
    worker = browser()
    assert worker.open(url(plain_site, "/plain.html")) is None
    echoes(worker, f"ws://p1.site.test:{plain_site.port}/echo", [1, 65536, 1_000_000])
    picture(worker)
    assert [record["protocol"] for record in requests(proxy, plain_site, "CONNECT")] == \
        [{"h1": "http/1.1", "h2": "h2"}[http]]


# --- many at once ---


def test_refused_sites_beside_others(serve, site, browser, picture, http):
    """A site that the rules deny and one that is down fail, each by itself; everything else goes on."""
    down = origins.unused_port()
    proxy = serve({"policy": {"rules": [
        {"name": "not-this", "action": "deny", "to": ["p3.site.test"], "ports": ["any"]},
        {"name": "lab", "action": "allow", "to": ["loopback"], "ports": ["any"]},
    ]}})
    worker = browser()
    page_is_there(worker, site)
    good = [url(site, f"/bytes?n={1_000_000 + i}", f"p{i}.site.test") for i in (1, 2, 4, 5)]
    bad = [url(site, "/hello", "p3.site.test"), f"https://p1.site.test:{down}/hello"]
    for _ in range(3):
        results = worker.run(f"fetchAll({good[:2] + bad + good[2:]})")
        assert [("error" in result) for result in results] == [False, False, True, True, False, False]
    assert worker.open(bad[0]), "a page of a site that is denied"
    picture(worker, "denied")
    assert worker.open(bad[1]), "a page of a site that is down"
    picture(worker, "down")
    page_is_there(worker, site, "p2.site.test")
    picture(worker, "after")
    denied = [r for r in proxy.records() if r["kind"] == "deny" and r["status"] != 407 and ".site.test" in r["target"]]
    assert {(record["status"], record["reason"]) for record in denied} == {(403, "denied"), (502, "dial_refused")}
    assert {record["protocol"] for record in denied} == {{"h1": "http/1.1", "h2": "h2"}[http]}
    if http == "h2":
        assert {record["connection"] for record in denied} & {record["connection"] for record in opens(proxy, site)}
    worker.stop()


def test_hundred_resources_beside_a_download(serve, site, browser, picture, http, note):
    """From twenty origins, while 300 MB come: they do not wait for it, and it arrives whole."""
    size = 300_000_000
    proxy = serve()
    worker = browser()
    page_is_there(worker, site)
    worker.run(f"begin('/bytes?n={size}')")
    urls = [url(site, f"/hello?i={i}", f"p{i % 20 + 1}.site.test") for i in range(100)]
    results = worker.run(f"fetchAll({urls})")
    assert {result.get("sum") for result in results} == {origins.digest(b"hello from the origin\n")}
    big = worker.run("window.begun")[0]
    picture(worker)
    note("".join(lines(every_access(proxy))))
    assert (big.get("error"), big.get("size")) == (None, size)
    assert big["sum"] == origins.digest(origins.pattern(size))
    assert_carried(opens(proxy, site), http, 20)
    worker.stop()


# --- a proxy that changes ---


def test_reload_under_it(serve, site, browser, picture, http):
    """Pages go on loading, over the same connection; what the new rules refuse is refused on it."""
    proxy = serve()
    worker = browser()
    page_is_there(worker, site)
    page_is_there(worker, site, "p1.site.test")
    for round_number in range(3):
        proxy.signal(signal.SIGHUP)
        until(lambda: proxy.stderr().count("the new configuration is in force") == round_number + 1, "the reload")
        page_is_there(worker, site, f"p{round_number + 2}.site.test")
    gone = {"name": "gone", "action": "deny", "to": ["p2.site.test"], "ports": ["any"]}
    proxy.config["policy"]["rules"].insert(0, gone)
    proxy.write_config()
    proxy.signal(signal.SIGHUP)
    until(lambda: proxy.stderr().count("the new configuration is in force") == 4, "the reload")
    assert worker.open(url(site, host="p2.site.test")), "a page that the new rules deny"
    page_is_there(worker, site, "p5.site.test")
    picture(worker)
    if http == "h2":
        first = opens(proxy, site)[0]["connection"]
        assert sum(record["connection"] == first for record in opens(proxy, site)) >= 5
    worker.stop()


def test_drain_under_it(serve, site, browser, picture):
    """TERM lets a running download come to its end."""
    size = 100_000_000
    proxy = serve({"deadlines": {"drain": "60s"}})
    worker = browser()
    page_is_there(worker, site)
    worker.run(f"begin('/bytes?n={size}')")
    until(lambda: site.paths("/bytes"), "the request at the origin")
    proxy.signal(signal.SIGTERM)
    proxy.said("drain")
    result = worker.run("window.begun")[0]
    assert (result.get("error"), result.get("size")) == (None, size)
    assert result["sum"] == origins.digest(origins.pattern(size))
    picture(worker)
    worker.stop()
    proxy.wait_stopped()
