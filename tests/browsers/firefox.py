"""Firefox, headless, driven over Marionette: JSON over TCP, each message as LENGTH:TEXT, a command as
[0, id, name, parameters] and its answer as [1, id, error, result]."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess

from wait import until

START_S = 60
SCRIPT_S = 150
REPLY_S = SCRIPT_S + 10
PATIENCE_S = 80

# What a worker's administrator would set, then what keeps a test quiet. Everything about how Firefox talks to a proxy
# (speculative connections, numbers of connections, time-outs) stays as it is shipped.
WORKER = {
    "network.proxy.type": 2,
    "signon.autologin.proxy": True,  # the saved login answers the 407 without a dialogue
}
QUIET = {
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.aboutwelcome.enabled": False,
    "browser.contentblocking.category": "standard",
    "browser.newtabpage.enabled": False,
    "browser.newtabpage.activity-stream.feeds.system.topstories": False,
    "browser.region.network.url": "",
    "browser.safebrowsing.blockedURIs.enabled": False,
    "browser.safebrowsing.downloads.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.safebrowsing.update.enabled": False,
    "browser.search.update": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage": "about:blank",
    "browser.startup.page": 0,
    "browser.topsites.contile.enabled": False,
    "datareporting.healthreport.uploadEnabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "datareporting.usage.uploadEnabled": False,
    "dom.push.connection.enabled": False,
    "extensions.getAddons.cache.enabled": False,
    "extensions.systemAddon.update.enabled": False,
    "extensions.update.enabled": False,
    "marionette.port": 0,
    "media.gmp-manager.updateEnabled": False,
    "messaging-system.rsexperimentloader.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "privacy.trackingprotection.enabled": False,
    "security.certerrors.mitm.priming.enabled": False,
    "security.remote_settings.crlite_filters.enabled": False,
    "security.remote_settings.intermediates.enabled": False,
    "services.settings.server": "data:,nothing",
    "signon.rememberSignons": True,
    "toolkit.telemetry.enabled": False,
    "toolkit.telemetry.server": "",
    "toolkit.telemetry.unified": False,
}

SAVE_LOGIN = """
const [origin, realm, user, password] = arguments;
const login = Cc["@mozilla.org/login-manager/loginInfo;1"].createInstance(Ci.nsILoginInfo);
login.init(origin, null, realm, user, password, "", "");
return Services.logins.addLoginAsync(login).then(() => Services.logins.searchLoginsAsync({ origin }))
	.then((found) => found.length);
"""

# What can be read on a page, also in the shadow trees of its elements.
WORDS = """function words(node) {
	const below = [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes];
	return node.nodeType === Node.TEXT_NODE ? node.data : below.map(words).join(" ");
}"""


ERROR_PAGE = "a page that tells of an error"


class MarionetteError(Exception):
    pass


class Firefox:
    name = "firefox"

    def __init__(self, folder, names, ca, port, template=None):
        """`names` resolve to this machine, as they would without a proxy; the PAC file's URL is proxy.test's. A
        template is the folder of another one, whose profile is copied."""
        self.folder = folder
        self.profile = folder / "profile"
        self.port = port
        self.pac = f"https://proxy.test:{port}/proxy.pac"
        self.process = self.sock = None
        if template:
            shutil.copytree(template / "profile", self.profile, ignore=shutil.ignore_patterns("lock", ".parentlock"))
            return
        self.profile.mkdir(parents=True)
        prefs = WORKER | QUIET | {
            "network.proxy.autoconfig_url": self.pac,
            "network.dns.localDomains": ",".join(names),
        }
        self.prefer(prefs)
        database = f"sql:{self.profile}"
        for arguments in (["-N", "--empty-password"], ["-A", "-n", "tests", "-t", "C,,", "-i", ca]):
            subprocess.run(["certutil", "-d", database, *map(str, arguments)], check=True, timeout=60)

    def prefer(self, preferences):
        """From the next start on."""
        with (self.profile / "user.js").open("a") as file:
            for name, value in preferences.items():
                file.write(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n")

    def save_login(self, user, password, realm="adit"):
        """As the login manager would after "Save": under the proxy's host, port and realm. The scripts that tests run
        later have no such rights: it happens in a life of the browser of its own."""
        self.start("--remote-allow-system-access")
        try:
            self.command("Marionette:SetContext", {"value": "chrome"})
            arguments = [f"moz-proxy://proxy.test:{self.port}", realm, user, password]
            found = self.command("WebDriver:ExecuteScript", {"script": SAVE_LOGIN, "args": arguments})["value"]
            assert found == 1, f"{found} logins"
        finally:
            self.stop()
        return self

    # --- life ---

    def start(self, *arguments):
        announced = self.profile / "MarionetteActivePort"
        announced.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment |= {"HOME": str(self.folder), "MOZ_CRASHREPORTER_DISABLE": "1", "MOZ_REMOTE_SETTINGS_DEVTOOLS": "1"}
        self.output = (self.folder / "firefox.log").open("ab")
        self.process = subprocess.Popen(
            [shutil.which("firefox-esr") or "firefox", "--headless", "--no-remote", "--profile", str(self.profile),
             "--marionette", *arguments],
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output, env=environment, start_new_session=True,
        )
        until(lambda: self.process.poll() is not None or announced.exists() and announced.read_text().strip(),
              "Firefox to announce its Marionette port", START_S)
        assert self.process.poll() is None, (self.folder / "firefox.log").read_text(errors="replace")
        self.sock = socket.create_connection(("127.0.0.1", int(announced.read_text())), timeout=REPLY_S)
        self.buffer = b""
        self.number = 0
        self._message()  # what it is and which version it speaks
        timeouts = {"pageLoad": 60000, "script": SCRIPT_S * 1000}
        self.command("WebDriver:NewSession", {"unhandledPromptBehavior": "ignore", "timeouts": timeouts})
        return self

    def stop(self):
        if self.process is None:
            return
        try:
            if self.sock is not None:
                self.command("Marionette:Quit", {"flags": ["eForceQuit"]})
            self.process.wait(20)
        except (OSError, MarionetteError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        finally:
            if self.sock is not None:
                self.sock.close()
            self.output.close()
            self.process = self.sock = None

    # --- the protocol ---

    def _message(self):
        while b":" not in self.buffer:
            self._more()
        length, _, self.buffer = self.buffer.partition(b":")
        while len(self.buffer) < int(length):
            self._more()
        text, self.buffer = self.buffer[: int(length)], self.buffer[int(length) :]
        return json.loads(text)

    def _more(self):
        chunk = self.sock.recv(1 << 20)
        if not chunk:
            raise MarionetteError("Firefox has closed the connection")
        self.buffer += chunk

    def command(self, name, parameters=None):
        self.number += 1
        text = json.dumps([0, self.number, name, parameters or {}]).encode()
        self.sock.sendall(b"%d:%s" % (len(text), text))
        while True:
            _, number, error, result = self._message()
            if number == self.number:
                break
        if error:
            raise MarionetteError(f"{error['error']}: {error['message']}")
        return result

    # --- what tests do with a browser ---

    def open(self, url):
        """None, or what the browser says went wrong. A dialogue that asks for the login has the saved one in it: Enter
        is pressed twice, then it is given up."""
        try:
            self.command("WebDriver:Navigate", {"url": url})
        except MarionetteError as problem:
            self._error_page()
            return str(problem)
        for last in (False, False, True):
            question = until(self._question_or_page, "a dialogue, or the end of loading", PATIENCE_S)
            if question is True:
                return None
            if question == ERROR_PAGE:
                break
            self.command("WebDriver:DismissAlert" if last else "WebDriver:AcceptAlert")
        self._error_page()
        return question

    def _error_page(self):
        """It is filled in by and by: there when its headline is to be seen."""
        shown = f"document.documentURI.startsWith('about:neterror') ? ({WORDS})(document) : ''"
        until(lambda: "proxy" in (self.run(shown) or ""), "the text of the error page", PATIENCE_S)

    def _question_or_page(self):
        """The text of the dialogue that is open, or True when there is none and the page is there, or what tells of an
        error. The dialogue may open between the questions."""
        try:
            return self.command("WebDriver:GetAlertText")["value"]
        except MarionetteError as problem:
            if not str(problem).startswith("no such alert"):
                raise
        try:
            if self.run("document.documentURI.startsWith('about:neterror')"):
                return ERROR_PAGE
            return self.run("document.readyState === 'complete' && document.URL !== 'about:blank'")
        except MarionetteError as problem:
            if not str(problem).startswith("unexpected alert open"):
                raise
        return None

    def run(self, expression):
        """The value of a JavaScript expression, or of the promise that it is."""
        return self.command("WebDriver:ExecuteScript", {"script": f"return {expression};", "args": []})["value"]

    def screenshot(self, path):
        picture = self.command("WebDriver:TakeScreenshot", {"full": False, "hash": False})["value"]
        path.write_bytes(base64.b64decode(picture))
