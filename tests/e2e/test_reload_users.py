"""The htpasswd file is watched: what replaces it is in force by itself, and what is broken changes nothing."""

import resource
import time

import client
import pytest
from client import connect_head
from origin import echo
from pki import PASSWORD, htpasswd_line, replace_file
from wait import until


def status(proxy, target, user, password=PASSWORD):
    with proxy.open() as conn:
        return conn.ask(connect_head(target, user, password)).status


def becomes(proxy, target, wanted, user, password=PASSWORD):
    until(lambda: status(proxy, target, user, password) == wanted, f"{wanted} for {user}")


def test_a_new_file_by_rename(start, origin):
    proxy = start()
    target = origin(echo).target
    assert status(proxy, target, "alice") == 200
    replace_file(proxy.htpasswd, htpasswd_line("carol", "new-one") + "\n" + htpasswd_line("bob", "changed") + "\n")
    becomes(proxy, target, 200, "carol", "new-one")
    assert status(proxy, target, "alice") == 407, "a cached verdict dies with its line"
    assert status(proxy, target, "bob") == 407 and status(proxy, target, "bob", "changed") == 200


def test_a_file_written_in_place(start, origin):
    proxy = start()
    target = origin(echo).target
    with open(proxy.htpasswd, "a") as file:
        file.write(htpasswd_line("carol", "new-one") + "\n")
    becomes(proxy, target, 200, "carol", "new-one")
    assert status(proxy, target, "alice") == 200


def test_changes_one_after_the_other(start, origin):
    proxy = start()
    target = origin(echo).target
    for i in range(5):
        replace_file(proxy.htpasswd, htpasswd_line("alice", f"password-{i}") + "\n")
        becomes(proxy, target, 200, "alice", f"password-{i}")
        assert status(proxy, target, "alice", f"password-{i - 1}") == 407


def test_a_wrong_verdict_dies_with_its_line(start, origin):
    """The right password of tomorrow is tried today."""
    proxy = start()
    target = origin(echo).target
    assert status(proxy, target, "alice", "tomorrow") == 407
    replace_file(proxy.htpasswd, htpasswd_line("alice", "tomorrow") + "\n")
    becomes(proxy, target, 200, "alice", "tomorrow")


def test_open_tunnels_of_users_who_stay_outlive_a_new_file(start, origin):
    """Even with a new password: what was right when the tunnel was set up was right."""
    proxy = start()
    target = origin(echo).target
    with proxy.tunnel(target) as conn:
        replace_file(proxy.htpasswd, htpasswd_line("carol") + "\n" + htpasswd_line("alice", "another") + "\n")
        becomes(proxy, target, 200, "carol")
        conn.send(b"hello")
        assert conn.recv_exactly(5) == b"hello"


def test_open_tunnels_of_a_removed_user_end(start, origin):
    proxy = start()
    target = origin(echo).target
    with proxy.tunnel(target) as mine, proxy.tunnel(target, "bob") as other:
        replace_file(proxy.htpasswd, htpasswd_line("bob") + "\n")
        mine.recv_all()
        assert mine.end in client.BROKEN
        assert proxy.record_of(mine)["reason"] == "revoked"
        other.send(b"hello")
        assert other.recv_exactly(5) == b"hello"


def test_half_a_file_costs_nobody_a_tunnel(start, origin):
    """As Apache's htpasswd writes it: emptied, then filled. Read in between, it would have users missing."""
    proxy = start()
    target = origin(echo).target
    whole = proxy.htpasswd.read_text() + htpasswd_line("carol") + "\n"
    with proxy.tunnel(target) as conn:
        begun = time.monotonic()
        while time.monotonic() - begun < 2.5:  # two looks at least, and each finds another half
            proxy.htpasswd.write_text(htpasswd_line("bob") + "\n" + "#" * int((time.monotonic() - begun) * 1000) + "\n")
            time.sleep(0.05)
        proxy.htpasswd.write_text(whole)
        becomes(proxy, target, 200, "carol")
        conn.send(b"hello")
        assert conn.recv_exactly(5) == b"hello"


def test_news_that_could_not_be_read_are_not_forgotten(start, origin):
    """Without descriptors for a moment, a removed user must not stay for ever; and it is said once, not every second."""
    proxy = start()
    target = origin(echo).target
    assert status(proxy, target, "alice") == 200
    proxy.settle()
    before = resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        proxy.htpasswd.write_text(htpasswd_line("bob") + "\n")
        proxy.said("not taken over")
    finally:
        resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, before)
    becomes(proxy, target, 407, "alice")
    assert status(proxy, target, "bob") == 200
    assert sum("not taken over" in line for line in proxy.lines) == 1


BROKEN = {
    "no colon": (3, "nonsense"),
    "plain text": (3, "dave:secret-of-dave"),
    "DES": (3, "dave:rl.3StKT.4T8M"),
    "cut bcrypt": (3, "dave:$2y$05$abc"),
    "twice": (3, "{line1}"),
}


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.replace(" ", "-"))
def test_a_broken_file_keeps_the_old_one_in_force(start, origin, case):
    number, bad = BROKEN[case]
    lines = [htpasswd_line("carol", "new-one"), "# a comment"]
    proxy = start()
    target = origin(echo).target
    replace_file(proxy.htpasswd, "\n".join([*lines, bad.replace("{line1}", lines[0])]) + "\n")
    message = proxy.said(f"{proxy.htpasswd}:{number}")
    assert "secret-of-dave" not in proxy.stderr() and message
    assert status(proxy, target, "alice") == 200
    assert status(proxy, target, "carol", "new-one") == 407
    replace_file(proxy.htpasswd, lines[0] + "\n")
    becomes(proxy, target, 200, "carol", "new-one")


def test_a_file_that_goes_away_keeps_the_old_one_in_force(start, origin):
    proxy = start()
    target = origin(echo).target
    proxy.htpasswd.unlink()
    proxy.said(str(proxy.htpasswd))
    assert status(proxy, target, "alice") == 200
    replace_file(proxy.htpasswd, htpasswd_line("carol") + "\n")
    becomes(proxy, target, 200, "carol")


def test_the_file_behind_a_symbolic_link(start, origin):
    """As Kubernetes and configuration tools mount secrets: a link is moved, the file itself never changes."""
    proxy = start()
    target = origin(echo).target
    first, second = proxy.folder / "first", proxy.folder / "second"
    first.write_text(proxy.lab.htpasswd_text)
    second.write_text(htpasswd_line("carol") + "\n")
    link = proxy.folder / "link"
    link.symlink_to(first)
    link.rename(proxy.htpasswd)
    assert status(proxy, target, "alice") == 200
    link.symlink_to(second)
    link.rename(proxy.htpasswd)
    becomes(proxy, target, 200, "carol")
    assert status(proxy, target, "alice") == 407
