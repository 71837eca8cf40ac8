"""The machines whose calls are looked at: those of tests/guest that drive each kind of device, and a few that only this test needs."""
import errno
import fcntl
import gzip
import os
import pty
import random
import signal
import socket
import struct
import subprocess
import termios
import time

import devices
import host
import vhost_user
from machine import HANG, PC, Skip, deny, expect

NAMES = [
    "blk pci plain", "blk pci packed,event_idx,indirect,in_order", "blk mmio packed,event_idx", "blk readonly", "blk direct",
    "rng pci split", "console pci split", "console mmio packed", "net tap pci split", "net fd", "net user dhcp", "net limited and captured",
    "registers pci", "registers mmio", "hostile pci", "hostile mmio", "hostile config space sweep", "pci",
    "serial file", "serial socket", "serial pty", "rtc", "hello on 4 vCPUs", "log file",
    "isolated blk pci split that is killed", "isolated net split that is killed", "isolated all",
    "vhost-user killed, the guest hears nothing", "vhost-user killed, the machine is the server",
    "exit after a loop of resets", "SIGTERM ends a guest at spin",
] + [f"reboot by {way}" for way in host.WAYS if way != "acpi"]
if PC: # elsewhere the emulated host has no qemu-storage-daemon
    NAMES.append("vhost-user qemu pci plain")

IO_URING_SETUP = 425
FUTEX = 202 if PC else 98


def no_io_uring():
    """As with kernel.io_uring_disabled=2."""
    deny(IO_URING_SETUP, errno.ENOSYS)


def disk_without_io_uring(bench):
    path = bench.file("disk.raw", devices.DISK)
    words = f"test=blk transport=pci capacity={devices.DISK // 512} serial={devices.SERIAL} queues=2"
    bench.guest_run(words, "--disk", f"path={path},num_queues=2,serial={devices.SERIAL}", preexec_fn=no_io_uring)


def disk_with_a_limit(bench):
    path = bench.file("disk.raw", devices.DISK)
    words = f"test=blk transport=pci capacity={devices.DISK // 512} serial={devices.SERIAL} queues=2"
    bench.guest_run(words, "--disk", f"path={path},num_queues=2,serial={devices.SERIAL},ops_size=2,ops_refill_time=1")


def net_with_a_limit(bench):
    """So low that no machine is too slow to reach it."""
    network = bench.network()
    bench.guest_run(devices.net_words(), "--net", "tap=tap0,ops_size=1,ops_refill_time=10", within=network.inside())


def terminal(bench, more=""):
    """A terminal as stdin and stdout: raw, another size while it runs, ^A x."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    p = bench.guest_start("test=spin", "--console", "tty" + more, "--serial", f"file={bench.path('out')}", stdin=slave,
                          preexec_fn=lambda: (os.setsid(), fcntl.ioctl(slave, termios.TIOCSCTTY, 0)))
    end = time.monotonic() + HANG
    while "spinning" not in open(bench.path("out")).read():
        expect(time.monotonic() < end, "the guest does not start")
        time.sleep(0.02)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    time.sleep(0.2)
    os.write(master, b"\x01x")
    status = p.finish()
    os.close(master)
    os.close(slave)
    expect(status == 0, f"exit status {status}\n{p.output}")


def client_leaves(bench):
    """A client that is not read and leaves: it is noticed, and the next one is taken."""
    p = bench.guest_start("test=spin", "--console", f"socket={bench.path('s')}")
    p.wait_for("spinning")
    first = bench.connect(bench.path("s"))
    first.sendall(b"x" * 100000)
    time.sleep(1.5)
    first.close()
    time.sleep(1.5)
    second = bench.connect(bench.path("s"))
    second.close()
    p.signal(signal.SIGTERM)
    expect(p.finish() == 0, "exit status is not 0")


def tap_goes_down(bench):
    """What the host says about the interface."""
    network = bench.network()
    p = bench.guest_start("test=spin", "--net", "tap=tap0", within=network.inside())
    p.wait_for("spinning")
    for state in ("down", "up"):
        network.ip("-n", network.name, "link", "set", "tap0", state)
        time.sleep(0.5)
    p.signal(signal.SIGTERM)
    expect(p.finish() == 0, "exit status is not 0")


def passt_dies(bench):
    """Its end is seen and told."""
    from shutil import which
    if not which("passt"):
        raise Skip("passt is not installed")
    network = bench.network()
    p = bench.guest_start("test=dhcp", "--net", "user", within=network.inside())
    passt = None
    end = time.monotonic() + HANG
    while not passt:
        expect(time.monotonic() < end and p.p.poll() is None, "passt does not start")
        passt = child_of(p.p.pid, "passt")
    # Before the guest's driver attaches to it, which then finds it ended.
    os.kill(passt, signal.SIGKILL)
    p.wait_for("passt ended (signal 9)")
    p.signal(signal.SIGTERM)
    p.finish()


def child_of(pid, name):
    for child in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{child}/stat") as f:
                text = f.read()
        except OSError:
            continue
        comm, rest = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
        if int(rest[1]) == pid and comm.startswith(name):
            return int(child)
    return None


def bzimage(payload):
    """Documentation/arch/x86/boot.rst, protocol 2.15."""
    sectors, at = 4, 0x400
    body = (bytes(at) + payload).ljust((at + len(payload) + 15) // 16 * 16, b"\0")
    head = bytearray((sectors + 1) * 512)
    struct.pack_into("<B", head, 0x1f1, sectors)
    struct.pack_into("<I", head, 0x1f4, len(body) // 16)
    struct.pack_into("<H", head, 0x1fe, 0xaa55)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x020f)
    struct.pack_into("<I", head, 0x238, 2047)
    struct.pack_into("<II", head, 0x248, at, len(payload))
    return bytes(head) + body


def packed_kernel(bench):
    """The guest as its CPU's kernels are packed, so that resets unpack it again."""
    with open(bench.guest, "rb") as f:
        payload = gzip.compress(f.read())
    saved, bench.guest = bench.guest, bench.file("packed", data=bzimage(payload) if PC else payload)
    try:
        host.reboots(host.WAYS[0])(bench)
    finally:
        bench.guest = saved


def bound_to_a_cpu(bench):
    """A process with a thread for each of two queues, all on one CPU."""
    words = f"test=blk transport=pci packed=0 capacity={devices.DISK // 512} queues=2"
    bench.guest_run(words, *devices.disk(bench, num_queues=2, affinity="[0]", isolation="process"))


def stop_and_go(p):
    """All of the machine is stopped, while somebody waits for a process that does not answer."""
    for _ in range(5):
        time.sleep(0.1)
        p.signal(signal.SIGSTOP)
        time.sleep(0.1)
        p.signal(signal.SIGCONT)


def stopped(bench):
    """A process that does not answer main: another one does, after a while."""
    p = bench.guest_start("test=blk-steady rounds=100000 packed=0", *devices.disk(bench, isolation="process"))
    p.wait_for("steady")
    os.kill(devices.workers(p.p.pid)["_disk0_q0"], signal.SIGSTOP)
    p.signal(signal.SIGTERM)
    stop_and_go(p)
    expect(p.finish() == 0, p.output)


def vcpu_waits(pid):
    """Does the first vCPU sleep on a futex?"""
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm") as f:
            if f.read().strip() != "vcpu0":
                continue
        with open(f"/proc/{pid}/task/{task}/syscall") as f:
            return f.read().startswith(f"{FUTEX} ")
    return False


def stopped_with_its_machine(bench):
    """A vCPU waits, in a reset of the device; not one whose guest waits for the disk."""
    p = bench.guest_start("test=blk-resets transport=pci packed=0", *devices.disk(bench, isolation="process"))
    p.wait_for("resetting")
    worker = devices.workers(p.p.pid)["_disk0_q0"]
    end = time.monotonic() + HANG
    while True:
        os.kill(worker, signal.SIGSTOP)
        time.sleep(0.1)
        if vcpu_waits(p.p.pid):
            break
        os.kill(worker, signal.SIGCONT)
        expect(time.monotonic() < end, "no vCPU is found waiting for the disk's process")
        time.sleep(random.uniform(0, 0.02))
    stop_and_go(p)
    os.kill(worker, signal.SIGCONT)
    p.signal(signal.SIGTERM)
    expect(p.finish() == 0, p.output)


def image_in_a_process(bench):
    """An image whose process is killed: the next one takes its tables in and makes clusters anew."""
    from shutil import which
    if not which("qemu-img"):
        raise Skip("qemu-img is not installed")
    path = bench.path("disk.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, str(devices.DISK)], check=True)
    devices.killed_meanwhile(f"test=blk-steady transport=pci rounds=1500 packed=0 capacity={devices.DISK // 512} queues=1", "_disk0_q0",
                             lambda b: ("--disk", f"path={path},format=qcow2,isolation=process"))(bench)


def passt_in_a_process(bench):
    """Frames of a device's process, and those of the next one."""
    from shutil import which
    if not which("passt"):
        raise Skip("passt is not installed")
    network = bench.network()
    for _ in range(2):
        bench.guest_run("test=dhcp", "--net", "user=on,isolation=process", within=network.inside())


def cases():
    known = dict([*devices.cases(), *vhost_user.cases(), *host.cases()])
    for name in NAMES:
        yield name, known[name]
    yield "disk without io_uring", disk_without_io_uring
    yield "disk with a limit", disk_with_a_limit
    yield "net with a limit", net_with_a_limit
    yield "a process on one CPU", bound_to_a_cpu
    yield "a process that stops", stopped
    yield "a process and its machine that stop", stopped_with_its_machine
    yield "terminal", terminal
    yield "terminal of a process", lambda b: terminal(b, ",isolation=process")
    yield "an image of a process", image_in_a_process
    yield "passt of a process", passt_in_a_process
    yield "a client that leaves", client_leaves
    yield "a tap goes down", tap_goes_down
    yield "passt dies", passt_dies
    yield "a packed kernel, reset", packed_kernel
