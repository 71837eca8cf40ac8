"""The network rows of tests/bench/io: frames each way through a tap, in packets per CPU second.

CPU time is that of all threads of the monitor but its vCPU's, from the line with which the load begins to the one with which
it ends (schedstat of each thread). Frames to receive come from tests/bench/net_flood, which always has more than anybody takes.
"""
import json
import os
import re
import statistics
import subprocess

PATIENCE_S = 120
RING = 256  # entries of queues, unless a case has more in flight
FEW = 20  # counts are of a run, less those of one with a twentieth of the packets
# op, size, depth, requests, bar of packets per CPU second against QEMU's, bar of system calls per packet
CASES = [
    ("send", 64, 128, 200000, 1.5, 0.1),
    ("send", 1500, 128, 200000, 1.5, 0.1),
    ("sendtso", 60000, 64, 20000, 1.5, None),
    ("recv", 64, 256, 200000, 1.5, 0.1),
    ("recv", 1500, 256, 200000, 1.5, 0.1),
    ("recvtso", 60000, 256, 20000, 1.5, None),
    ("recvtso", 60000, 1024, 20000, 1.5, 0.1),
]
# Interrupts per packet: what the driver gathers for the queue it uses, for the other one, for none.
COALESCING = [("recv", 0), ("send", 1)]
COALESCE_BAR = 1 / 16
COALESCE_REQUESTS = 100000
COALESCE_GAP_US = 3  # between two frames to receive: some 16 in the 50 microseconds
INTERRUPTS = re.compile(rb"_net0: received (\d+) frames, \d+ bytes, \d+ kicks, (\d+) interrupts.*?; "
                        rb"sent (\d+) frames, \d+ bytes, \d+ kicks, (\d+) interrupts")


def cpu_ns(pid):
    """Of all threads but those that run the guest."""
    total = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{tid}/comm", encoding="ascii") as f:
                if f.read().startswith(("vcpu", "CPU ")):
                    continue
            with open(f"/proc/{pid}/task/{tid}/schedstat", encoding="ascii") as f:
                total += int(f.read().split()[0])
        except FileNotFoundError:
            pass
    return total


class Flood:
    """Frames for a tap while the block runs, if the case receives any."""

    def __init__(self, bench, tap, case, gap=None):
        how = ["tso"] if case.op.endswith("tso") else [str(gap)] if gap else []
        self.argv = [bench.net_flood, tap, str(case.size), str(PATIENCE_S)] + how if case.op.startswith("recv") else None

    def __enter__(self):
        self.process = subprocess.Popen(self.argv) if self.argv else None

    def __exit__(self, *_):
        if self.process:
            self.process.kill()
            self.process.wait()


def load(argv):
    """The line of a load, and the CPU time that it took."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as p:
        before, text = 0, b""
        for line in p.stdout:
            text += line
            if b'"begin":1' in line:
                before = cpu_ns(p.pid)
            elif line.startswith(b"{"):
                spent, found = cpu_ns(p.pid) - before, json.loads(line)
                if found["ok"] and before:
                    p.wait(PATIENCE_S)
                    return found, spent
        p.wait(PATIENCE_S)
    raise SystemExit(f"bench: this did not work:\n{' '.join(argv)}\n{text.decode(errors='replace')}")


class NetCase:
    def __init__(self, bench, row):
        self.op, self.size, self.depth, self.requests, self.bar, self.bar_calls = row
        self.bench = bench
        self.per_second = {"microvm": [], "qemu": []}
        self.cycles = {"microvm": [], "qemu": []}
        self.counts = {}

    def name(self):
        what = {"send": "send", "recv": "receive"}[self.op.removesuffix("tso")]
        ring = f", a ring of {self.depth}" if self.depth > RING else ""
        return f"net, {what} {self.size} bytes{' (TSO)' if self.op.endswith('tso') else ''}{ring}"

    def argv(self, side, requests, words="", keys=""):
        text = f"test=net {words} cases={self.op}:{self.size}:{self.depth}:1:{requests}"
        return self.bench.argv(side, text, keys, max(self.depth, RING))

    def run(self, rounds, count):
        sides = ["microvm"] + (["qemu"] if self.bench.qemu else [])
        for _ in range(rounds):
            for side in sides:
                with Flood(self.bench, self.bench.taps[side], self):
                    found, spent = load(self.argv(side, self.requests))
                self.per_second[side].append(found["requests"] / (spent / 1e9))
                self.cycles[side].append(found["cycles"] / found["requests"])
        for side in sides if self.bench.perf else []:
            with Flood(self.bench, self.bench.taps[side], self):
                whole, start = count(self.argv(side, self.requests)), count(self.argv(side, self.requests // FEW))
            if whole and start:
                # A tenth more are made to warm up.
                n = (self.requests - self.requests // FEW) * 1.1
                self.counts[side] = {k: max(whole[k] - start[k], 0) / n for k in whole}

    def ratio(self, what):
        pairs = zip(what["microvm"], what["qemu"])
        return statistics.median(a / b for a, b in pairs) if what["qemu"] else None


def interrupts(bench, op, words):
    """Per packet, as the device counts them: all that the driver was rung for. By MMIO, whose interrupt needs no set-up."""
    case = NetCase(bench, (op, 64, 128 if op == "send" else 256, COALESCE_REQUESTS, None, None))
    with Flood(bench, bench.taps["microvm"], case, COALESCE_GAP_US):
        argv = case.argv("microvm", case.requests, f"transport=mmio calls=1 {words}", ",transport=mmio")
        r = subprocess.run(argv + ["-v"], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False)
    found = INTERRUPTS.search(r.stdout + r.stderr)
    if b'"ok":1' not in r.stdout or not found:
        raise SystemExit(f"bench: this did not work:\n{(r.stdout + r.stderr).decode(errors='replace')}")
    frames, rings = (int(x) for x in (found.groups()[:2] if op == "recv" else found.groups()[2:]))
    return rings / frames


def verdict(value, bar, form, within):
    if value is None:
        return ""
    return form.format(value) + ("" if bar is None else f" (bar {bar:g}: {'within' if within(value, bar) else 'missed'})")


def table(cases):
    rows = ["| case | packets per CPU second ÷ QEMU | ours | QEMU's | time ÷ QEMU | system calls | wake-ups | QEMU's: system calls |",
            "|---|---|---|---|---|---|---|---|"]
    for c in cases:
        ours, theirs = c.counts.get("microvm", {}), c.counts.get("qemu", {})
        thousands = [f"{statistics.median(x) / 1000:.0f} k" if x else "" for x in c.per_second.values()]
        rows.append(f"| {c.name()} | {verdict(c.ratio(c.per_second), c.bar, '{:.2f}', lambda v, b: v >= b)} | "
                    f"{' | '.join(thousands)} | {verdict(c.ratio(c.cycles), None, '{:.2f}', None)} | "
                    f"{verdict(ours.get('calls'), c.bar_calls, '{:.3f}', lambda v, b: v <= b)} | "
                    f"{verdict(ours.get('wakeups'), None, '{:.3f}', None)} | {verdict(theirs.get('calls'), None, '{:.3f}', None)} |")
    return "\n".join(rows)


def coalescing_table(bench):
    rows = ["| interrupts per packet | of its queue | of the other queue | of none |", "|---|---|---|---|"]
    for op, own in COALESCING:
        got = [interrupts(bench, op, w) for w in (f"coalesce={own}", f"coalesce={1 - own}", "")]
        mine = verdict(got[0], COALESCE_BAR, "{:.4f}", lambda v, b: v <= b)
        rows.append(f"| {'receive' if op == 'recv' else 'send'} 64 bytes | {mine} | {got[1]:.4f} | {got[2]:.4f} |")
    return "\n".join(rows)


def report(bench, only, rounds, count):
    """The text of all net cases whose name has `only` in it; empty when there is none."""
    cases = [c for c in (NetCase(bench, row) for row in CASES) if only in c.name()]
    for c in cases:
        c.run(rounds, count)
        print(f"{c.name()}: {c.ratio(c.per_second) or 0:.2f} x QEMU's packets per CPU second", flush=True)
    if not cases:
        return ""
    return f"""
## The network

Frames through a tap (vnet_hdr on, one queue pair, no vhost on either side). CPU time is that of all threads but the vCPU's.
Counts are per packet; received frames come from a packet socket on the host's end, faster than they are taken. Buffers for them
are of 2 KiB, or of 4 KiB where segments come: then a ring of 256 holds 17 of these, and a round of them is two wake-ups
(the driver's first buffers, and those that came meanwhile) and two batches at best, 0.24 calls per packet; one of 1024 holds 68.

{table(cases)}

Gathered interrupts (VIRTIO_NET_F_VQ_NOTF_COAL, 32 packets or 50 µs), for a driver that asks to be rung after each batch, and
frames that come one every {COALESCE_GAP_US} µs or more: set for the queue that is loaded, for the other queue of its pair, and for none. What is
gathered anyway is what comes while the worker or the vCPU has no processor.

{coalescing_table(bench)}
"""
