"""The other subcommands, and what a start says when it cannot be one."""

import os
import pwd
import re
import shutil
import stat
import subprocess

import pytest
from client import Conn, client_context
from origin import unused_port
from pki import PASSWORD, htpasswd_line, run
from proxy import Proxy, adit, binary, environment

PLACE = re.compile(r"^(?:adit: \w+: )?(\S+?):(\d+):(\d+): (\S.*)$")


@pytest.fixture
def files(lab, tmp_path):
    """A proxy that is not started: its configuration and files."""
    return Proxy(lab, tmp_path)


def problems(result):
    """(line, text) of each error with a place."""
    return [(int(m[2]), m[4]) for m in map(PLACE.match, result.stderr.splitlines()) if m]


def test_version_and_help():
    result = adit("--version")
    assert result.returncode == 0
    for library in ("adit", "OpenSSL", "libevent", "c-ares", "libyaml", "libnghttp2"):
        assert library.lower() in result.stdout.lower()
    result = adit("--help")
    assert result.returncode == 0
    for word in ("serve", "check", "passwd"):
        assert word in result.stdout
    for command in ("serve", "check", "passwd"):
        result = adit(command, "--help")
        assert result.returncode == 0 and result.stdout.strip()


@pytest.mark.parametrize("arguments", [
    [], ["frobnicate"], ["--frobnicate"], ["serve", "--frobnicate"], ["serve", "-c"], ["passwd"],
])
def test_wrong_usage(arguments):
    result = adit(*arguments)
    assert result.returncode == 2 and result.stderr.strip() and "help" in result.stderr


# --- check ---


def test_check_of_a_good_configuration(files):
    result = adit("check", "-c", files.config_path)
    assert result.returncode == 0, result.stderr
    for word in ("127.0.0.1:0", str(files.htpasswd), "loopback", "handshake"):
        assert word in result.stdout


def test_what_check_prints_is_a_configuration(files, tmp_path):
    printed = adit("check", "-c", files.config_path).stdout
    again = tmp_path / "printed.yaml"
    again.write_text(printed)
    result = adit("check", "-c", again)
    assert result.returncode == 0, result.stderr
    assert result.stdout == printed


def test_all_errors_at_once_with_their_places(files):
    files.config_path.write_text(
        "listen:\n"
        "  - address: nonsense\n"
        "tls:\n"
        f"  certificates: [{{ chain: {files.lab.certificates.proxy[0]}, key: {files.lab.certificates.proxy[1]} }}]\n"
        "auth:\n"
        f"  htpasswd: {files.htpasswd}\n"
        "  reallm: typo\n"
        "policy:\n"
        "  rules:\n"
        "    - { name: a, action: permit, to: [any] }\n"
        "    - { name: b, action: allow, to: [10.0.0.1/8] }\n"
        "deadlines: { idle: soon }\n"
        "workers: -3\n"
    )
    result = adit("check", "-c", files.config_path)
    assert result.returncode == 2
    assert [line for line, _ in problems(result)] == [2, 7, 10, 11, 12, 13]
    assert all(str(files.config_path) in line for line in result.stderr.splitlines() if PLACE.match(line))
    served = adit("serve", "-c", files.config_path)
    assert served.returncode == 2 and problems(served) == problems(result)


@pytest.mark.parametrize("text, line", [
    ("listen: [\n", None), ("workers: 1\nworkers: 2\n", 2), ("- a list\n", 1), ("listen: &a [*a]\n", None),
    ("\x00", None),
    ("user: [1]\n", 1), ("%YAML 9.9\n", None),
])
def test_files_that_are_no_configuration(files, text, line):
    files.config_path.write_text(text)
    result = adit("check", "-c", files.config_path)
    assert result.returncode == 2 and str(files.config_path) in result.stderr
    assert line is None or line in [number for number, _ in problems(result)], result.stderr


def test_a_configuration_that_is_not_there(tmp_path):
    result = adit("check", "-c", tmp_path / "nowhere.yaml")
    assert result.returncode == 2 and "nowhere.yaml" in result.stderr


def test_check_of_a_foreign_key(files):
    files.config["tls"]["certificates"][0]["key"] = str(files.lab.certificates.other[1])
    files.write_config()
    result = adit("check", "-c", files.config_path)
    assert result.returncode == 2 and "key" in result.stderr


def test_check_of_an_expired_certificate(files):
    chain, key = files.lab.certificates.expired()
    files.config["tls"]["certificates"] = [{"chain": str(chain), "key": str(key)}]
    files.write_config()
    result = adit("check", "-c", files.config_path)
    assert result.returncode == 2 and str(chain) in result.stderr


def test_check_of_a_bad_htpasswd(files):
    files.htpasswd.write_text(f"{htpasswd_line('alice')}\nbob:plain-text\n\ncarol:rl.3StKT.4T8M\n")
    result = adit("check", "-c", files.config_path)
    assert result.returncode == 2
    assert f"{files.htpasswd}:2" in result.stderr and f"{files.htpasswd}:4" in result.stderr
    assert "plain-text" not in result.stderr


def test_check_of_a_missing_htpasswd(files):
    files.htpasswd.unlink()
    result = adit("check", "-c", files.config_path)
    assert result.returncode == 2 and str(files.htpasswd) in result.stderr


def test_check_tells_mixed_kinds(files):
    """The lab's users have all kinds there are."""
    result = adit("check", "-c", files.config_path)
    text = result.stdout + result.stderr
    assert "bcrypt" in text and "sha512" in text


# --- serve ---


def test_serve_by_options_alone(lab, start, tmp_path):
    chain, key = lab.certificates.proxy
    proxy = Proxy(lab, tmp_path)
    proxy.arguments = [
        "serve", "--listen", "127.0.0.1:0", "--cert", chain, "--key", key, "--htpasswd", proxy.htpasswd,
        "--audit-dir", proxy.audit,
    ]
    start.launch(proxy)
    response = proxy.refused("127.0.0.1:9")
    assert response.status == 403  # the standard policy: public addresses, and port 443 for tunnels


def test_options_override_the_file(lab, start, tmp_path):
    proxy = Proxy(lab, tmp_path, {"auth": {"realm": "file"}})
    proxy.arguments = ["serve", "-c", proxy.config_path, "--realm", "option"]
    start.launch(proxy)
    assert 'realm="option"' in proxy.refused("127.0.0.1:9", user=None).get("Proxy-Authenticate")


def test_two_listeners(start, lab):
    proxy = start({"listen": [{"address": "127.0.0.1:0"}, {"address": "127.0.0.2:0"}]})
    assert [address[0] for address in proxy.addresses] == ["127.0.0.1", "127.0.0.2"]
    for address in proxy.addresses:
        proxy.address = address
        proxy.open(client_context(lab.certificates.ca, check=False)).close()


def test_a_port_in_use(start, lab, tmp_path):
    """A second adit is told so, instead of silently sharing the port."""
    first = start()
    second = Proxy(lab, tmp_path, {"listen": [{"address": f"127.0.0.1:{first.port}"}]})
    result = adit("serve", "-c", second.config_path)
    assert result.returncode not in (0, 99) and "in use" in result.stderr and "adit: ready" not in result.stderr
    for _ in range(10):
        first.open().close()


def test_nothing_is_half_started(lab, tmp_path):
    """The second address cannot be had: the first one is not served either."""
    port = unused_port()
    proxy = Proxy(lab, tmp_path, {"listen": [{"address": f"127.0.0.1:{port}"}, {"address": "192.0.2.1:1"}]})
    result = adit("serve", "-c", proxy.config_path)
    assert result.returncode > 0 and "192.0.2.1:1" in result.stderr and "adit: ready" not in result.stderr
    with pytest.raises(OSError):
        Conn(("127.0.0.1", port))


@pytest.mark.parametrize("what", ["chain", "key", "htpasswd"])
def test_missing_files_are_named(files, what):
    if what == "htpasswd":
        files.config["auth"]["htpasswd"] = str(files.folder / "nowhere")
    else:
        files.config["tls"]["certificates"][0][what] = str(files.folder / "nowhere")
    files.write_config()
    result = adit("serve", "-c", files.config_path)
    assert result.returncode > 0 and result.returncode != 99 and "nowhere" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_serving_as_another_account(lab, start, tmp_path):
    """Rights are dropped before anything is read: files must be readable for that account."""
    chain, key = lab.certificates.proxy
    proxy = Proxy(lab, tmp_path)
    keys = tmp_path / "keys"
    keys.mkdir()
    for path in (chain, key):
        shutil.copy(path, keys)
    for folder in [tmp_path, *tmp_path.parents][:3]:
        folder.chmod(folder.stat().st_mode | 0o055)
    for path in (keys / chain.name, keys / key.name, proxy.htpasswd, proxy.audit):
        shutil.chown(path, "nobody")
    proxy.config["tls"]["certificates"] = [{"chain": str(keys / chain.name), "key": str(keys / key.name)}]
    proxy.config["user"] = "nobody"
    proxy.write_config()
    start.launch(proxy)
    status_text = open(f"/proc/{proxy.process.pid}/status").read()
    nobody = pwd.getpwnam("nobody")
    fields = dict(line.split(":\t", 1) for line in status_text.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert fields["Gid"].split() == [str(nobody.pw_gid)] * 4, "root's group would open its files"
    assert set(map(int, fields["Groups"].split())) == set(os.getgrouplist("nobody", nobody.pw_gid))
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0 and fields["NoNewPrivs"] == "1"
    proxy.refused("127.0.0.1:9", user=None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_files_the_account_cannot_read(lab, tmp_path):
    proxy = Proxy(lab, tmp_path, {"user": "nobody"})
    result = adit("serve", "-c", proxy.config_path)
    assert result.returncode > 0 and result.returncode != 99 and "adit: ready" not in result.stderr
    result = adit("check", "-c", proxy.config_path)
    assert result.returncode == 2


# --- passwd ---


def passwd(path, user, password=PASSWORD, *options):
    return adit("passwd", path, user, "--stdin", *options, text=password + "\n")


def verified(path, user, password=PASSWORD):
    return run("htpasswd", "-vb", path, user, password, check=False).returncode == 0


@pytest.mark.parametrize("kind, prefix", [(None, "$y$"), ("yescrypt", "$y$"), ("bcrypt", "$2"), ("sha512", "$6$")])
def test_passwd_makes_what_apache_reads(tmp_path, kind, prefix):
    path = tmp_path / "users"
    result = passwd(path, "alice", PASSWORD, *(["--hash", kind] if kind else []))
    assert result.returncode == 0, result.stderr
    assert path.read_text().startswith(f"alice:{prefix}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert verified(path, "alice") and not verified(path, "alice", "not-it")


def test_passwd_logs_in(start, origin, tmp_path):
    path = tmp_path / "users"
    for user in ("carol", "dan"):
        assert passwd(path, user, f"of-{user}").returncode == 0
    proxy = start(users=path.read_text())
    for user in ("carol", "dan"):
        proxy.tunnel(origin().target, user, f"of-{user}").close()
    assert proxy.refused("127.0.0.1:9", "carol", "of-dan").status == 407


def test_passwd_replaces_and_deletes(tmp_path):
    path = tmp_path / "users"
    path.write_text(f"# who works here\n{htpasswd_line('bob')}\n{htpasswd_line('alice', 'old')}\n")
    before = path.read_text().splitlines()
    assert passwd(path, "alice").returncode == 0
    after = path.read_text().splitlines()
    assert after[:2] == before[:2] and len(after) == 3
    assert verified(path, "alice") and not verified(path, "alice", "old")
    assert adit("passwd", path, "bob", "--delete").returncode == 0
    assert "bob" not in path.read_text() and verified(path, "alice")
    assert path.read_text().startswith("# who works here\n")
    assert adit("passwd", path, "nobody-there", "--delete").returncode != 0


@pytest.mark.parametrize("user, password, options", [
    ("alice", "x" * 73, ["--hash", "bcrypt"]), ("alice", "", []), ("alice", "x" * 513, []), ("a:b", PASSWORD, []),
    ("", PASSWORD, []), ("a\nb", PASSWORD, []), ("alice", PASSWORD, ["--hash", "md5"]),
])
def test_passwd_refuses(tmp_path, user, password, options):
    path = tmp_path / "users"
    result = passwd(path, user, password, *options)
    assert result.returncode > 0 and result.returncode != 99 and result.stderr.strip()
    assert not path.exists()


def test_passwd_takes_long_ones_where_the_hash_does(tmp_path):
    path = tmp_path / "users"
    assert passwd(path, "alice", "x" * 72, "--hash", "bcrypt").returncode == 0 and verified(path, "alice", "x" * 72)
    assert passwd(path, "alice", "x" * 200).returncode == 0


def test_passwd_many_at_once(tmp_path):
    """The file is locked: nobody's line is lost."""
    path = tmp_path / "users"
    processes = [
        subprocess.Popen(
            [str(binary()), "passwd", str(path), f"user{i}", "--stdin", "--hash", "bcrypt"], stdin=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=environment(),
        )
        for i in range(8)
    ]
    for i, process in enumerate(processes):
        _, errors = process.communicate(f"password-{i}\n", timeout=60)
        assert process.returncode == 0, errors
    assert sorted(line.split(":")[0] for line in path.read_text().splitlines()) == [f"user{i}" for i in range(8)]
    assert list(tmp_path.iterdir()) == [path] or {p.name for p in tmp_path.iterdir()} <= {"users", "users.lock"}
