"""Devices that another program serves over vhost-user, with the machine's whole sandbox between: QEMU's storage daemon, and
a back end of our own that keeps track of what is in flight (tests/driver/vhost_user_end.h)."""
import itertools
import os
import shutil
import signal
import time

from machine import HANG, Process, Skip, expect

DISK = 16 << 20
KILLS = 20
ROUNDS_PER_KILL = 10


class BackEnd:
    """A program that serves the bench's disk at a socket; kill and start it at will."""

    def __init__(self, bench, queues, argv, connects=False):
        self.bench, self.queues, self.connects = bench, queues, connects
        self.socket, self.disk = bench.path("back-end"), bench.path("disk.raw")
        if not os.path.exists(self.disk):
            bench.file("disk.raw", DISK)
        self.argv = argv(self)
        self.start()

    def start(self):
        if os.path.exists(self.socket) and not self.connects:
            os.unlink(self.socket)
        self.process = Process(self.argv, self.bench.env)
        self.bench.processes.append(self.process)
        end = time.monotonic() + HANG
        while not self.connects and not os.path.exists(self.socket):
            expect(time.monotonic() < end and self.process.p.poll() is None, f"{self.argv[0]} does not listen")
            time.sleep(0.01)

    def kill(self):
        self.bench.processes.remove(self.process)
        self.process.kill()


def storage_daemon(bench, queues):
    program = shutil.which("qemu-storage-daemon")
    if not program:
        raise Skip("qemu-storage-daemon is not installed (qemu-utils)")
    return BackEnd(bench, queues, lambda b: [
        program, "--blockdev", f"driver=file,node-name=file,filename={b.disk}",
        "--blockdev", "driver=raw,node-name=disk,file=file",
        "--export", f"type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={b.socket},writable=on,"
                    f"num-queues={queues}"])


def our_own(bench, queues, connects=False):
    program = os.path.join(os.path.dirname(bench.guest), "back-end")
    if not os.path.exists(program):
        raise Skip("no back end beside the guest; make guest-build makes it")
    return BackEnd(bench, queues, lambda b: [program, b.socket, b.disk, str(queues), *(["connect"] if connects else [])], connects)


def our_own_client(bench, queues):
    return our_own(bench, queues, connects=True)


def served_by_qemu(transport, rings):
    def case(bench):
        back_end = storage_daemon(bench, 2)
        words = " ".join(f"{name}={int(value)}" for name, value in rings.items())
        bench.guest_run(f"test=blk transport={transport} {words} capacity={DISK // 512} queues=2", "--disk",
                        f"vhost_user=on,socket={back_end.socket},num_queues=2,transport={transport}")
        with open(back_end.disk, "rb") as f:
            f.seek(-512, os.SEEK_END)
            expect(any(f.read(512)), "the last sector of the file is still zero")
    return case


def killed(start, words, *options):
    """The guest writes and compares all the while."""
    def case(bench):
        back_end = start(bench, 2)
        mode = "server" if back_end.connects else "client"
        p = bench.guest_start(f"test=blk-away rounds={KILLS * ROUNDS_PER_KILL + 50} {words}", "--disk",
                              f"socket={back_end.socket},num_queues=2,vhost_mode={mode}", *options)
        for i in range(KILLS):
            p.wait_for(f"round {(i + 1) * ROUNDS_PER_KILL}\n")
            back_end.kill()
            time.sleep(0.05 * (i % 3))
            back_end.start()
        status = p.finish()
        bench.judge(p.output, status)
        expect(": the program that serves it" in p.output, f"nothing was said of it\n{p.output}")
    return case


def as_server(bench):
    """The machine listens, waits for the first connection, and removes its socket at the end."""
    socket = bench.path("socket")
    p = bench.guest_start("test=spin", "--disk", f"socket={socket},vhost_mode=server")
    p.wait_for("waiting for the program that serves it")
    expect(os.path.exists(socket), "it does not listen")
    p.signal(signal.SIGTERM)
    status = p.finish()
    expect(status == 1 and "ended while waiting" in p.output, f"exit status {status}\n{p.output}")
    expect(not os.path.exists(socket), "the socket is left behind")


def killed_and_ended(bench):
    """Without its back end a machine ends as any other."""
    back_end = our_own(bench, 1)
    p = bench.guest_start("test=spin", "--disk", f"socket={back_end.socket}")
    p.wait_for("spinning")
    back_end.kill()
    p.wait_for("is gone")
    time.sleep(0.3)
    p.signal(signal.SIGTERM)
    status = p.finish()
    expect(status == 0, f"exit status {status}\n{p.output}")


def cases():
    for transport, event_idx, indirect in itertools.product(("pci", "mmio"), (False, True), (False, True)):
        rings = {"event_idx": event_idx, "indirect": indirect}
        title = ",".join(n for n in rings if rings[n]) or "plain"
        yield f"vhost-user qemu {transport} {title}", served_by_qemu(transport, rings)
    yield "vhost-user killed, the guest hears nothing", killed(our_own, "resets=0")
    yield "vhost-user killed, indirect", killed(our_own, "resets=0 indirect=1")
    yield "vhost-user killed, packed", killed(our_own, "resets=0 packed=1")
    yield "vhost-user killed, packed and indirect", killed(our_own, "resets=0 packed=1 indirect=1")
    yield "vhost-user killed, without namespaces", killed(our_own, "resets=0", "--sandbox=off")
    yield "vhost-user qemu killed", killed(storage_daemon, "event_idx=1")
    yield "vhost-user killed, the machine is the server", killed(our_own_client, "resets=0")
    yield "vhost-user as server", as_server
    yield "vhost-user end without back end", killed_and_ended
