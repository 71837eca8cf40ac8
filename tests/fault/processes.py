"""Faults of devices' own processes (isolation=process): killed, stopped, with their keeper, while requests are held; and what
becomes of an image whose process, or whole machine, is killed in the middle of writing."""
import os
import resource
import signal
import time

from cell import DEVICE, PAUSED, UNAFFECTED, Cell, Writer, expect, make_disk
from devices import echo, workers
from disks import VERY_SLOW, after, full, killed, stopped, very_slow
from host_side import Link, quiet
from machine import HANG, Skip

KILLS = 6
ROUNDS = 30


def worker_of(process, name, other_than=0):
    """The pid of a device's process, when it has one again."""
    end = time.monotonic() + HANG
    while True:
        pid = workers(process.p.pid).get(name, 0)
        if pid and pid != other_than:
            return pid
        expect(time.monotonic() < end and process.p.poll() is None, f"no process {name}\n{process.output[-2000:]}")
        time.sleep(0.002)


def kill_worker(process, name):
    pid = worker_of(process, name)
    os.kill(pid, signal.SIGKILL)
    return worker_of(process, name, pid)


def disk(path, form, more=""):
    return "--disk", f"path={path},format={form},isolation=process{more}"


def killed_under_load(form, more="", base=None):
    """All that was written and answered is there, though most of it was never flushed."""
    def case(bench):
        path = bench.path("victim")
        make_disk(path, base or form)
        w = Writer(bench, *disk(path, base or form, more), cmdline=f"rounds={ROUNDS}")
        w.sound(1)
        w.go(ROUNDS - 1)
        for _ in range(KILLS):
            kill_worker(w.p, "_disk0_q0")
        w.sound(ROUNDS)
        w.go(ROUNDS)
        w.end()
        expect(w.p.output.count("was ended by signal 9; starting another") >= KILLS, w.p.output[-2000:])
        if "ephemeral" not in more:
            after(path, form, (ROUNDS,))
    return case


def buffers_registered(bench):
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] < 1 << 30 and not may_raise():
        raise Skip("not enough memory may be locked: ulimit -l")
    killed_under_load("raw", ",fixed_buffers=on")(bench)


def may_raise():
    """CAP_SYS_RESOURCE"""
    with open("/proc/self/status") as f:
        return any(line.startswith("CapEff") and int(line.split()[1], 16) >> 24 & 1 for line in f)


def stopped_while_it_waits(bench):
    """Main waits for a process that stands still, and is stopped itself meanwhile."""
    path = bench.path("victim")
    make_disk(path, "raw")
    w = Writer(bench, *disk(path, "raw"))
    w.sound(1)
    pid = worker_of(w.p, "_disk0_q0")
    os.kill(pid, signal.SIGSTOP)
    w.p.signal(signal.SIGTERM)
    for _ in range(10):
        time.sleep(0.05)
        w.p.signal(signal.SIGSTOP)
        time.sleep(0.02)
        w.p.signal(signal.SIGCONT)
    os.kill(pid, signal.SIGCONT)
    status = w.p.finish()
    expect(status == 0, f"exit status {status}\n{w.p.output[-2000:]}")


def waits_until(w, go_on):
    """Nobody serves round 2 for a while: its requests wait, and nothing else does. go_on() has them served."""
    w.go(1)
    time.sleep(1)
    expect(w.at() < 2, "nobody serves it")
    quiet(w.p)
    go_on()
    w.goes_on_to_the_end()


def hung(form):
    """The process stands still for a while: so do its requests, and nothing else."""
    def case(bench):
        path = bench.path("victim")
        make_disk(path, form)
        w = Writer(bench, *disk(path, form))
        w.sound(1)
        pid = worker_of(w.p, "_disk0_q0")
        os.kill(pid, signal.SIGSTOP)
        waits_until(w, lambda: os.kill(pid, signal.SIGCONT))
        after(path, form, (3,))
    return case


def keeper_of(process, name):
    with open(f"/proc/{worker_of(process, name)}/stat") as f:
        return int(f.read().rsplit(")", 1)[1].split()[1])


def keeper_hung(bench):
    """What dies meanwhile is started again when it goes on."""
    path = bench.path("victim")
    make_disk(path, "raw")
    w = Writer(bench, *disk(path, "raw"))
    w.sound(1)
    keeper, pid = keeper_of(w.p, "_disk0_q0"), worker_of(w.p, "_disk0_q0")
    os.kill(keeper, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    waits_until(w, lambda: os.kill(keeper, signal.SIGCONT))
    after(path, "raw", (3,))


def pids_cgroup():
    for base in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        path = os.path.join(base, f"microvm-fault-{os.getpid()}")
        try:
            os.mkdir(path)
            if os.path.exists(os.path.join(path, "pids.max")):
                return path
            os.rmdir(path)
        except OSError:
            continue
    raise Skip("no cgroup that limits processes can be made")


def put(path, text):
    with open(path, "w") as f:
        f.write(text)


def no_process_for_a_life(bench):
    """The limit of processes is reached when one is to be started again; it waits until there is room."""
    path, group = bench.path("victim"), pids_cgroup()
    try:
        make_disk(path, "raw")
        w = Writer(bench, *disk(path, "raw"))
        w.sound(1)
        pid = worker_of(w.p, "_disk0_q0")
        put(f"{group}/cgroup.procs", str(keeper_of(w.p, "_disk0_q0")))
        put(f"{group}/pids.max", "1")
        os.kill(pid, signal.SIGKILL)
        w.p.wait_for("cannot fork")
        waits_until(w, lambda: put(f"{group}/pids.max", "max"))
        after(path, "raw", (3,))
    finally:
        bench.end_all()
        os.rmdir(group)


def keeper_killed(bench):
    """Nobody starts it again: the disk has failed, the machine has not."""
    path = bench.path("victim")
    make_disk(path, "raw")
    p = bench.guest_start("test=spin", *disk(path, "raw"))
    p.wait_for("spinning")
    os.kill(keeper_of(p, "_disk0_q0"), signal.SIGKILL)
    p.wait_for("gone for good")
    p.signal(signal.SIGTERM)
    expect(p.finish() == 0, p.output)


def console_killed(bench):
    """The next life has the socket, and serves who connects then."""
    data = os.urandom(200 * 1024)
    p = bench.guest_start(f"test=console transport=pci packed=1 count={len(data)}", "--console",
                          f"socket={bench.path('console')},transport=pci,isolation=process")
    p.wait_for("listening")
    for _ in range(KILLS):
        kill_worker(p, "_console0_q0")
    got = echo(bench.connect(bench.path("console")), data)
    status = p.finish()
    expect(got == data, f"{len(got)} of {len(data)} bytes came back, or others")
    bench.judge(p.output, status)
    expect(not os.path.exists(bench.path("console")), "the socket is left behind")


def console_hung(bench):
    data = os.urandom(100 * 1024)
    p = bench.guest_start(f"test=console transport=pci packed=0 count={len(data)}", "--console",
                          f"socket={bench.path('console')},transport=pci,isolation=process")
    p.wait_for("listening")
    pid = worker_of(p, "_console0_q0")
    sock = bench.connect(bench.path("console"))
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.5)
    quiet(p)
    os.kill(pid, signal.SIGCONT)
    expect(echo(sock, data) == data, "other bytes came back")
    status = p.finish()
    bench.judge(p.output, status)


def rng_killed(bench):
    """A buffer that was in flight is filled all the same."""
    p = bench.guest_start("test=rng transport=pci packed=1 rounds=40000", "--rng", "src=/dev/urandom,transport=pci,isolation=process")
    for _ in range(KILLS):
        pid = kill_worker(p, "_rng_q0")
        time.sleep(0.05)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.5)
    quiet(p)
    os.kill(pid, signal.SIGCONT)
    status = p.finish()
    bench.judge(p.output, status)
    expect(p.output.count("was ended by signal 9; starting another") == KILLS, p.output[-2000:])


def link_hung(options, answers, answered):
    """It stands still: frames of the guest's wait, and go out when it goes on."""
    def case(bench):
        network = bench.network()
        link = Link(bench, "--net", f"{options},isolation=process", answers=answers, within=network.inside())
        link.stage(1, up=1, answered=answered)
        pid = worker_of(link.p, "_net1_qp0")
        os.kill(pid, signal.SIGSTOP)
        link.go(1)
        time.sleep(1)
        expect(link.at() < 2, "it is stopped")
        quiet(link.p)
        os.kill(pid, signal.SIGCONT)
        link.stage(2, up=1)
        link.go(2)
        link.stage(3, up=1, answered=answered)
        link.go(3)
        link.end()
    return case


def link_killed(options, answers, answered):
    def case(bench):
        network = bench.network()
        link = Link(bench, "--net", f"{options},isolation=process", answers=answers, within=network.inside())
        link.stage(1, up=1, answered=answered)
        for number in (2, 3):
            for _ in range(3):
                kill_worker(link.p, "_net1_qp0")
            time.sleep(0.1)
            link.go(number - 1)
            link.stage(number, up=1, answered=answered if number == 3 else None)
        link.go(3)
        link.end()
    return case


def in_process(form, case):
    """A cell of another file, with its disk in a process."""
    def run(bench):
        start = bench.guest_start
        bench.guest_start = lambda words, *options, **how: start(
            words, *(o + ",isolation=process" if o.endswith(f"format={form}") else o for o in options), **how)
        case(bench)
    return run


def cells():
    for form in ("raw", "qcow2"):
        yield Cell("SIGKILL", f"{form} process", UNAFFECTED, killed_under_load(form))
        yield Cell("SIGSTOP", f"{form} process", UNAFFECTED, hung(form))
        yield Cell("ENOSPC, and SIGKILL", f"{form} process", PAUSED,
                   full(form, "enospc", ",isolation=process", lambda w: kill_worker(w.p, "_disk0_q0")))
        yield Cell("SIGKILL of the machine", f"{form} process", "what was flushed is there", in_process(form, killed(form, signal.SIGKILL)))
        yield Cell("SIGSTOP of the machine", f"{form} process", UNAFFECTED, in_process(form, stopped(form)))
    yield Cell("SIGKILL", "ephemeral process", UNAFFECTED, killed_under_load("qcow2", ",ephemeral=on", "raw"))
    yield Cell("SIGKILL", "registered buffers process", UNAFFECTED, buffers_registered)
    yield Cell("SIGSTOP of machine and process", "raw process", "it ends in order", stopped_while_it_waits)
    yield Cell("SIGKILL of its keeper", "raw process", DEVICE, keeper_killed)
    yield Cell("no process for its next life", "raw process", UNAFFECTED, no_process_for_a_life)
    yield Cell("SIGSTOP of its keeper, and SIGKILL", "raw process", UNAFFECTED, keeper_hung)
    yield Cell(f"one write takes {VERY_SLOW} s", "raw process", UNAFFECTED, in_process("raw", very_slow("raw")))
    yield Cell("SIGKILL, SIGSTOP", "rng process", UNAFFECTED, rng_killed)
    yield Cell("SIGSTOP", "tap process", UNAFFECTED, link_hung("tap=tap0", 0b1010, 20))
    yield Cell("SIGSTOP", "passt process", UNAFFECTED, link_hung("user=on", 0, None))
    yield Cell("SIGKILL", "console process", UNAFFECTED, console_killed)
    yield Cell("SIGSTOP", "console process", UNAFFECTED, console_hung)
    yield Cell("SIGKILL", "tap process", UNAFFECTED, link_killed("tap=tap0", 0b1010, 20))
    yield Cell("SIGKILL", "passt process", UNAFFECTED, link_killed("user=on", 0, None))
