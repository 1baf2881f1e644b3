"""Debian's Chromium, headless, driven by playwright-core in chromium.mjs beside this file."""

import json
import os
import select
import shutil
import signal
import subprocess
from pathlib import Path

from wait import until

START_S = 60
REPLY_S = 160

# As root there is no sandbox; the others keep a test quiet.
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-domain-reliability", "--allow-browser-signin=false",
    "--component-updater=initial-delay=6000", "--extensions-update-frequency=100000",
    "--disable-features=NetworkTimeServiceQuerying,OptimizationHints,MediaRouter,Translate",
]


class Chromium:
    name = "chromium"

    def __init__(self, folder, names, ca, port, modules):
        """`names` resolve to this machine, as they would without a proxy, and nothing else does."""
        self.folder = folder
        self.pac = f"https://proxy.test:{port}/proxy.pac"
        rules = [f"MAP {name} 127.0.0.1" for name in names] + ["MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1"]
        self.settings = {
            "modules": str(modules),
            "executable": shutil.which("chromium") or "/usr/bin/chromium",
            "profile": str(folder / "profile"),
            "arguments": [*QUIET, f"--proxy-pac-url={self.pac}", f"--host-resolver-rules={','.join(rules)}"],
            "answers": 0,
        }
        self.process = None
        database = folder / ".pki/nssdb"
        database.mkdir(parents=True)
        for arguments in (["-N", "--empty-password"], ["-A", "-n", "tests", "-t", "C,,", "-i", ca]):
            subprocess.run(["certutil", "-d", f"sql:{database}", *map(str, arguments)], check=True, timeout=60)

    def save_login(self, user, password):
        """Three times, as people do, before a wrong one is given up."""
        self.settings |= {"user": user, "password": password, "answers": 3}
        return self

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment |= {"HOME": str(self.folder)}
        self.output = (self.folder / "chromium.log").open("ab")
        self.buffer = b""
        self.process = subprocess.Popen(
            ["node", str(Path(__file__).with_name("chromium.mjs")), json.dumps(self.settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.output, env=environment, start_new_session=True,
        )
        self._answer(START_S)
        return self

    def _answer(self, patience):
        while b"\n" not in self.buffer:
            readable, _, _ = select.select([self.process.stdout], [], [], patience)
            chunk = os.read(self.process.stdout.fileno(), 1 << 20) if readable else b""
            assert chunk, "no answer from Chromium:\n" + (self.folder / "chromium.log").read_text(errors="replace")
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def command(self, what, **parameters):
        self.process.stdin.write(json.dumps({"do": what, **parameters}).encode() + b"\n")
        self.process.stdin.flush()
        answer = self._answer(REPLY_S)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def stop(self):
        if self.process is None:
            return
        try:
            self.process.stdin.write(b'{"do": "stop"}\n')
            self.process.stdin.close()
            self.process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        finally:
            self.process.stdout.close()
            self.output.close()
            self.process = None

    # --- what tests do with a browser ---

    def open(self, url):
        """None, or what the browser says went wrong."""
        return self.command("open", url=url)

    def run(self, expression):
        """The value of a JavaScript expression, or of the promise that it is."""
        return self.command("run", expression=expression)

    def screenshot(self, path):
        """Chromium cannot take one while it puts another page, such as that of an error, in the place of the last."""

        def taken():
            try:
                self.command("screenshot", path=str(path))
                return True
            except AssertionError as problem:
                if "Unable to capture screenshot" not in str(problem):
                    raise
                return False

        until(taken, "a screenshot")
