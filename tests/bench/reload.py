#!/usr/bin/env python3
"""Counts set-ups that failed and tunnels that were cut while the configuration is reloaded over and over. Both must be 0.

    tests/bench/reload.py build/adit [--reloads 1000] [--rate 200] [--workers 4] [--tunnels 50]

Each reload changes something: an address is added or removed, the certificate, a rule, a limit, the htpasswd file (with
one user more or less), and every tenth file is wrong. Set-ups (TCP, TLS, CONNECT, one byte echoed) come at the rate from processes of their own, by
the clock and not by the answers; the tunnels open at the beginning echo a byte each round. Uses the lab of storm.py.
"""
import argparse
import json
import multiprocessing
import os
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import storm

CLIENTS = 2  # processes
THREADS = 8  # in each: a slow set-up must not delay the next one
REQUEST = ("CONNECT 127.0.0.1:{0} HTTP/1.1\r\nHost: 127.0.0.1:{0}\r\n"
           "Proxy-Authorization: Basic YWxpY2U6cmlnaHQ=\r\n\r\n")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def serve(listener):
    """Echoes for everybody, as long as they like."""
    selector = selectors.DefaultSelector()
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            try:
                data = key.fileobj.recv(4096)
                key.fileobj.sendall(data)
            except OSError:
                data = b""
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()


def echo_server():
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    multiprocessing.Process(target=serve, args=(listener,), daemon=True).start()
    return listener.getsockname()[1]


def set_up(port, target):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    conn = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=20))
    conn.sendall(REQUEST.format(target).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = conn.recv(1)
        if not piece:
            raise OSError(f"closed within the answer: {head!r}")
        head += piece
    if not head.startswith(b"HTTP/1.1 200"):
        raise OSError(f"refused: {head!r}")
    return conn


def echo(conn):
    conn.sendall(b"x")
    if conn.recv(1) != b"x":
        raise OSError("the echo is not what was sent")


def knock(port, target, rate, stop, results):
    """One process: set-ups at the rate, shared by its threads."""
    done, failures, lock = [0], [], threading.Lock()
    interval, began = THREADS / rate, time.monotonic()

    def run(index):
        due = began + index * interval / THREADS
        while not stop.is_set():
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            due += interval
            try:
                conn = set_up(port, target)
                echo(conn)
                conn.close()
                with lock:
                    done[0] += 1
            except OSError as error:
                with lock:
                    failures.append(repr(error))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((done[0], failures))


class Proxy:
    def __init__(self, adit, folder, workers):
        self.folder, self.lines = folder, []
        self.path = f"{folder}/adit.yaml"
        self.port, self.extra = free_port(), free_port()
        self.workers = workers
        self.write(0)
        self.process = subprocess.Popen([adit, "serve", "-c", self.path], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        self.said("ready", 0)

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line)

    def said(self, word, since):
        deadline = time.monotonic() + 60
        while not any(word in line for line in self.lines[since:]):
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit(f"waited in vain for {word!r}:\n" + "".join(self.lines[-20:]))
            time.sleep(0.001)

    def write(self, n):
        listen = [{"address": f"127.0.0.1:{self.port}"}]
        if n % 2:
            listen.append({"address": f"127.0.0.1:{self.extra}"})
        config = {
            "listen": listen,
            "tls": {"certificates": [{"chain": f"{self.folder}/cert{n % 2}.pem", "key": f"{self.folder}/key{n % 2}.pem"}],
                    "minimum_version": "1.3" if n % 3 == 1 else "1.2"},
            "auth": {"htpasswd": f"{self.folder}/users{n % 2}", "throttle": "off"},
            "policy": {"rules": [{"name": f"lab-{n}", "action": "allow", "to": ["loopback"], "ports": ["any"]}]},
            "audit": {"directory": f"{self.folder}/audit"},
            "limits": {"handshakes_per_prefix": "off", "connections": 20000 + n},
            "tunnel": {"buffer": f"{64 + n % 128}KiB"},
            "workers": self.workers,
            "log": {"level": "notice"},
        }
        text = json.dumps(config)
        if n % 10 == 9:
            text = text.replace('"rules"', '"rulez"')
        with open(self.path, "w") as file:
            file.write(text)
        return "nothing was changed" if n % 10 == 9 else "is in force"

    def reload(self, n):
        since = len(self.lines)
        word = self.write(n)
        self.process.send_signal(signal.SIGHUP)
        self.said(word, since)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adit")
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=200, help="set-ups a second")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--tunnels", type=int, default=50, help="open from the beginning to the end")
    args = parser.parse_args()
    target = echo_server()
    with tempfile.TemporaryDirectory() as folder:
        storm.make_lab(folder)
        with open(f"{folder}/users") as file:
            users = file.read()
        for i in range(2):
            with open(f"{folder}/users{i}", "w") as file:
                file.write(users + f"user{i}:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\n" * i)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                        "2", "-keyout", f"{folder}/key1.pem", "-out", f"{folder}/cert1.pem", "-subj", "/CN=renewed"],
                       check=True, capture_output=True)
        for name in ("key", "cert"):
            os.rename(f"{folder}/{name}.pem", f"{folder}/{name}0.pem")
        proxy = Proxy(os.path.abspath(args.adit), folder, args.workers)
        set_up(proxy.port, target).close()  # from here on the password needs no hash
        tunnels = [set_up(proxy.port, target) for _ in range(args.tunnels)]
        stop, results = multiprocessing.Event(), multiprocessing.Queue()
        clients = [multiprocessing.Process(target=knock, daemon=True,
                                           args=(proxy.port, target, args.rate / CLIENTS, stop, results))
                   for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        began, cut = time.monotonic(), set()
        for n in range(1, args.reloads + 1):
            proxy.reload(n)
            for i, tunnel in enumerate(tunnels):
                if n % 10 == i % 10 and i not in cut:
                    try:
                        echo(tunnel)
                    except OSError:
                        cut.add(i)
            time.sleep(max(0, began + n * 0.02 - time.monotonic()))  # at most 50 reloads a second
        seconds = time.monotonic() - began
        stop.set()
        counts = [results.get(timeout=60) for _ in clients]
        for client in clients:
            client.join()
        for i, tunnel in enumerate(tunnels):
            if i not in cut:
                try:
                    echo(tunnel)
                except OSError:
                    cut.add(i)
            tunnel.close()
        proxy.process.send_signal(signal.SIGTERM)
        status = proxy.process.wait(30)
    done = sum(count for count, _ in counts)
    failures = [failure for _, some in counts for failure in some]
    print(f"{args.reloads} reloads in {seconds:.0f} s under {done / seconds:.0f} set-ups/s: {done} set-ups, "
          f"{len(failures)} failed; {args.tunnels} tunnels, {len(cut)} cut; exit status {status}")
    for failure in failures[:10]:
        print(failure)
    if done / seconds < args.rate * 0.8:
        print("the set-ups did not come at the rate: this says less than it should")
    return 1 if failures or cut or status or done == 0 else 0


if __name__ == "__main__":
    raise SystemExit(main())
