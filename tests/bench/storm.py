#!/usr/bin/env python3
"""How long a known user's set-up takes beside a storm of wrong passwords.

A probe (TLS handshake, CONNECT, one echoed byte; 20 a second from 127.0.0.1, a user whose password the proxy has in its
cache) runs alone and beside 100 wrong logins a second against a bcrypt-12 hash from 127.0.1.0/24, each with another
password, with throttling off and on. Prints medians, p99 and their ratio to quiet, in rounds quiet/storm/quiet/storm.

    tests/bench/storm.py build/adit [--seconds 10] [--rounds 2]

Needs openssl and htpasswd (apache2-utils). Everything stays on loopback and ends by itself.
"""
import argparse
import base64
import multiprocessing
import os
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PROBES_PER_S = 20
STORM_PER_S = 100
STORMERS = 2


def make_lab(folder):
    run = lambda *a, **k: subprocess.run(a, cwd=folder, check=True, capture_output=True, **k)
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    run("htpasswd", "-cbB", "-C", "12", "users", "alice", "right")
    run("htpasswd", "-bB", "-C", "12", "users", "bob", "never guessed")
    os.makedirs(os.path.join(folder, "audit"), exist_ok=True)


def start(adit, folder, throttle):
    with open(os.path.join(folder, "adit.yaml"), "w") as f:
        f.write(f"""
listen: ["127.0.0.1:0"]
tls: {{ certificates: [{{ chain: {folder}/cert.pem, key: {folder}/key.pem }}] }}
auth: {{ htpasswd: {folder}/users{"" if throttle else ", throttle: off"} }}
policy: {{ rules: [{{ name: lab, action: allow, to: [loopback], ports: [any] }}] }}
audit: {{ directory: {folder}/audit }}
workers: 1
""".replace('listen: ["127.0.0.1:0"]', 'listen: [{ address: "127.0.0.1:0" }]'))
    proxy = subprocess.Popen([adit, "serve", "-c", os.path.join(folder, "adit.yaml")], stderr=subprocess.PIPE, text=True)
    for line in proxy.stderr:
        if "ready: listening on" in line:
            port = int(line.rsplit(":", 1)[1])
            threading.Thread(target=lambda: [None for _ in proxy.stderr], daemon=True).start()
            return proxy, port
    sys.exit("the proxy did not start")


def echo_server():
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def serve():
        while True:
            conn, _ = listener.accept()
            conn.sendall(conn.recv(1) or b"")
            conn.close()
    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def login(port, source, user, password, target):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    raw = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))
    with context.wrap_socket(raw, server_hostname="localhost") as conn:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        conn.sendall(f"CONNECT 127.0.0.1:{target} HTTP/1.1\r\nHost: 127.0.0.1:{target}\r\n"
                     f"Proxy-Authorization: Basic {token}\r\n\r\n".encode())
        head = conn.recv(4096)
        status = int(head.split()[1]) if head else 0
        if status == 200:
            conn.sendall(b"x")
            conn.recv(1)
        return status


def storm(port, target, until, number, results):
    """One attacker process: its share of the rate, open loop, each login in a thread of its own."""
    seen = {}
    lock = threading.Lock()
    slots = threading.Semaphore(400)

    def one(i):
        try:
            status = login(port, f"127.0.1.{1 + i % 200}", "bob", f"guess {number} {i}", target)
        except (OSError, ValueError):
            status = "broken"
        with lock:
            seen[status] = seen.get(status, 0) + 1
        slots.release()
    due, i = time.monotonic(), 0
    while time.monotonic() < until:
        if slots.acquire(timeout=1):
            threading.Thread(target=one, args=(i,), daemon=True).start()
        i += 1
        due += STORMERS / STORM_PER_S
        pause = due - time.monotonic()
        if pause > 0:
            time.sleep(pause)
    for _ in range(400):  # those still waiting for their answer
        slots.acquire(timeout=20)
    with lock:
        results.put(dict(seen))


def probe(port, target, seconds):
    times, due = [], time.monotonic()
    until = due + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        status = login(port, "127.0.0.1", "alice", "right", target)
        if status != 200:
            sys.exit(f"the probe got {status}")
        times.append((time.monotonic() - began) * 1000)
        due += 1 / PROBES_PER_S
        pause = due - time.monotonic()
        if pause > 0:
            time.sleep(pause)
    return times


def beside_storm(port, target, seconds):
    results = multiprocessing.Queue()
    until = time.monotonic() + seconds + 2
    stormers = [multiprocessing.Process(target=storm, args=(port, target, until, n, results)) for n in range(STORMERS)]
    for s in stormers:
        s.start()
    time.sleep(1)  # the storm stands before it is measured
    times = probe(port, target, seconds)
    seen = {}
    for _ in stormers:
        for status, count in results.get(timeout=60).items():
            seen[status] = seen.get(status, 0) + count
    for s in stormers:
        s.terminate()
        s.join()
    return times, seen


def p99(times):
    return sorted(times)[min(len(times) - 1, int(len(times) * 0.99))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adit")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    adit = os.path.abspath(args.adit)
    target = echo_server()
    for throttle in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            make_lab(folder)
            proxy, port = start(adit, folder, throttle)
            try:
                login(port, "127.0.0.1", "alice", "right", target)
                quiet, loud, answers = [], [], {}
                for _ in range(args.rounds):
                    quiet += probe(port, target, args.seconds)
                    times, seen = beside_storm(port, target, args.seconds)
                    loud += times
                    for status, count in seen.items():
                        answers[status] = answers.get(status, 0) + count
            finally:
                proxy.send_signal(signal.SIGTERM)
                proxy.wait(timeout=90)
            print(f"throttle {'on ' if throttle else 'off'}: quiet median {statistics.median(quiet):.1f} p99 {p99(quiet):.1f} ms; "
                  f"storm median {statistics.median(loud):.1f} p99 {p99(loud):.1f} ms; p99 ratio "
                  f"{p99(loud) / p99(quiet):.2f}; probes {len(quiet)}+{len(loud)}; storm's answers {answers}", flush=True)


if __name__ == "__main__":
    main()
