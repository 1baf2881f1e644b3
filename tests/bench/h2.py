#!/usr/bin/env python3
"""HTTP/2 against HTTP/1.1 to the same proxy: throughput near and far, CPU, set-ups, memory of stalled streams, fair shares.

    tests/bench/h2.py build/adit [--rounds 5] [--only far,cpu,...] [--quick]
    tests/bench/h2.py build/adit --other FOLDER...   another proxy in the same rounds: FOLDER/start PORT starts it on all
                                                     addresses and prints "NAME ADDRESS PID[,PID]", FOLDER/stop PORT ends it

Parts: cpu (CPU seconds per GB, and throughput on loopback), far (throughput over a link of --rtt ms), balancer (the
same with a TCP relay before the proxy, whose round trip is then not the client's), setup (CPU per new tunnel), memory (100
tunnels that stand still), shares (four downloads whose HEADERS are an exclusive chain).

All of it happens in network namespaces of its own: the proxy and the tunnels' target in one, the client there, too, or
at the other end of a link that takes time (delay.c), with the kernel's standard windows (--rmem, --wmem). h2_load.c is the
client and the target. One worker, limits off. HTTP/1.1 and HTTP/2 take turns, A B B A; a ratio is that of one round, and
what is printed is their median, lowest and highest. Needs root, a C compiler and the headers adit is built with.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile

import storm

HERE = os.path.dirname(os.path.abspath(__file__))
NEAR, FAR = f"adit-bench-near-{os.getpid()}", f"adit-bench-far-{os.getpid()}"
NEAR_ADDRESS, FAR_ADDRESS = "10.0.0.1", "10.0.0.2"
PARTS = ("cpu", "far", "balancer", "setup", "memory", "shares")
GB, MB = 1e9, 1e6
MIB = 1 << 20


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def inside(namespace, *command):
    return ["nsenter", f"--net=/run/netns/{namespace}", *command]


def compile_tools(folder):
    for name, libraries in (("delay", ["-pthread"]), ("h2_load", ["-lnghttp2", "-lssl", "-lcrypto"])):
        run("cc", "-std=c17", "-O2", "-o", f"{folder}/{name}", f"{HERE}/{name}.c", *libraries)


# --- network ---


class Network:
    """Two namespaces. The near one has the proxy and the target; the far one a client, when there is a link."""

    def __init__(self, folder, args):
        self.folder, self.link = folder, None
        for name in (NEAR, FAR):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            settings = [f"net.ipv4.tcp_rmem={args.rmem}", f"net.ipv4.tcp_wmem={args.wmem}",
                        "net.ipv4.tcp_no_metrics_save=1"]
            if args.congestion:
                settings.append(f"net.ipv4.tcp_congestion_control={args.congestion}")
            run(*inside(name, "sysctl", "-qw", *settings))
        self.kernel = run(*inside(NEAR, "sysctl", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
                                  "net.ipv4.tcp_congestion_control")).replace("\t", " ").strip().replace("\n", "; ")

    def connect(self, rtt_ms):
        self.disconnect()
        self.link = start_helper([f"{self.folder}/delay", "link", NEAR, FAR, str(rtt_ms / 2)])
        for name, address in ((NEAR, NEAR_ADDRESS), (FAR, FAR_ADDRESS)):
            run("ip", "-n", name, "address", "add", f"{address}/30", "dev", "delayed")
            run("ip", "-n", name, "link", "set", "dev", "delayed", "txqueuelen", "10000", "up")

    def disconnect(self):
        if self.link:
            stop_helper(self.link)
        self.link = None

    def close(self):
        self.disconnect()
        for name in (NEAR, FAR):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def start_helper(command):
    """One that says a line when it is ready, and ends when its stdin does."""
    helper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    helper.said = helper.stdout.readline().strip()
    if not helper.said:
        sys.exit(f"{command[0]} did not start")
    return helper


def stop_helper(helper):
    helper.stdin.close()
    helper.stdout.close()
    helper.wait(10)


# --- proxies ---


def family(pid):
    pids = [pid]
    for task in tasks(pid):
        try:
            with open(f"{task}/children") as file:
                for child in file.read().split():
                    pids += family(int(child))
        except OSError:
            pass
    return pids


def tasks(pid):
    try:
        return [f"/proc/{pid}/task/{task}" for task in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


class Proxy:
    """Whatever is started: its address, and what it costs."""

    def cpu_s(self):
        total = 0
        for pid in {pid for root in self.pids for pid in family(root)}:
            for task in tasks(pid):
                with open(f"{task}/schedstat") as file:
                    total += int(file.read().split()[0])
        return total / 1e9

    def memory_kib(self):
        """RSS and PSS."""
        sums = {"Rss": 0, "Pss": 0}
        for pid in {pid for root in self.pids for pid in family(root)}:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                for line in file:
                    word = line.split(":")[0]
                    if word in sums:
                        sums[word] += int(line.split()[1])
        return sums


class Adit(Proxy):
    name = "adit"

    def __init__(self, program, folder):
        self.program, self.folder, self.process = program, folder, None

    def start(self):
        config = {
            "listen": [{"address": "0.0.0.0:0"}],
            "tls": {"certificates": [{"chain": f"{self.folder}/cert.pem", "key": f"{self.folder}/key.pem"}]},
            "auth": {"htpasswd": f"{self.folder}/users", "throttle": "off"},
            "policy": {"rules": [{"name": "lab", "action": "allow", "to": ["loopback"], "ports": ["any"]}]},
            "audit": {"directory": f"{self.folder}/audit"},
            "limits": {"unauthenticated_per_prefix": "off", "handshakes_per_prefix": "off"},
            "workers": 1,
        }
        with open(f"{self.folder}/adit.yaml", "w") as file:
            json.dump(config, file)
        self.log = open(f"{self.folder}/adit.log", "w+")
        self.process = subprocess.Popen(inside(NEAR, self.program, "serve", "-c", f"{self.folder}/adit.yaml"),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        text=True)
        for line in self.process.stderr:
            if "ready: listening on" in line:
                self.port = int(line.rsplit(":", 1)[1])
                break
        else:
            sys.exit("adit did not start")
        self.drain = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=self.log)
        self.pids = [self.process.pid]

    def stop(self):
        self.process.terminate()
        self.process.wait(90)
        self.process.stderr.close()
        self.drain.wait(10)
        self.log.close()


class Other(Proxy):
    port = 22300

    def __init__(self, folder):
        self.folder, self.name = os.path.abspath(folder), os.path.basename(os.path.abspath(folder))

    def start(self):
        Other.port += 1
        self.port = Other.port
        said = run(*inside(NEAR, f"{self.folder}/start", str(self.port))).split()
        self.pids = [int(pid) for pid in said[2].split(",")]

    def stop(self):
        run(*inside(NEAR, f"{self.folder}/stop", str(self.port)))


# --- a run of the client ---


class Client:
    def __init__(self, folder, user):
        self.program, self.user = f"{folder}/h2_load", user
        self.origin = start_helper(inside(NEAR, self.program, "origin", "127.0.0.1"))

    def command(self, place, proxy, protocol, mode, *options, port=None):
        host = NEAR_ADDRESS if place == FAR else "127.0.0.1"
        return inside(place, self.program, mode, "--proxy", f"{host}:{port or proxy.port}", "--origin",
                      f"127.0.0.1:{self.origin.said}", "--user", self.user, *(["--h1"] if protocol == "h1" else []),
                      *map(str, options))

    def greet(self, proxy):
        """The first login costs a hash: it is not to stand in any figure."""
        self(NEAR, proxy, "h1", "setup", "--seconds", 0.2)

    def __call__(self, place, proxy, protocol, mode, *options, port=None, timeout=180):
        """What it found; None when it did not work."""
        command = self.command(place, proxy, protocol, mode, *options, port=port)
        try:
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout)
        except subprocess.TimeoutExpired:
            print(f"    {proxy.name} {protocol} {mode} {' '.join(map(str, options))}: did not end", flush=True)
            return None
        if done.returncode != 0:
            print(f"    {proxy.name} {protocol} {mode} {' '.join(map(str, options))}: {done.stderr.strip()[-100:]}", flush=True)
            return None
        return json.loads(done.stdout)


# --- figures ---


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def text(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def spread(values, digits=2):
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f} {max(values):.{digits}f}]"


class Bench:
    def __init__(self, args, proxies, network, client):
        self.args, self.proxies, self.network, self.client = args, proxies, network, client
        self.kept = []

    def rounds(self, kinds, measure, count=None):
        """measure(proxy, kind) for each of both, round by round, the order turned around in every second round.
        Gives lists of results by (proxy's name, kind)."""
        found = {(proxy.name, kind): [] for proxy in self.proxies for kind in kinds}
        for n in range(count or self.args.rounds):
            turns = [(proxy, kind) for proxy in self.proxies for kind in kinds]
            for proxy, kind in turns[::-1] if n % 2 else turns:
                found[proxy.name, kind].append(measure(proxy, kind))
        return found

    def row(self, what, found, unit, digits=2, each=lambda result: result):
        """h1 and h2 and the rounds' ratios."""
        for proxy in self.proxies:
            one, two = ([result and each(result) for result in found[proxy.name, kind]] for kind in ("h1", "h2"))
            ratios = [b / a for a, b in zip(one, two) if a and b]
            print(f"{what:34} {proxy.name:14} h1 {spread(one, digits):>24}  h2 {spread(two, digits):>24} {unit:8} "
                  f"h2/h1 {spread(ratios)}", flush=True)
            self.kept.append({"what": what, "proxy": proxy.name, "unit": unit, "h1": one, "h2": two})

    # --- parts ---

    def cpu(self):
        for way in ("down", "up"):
            for streams in self.args.streams:
                each = self.args.bytes // streams // MIB * MIB

                def measure(proxy, protocol):
                    began = proxy.cpu_s()
                    result = self.client(NEAR, proxy, protocol, way, "--streams", streams, "--bytes", each, "--ack", MIB)
                    return result and (result["bytes"] / MB / result["seconds"],
                                       (proxy.cpu_s() - began) / (result["bytes"] / GB))

                found = self.rounds(("h1", "h2"), measure)
                self.row(f"loopback {way}, {streams} tunnels", found, "CPU-s/GB", 3, lambda result: result[1])
                self.row(f"loopback {way}, {streams} tunnels", found, "MB/s", 0, lambda result: result[0])

    def far(self):
        for rtt in self.args.rtt:
            self.network.connect(rtt)
            for way in ("down", "up"):
                for streams in self.args.streams:
                    def measure(proxy, protocol):
                        result = self.client(FAR, proxy, protocol, way, "--streams", streams, "--seconds",
                                             self.args.seconds, "--warmup", self.args.warmup)
                        return result and (result["bytes"] / MB / result["seconds"], result["rtt_ms"],
                                           min(result["each"]) / max(max(result["each"]), 1))

                    found = self.rounds(("h1", "h2"), measure)
                    self.row(f"{rtt} ms {way}, {streams} tunnels", found, "MB/s", 1, lambda result: result[0])
                    if streams > 1:
                        self.row("   least share / largest", found, "", 2, lambda result: result[2])
                    print(f"    round trip by TCP_INFO: "
                          f"{spread([r[1] for results in found.values() for r in results if r], 1)} ms")

    def balancer(self):
        for rtt in self.args.rtt:
            self.network.connect(rtt)
            for way in ("down", "up"):
                def measure(proxy, protocol):
                    relay = start_helper(inside(NEAR, f"{self.network.folder}/delay", "relay", NEAR_ADDRESS, "9000",
                                                "127.0.0.1", str(proxy.port), "0", "1"))
                    result = self.client(FAR, proxy, protocol, way, "--seconds", self.args.seconds, "--warmup",
                                         self.args.warmup, port=9000)
                    stop_helper(relay)
                    return result and result["bytes"] / MB / result["seconds"]

                self.row(f"{rtt} ms behind a relay, {way}", self.rounds(("h1", "h2"), measure), "MB/s", 1)

    def setup(self):
        kinds = {"h1": ("h1",), "h1 resumed": ("h1", "--resume"), "h2 END_STREAM": ("h2",), "h2 RST": ("h2", "--cancel")}

        def measure(proxy, kind):
            protocol, *options = kinds[kind]
            began = proxy.cpu_s()
            result = self.client(NEAR, proxy, protocol, "setup", "--streams", 8, "--seconds", self.args.setup_seconds,
                                 *options)
            if result and result["goaway"]:
                print(f"    {proxy.name}: GOAWAY after {result['tunnels']} tunnels", flush=True)
            if not result or result["tunnels"] < 100 or (result["errors"] and not result["goaway"]):
                return None
            return (proxy.cpu_s() - began) * 1e6 / result["tunnels"], result["tunnels"] / result["seconds"]

        found = self.rounds(tuple(kinds), measure)
        for proxy in self.proxies:
            for kind in kinds:
                costs = [result and result[0] for result in found[proxy.name, kind]]
                rates = [result and result[1] for result in found[proxy.name, kind]]
                print(f"{'set-up, ' + kind:34} {proxy.name:14} {spread(costs, 0):>24} CPU-us  {spread(rates, 0):>24} /s",
                      flush=True)
                self.kept.append({"what": f"set-up, {kind}", "proxy": proxy.name, "unit": "CPU-us", "values": costs})

    def stalled(self, proxy, protocol, kind):
        """A process of its own each time: what it once had, the allocator may keep."""
        proxy.stop()
        proxy.start()
        self.client.greet(proxy)
        self.client(NEAR, proxy, protocol, "setup", "--streams", 8, "--seconds", 1)
        before = proxy.memory_kib()
        command = self.client.command(NEAR, proxy, protocol, "stall", "--streams", self.args.stalled, "--kind", kind)
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = client.stdout.readline()
        amid = proxy.memory_kib()
        stop_helper(client)
        # What is over is freed by and by; the last look counts.
        self.client(NEAR, proxy, "h1", "setup", "--streams", 1, "--seconds", 2)
        after = proxy.memory_kib()
        if not line:
            return None
        more = {word: amid[word] - before[word] for word in amid}
        return {**json.loads(line), **{f"{name} {word}": table[word] for name, table in
                                       (("before", before), ("more", more), ("after", after)) for word in table}}

    def memory(self):
        for kind in ("down", "up", "both", "deaf"):
            found = self.rounds(("h1", "h2"), lambda proxy, protocol: self.stalled(proxy, protocol, kind),
                                max(1, self.args.rounds // 2))
            for proxy in self.proxies:
                for protocol in ("h1", "h2"):
                    results = [result for result in found[proxy.name, protocol] if result]
                    mib = {word: spread([result[word] / 1024 for result in results], 1) for word in
                           ("before Rss", "more Rss", "more Pss", "after Rss")}
                    beside = [result["probe_median_ms"] if result["probes"] == 100 else None for result in results]
                    print(f"{self.args.stalled} stalled, {kind:5} {protocol}  {proxy.name:14} RSS {mib['before Rss']}, then "
                          f"{mib['more Rss']} more (PSS {mib['more Pss']}), after all {mib['after Rss']} MiB; the client had "
                          f"sent {text(median([result['up'] / MIB for result in results]), 0)} MiB; an echo beside them "
                          f"{spread(beside, 1)} ms", flush=True)
                    self.kept.append({"what": f"{self.args.stalled} stalled, {kind}", "proxy": proxy.name,
                                      "protocol": protocol, "results": results})

    def shares(self):
        each = self.args.bytes // 4 // MIB * MIB
        for rtt in (0, *self.args.rtt):
            if rtt:
                self.network.connect(rtt)

            def measure(proxy, _):
                result = self.client(FAR if rtt else NEAR, proxy, "h2", "down", "--streams", 4, "--chain", "--bytes",
                                     each // (4 if rtt else 1) // MIB * MIB)
                return result and (max(result["ends_s"]) - min(result["ends_s"])) / max(result["ends_s"])

            found = self.rounds(("h2",), measure)
            for proxy in self.proxies:
                values = found[proxy.name, "h2"]
                print(f"four chained downloads, {rtt} ms: {proxy.name:14} the first ends "
                      f"{spread([value and value * 100 for value in values], 1)} % before the last", flush=True)
                self.kept.append({"what": f"chain, {rtt} ms", "proxy": proxy.name, "values": values})


def numbers(text):
    return [int(word) for word in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adit")
    parser.add_argument("--other", nargs="*", default=[], metavar="FOLDER", help="see above; more than one may follow")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=1024 * MIB, help="of one run on loopback")
    parser.add_argument("--seconds", type=float, default=5, help="of one run over the link, after the warm-up")
    parser.add_argument("--warmup", type=float, default=4)
    parser.add_argument("--setup-seconds", type=float, default=3)
    parser.add_argument("--streams", type=numbers, default=[1, 8])
    parser.add_argument("--stalled", type=int, default=100, help="tunnels")
    parser.add_argument("--rtt", type=numbers, default=[100], help="ms")
    parser.add_argument("--rmem", default="4096 131072 6291456", help="tcp_rmem of both ends")
    parser.add_argument("--wmem", default="4096 16384 4194304", help="tcp_wmem of both ends")
    parser.add_argument("--congestion", help="instead of the system's")
    parser.add_argument("--user", default="alice:right", help="NAME:PASSWORD, if the other proxies know another")
    parser.add_argument("--json", help="a file for all figures")
    parser.add_argument("--quick", action="store_true", help="short and few: whether it works, not how well")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.bytes, args.seconds, args.warmup, args.setup_seconds = min(args.rounds, 2), 256 * MIB, 2, 2, 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # the namespaces are to go in any case
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    unknown = set(args.only.split(",")) - set(PARTS)
    if unknown:
        sys.exit(f"no such part: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        compile_tools(folder)
        storm.make_lab(folder)
        name, password = args.user.split(":", 1)
        run("htpasswd", "-bB", "-C", "5", f"{folder}/users", name, password)
        proxies = [Adit(os.path.abspath(args.adit), folder), *map(Other, args.other)]
        network, client, started = None, None, []
        try:
            network = Network(folder, args)
            client = Client(folder, args.user)
            for proxy in proxies:
                proxy.start()
                started.append(proxy)
                client.greet(proxy)
            print(f"{network.kernel}; {args.rounds} rounds, medians [lowest highest]", flush=True)
            bench = Bench(args, proxies, network, client)
            for part in PARTS:
                if part in args.only.split(","):
                    getattr(bench, part)()
        finally:
            for proxy in started:
                proxy.stop()
            if client:
                stop_helper(client.origin)
            if network:
                network.close()
        if args.json:
            with open(args.json, "w") as file:
                json.dump({"kernel": network.kernel, "options": vars(args), "figures": bench.kept}, file, indent=1)


if __name__ == "__main__":
    main()
