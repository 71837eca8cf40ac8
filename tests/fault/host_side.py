"""Faults of what is beside the disks: log and serial file, links, limits of the process, clocks."""
import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import namedtuple

from cell import BLOCKS, DEVICE, REFUSED, SIZE, UNAFFECTED, Cell, Writer, expect, make_disk
from disks import SLOW, Medium, judge, reads_fail
from faultfs import FaultFs
from machine import Skip, deny

CLONE3 = 435
LINES = BLOCKS * 5    # that the chattering writer prints in three rounds


def victim(bench, form="raw"):
    path = bench.path("victim")
    make_disk(path, form)
    return "--disk", f"path={path},format={form}"


def rounds(w, second=None):
    """What is left after the first meeting, with nothing wrong with the disk but what `second` allows."""
    w.go(1)
    judge(w, 2, second)


def last_round(w):
    w.go(2)
    w.sound(3)
    w.go(3)
    status = w.p.finish()
    expect(status == 0, f"exit status {status}\n{w.p.output[-2000:]}")


def log(arm):
    """A disk whose reads fail makes lines in a log that cannot be written: the machine goes on, and writes again later."""
    def case(bench):
        medium = Medium(bench, "raw")
        fs = FaultFs(bench.path("logs"), bench.path("logs-backing"))
        bench.processes.append(fs)
        w = Writer(bench, *medium.option, "--log-file", os.path.join(fs.path, "log"), "-v")
        w.sound(1)
        medium.fs.faults, fs.faults = {"read": errno.EIO}, arm
        rounds(w, reads_fail)
        expect(fs.count, "nothing was logged")
        medium.fs.faults, fs.faults = {}, {}
        last_round(w)
    return case


def log_taken(how):
    """Cut to nothing by whoever rotates logs, or deleted."""
    def case(bench):
        medium = Medium(bench, "raw")
        path = bench.path("log")
        w = Writer(bench, *medium.option, "--log-file", path, "-v")
        w.sound(1)
        how(path)
        medium.fs.faults = {"read": errno.EIO}
        rounds(w, reads_fail)
        medium.fs.faults = {}
        last_round(w)
        if os.path.exists(path):
            with open(path, "rb") as f:
                text = f.read()
            expect(b"failed" in text and b"\0" not in text, f"the log has a hole\n{text[:200]}")
    return case


def serial(arm, whole):
    """The guest prints into a file that fails: it is not held up for good, and nothing but the text is lost."""
    def case(bench):
        fs = FaultFs(bench.path("out"), bench.path("out-backing"))
        bench.processes.append(fs)
        w = Writer(bench, *victim(bench), "--serial", f"file={os.path.join(fs.path, 'serial')}", cmdline="chatter=1")
        w.sound(1)
        fs.faults = arm
        rounds(w)
        expect(fs.count, "nothing was printed")
        fs.faults = {}
        last_round(w)
        with open(os.path.join(fs.backing, "serial"), "rb") as f:
            text = f.read()
        got, last = (len(re.findall(what, text)) for what in (rb"round \d block \d", rb"round 3 block \d"))
        expect(last == 2 * BLOCKS, f"{last} of {2 * BLOCKS} lines of the last round arrived")
        expect(got == LINES or not whole, f"{got} of {LINES} lines arrived")
    return case


def serial_full(bench):
    """A tmpfs that has no room for what the guest prints."""
    os.mkdir(bench.path("small"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", bench.path("small")], check=True)
    try:
        w = Writer(bench, *victim(bench), "--serial", f"file={bench.path('small/serial')}", cmdline="chatter=1")
        w.sound(1)
        rounds(w)
        last_round(w)
    finally:
        bench.end_all()
        subprocess.run(["umount", "-l", bench.path("small")], check=True)


def serial_cut(bench):
    path = bench.path("serial")
    w = Writer(bench, *victim(bench), "--serial", f"file={path}", cmdline="chatter=1")
    w.sound(1)
    os.truncate(path, 0)
    rounds(w)
    last_round(w)
    with open(path, "rb") as f:
        text = f.read()
    expect(text.count(b"round 3 block ") == 2 * BLOCKS and b"\0" not in text, f"the file has a hole\n{text[:200]}")


Stage = namedtuple("Stage", "number sent up answered")
FRAMES = 100


class Link(Writer):
    """A machine with tests/guest/net.c's net-fault in it."""

    def __init__(self, bench, *options, answers=0, within=(), env=None):
        from devices import address
        from machine import Network
        self.meet = bench.file("meet", 1 << 20)
        self.map()
        words = f"test=net-fault answers={answers} ip={address(Network.GUEST)} peer={address(Network.ADDRESS)}"
        old, bench.env = bench.env, env or bench.env
        self.p = bench.guest_start(words, "--disk", f"path={self.meet}", *options, within=within)
        bench.env = old

    def stage(self, number, up=None, answered=None):
        s = Stage(*self.counts(number)[:4])
        expect(s.number == number and s.sent == FRAMES, f"{s}\n{self.p.output[-2000:]}")
        expect(up is None or s.up == up, f"{s}: the link is {'up' if s.up else 'down'}\n{self.p.output[-1000:]}")
        expect(answered is None or s.answered == answered, f"{s}\n{self.p.output[-2000:]}")


def quiet(process, seconds=0.5):
    """A fault that lasts must not keep a thread busy: the workers and main, not the vCPU, which polls."""
    def used():
        total = 0
        for tid in os.listdir(f"/proc/{process.p.pid}/task"):
            with open(f"/proc/{process.p.pid}/task/{tid}/stat") as f:
                text = f.read()
            if "(vcpu" not in text and "(kvm" not in text and "_disk" not in text:
                fields = text.rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
        return total
    before = used()
    time.sleep(seconds)
    spent = (used() - before) / os.sysconf("SC_CLK_TCK")
    expect(spent < seconds / 2, f"{spent} s of CPU time in {seconds} s")


def tap_down(bench):
    network = bench.network()
    link = Link(bench, "--net", "tap=tap0", answers=0b1010, within=network.inside())
    link.stage(1, up=1, answered=20)
    network.ip("-n", network.name, "link", "set", "tap0", "down")
    link.go(1)
    link.stage(2)
    quiet(link.p)
    network.ip("-n", network.name, "link", "set", "tap0", "up")
    time.sleep(0.2)
    link.go(2)
    link.stage(3, up=1, answered=20)
    link.go(3)
    link.end()


def tap_deleted(bench):
    network = bench.network()
    link = Link(bench, "--net", "tap=tap0", answers=0b10, within=network.inside())
    link.stage(1, up=1, answered=20)
    network.ip("-n", network.name, "link", "del", "tap0")
    link.go(1)
    link.stage(2)
    quiet(link.p)
    link.go(2)
    link.stage(3, up=0)
    link.go(3)
    link.end()
    expect("warning" in link.p.output, f"the operator is not told\n{link.p.output}")


def passt_of(link):
    children = subprocess.run(["pgrep", "-P", str(link.p.p.pid)], capture_output=True, text=True).stdout.split()
    expect(len(children) == 1, f"children: {children}")
    return int(children[0])


def passt_killed(bench):
    network = bench.network()
    link = Link(bench, "--net", "user", within=network.inside())
    link.stage(1, up=1)
    os.kill(passt_of(link), signal.SIGKILL)
    time.sleep(0.2)
    link.go(1)
    link.stage(2, up=0)
    quiet(link.p)
    link.go(2)
    link.stage(3, up=0)
    link.go(3)
    link.end()
    expect("passt" in link.p.output, f"the operator is not told\n{link.p.output}")


def passt_hung(bench):
    """It stands still for a while; what the guest sends waits, or is dropped, but each buffer comes back."""
    network = bench.network()
    link = Link(bench, "--net", "user", within=network.inside())
    link.stage(1, up=1)
    passt = passt_of(link)
    os.kill(passt, signal.SIGSTOP)
    try:
        link.go(1)
        time.sleep(SLOW)
        quiet(link.p)
    finally:
        os.kill(passt, signal.SIGCONT)
    link.stage(2, up=1)
    link.go(2)
    link.stage(3, up=1)
    link.go(3)
    link.end()


def passt_hung_at_the_end(bench):
    """SIGTERM while it stands still: the machine ends all the same, and takes it with it, where passt did not become another
    user and so its own; then it ends as soon as it runs again."""
    network = bench.network()
    link = Link(bench, "--net", "user", within=network.inside())
    link.stage(1, up=1)
    passt = passt_of(link)
    os.kill(passt, signal.SIGSTOP)
    link.p.signal(signal.SIGTERM)
    try:
        expect(link.p.finish() == 0, link.p.output)
        expect("does not end" in link.p.output or not os.path.exists(f"/proc/{passt}"), "passt is left behind, without a word")
    finally:
        if os.path.exists(f"/proc/{passt}"):
            os.kill(passt, signal.SIGCONT)


NONSENSE = """#!{python}
import os, socket, sys, time
s = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
time.sleep(0.3)
s.sendall({bytes})
while s.recv(65536):
    pass
"""


def passt_nonsense(data):
    """A program of that name that sends what is no frame."""
    def case(bench):
        os.mkdir(bench.path("bin"))
        with open(bench.path("bin/passt"), "w") as f:
            f.write(NONSENSE.format(python=sys.executable, bytes=repr(data)))
        os.chmod(bench.path("bin/passt"), 0o755)
        link = Link(bench, "--net", "user", env={**bench.env, "PATH": bench.path("bin") + ":" + bench.env["PATH"]})
        link.stage(1)
        time.sleep(0.5)
        for number in (2, 3):
            link.go(number - 1)
            link.stage(number)
        quiet(link.p)
        link.go(3)
        link.end()
    return case


def refused(limit, value):
    """Not enough to start with: a sentence and status 1."""
    def case(bench):
        p = bench.guest_start("test=hello", *victim(bench), preexec_fn=lambda: resource.setrlimit(limit, (value, value)))
        status = p.finish()
        expect(status == 1 and "microvm: error: " in p.output and "hello" not in p.output, f"{status}\n{p.output}")
    return case


def no_threads(bench):
    p = bench.guest_start("test=hello", *victim(bench), preexec_fn=lambda: deny(CLONE3, errno.EAGAIN))
    status = p.finish()
    expect(status == 1 and "microvm: error: " in p.output, f"{status}\n{p.output}")


def limited(limit, value):
    """Lowered to below what is in use while the machine runs, which has all that it needs."""
    def case(bench):
        w = Writer(bench, *victim(bench))
        w.sound(1)
        resource.prlimit(w.p.p.pid, limit, (value, value))
        rounds(w)
        quiet(w.p)
        last_round(w)
    return case


def no_fd_for_a_client(bench):
    """A client of the console while there is no descriptor for it: it waits, at no cost, and is served later."""
    w = Writer(bench, *victim(bench), "--serial", "null", "--console", f"socket={bench.path('console')}")
    w.sound(1)
    before = resource.prlimit(w.p.p.pid, resource.RLIMIT_NOFILE, (4, 4096))
    client = bench.connect(bench.path("console"))
    quiet(w.p)
    rounds(w)
    resource.prlimit(w.p.p.pid, resource.RLIMIT_NOFILE, before)
    client.close()
    last_round(w)


def file_size(bench):
    """A limit of file size below the disk's: writes beyond it fail, and its signal ends nobody."""
    w = Writer(bench, *victim(bench), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18)))
    c = w.counts(1)
    expect(c.written and c.write_errors and c.written + c.write_errors == BLOCKS and not c.corrupt, f"{c}\n{w.p.output}")
    w.go(3)
    w.end()


RATE = "ops_size=20,ops_refill_time=100"


def timed(bench, *within, env=None):
    """How long a hundred frames take where two hundred a second may pass, by our own clock."""
    network = bench.network()
    link = Link(bench, "--net", f"tap=tap0,{RATE}", answers=0b1010, within=network.inside(*within), env=env)
    link.stage(1, up=1, answered=20)
    begin = time.monotonic()
    link.go(1)
    link.stage(2)
    spent = time.monotonic() - begin
    link.go(2)
    link.stage(3, up=1, answered=20)
    link.go(3)
    link.end()
    expect(spent > 0.3, f"a hundred frames took {spent} s: no limit held")


def clock_jumps(bench):
    """The wall clock jumps by a day at each look: limits of rate are of another clock."""
    library = bench.path("jump.so")
    here = os.path.dirname(os.path.abspath(__file__))
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, os.path.join(here, "jump.c")], check=True)
    if bench.asan:
        raise Skip("the sanitizer wants to be loaded first")
    timed(bench, env={**bench.env, "LD_PRELOAD": library})


def other_time(bench):
    """A machine whose monotonic clock is three years ahead of ours, as after a move to another host."""
    timed(bench, "unshare", "--time", "--fork", "--kill-child", "--monotonic", "100000000", "--boottime", "100000000")


def cells():
    errors = (("ENOSPC", errno.ENOSPC), ("EIO", errno.EIO), ("short write", ("short", 1)), (f"a write takes {SLOW} s", ("slow", SLOW)))
    for name, fault in errors:
        yield Cell(name, "log", UNAFFECTED, log({"write": fault}))
    yield Cell("cut to nothing", "log", UNAFFECTED, log_taken(lambda path: os.truncate(path, 0)))
    yield Cell("deleted", "log", UNAFFECTED, log_taken(os.unlink))
    for name, fault in errors:
        yield Cell(name, "serial file", UNAFFECTED, serial({"write": fault}, whole=not isinstance(fault, int)))
    yield Cell("full tmpfs", "serial file", UNAFFECTED, serial_full)
    yield Cell("cut to nothing", "serial file", UNAFFECTED, serial_cut)
    yield Cell("down, and up again", "tap", UNAFFECTED, tap_down)
    yield Cell("deleted", "tap", DEVICE, tap_deleted)
    yield Cell("killed", "passt", DEVICE, passt_killed)
    yield Cell("hung for a while", "passt", UNAFFECTED, passt_hung)
    yield Cell("hung, and SIGTERM for us", "passt", "ends with status 0", passt_hung_at_the_end)
    yield Cell("a frame of 4 GiB", "passt", DEVICE, passt_nonsense(b"\xff\xff\xff\xff" * 1000))
    yield Cell("empty frames", "passt", UNAFFECTED, passt_nonsense(bytes(40000)))
    yield Cell("half a frame", "passt", UNAFFECTED, passt_nonsense(b"\0\0\x05\xdc" + bytes(100)))
    yield Cell("no descriptors at start", "limits", REFUSED, refused(resource.RLIMIT_NOFILE, 8))
    yield Cell("no memory at start", "limits", REFUSED, refused(resource.RLIMIT_AS, 64 << 20))
    yield Cell("no threads at start", "limits", REFUSED, no_threads)
    yield Cell("no descriptors while running", "limits", UNAFFECTED, limited(resource.RLIMIT_NOFILE, 1))
    yield Cell("no descriptor for a client", "limits", UNAFFECTED, no_fd_for_a_client)
    yield Cell("no memory while running", "limits", UNAFFECTED, limited(resource.RLIMIT_AS, 1 << 20))
    yield Cell("no threads while running", "limits", UNAFFECTED, limited(resource.RLIMIT_NPROC, 1))
    yield Cell("file size", "limits", DEVICE, file_size)
    yield Cell("wall clock jumps", "clock", UNAFFECTED, clock_jumps)
    yield Cell("monotonic clock far ahead", "clock", UNAFFECTED, other_time)
