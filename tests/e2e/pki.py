"""Certificates and password files for one test run, made by the tools an operator would use."""

import subprocess
from pathlib import Path

PASSWORD = "correct-horse-7Q"

# Who logs in, and with which of htpasswd's hashes their line is made. Costs are as low as the tool allows.
USERS = {
    "alice": ["-B", "-C", "4"],
    "bob": ["-B", "-C", "4"],
    "md5": ["-m"],
    "sha": ["-s"],
    "sha256": ["-2", "-r", "1000"],
    "sha512": ["-5", "-r", "1000"],
}


def run(*command, text=None, check=True, timeout=60):
    result = subprocess.run(
        [str(part) for part in command], input=text, capture_output=True, text=True, timeout=timeout
    )
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def htpasswd_line(user, password=PASSWORD, options=("-B", "-C", "4")):
    """NAME:HASH as Apache's tool writes it; the password comes by stdin. Older ones know no -2, -5: by openssl then."""
    result = run("htpasswd", "-n", "-i", *options, user, text=password, check=False)
    if result.returncode == 0:
        return result.stdout.strip()
    kind = {"-2": "-5", "-5": "-6"}[options[0]]
    return f"{user}:" + run("openssl", "passwd", kind, "-stdin", text=password).stdout.strip()


def write_htpasswd(path, lines):
    path.write_text("".join(line + "\n" for line in lines))
    path.chmod(0o600)
    return path


def replace_file(path, text):
    """As editors and configuration tools do it: a new file, renamed over the old one."""
    fresh = Path(f"{path}.new")
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.rename(path)


class Certificates:
    """A certificate authority, two names for the proxy, one certificate for origins."""

    def __init__(self, folder):
        self.folder = folder
        self.ca = folder / "ca.crt"
        self._request("ca", "/CN=adit e2e CA")
        run(
            "openssl", "x509", "-req", "-in", folder / "ca.csr", "-signkey", folder / "ca.key", "-days", "30",
            "-out", self.ca, "-extfile",
            self._extensions("ca", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign"),
        )
        self.proxy = self.issue("proxy", "DNS:proxy.test,DNS:localhost,IP:127.0.0.1,IP:::1")
        self.other = self.issue("other", "DNS:other.test")
        self.origin = self.issue("origin", "DNS:origin.test,DNS:localhost,IP:127.0.0.1,IP:127.0.0.2,IP:::1")

    def issue(self, name, names, days=30):
        """(chain, key) for these names, signed by the authority."""
        self._request(name, f"/CN=adit e2e {name}")
        run(
            "openssl", "x509", "-req", "-in", self.folder / f"{name}.csr", "-CA", self.ca, "-CAkey",
            self.folder / "ca.key", "-CAcreateserial", "-days", days, "-out", self.folder / f"{name}.crt",
            "-extfile", self._extensions(name, f"subjectAltName={names}\nbasicConstraints=CA:FALSE"),
        )
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def expired(self):
        """A certificate of the past; only `openssl ca` takes dates."""
        self._request("expired", "/CN=adit e2e expired")
        (self.folder / "index.txt").write_text("")
        config = self.folder / "ca.conf"
        config.write_text(
            f"[ca]\ndefault_ca=a\n[a]\ndatabase={self.folder}/index.txt\nnew_certs_dir={self.folder}\n"
            "default_md=sha256\nrand_serial=yes\npolicy=p\n[p]\ncommonName=supplied\n"
        )
        run(
            "openssl", "ca", "-batch", "-notext", "-config", config, "-cert", self.ca,
            "-keyfile", self.folder / "ca.key", "-in", self.folder / "expired.csr", "-out", self.folder / "expired.crt",
            "-startdate", "20200101000000Z", "-enddate", "20200201000000Z",
        )
        return self.folder / "expired.crt", self.folder / "expired.key"

    def _request(self, name, subject):
        run(
            "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", self.folder / f"{name}.key", "-out", self.folder / f"{name}.csr", "-subj", subject,
        )

    def _extensions(self, name, text):
        path = self.folder / f"{name}.ext"
        path.write_text(text + "\n")
        return path
