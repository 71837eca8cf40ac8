"""Hostile drivers (attack.c), judged from the host: one machine per transport and ring format runs all cases, each a line.

What the host sees of each case: that the monitor lives (if not, the case has failed, and another machine goes on behind it), that
its threads used no more processor time than some dozens of good requests and resets did in the same run, and that its log stays
short. Of the machine as a whole: memory, descriptors and threads do not grow, and on both sides of guest memory lies a page that
nobody may touch, so that a write past it is a crash and not a secret.

With the sanitizers the filters are off: they make system calls of their own (for their maps and their reports), which no row of a
table allows.
"""
import os
import re
import time

from machine import HANG, MEMORY, Failure, Network, Skip, expect

COST = 40           # a case may cost as much processor time as this many control rounds,
FLOOR = 0.02        # and this many seconds in any case: the clock of a thread has its grain
LOG_MAX = 8192      # bytes of log per case
GROWTH = 48 << 20   # of resident memory, all cases of a machine together
QUIET = 0.01        # seconds that threads may use, beside three control rounds, while nothing is asked of them
CRASHES_MAX = 12    # then the machine is given up
DISK = 4 << 20
FLOOD_SECONDS, FLOOD_GROWTH, FLOOD_TAKEN = 2, 16 << 20, 8 << 20


def filters(bench):
    return "--seccomp=" + ("false" if bench.asan else "true")


class Watch:
    """What a running monitor uses, as /proc tells it."""

    def __init__(self, process):
        self.process = process
        self.base = f"/proc/{process.p.pid}"
        self.cpu = self.cpu_now()
        self.log = 0

    def cpu_now(self):
        """Seconds used by the monitor's threads without the vCPUs."""
        total = 0
        try:
            for tid in os.listdir(f"{self.base}/task"):
                with open(f"{self.base}/task/{tid}/comm") as f:
                    name = f.read().strip()
                with open(f"{self.base}/task/{tid}/schedstat") as f:
                    used = int(f.read().split()[0])
                if not name.startswith(("vcpu", "kvm-")):
                    total += used
        except (OSError, IndexError):
            return self.cpu
        return total / 1e9

    def lap(self):
        """Processor time and bytes of log since the last one."""
        cpu, log = self.cpu_now(), len(self.process.text[self.process.p.stderr])
        ret = cpu - self.cpu, log - self.log
        self.cpu, self.log = cpu, log
        return ret

    def holdings(self):
        """Resident bytes, descriptors, threads of ours (io_uring's come and go); None when it has ended."""
        try:
            with open(f"{self.base}/statm") as f:
                resident = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            names = [name for name in self.process.threads() if not name.startswith("iou-")]
            return resident, len(os.listdir(f"{self.base}/fd")), len(names)
        except OSError:
            return None

    def guarded(self):
        """Is guest memory between two pages without access?"""
        with open(f"{self.base}/maps") as f:
            maps = [line.split() for line in f]
        spans = [(*(int(x, 16) for x in m[0].split("-")), m[1]) for m in maps]
        # Protections may cut guest memory to pieces: join neighbours that may be written.
        joined = []
        for begin, end, mode in spans:
            if joined and joined[-1][1] == begin and joined[-1][2][:2] == mode[:2]:
                joined[-1] = (joined[-1][0], end, mode)
            else:
                joined.append((begin, end, mode))
        for i in range(1, len(joined) - 1):
            begin, end, mode = joined[i]
            if end - begin >= MEMORY and mode.startswith("rw"):
                before, after = joined[i - 1], joined[i + 1]
                if before[1] == begin and before[2][:3] == after[2][:3] == "---" and after[0] == end:
                    return True
        return False


class Attack:
    """One machine's cases, over as many processes as it takes."""

    def __init__(self, bench, label, transport, packed, asan, each):
        self.bench, self.label, self.asan = bench, label, asan
        self.words = f"test=attack transport={transport} packed={packed} each={each} "
        self.options = ["--cpus", "boot=2", filters(bench)]
        for name in ("target", "witness"):
            place = transport if name == "target" else "pci"
            path = bench.file(name, DISK)
            self.options += ["--disk", f"path={path},transport={place},packed=on,in_order=on"]
        self.options += ["--rng", f"transport={transport},packed=on",
                         "--console", f"file={bench.path('console')},transport={transport},packed=on"]
        self.within = ()
        try:
            network = bench.network()
            self.within = network.inside()
            self.options += ["--net", f"tap=tap0,transport={transport},packed=on"]
            self.words += (f"ip={int.from_bytes(bytes(map(int, Network.GUEST.split('.'))), 'big')} "
                           f"peer={int.from_bytes(bytes(map(int, Network.ADDRESS.split('.'))), 'big')} ")
        except Skip:
            pass
        self.control, self.crashes, self.next = [], 0, 1

    def finish(self, title, begin, result, reason=""):
        self.bench.report(f"{self.label} {title}", time.monotonic() - begin, result, reason)

    def judge(self, watch, kicks, why):
        cpu, log = watch.lap()
        bound = max(FLOOR, max(self.control) * (COST + kicks / 4))
        if cpu > bound:
            return f"{cpu * 1000:.1f} ms of processor time; the bound is {bound * 1000:.1f} ms\n{why}"
        if log > LOG_MAX:
            return f"{log} bytes of log\n{why}"
        return why

    def lines(self, process):
        """Lines of the guest as they come; ends with the process."""
        done, end = 0, time.monotonic() + HANG
        while True:
            more = process.read(1)
            text = process.text[process.p.stdout]
            while (at := text.find(b"\n", done)) >= 0:
                yield text[done:at].decode(errors="replace").strip()
                done, end = at + 1, time.monotonic() + HANG
            if not more:
                return
            if time.monotonic() > end:
                self.hung = True
                process.kill()
                return

    def one_process(self):
        """Runs from case `next` on. True: came to the end."""
        process = self.bench.guest_start(self.words + f"from={self.next}", *self.options, within=self.within)
        watch, title, why, ended, begin = Watch(process), None, "", False, time.monotonic()
        self.before = self.after = None
        self.hung = False
        for line in self.lines(process):
            word, _, rest = line.partition(" ")
            if word == "case":
                number, title, kicks = rest.split()
                why, begin = "", time.monotonic()
                self.next = max(self.next, int(number))
                if title == "control":
                    self.before = None
                elif not self.before:
                    self.before = watch.holdings()
                    expect(watch.guarded(), "guest memory has no guard pages")
            elif word == "quiet":
                # From the case's begin on: a thread that spins may also be the one that passes these lines on, late.
                if rest == "over" and (cpu := watch.cpu_now() - watch.cpu) > QUIET + 3 * max(self.control):
                    why += f"{cpu * 1000:.1f} ms of processor time with nothing to do"
            elif word == "why":
                why += ("\n" if why else "") + rest
            elif word == "skip:" and title:
                self.finish(title, begin, "skip", rest)
                title = None
            elif line in ("ok", "not ok") and title == "control":
                self.control.append(watch.lap()[0])
                expect(line == "ok", f"good requests do not work: {why}")
                title = None
            elif line in ("ok", "not ok") and title:
                failed = self.judge(watch, int(kicks), why)
                self.after = watch.holdings() or self.after
                self.finish(title, begin, "fail" if failed or line != "ok" else "pass", failed)
                title = None
            elif word == "done":
                ended = True
                self.grown()
            elif line.startswith("not ok") and not title:
                raise Failure(line)
        status = process.p.wait(HANG)
        if ended:
            expect(status == 0, f"exit status {status} after all cases\n{process.output[-2000:]}")
            return True
        expect(title and title != "control", f"ends with {status} outside of all cases\n{process.output[-2000:]}")
        self.finish(title, begin, "fail", f"{'hangs' if self.hung else f'the monitor ends with {status}'}\n{why}\n{self.report_of(process)}")
        return False

    @staticmethod
    def report_of(process):
        text = process.text[process.p.stderr].decode(errors="replace")
        at = re.search(r"==\d+==ERROR|runtime error|Assertion", text)
        return text[at.start() - 100 if at and at.start() > 100 else 0:][:3000] if at else text[-1000:]

    def grown(self):
        if not self.before or not self.after:
            return
        resident, descriptors, threads = (now - then for now, then in zip(self.after, self.before))
        expect(resident < GROWTH * (4 if self.asan else 1), f"memory has grown by {resident >> 20} MiB")
        expect(descriptors <= 0, f"{descriptors} descriptors are left open")
        expect(threads <= 0, f"{threads} threads are left")

    def run(self):
        while not self.one_process():
            self.next += 1
            self.crashes += 1
            expect(self.crashes < CRASHES_MAX, "the monitor crashes too often")
        expect(self.crashes == 0, f"the monitor crashed {self.crashes} times")


def serial_flood(bench):
    """CVE-2020-27174: who sends faster than the guest reads waits; his bytes do not pile up in the monitor."""
    p = bench.guest_start("test=spin", "--serial", f"socket={bench.path('serial')}", filters(bench), "--disk", f"path={bench.file('d', DISK)}")
    sock = bench.connect(bench.path("serial"))
    watch = Watch(p)
    sock.setblocking(False)
    before, sent, end = None, 0, time.monotonic() + FLOOD_SECONDS
    while time.monotonic() < end:
        try:
            sent += sock.send(b"x" * 65536)
        except BlockingIOError:
            time.sleep(0.01)
        before = before or watch.holdings()
    after = watch.holdings()
    expect(before and after, "the monitor is gone")
    expect(after[0] - before[0] < FLOOD_GROWTH, f"memory has grown by {(after[0] - before[0]) >> 10} KiB for {sent} bytes")
    expect(sent < FLOOD_TAKEN, f"{sent} bytes were taken although nobody reads")
    p.signal(15)
    expect(p.finish() == 0, "exit status is not 0")


def raw_stays_raw(bench):
    """CVE-2026-27211: a guest writes the header of another format, naming a file of the host's; the disk stays what it was."""
    secret = bench.file("secret", data=b"secret" * 1000)
    name = secret.encode()
    header = b"QFI\xfb" + (3).to_bytes(4, "big") + (0x200).to_bytes(8, "big") + len(name).to_bytes(4, "big")
    header += (16).to_bytes(4, "big") + DISK.to_bytes(8, "big")
    path = bench.file("disk.raw", DISK, header.ljust(0x200, b"\0") + name)
    bench.guest_run(f"test=blk capacity={DISK // 512}", filters(bench), "--disk", f"path={path}")
    with open(path, "rb") as f:
        expect(f.read(4) == b"QFI\xfb", "the first sector is not the guest's any more")
    expect(os.path.getsize(path) == DISK, "the file has another size")


def attack(label, transport, packed, each):
    def case(bench):
        Attack(bench, label, transport, packed, bench.asan, each).run()
    return case


def cases(asan, each=1):
    label = "hostile asan" if asan else "hostile"
    yield f"{label} cve_2020_27174 serial input that nobody reads", serial_flood
    yield f"{label} cve_2026_27211 raw disk with the header of another format", raw_stays_raw
    # Under the sanitizers, which take their time: each transport and each kind of ring once.
    for transport, packed in (("pci", 0), ("mmio", 1)) if asan else (("pci", 0), ("pci", 1), ("mmio", 0), ("mmio", 1)):
        name = f"{label} {transport} {'packed' if packed else 'split'}"
        yield name, attack(name, transport, packed, each)
