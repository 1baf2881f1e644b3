"""The unit under a real service manager: systemd's user instance in a mount namespace of its own, where it takes the
machine for one that systemd has booted. What only the system's instance can do (accounts, file systems, capabilities) is
left out of the unit; its system-call filter and the rest of its hardening are in force."""

import os
import shutil
import subprocess

import pytest
from proxy import PROGRAM_HAS_SANITIZER, Proxy
from test_dist import systemd_version, unit_text
from tools import need

# Not for a user's instance, or not where files lie in temporary folders.
SYSTEM_ONLY = ("User=", "Group=", "LogsDirectory", "AmbientCapabilities=", "CapabilityBoundingSet=", "Protect", "Private",
               "ProcSubset=", "RemoveIPC=", "LimitNOFILE=")

SCRIPT = r"""
mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mkdir -p /run/systemd/system || exit 77
timeout 60 "$MANAGER" --user --log-target=console >"$HOME/manager.log" 2>&1 &
for i in $(seq 100); do systemctl --user list-units >/dev/null 2>&1 && break; sleep 0.1; done
systemctl --user list-units >/dev/null 2>&1 || exit 77
show() { systemctl --user show adit -p "$1" --value; }
systemctl --user start adit; echo "start $? $(show ActiveState) $(show StatusText)"
systemctl --user reload adit; echo "reload $?"
echo "nonsense: 1" >>"$CONFIG"
systemctl --user reload adit
for i in $(seq 100); do case $(show StatusText) in *failed*) break ;; esac; sleep 0.1; done
echo "bad $(show ActiveState) $(show StatusText)"
systemctl --user stop adit; echo "stop $(show Result) $(show ExecMainStatus)"
kill %1
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a mount namespace")
@pytest.mark.skipif(PROGRAM_HAS_SANITIZER, reason="sanitizers need system calls that the unit does not allow")
def test_start_reload_and_stop(lab, tmp_path):
    manager = "/lib/systemd/systemd"
    if not os.path.exists(manager) or not shutil.which("unshare"):
        pytest.skip("no systemd here")
    need("systemctl", "systemd")
    proxy = Proxy(lab, tmp_path)
    units = tmp_path / "config/systemd/user"
    units.mkdir(parents=True)
    (tmp_path / "run").mkdir(mode=0o700)
    version = "253" if systemd_version() >= 253 else "252"
    text = unit_text(version).replace("/etc/adit/adit.yaml", str(proxy.config_path))
    kept = [line for line in text.splitlines(True) if not line.startswith(SYSTEM_ONLY)]
    (units / "adit.service").write_text("".join(kept))
    env = os.environ | {
        "XDG_RUNTIME_DIR": str(tmp_path / "run"), "XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path),
        "MANAGER": manager, "CONFIG": str(proxy.config_path),
    }
    result = subprocess.run(["unshare", "-m", "bash", "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=80,
                            stdin=subprocess.DEVNULL)
    if result.returncode == 77:
        pytest.skip("no service manager can be started here")
    assert result.stdout.splitlines() == [
        "start 0 active Serving", "reload 0", "bad active Reload failed, nothing was changed; see the log", "stop success 0",
    ], result.stdout + result.stderr + (tmp_path / "manager.log").read_text()
