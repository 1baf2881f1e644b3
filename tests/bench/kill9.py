#!/usr/bin/env python3
"""Counts tunnels that were told 200 and have no record, over processes killed with SIGKILL amid set-ups. Must be 0.

    tests/bench/kill9.py build/adit [--rounds 20]

Each round starts the proxy, lets clients set up tunnels as fast as they can, kills the proxy at a random moment and holds
every 200 that a client saw (by the client's port) against the open records of access.jsonl and of the user's own file.
Uses the set-up of storm.py beside it.
"""
import argparse
import json
import os
import random
import socket
import ssl
import tempfile
import threading
import time

import storm

CLIENTS = 8


def client(port, target, told, stop):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    request = (f"CONNECT 127.0.0.1:{target} HTTP/1.1\r\nHost: x:1\r\n"
               "Proxy-Authorization: Basic YWxpY2U6cmlnaHQ=\r\n\r\n").encode()
    while not stop.is_set():
        try:
            raw = socket.create_connection(("127.0.0.1", port), timeout=5)
            own = raw.getsockname()[1]
            with context.wrap_socket(raw) as conn:
                conn.sendall(request)
                if conn.recv(4096).startswith(b"HTTP/1.1 200"):
                    told.append(own)
        except OSError:
            pass


def opened(path):
    ports = set()
    with open(path) as f:
        for line in f:
            if line.endswith("\n"):
                record = json.loads(line)
                if record["kind"] == "open":
                    ports.add(record["client_port"])
    return ports


def one_round(adit, folder, target):
    for name in ("access.jsonl", "users/alice.jsonl"):
        if os.path.exists(f"{folder}/audit/{name}"):
            os.remove(f"{folder}/audit/{name}")
    proxy, port = storm.start(adit, folder, False)
    storm.login(port, "127.0.0.1", "alice", "right", target)
    told, stop = [], threading.Event()
    clients = [threading.Thread(target=client, args=(port, target, told, stop)) for _ in range(CLIENTS)]
    for c in clients:
        c.start()
    time.sleep(random.uniform(0.2, 1.0))
    proxy.kill()
    proxy.wait()
    stop.set()
    for c in clients:
        c.join()
    missing = {name: len(set(told) - opened(f"{folder}/audit/{name}")) for name in ("access.jsonl", "users/alice.jsonl")}
    return len(told), missing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adit")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    target, told, missing = storm.echo_server(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        storm.make_lab(folder)
        for _ in range(args.rounds):
            n, lost = one_round(os.path.abspath(args.adit), folder, target)
            told += n
            missing += sum(lost.values())
    print(f"{args.rounds} kills, {told} tunnels told 200, {missing} without an open record")
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
