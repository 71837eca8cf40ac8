"""What every cell of the matrix is made of: what may come of a fault, and the guest that writes, reads and counts."""
import mmap
import os
import struct
import subprocess
import time
from collections import namedtuple

from machine import HANG, Failure, expect

# A fault, where it strikes, which of these comes of it, and who tries it out.
UNAFFECTED = "guest unaffected"
DEVICE = "device error"          # that the guest understands
PAUSED = "paused with an event"
STOPPED = "stopped with an event"
REFUSED = "refused at start"     # with a sentence, and nothing left behind
Cell = namedtuple("Cell", "fault subject outcome function")

BLOCK, SECTOR, FIRST, BLOCKS, SIZE = 4096, 512, 64 * 512, 64, 16 << 20
Counts = namedtuple("Counts", "round written write_errors flush read read_errors corrupt lost")
OK, IOERR = 0, 1


def pattern(block, number):
    """As pattern() of tests/guest/lib.c."""
    seed = (block * 256 + number) * 0x9e3779b1 if number else 0
    if not number:
        return bytes(BLOCK)
    words = (((i + seed) * 0x85ebca6b) & 0xffffffff for i in range(BLOCK))
    return bytes((v >> 24 ^ v >> 9) & 0xff for v in words)


def holds(data, block, numbers):
    """Each sector of this block is as one of these rounds left it."""
    at = FIRST + block * BLOCK
    whole = [pattern(block, n) for n in numbers]
    return all(any(data[at + s:at + s + SECTOR] == w[s:s + SECTOR] for w in whole) for s in range(0, BLOCK, SECTOR))


class Writer:
    """A machine with tests/guest/fault.c in it; `options` bring the disk that suffers."""

    def __init__(self, bench, *options, cmdline="", **how):
        self.meet = bench.file("meet", 1 << 20)
        self.map()
        self.p = bench.guest_start(f"test=fault blocks={BLOCKS} {cmdline}", *options, "--disk", f"path={self.meet}", **how)

    def map(self):
        with open(self.meet, "r+b") as f:
            self.page = mmap.mmap(f.fileno(), 4096)

    def at(self):
        return struct.unpack_from("<I", self.page, SECTOR)[0]

    def counts(self, number):
        """Waits until the guest is through this round, and takes what it counted."""
        end = time.monotonic() + HANG
        while self.at() < number:
            if time.monotonic() > end:
                self.p.hung(f"in round {number}")
            if not self.p.read(0.005):
                raise Failure(f"ends in round {number} with {self.p.p.wait(HANG)}\n{self.p.output[-2000:]}")
        return Counts(*struct.unpack_from("<8I", self.page, 2 * SECTOR))

    def go(self, number):
        self.page[:4] = struct.pack("<I", number)

    def sound(self, number, blocks=None):
        """This round went as if nothing were wrong."""
        blocks = blocks or (BLOCKS if number == 1 else 2 * BLOCKS)
        c = self.counts(number)
        expect(c == (number, blocks, 0, OK, 2 * BLOCKS, 0, 0, 0), f"round {number}: {c}\n{self.p.output[-2000:]}")

    def goes_on_to_the_end(self):
        """Round 2, which has been let go, and a third one: as if nothing had been."""
        self.sound(2)
        self.go(2)
        self.sound(3)
        self.go(3)
        self.end()

    def end(self):
        """It says that nothing was corrupt and nothing unanswered, and powers off."""
        status = self.p.finish()
        bad = [line for line in self.p.output.splitlines() if line.startswith("not ok")]
        expect(status == 0 and not bad and "done 0 failed" in self.p.output, f"exit status {status}\n{self.p.output[-2000:]}")


def qemu_img(*args):
    """The kernel lets go of a killed machine's lock when it is through with its ring."""
    for _ in range(100):
        r = subprocess.run(["qemu-img", *args], capture_output=True, text=True)
        if "lock" not in r.stderr:
            break
        time.sleep(0.02)
    return r


def image_check(path, leaks=False):
    r = qemu_img("check", "-f", "qcow2", path)
    expect(r.returncode == 0 or (leaks and r.returncode == 3), f"qemu-img check: {r.returncode}\n{r.stdout}{r.stderr}")


def content(path, form):
    """The disk's bytes as another program reads them."""
    if form == "raw":
        with open(path, "rb") as f:
            return f.read()
    raw = path + ".content"
    r = qemu_img("convert", "-f", form, "-O", "raw", path, raw)
    expect(r.returncode == 0, r.stderr)
    with open(raw, "rb") as f:
        data = f.read()
    os.unlink(raw)
    return data


def make_disk(path, form):
    subprocess.run(["qemu-img", "create", "-q", "-f", form, path, str(SIZE)], check=True)
