"""Cases in which the guest drives a device: the matrix of transports and ring formats, and each device's own."""
import itertools
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from shutil import which

from machine import HANG, PC, Failure, Network, Skip, expect

DISK = 16 << 20
SERIAL = "serial-0123456789abc"


def disk(bench, size=DISK, **keys):
    path = bench.file("disk.raw", size) if not os.path.exists(bench.path("disk.raw")) else bench.path("disk.raw")
    keys = {"path": path, "packed": "on", "in_order": "on", **keys}
    return "--disk", ",".join(f"{k}={v}" for k, v in keys.items())


def on_disk(test, transport="pci", cmdline="", **keys):
    def case(bench):
        bench.guest_run(f"test={test} transport={transport} {cmdline}", *disk(bench, transport=transport, **keys))
    return case


def blk(transport, rings):
    words = " ".join(f"{name}={int(value)}" for name, value in rings.items())
    return on_disk("blk", transport, f"{words} capacity={DISK // 512} serial={SERIAL} queues=2", num_queues=2, serial=SERIAL)


def blk_matrix():
    names = ("packed", "event_idx", "indirect", "in_order")
    for transport in ("pci", "mmio"):
        for values in itertools.product((False, True), repeat=len(names)):
            rings = dict(zip(names, values))
            title = ",".join(n for n in names if rings[n]) or "plain"
            yield f"blk {transport} {title}", blk(transport, rings)


def blk_in_a_group(bench):
    """Limits of a group within those of all."""
    start = time.monotonic()
    bench.guest_run("test=blk", "--rate-group", "name=all,ops_size=1,ops_refill_time=1", "--rate-group",
                    "name=one,parent=all,bw_size=8M,bw_refill_time=100", *disk(bench, rate_group="one"))
    # There are more than 1500 requests, and each has to wait for a millisecond.
    expect(time.monotonic() - start > 1.5, "the limit of the group's parent did not hold")


def blk_host_full(overlay):
    """The host's file system is full: the machine pauses, and with room and a signal it goes on as if nothing had been."""
    def case(bench):
        folder = bench.path("small")
        os.mkdir(folder)
        size = "size=600k" if overlay else "size=64k"
        if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", folder]).returncode:
            raise Skip("needs the right to mount")
        try:
            path = bench.file("disk.raw" if overlay else "small/disk.raw", DISK)
            queues = 1 if overlay else 2
            disk = f"path={path},num_queues={queues},serial={SERIAL}"
            p = bench.guest_start(f"test=blk capacity={DISK // 512} serial={SERIAL} queues={queues}",
                                  "--disk", disk + (f",overlay={folder}/over.qcow2" if overlay else ""))
            p.wait_for("No space left on device")
            p.wait_for("the machine is paused")
            subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
            p.signal(signal.SIGUSR2)
            status = p.finish()
            bench.judge(p.output, status)
            if overlay and which("qemu-img"):
                subprocess.run(["qemu-img", "check", "-q", f"{folder}/over.qcow2"], check=True)
        finally:
            subprocess.run(["umount", "-l", folder])
    return case


def rng(transport, packed):
    def case(bench):
        bench.guest_run(f"test=rng transport={transport} packed={packed}", "--rng", f"transport={transport}")
    return case


def echo(sock, data):
    """Send all of `data` and receive as much; the other side sends back what it gets."""
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    got = b""
    while len(got) < len(data):
        piece = sock.recv(65536)
        if not piece:
            break
        got += piece
    sender.join(HANG)
    return got


def console(transport, packed):
    def case(bench):
        data = os.urandom(300 * 1024)
        p = bench.guest_start(f"test=console transport={transport} packed={packed} count={len(data)}", "--console",
                              f"socket={bench.path('console')},transport={transport}")
        sock = bench.connect(bench.path("console"))
        p.wait_for("listening")
        got = echo(sock, data)
        status = p.finish()
        expect(got == data, f"{len(got)} of {len(data)} bytes came back, or others")
        bench.judge(p.output, status)
        expect(not os.path.exists(bench.path("console")), "the socket is left behind")
    return case


def serial_file(bench):
    p = bench.guest_start("test=serial-echo count=0", "--serial", f"file={bench.path('out')}")
    status = p.finish()
    with open(bench.path("out"), "rb") as f:
        bench.judge(f.read().decode(), status)


def serial_socket(bench):
    data = bytes(range(256)) * 16
    p = bench.guest_start(f"test=serial-echo count={len(data)}", "--serial", f"socket={bench.path('serial')}")
    sock = bench.connect(bench.path("serial"))
    # Not before: the guest empties its receiver when it begins.
    got = b""
    while b"listening" not in got:
        piece = sock.recv(65536)
        expect(piece, "it hangs up")
        got += piece
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    while b"done " not in got or not got.endswith(b"\n"):
        piece = sock.recv(65536)
        if not piece:
            break
        got += piece
    sender.join(HANG)
    status = p.finish()
    expect(data in got, f"the bytes did not come back whole\n{got[-200:]!r}")
    bench.judge(got.decode(errors="replace"), status)


def serial_pty(bench):
    p = bench.guest_start("test=spin", "--serial", "pty", "-v")
    p.wait_for("/dev/pts/")
    name = next(w for w in p.output.split() if w.startswith("/dev/pts/"))
    expect(os.path.exists(name), f"{name} is not there")
    p.signal(15)
    expect(p.finish() == 0, "exit status is not 0")


def address(text):
    return str(int.from_bytes(socket.inet_aton(text), "big"))


def net_words(extra=""):
    return f"test=net ip={address(Network.GUEST)} peer={address(Network.ADDRESS)} {extra}"


def net_tap(transport, packed, mergeable):
    def case(bench):
        network = bench.network()
        mac = "02:12:34:56:78:9a"
        bench.guest_run(net_words(f"transport={transport} packed={packed} mergeable={mergeable} "
                                  f"mac=0x{mac.replace(':', '')}"),
                        "--net", f"tap=tap0,transport={transport},mac={mac}", within=network.inside())
    return case


def net_mtu(bench):
    network = bench.network()
    bench.guest_run(net_words("mtu=1500"), "--net", "tap=tap0,mtu=1500", within=network.inside())


TAKE_TAP = """
import fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", b"tap0", 0x0002 | 0x1000 | 0x4000))
os.set_inheritable(fd, True)
os.execv(sys.argv[1], [a.replace("@FD@", str(fd)) for a in sys.argv[1:]])
"""


def net_fd(bench):
    network = bench.network()
    bench.guest_run(net_words(), "--net", "fd=@FD@", within=network.inside(sys.executable, "-c", TAKE_TAP))


def net_control(bench, more=""):
    """Commands, with two queue pairs on a tap that has as many."""
    network = bench.network()
    inside = ("-n", network.name)
    network.ip(*inside, "link", "del", "tap0")
    network.ip(*inside, "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr", "multi_queue")
    network.ip(*inside, "addr", "add", f"{Network.ADDRESS}/24", "dev", "tap0")
    network.ip(*inside, "link", "set", "tap0", "up")
    bench.guest_run(net_words().replace("test=net", "test=netctrl"), "--net", "tap=tap0,num_queues=4" + more,
                    within=network.inside())


def net_limited_and_captured(bench):
    """A rate of its own within a group's, and a copy of every frame in a file that tools can read."""
    network = bench.network()
    bench.guest_run(net_words(), "--rate-group", "name=all,bw_size=4M,bw_refill_time=100",
                    "--net", f"tap=tap0,ops_size=2000,ops_refill_time=100,rate_group=all,"
                             f"capture={bench.path('frames')}", within=network.inside())
    with open(bench.path("frames"), "rb") as f:
        data = f.read()
    at = packets = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        expect(length >= 12 and data[at + length - 4:at + length] == data[at + 4:at + 8], f"a torn block at {at}")
        packets += kind == 6
        at += length
    expect(packets >= 400, f"{packets} frames in the capture, of 200 datagrams there and back")


def net_made_tap(bench):
    """A tap that is not there is made, and goes with the machine."""
    network = bench.network()
    p = bench.guest_start("test=spin", "--net", "tap=tapmade,ip=10.98.0.1", within=network.inside())
    p.wait_for("spinning")
    try:
        network.ip("-n", network.name, "link", "show", "tapmade")
    except Exception:
        raise Failure("the tap was not made")
    p.signal(15)
    expect(p.finish() == 0, "exit status is not 0")
    try:
        network.ip("-n", network.name, "link", "show", "tapmade")
    except Exception:
        return
    raise Failure("the tap is left behind")


def net_user(bench):
    """passt answers DHCP; it needs a route of the host's to copy, which the namespace has."""
    from shutil import which
    if not which("passt"):
        raise Skip("passt is not installed")
    network = bench.network()
    bench.guest_run("test=dhcp", "--net", "user", within=network.inside())


def readonly(bench):
    on_disk("readonly", readonly="on")(bench)
    with open(bench.path("disk.raw"), "rb") as f:
        expect(not any(f.read()), "the file was written")


def many_disks(bench):
    options = []
    for i in range(20):
        options += ["--disk", f"path={bench.file(f'd{i}', (2048 + i) * 512)}"]
    bench.guest_run("test=many count=20", *options)


def big_memory(bench):
    """More than 3 GiB: RAM on both sides of the hole, and the 64-bit window behind it."""
    bench.guest_run("test=blk", "--memory", "size=5G", *disk(bench))


def data_reaches_the_file(bench):
    on_disk("blk")(bench)
    with open(bench.path("disk.raw"), "rb") as f:
        f.seek(-512, os.SEEK_END)
        expect(any(f.read(512)), "the last sector of the file is still zero")


def of_an_arm_machine():
    yield "rtc", lambda b: b.guest_run(f"test=rtc now={int(time.time())}")
    yield "gpio", lambda b: b.guest_run("test=gpio")


def of_a_pc():
    """Its ports and the devices behind them."""
    yield "hostile port sweep", lambda b: b.guest_run("test=ports")
    yield "rtc", lambda b: b.guest_run(f"test=rtc year={time.gmtime().tm_year % 100}")
    yield "i8042 and acpi", lambda b: b.guest_run("test=i8042")
    yield "memory map", lambda b: b.guest_run("test=memory")


def workers(pid):
    """{thread name: pid} of processes that serve a machine's devices: children of its keepers."""
    parents, found = {}, {}
    for each in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{each}/stat") as f:
                name, parent = re.match(r"\d+ \((.*)\) \S (\d+)", f.read()).groups()
        except (OSError, AttributeError):
            continue
        parents[int(each)] = (name, int(parent))
    for each, (name, parent) in parents.items():
        if parents.get(parent, ("", 0))[1] == pid and parents[parent][0].endswith("_keep"):
            found[name] = each
    return found


def killed_meanwhile(cmdline, worker, *options, kills=8, within=()):
    """The guest checks all that comes back, and its device's process is killed under it."""
    def case(bench):
        extra = [o(bench) if callable(o) else (o,) for o in options]
        network = within and bench.network()
        p = bench.guest_start(cmdline, "-v", *sum(map(tuple, extra), ()), within=network.inside() if network else ())
        p.wait_for("steady")
        done = 0
        last = None
        while done < kills:
            now = workers(p.p.pid).get(worker)
            if now and now != last:
                os.kill(now, 9)
                last, done = now, done + 1
            expect(p.p.poll() is None, f"it ended after {done} kills\n{p.output[-1500:]}")
            time.sleep(random.uniform(0, 0.05))
        status = p.finish()
        bench.judge(p.output, status)
        expect(p.output.count("was ended by signal 9; starting another") == kills, p.output[-1500:])
    return case


def isolated():
    """Devices in processes of their own."""
    for transport in ("pci", "mmio"):
        for packed in (0, 1):
            words = f"packed={packed} event_idx=1 indirect={packed} capacity={DISK // 512} queues=2"
            yield (f"isolated blk {transport} {'packed' if packed else 'split'}",
                   on_disk("blk", transport, words, num_queues=2, isolation="process"))
            yield (f"isolated blk {transport} {'packed' if packed else 'split'} that is killed",
                   killed_meanwhile(f"test=blk-steady transport={transport} rounds=1500 {words}", "_disk0_q0",
                                    lambda b, t=transport: disk(b, transport=t, num_queues=2, isolation="process")))
        yield f"isolated hostile {transport}", on_disk("hostile", transport, isolation="process")
    for packed in (0, 1):
        yield (f"isolated net {'packed' if packed else 'split'} that is killed",
               killed_meanwhile(net_words(f"rounds=4000 packed={packed}").replace("test=net", "test=net-steady"),
                                "_net0_qp0", "--net", "tap=tap0,isolation=process", within=True))
    yield "isolated net control queue", lambda b: net_control(b, ",isolation=process")
    yield "isolated all", lambda b: b.guest_run(
        "test=rng transport=pci packed=1", "--isolation", "process", "--sandbox", "strict", "--rng", "transport=pci", *disk(b))
    yield "isolated ends with its machine", isolated_ends


def isolated_ends(bench):
    """Whoever ends the machine, nothing of it is left; the run looks for leftovers."""
    for number in (15, 9):
        p = bench.guest_start("test=spin", "--isolation=process", *disk(bench))
        p.wait_for("spinning")
        expect(set(workers(p.p.pid)) == {"_disk0_q0", "_rng_q0"}, f"{workers(p.p.pid)}")
        p.signal(number)
        status = p.finish()
        expect(status == (0 if number == 15 else -9), f"exit status {status}")


def cases():
    yield from blk_matrix()
    yield from isolated()
    yield "blk readonly", readonly
    yield "blk direct", on_disk("blk", direct="on")
    yield "blk queue of 16", on_disk("blk", cmdline="indirect=1", queue_size=16)
    yield "blk queue of 1024", on_disk("blk", cmdline="queue_size=1024", queue_size=1024)
    yield "blk that polls, on one CPU", on_disk("blk", poll=200, affinity="[0]", num_queues=2)
    yield "blk data reaches the file", data_reaches_the_file
    yield "blk limited", on_disk("blk", ops_size=2, ops_refill_time=1, bw_size="1M", bw_refill_time=10)
    yield "blk limited by a group", blk_in_a_group
    yield "blk on a host that is full", blk_host_full(overlay=False)
    yield "blk overlay on a host that is full", blk_host_full(overlay=True)
    yield "blk with 5 GiB of memory", big_memory
    yield "blk twenty disks", many_disks
    for transport in ("pci", "mmio"):
        for packed in (0, 1):
            format_ = "packed" if packed else "split"
            yield f"rng {transport} {format_}", rng(transport, packed)
            yield f"console {transport} {format_}", console(transport, packed)
            yield f"net tap {transport} {format_}", net_tap(transport, packed, 0)
        yield f"registers {transport}", on_disk("regs", transport)
        yield f"hostile {transport}", on_disk("hostile", transport)
        yield f"hostile register sweep {transport}", on_disk("sweep", transport)
    yield "net mergeable buffers", net_tap("pci", 0, 1)
    yield "net mtu", net_mtu
    yield "net fd", net_fd
    yield "net tap made and removed", net_made_tap
    yield "net user dhcp", net_user
    yield "net control queue", net_control
    yield "net limited and captured", net_limited_and_captured
    yield "pci", on_disk("pci", num_queues=2)
    yield "hostile config space sweep", on_disk("config-sweep")
    yield "serial", lambda b: b.guest_run("test=serial")
    yield "serial file", serial_file
    yield "serial socket", serial_socket
    yield "serial pty", serial_pty
    yield "memory edges", lambda b: b.guest_run("test=edges")
    yield from of_a_pc() if PC else of_an_arm_machine()
