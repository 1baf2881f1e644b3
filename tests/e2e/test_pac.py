"""GET /proxy.pac: one URL that makes a browser use the proxy."""

import json
import signal

import pytest

import proxy as program
from client import connect_head
from origin import echo
from pki import run
from tools import need
from wait import until

HOST = "proxy.test:8443"
FILE = b'function FindProxyForURL(url, host)\n{\n\treturn "HTTPS proxy.test:8443";\n}\n'


def head(method="GET", path="/proxy.pac", fields=()):
    lines = [f"{method} {path} HTTP/1.1", "Host: proxy.test:8443", *fields]
    return "".join(line + "\r\n" for line in lines).encode() + b"\r\n"


def fetch(proxy, **options):
    response, conn = proxy.ask(head(**options))
    conn.close()
    return response


def test_the_file(start):
    response = fetch(start({"http": {"pac": HOST}}))
    assert response.status == 200
    assert response.get("Content-Type") == "application/x-ns-proxy-autoconfig"
    assert response.get("Cache-Control") == "max-age=300"
    assert response.body == FILE
    assert response.get("Proxy-Status") is None and response.get("Proxy-Authenticate") is None


def test_head_has_the_same_fields_and_no_body(start):
    proxy = start({"http": {"pac": HOST}})
    with proxy.open() as conn:
        conn.send(head("HEAD"))
        conn.send(head("GET", fields=["Connection: close"]))
        # The answer to GET follows the empty line of the first: there was no body between them.
        first, _, rest = conn.recv_all().partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 ")
    assert f"\r\nContent-Length: {len(FILE)}\r\n".encode() in first
    assert rest.startswith(b"HTTP/1.1 200 ") and rest.endswith(b"\r\n\r\n" + FILE)


def test_other_methods_and_paths(start):
    proxy = start({"http": {"pac": HOST}})
    response = fetch(proxy, method="POST", fields=["Content-Length: 0"])
    assert (response.status, response.get("Allow")) == (405, "CONNECT, GET, HEAD")
    assert fetch(proxy, path="/proxy.pac?browser=1").body == FILE
    for path in ("/proxy.pacx", "/proxy.pac/", "/PROXY.PAC", "/wpad.dat"):
        assert fetch(proxy, path=path).status == 404, path


def test_no_login_and_no_record(start, origin):
    """A wrong login does no harm either: nobody is asked for one. The connection then serves as any other."""
    proxy = start({"http": {"pac": HOST}})
    target = origin(echo).target
    with proxy.open() as conn:
        for fields in ((), ("Proxy-Authorization: Basic bm9ib2R5Ondyb25n",), ("Authorization: Basic eDp5",)):
            assert conn.ask(head(fields=fields)).body == FILE
        assert conn.ask(connect_head(target)).status == 200
        conn.send(b"hello")
        assert conn.recv_exactly(5) == b"hello"
    proxy.record_of(conn)
    assert {record["target"] for record in proxy.records()} == {target}
    assert proxy.records("strangers.jsonl") == []


def test_off_unless_configured(proxy):
    assert fetch(proxy).status == 404


def test_a_reload_switches_it(start):
    proxy = start()
    for value, status in (({"pac": HOST}, 200), ({"pac": "other.test:443"}, 200), ({"pac": "off"}, 404)):
        proxy.config["http"] = value
        proxy.write_config()
        proxy.signal(signal.SIGHUP)
        until(lambda: fetch(proxy).status == status, f"{value} in force")
        if status == 200:
            until(lambda: value["pac"].encode() in fetch(proxy).body, f"{value} in the file")


def test_a_bad_value_is_refused_with_its_place(tmp_path):
    path = tmp_path / "adit.yaml"
    path.write_text('http:\n  pac: "[::]:8443"\n')
    result = program.adit("check", "-c", path)
    assert result.returncode != 0
    assert f'{path}:2:8: http.pac: "[::]:8443" is not acceptable; write a name or an address' in result.stderr


@pytest.mark.parametrize("authority", ["proxy.test:8443", "[2001:db8::1]:8443", "192.0.2.1:443", "a-b_c.d:1"])
def test_what_a_browser_makes_of_it(start, authority):
    """Evaluated as JavaScript, for all kinds of URLs: always the proxy, never around it."""
    node = need("node", "nodejs")
    text = fetch(start({"http": {"pac": authority}})).body.decode()
    urls = [
        ["https://example.org/", "example.org"], ["http://example.org/", "example.org"], ["https://intranet/", "intranet"],
        ["wss://chat.example.org/x", "chat.example.org"], ["https://10.1.2.3/", "10.1.2.3"], ["ftp://f.example/", "f.example"],
        ["https://[2001:db8::2]/", "2001:db8::2"], ["http://localhost/", "localhost"], ["", ""],
    ]
    script = f'"use strict";\n{text}\nprocess.stdout.write(JSON.stringify({json.dumps(urls)}.map((u) => FindProxyForURL(...u))))'
    assert json.loads(run(node, "-e", script).stdout) == [f"HTTPS {authority}"] * len(urls)
