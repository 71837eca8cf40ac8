"""Properties of the program that the host sees: exit statuses, signals, threads, idleness, configuration."""
import errno
import json
import os
import random
import time

from devices import disk
from machine import PC, SIGNALS, Skip, deny, expect

# How a guest resets its machine.
WAYS = ("i8042", "acpi", "triple") if PC else ("psci",)


def hello(bench):
    expect("hello world" in bench.guest_run("test=hello text=world"), "no hello")


def cpus(bench):
    bench.guest_run("test=hello", "--cpus", "boot=4")


def ends(cmdline, status, *options, words=""):
    """A machine that ends by itself with this status; `words` are in its output."""
    def case(bench):
        p = bench.guest_start(cmdline, *options)
        got = p.finish()
        expect(got == status, f"exit status {got}, expected {status}\n{p.output[-1000:]}")
        expect(words in p.output, f"no '{words}' in the output\n{p.output[-1000:]}")
        expect("not ok" not in p.output, p.output[-1000:])
    return case


def loop_of_resets(bench, *options):
    """It is ended after more than 20 resets in a minute. Slow machines may not come to so many."""
    p = bench.guest_start("test=reset-loop", *options)
    begun = time.monotonic()
    while p.read(1):
        if time.monotonic() - begun > 300 and p.output.count("start") < 100:
            p.kill()
            raise Skip("this machine is too slow to be reset 20 times in a minute")
    expect(p.finish() == 1, f"exit status is not 1\n{p.output[-1000:]}")
    return p


def resets_too_often(bench):
    p = loop_of_resets(bench)
    expect("reset more than" in p.output, p.output[-1000:])


def reboots(by):
    def case(bench):
        bench.file("disk.raw", 1 << 20)
        p = bench.guest_start(f"test=reboots times=4 by={by}", *disk(bench), "--rng", "src=/dev/urandom")
        status = p.finish()
        bench.judge(p.output, status)
        starts = [line for line in p.output.splitlines() if line.startswith("start ")]
        expect(starts == [f"start {i}" for i in range(1, 5)], f"{starts}")
    return case


def signal_ends(test, number):
    """A running machine ends with 0 and takes its sockets with it."""
    def case(bench):
        p = bench.guest_start(f"test={test}", *disk(bench), "--console", f"socket={bench.path('console')}")
        p.wait_for("ing")
        time.sleep(random.uniform(0, 0.2))
        p.signal(number)
        status = p.finish()
        expect(status == 0, f"exit status {status}\n{p.output[-1000:]}")
        expect(not os.path.exists(bench.path("console")), "the socket is left behind")
    return case


def signal_at_any_moment(bench):
    """From the first microsecond on. Before there is anything to clean up the signal itself may end the program."""
    bench.need_kvm()
    for i in range(60):
        number, moment = SIGNALS[i % 3], random.uniform(0, 0.06)
        p = bench.guest_start("test=busy", *disk(bench), "--console", f"socket={bench.path('console')}", "--serial", "null")
        time.sleep(moment)
        p.signal(number)
        status = p.finish()
        left = os.path.exists(bench.path("console"))
        expect(status in (0, -number), f"signal {number} after {moment:.4f} s: exit status {status}\n{p.output}")
        expect(not left, f"signal {number} after {moment:.4f} s: the socket is left behind")
        p.kill()


def two_machines_one_disk(bench):
    first = bench.guest_start("test=spin", *disk(bench))
    first.wait_for("spinning")
    second = bench.guest_start("test=hello", *disk(bench))
    expect(second.finish() == 1, "the second machine starts")
    expect("in use by another machine" in second.output, second.output)
    first.signal(15)
    expect(first.finish() == 0, "the first machine does not end with 0")
    bench.guest_run("test=hello", *disk(bench))


def two_machines_readonly(bench):
    first = bench.guest_start("test=spin", *disk(bench, readonly="on"))
    first.wait_for("spinning")
    bench.guest_run("test=readonly", *disk(bench, readonly="on"))
    second = bench.guest_start("test=hello", *disk(bench))
    expect(second.finish() == 1, "a writer starts beside a reader")


def busy_tap(bench):
    network = bench.network()
    first = bench.guest_start("test=spin", "--net", "tap=tap0", within=network.inside())
    first.wait_for("spinning")
    second = bench.guest_start("test=hello", "--net", "tap=tap0", within=network.inside())
    expect(second.finish() == 1 and "in use" in second.output, f"the second machine gets the tap\n{second.output}")


def threads(bench):
    network = bench.network()
    p = bench.guest_start("test=halt", *disk(bench, num_queues=2), "--net", "tap=tap0", "--cpus", "boot=2",
                          within=network.inside())
    p.wait_for("halting")
    names = set(p.threads())
    for name in ("microvm", "vcpu0", "vcpu1", "_disk0_q0", "_disk0_q1", "_net1_qp0"):
        expect(name in names, f"no thread {name} among {sorted(names)}")


def few_threads(bench):
    p = bench.guest_start("test=halt", *disk(bench))
    p.wait_for("halting")
    names = sorted(p.threads())
    expect(len(names) <= 4, f"{len(names)} threads: {names}")


def idle(bench):
    """A machine whose guest halted does not run at all: a second passes without a context switch, bar noise."""
    p = bench.guest_start("test=halt", *disk(bench), "--rng", "src=/dev/urandom")
    p.wait_for("halting")
    time.sleep(0.5)

    def switches():
        return {name: int(t["voluntary_ctxt_switches"]) for name, t in p.threads().items()}
    before = switches()
    time.sleep(1)
    grown = {name: n - before[name] for name, n in switches().items() if n - before[name] > 3}
    expect(not grown, f"wake-ups in a second: {grown}")


def print_config(bench):
    path = bench.file("d", 1 << 20)
    options = ["--kernel", bench.guest, "--cmdline", "a b=c \"d\"", "--cpus", "boot=2,max=4", "--memory", "size=256M",
               "--disk", f"path={path},readonly=on", f"path={path}2,transport=mmio,serial=x", "--net",
               "user,mac=02:00:00:00:00:01", "--on-reset=exit", "--serial", "null", "--console", 'file="/tmp/a,b"']
    first = bench.start(*options, "--print-config")
    expect(first.finish() == 0, first.output)
    config = json.loads(first.output)
    expect(config["cpus"]["boot_vcpus"] == 2 and len(config["disks"]) == 2, first.output)
    second = bench.start("--config", bench.file("vm.json", data=first.output.encode()), "--print-config")
    expect(second.finish() == 0, second.output)
    expect(second.output == first.output, f"the round trip changes it\n{first.output}\n{second.output}")


def from_config(bench):
    bench.need_kvm()
    data = json.dumps({"payload": {"kernel": bench.guest, "cmdline": "test=hello text=json"},
                       "disks": [{"path": bench.file("d", 1 << 20)}]})
    p = bench.start("--config", bench.file("vm.json", data=data.encode()))
    status = p.finish()
    bench.judge(p.output, status)
    expect("hello json" in p.output, p.output)


def check(bench):
    bench.need_kvm()
    p = bench.start("--check")
    expect(p.finish() == 0, p.output)
    lines = p.output.splitlines()
    for word in ("KVM", "guest kernel code", "Landlock", "tap networking", "IOMMU", "huge pages", "userfaultfd",
                 "sibling threads", "page merging", "nesting", "core dumps"):
        expect(any(word in line for line in lines), f"nothing about {word}\n{p.output}")
    expect(all(line.split()[0] in ("ok", "no") for line in lines), p.output)


def show_sandbox(bench):
    bench.need_kvm()
    p = bench.start("--kernel", bench.guest, "--show-sandbox", *disk(bench))
    expect(p.finish() == 0, p.output)
    rows = [line.split(None, 2) for line in p.output.splitlines()]
    expect(all(len(row) == 3 for row in rows), "a row without role, system call and reason\n" + p.output)
    roles = {row[0] for row in rows}
    expect({"main", "vcpu"} <= {r.rstrip("0123456789") for r in roles} and len(roles) > 2, f"roles: {roles}")
    expect(not any("execve" in row[1] for row in rows), "a role may start programs")


def sealed(bench):
    """Every thread of a running machine has a filter, no new privileges and no capability."""
    p = bench.guest_start("test=halt", *disk(bench), "--rng", "src=/dev/urandom")
    p.wait_for("halting")
    time.sleep(0.2)
    for name, status in p.threads().items():
        expect(status["Seccomp"] == "2", f"{name} has no filter")
        expect(status["NoNewPrivs"] == "1", f"{name} may gain privileges")
        expect(int(status["CapEff"], 16) == 0, f"{name} has capabilities {status['CapEff']}")


UNSHARE, SETNS, LANDLOCK_CREATE_RULESET = 272, 308, 444


def no_namespaces():
    deny(UNSHARE, errno.EPERM)
    deny(SETNS, errno.EPERM)


def confinement(bench):
    """All of it is there, or the machine says what is missing and goes on, or refuses to."""
    bench.guest_run("test=hello", "--sandbox=strict")
    p = bench.guest_start("test=hello", "-v", preexec_fn=no_namespaces)
    status = p.finish()
    bench.judge(p.output, status)
    expect("sandbox: this host gives no namespace of its own for mounts, network" in p.output, p.output)
    p = bench.guest_start("test=hello", "-v", preexec_fn=lambda: deny(LANDLOCK_CREATE_RULESET, errno.ENOSYS))
    status = p.finish()
    bench.judge(p.output, status)
    expect("sandbox: this kernel has no Landlock" in p.output, p.output)
    for missing in (no_namespaces, lambda: deny(LANDLOCK_CREATE_RULESET, errno.ENOSYS)):
        p = bench.guest_start("test=hello", "--sandbox=strict", preexec_fn=missing)
        expect(p.finish() == 1 and "--sandbox=strict: this " in p.output and "hello" not in p.output, p.output)
    bench.guest_run("test=hello", "--sandbox=off", preexec_fn=no_namespaces)


def jail(bench):
    """Started by root: the machine runs as somebody else, in the place that was named."""
    if os.geteuid():
        raise Skip("only root enters a jail")
    os.mkdir(bench.path("root"))
    network = bench.network()
    p = bench.guest_start("test=halt", *disk(bench), "--jail",
                          f"uid=65534,gid=65534,root={bench.path('root')},netns=/run/netns/{network.name}")
    p.wait_for("halting")
    time.sleep(0.2)
    for name, status in p.threads().items():
        expect(set(status["Uid"].split()) == {"65534"} and set(status["Gid"].split()) == {"65534"}, f"{name}: {status}")
        expect(not status["Groups"] and int(status["CapBnd"], 16) == 0 and int(status["CapEff"], 16) == 0, f"{name}: {status}")
    inside, outside = os.stat(f"/proc/{p.p.pid}/ns/net").st_ino, os.stat(f"/run/netns/{network.name}").st_ino
    expect(inside == outside, "it is not in the network namespace")
    expect(os.readlink(f"/proc/{p.p.pid}/root") != "/", "its root is the host's")
    p.signal(15)
    expect(p.finish() == 0, p.output)
    os.symlink(bench.path("root"), bench.path("planted"))
    p = bench.guest_start("test=halt", "--jail", f"root={bench.path('planted')}")
    expect(p.finish() == 1 and "symbolic link" in p.output, p.output)


def stray_fds(bench):
    """What the caller left open is not open in the machine."""
    fd = os.open("/etc/passwd", os.O_RDONLY)
    p = bench.guest_start("test=halt", pass_fds=(fd,))
    p.wait_for("halting")
    base = f"/proc/{p.p.pid}/fd"
    names = [os.readlink(f"{base}/{n}") for n in os.listdir(base)]
    os.close(fd)
    expect("/etc/passwd" not in names, f"{names}")


def log_file(bench):
    options = "--log-file", bench.path("log")
    if PC:
        p, words = bench.guest_start("test=panic", *options), "panicked"
        expect(p.finish() == 0, p.output[-1000:])
    else:
        p, words = loop_of_resets(bench, *options), "reset more than"
    with open(bench.path("log")) as f:
        text = f.read()
    expect(words in text and words not in p.output, text + p.output)


def cases():
    yield "hello", hello
    yield "hello on 4 vCPUs", cpus
    yield f"exit after reset by {WAYS[0]}", ends("test=reset", 0, "--on-reset=exit")
    if PC:
        yield "exit after reset by ACPI", ends("test=reset by=acpi", 0, "--on-reset=exit")
        yield "exit after triple fault", ends("test=reset by=triple", 1, "--on-reset=exit", words="triple fault")
        yield "panic is reported", ends("test=panic", 0, words="the guest's kernel reports")
    yield "exit after a loop of resets", resets_too_often
    for by in WAYS:
        yield f"reboot by {by}", reboots(by)
    for number in SIGNALS:
        for test in ("halt", "spin", "busy"):
            yield f"{number.name} ends a guest at {test}", signal_ends(test, number)
    yield "signals at any moment", signal_at_any_moment
    yield "two machines on one disk", two_machines_one_disk
    yield "two machines on one read-only disk", two_machines_readonly
    yield "two machines on one tap", busy_tap
    yield "threads have their names", threads
    yield "few threads", few_threads
    yield "idle is idle", idle
    yield "threads are sealed", sealed
    yield "confinement, and what is missing of it", confinement
    yield "jail", jail
    yield "stray fds are closed", stray_fds
    yield "print-config round trip", print_config
    yield "configuration from JSON", from_config
    yield "log file", log_file
    yield "check", check
    yield "show-sandbox", show_sandbox
