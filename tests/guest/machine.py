"""A microvm process under test, and what cases need around it: files, sockets, a network namespace."""
import ctypes
import os
import platform
import re
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import uuid

HANG = 1200 if os.environ.get("RIG") else 120  # seconds after which a case has hung; in the emulated host all is slower
MEMORY = 128 << 20
PC = platform.machine() == "x86_64"  # or an ARM machine, which has other platform devices


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def expect(condition, reason):
    if not condition:
        raise Failure(reason)


def leftovers(mark):
    """Processes that still carry our mark in their environment, once they had a moment to end."""
    for _ in range(40):
        left = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    marked = mark.encode() in f.read()
                with open(f"/proc/{pid}/stat") as f:
                    comm, state = re.match(r"\d+ \((.*)\) (\S)", f.read()).groups()
            except (OSError, AttributeError):
                continue
            if marked and int(pid) != os.getpid() and state != "Z":
                left.append(f"{comm} ({pid})")
        if not left:
            return []
        time.sleep(0.05)
    return left


def deny(call, code):
    """In a child, before its exec: this system call fails with `code` from now on (seccomp(2), classic BPF)."""
    load, jump_equal, give = 0x20, 0x15, 0x06
    error, allow = 0x00050000, 0x7fff0000
    rows = struct.pack("HBBI" * 4, load, 0, 0, 0, jump_equal, 0, 1, call, give, 0, 0, error | code, give, 0, 0, allow)
    rows = ctypes.create_string_buffer(rows)
    program = struct.pack("HxxxxxxP", 4, ctypes.addressof(rows))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0):
        os._exit(99)


class Process:
    """A started program whose output is collected; waits never take longer than HANG."""

    def __init__(self, argv, env, **how):
        self.argv = argv
        self.text = {}
        self.started = time.monotonic()
        self.p = subprocess.Popen(argv, stdin=how.pop("stdin", subprocess.DEVNULL), stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, env=env, **how)
        self.selector = selectors.DefaultSelector()
        for stream in (self.p.stdout, self.p.stderr):
            self.text[stream] = b""
            self.selector.register(stream, selectors.EVENT_READ)

    def read(self, seconds):
        """False when the output has ended."""
        for key, _ in self.selector.select(seconds):
            data = os.read(key.fd, 65536)
            self.text[key.fileobj] += data
            if not data:
                self.selector.unregister(key.fileobj)
        return bool(self.selector.get_map())

    @property
    def output(self):
        """What it wrote to stdout, where the guest's terminal is, and then what it wrote to stderr."""
        return "".join(self.text[s].decode(errors="replace") for s in (self.p.stdout, self.p.stderr))

    def hung(self, what):
        self.kill()
        raise Failure(f"hangs {what}\n{' '.join(self.argv)}\n{self.output[-2000:]}")

    def wait_for(self, text):
        end = time.monotonic() + HANG
        while text not in self.output:
            if time.monotonic() > end:
                self.hung(f"before it prints '{text}'")
            if not self.read(1):
                self.p.wait(HANG)
                raise Failure(f"ends with {self.p.returncode} before it prints '{text}'\n{self.output[-2000:]}")

    def finish(self):
        """The exit status; negative: the signal that ended it."""
        end = time.monotonic() + HANG
        while self.read(1):
            if time.monotonic() > end:
                self.hung("before its end")
        try:
            return self.p.wait(max(1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.hung("after its output's end")

    def signal(self, number):
        self.p.send_signal(number)

    def kill(self):
        if self.p.poll() is None:
            self.p.kill()
            self.p.wait()
        self.selector.close()
        self.p.stdout.close()
        self.p.stderr.close()

    def threads(self):
        """{name: {field of status: value}} of each thread."""
        ret = {}
        for tid in os.listdir(f"/proc/{self.p.pid}/task"):
            try:
                with open(f"/proc/{self.p.pid}/task/{tid}/status") as f:
                    fields = dict(line.split(":", 1) for line in f.read().splitlines() if ":" in line)
            except OSError:
                continue    # it ended meanwhile
            name = fields["Name"].strip()
            # A worker of the kernel's that KVM puts into the process is none of ours.
            if not name.startswith("kvm-"):
                ret[name] = {k: v.strip() for k, v in fields.items()}
        return ret


class Network:
    """A namespace with a tap, an address on it, and a server that sends datagrams back."""
    ADDRESS, GUEST, PORT = "10.99.0.1", "10.99.0.2", 7777
    ECHO = ("import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.99.0.1', 7777))\n"
            "print('ready', flush=True)\n"
            "while True: data, peer = s.recvfrom(65536); s.sendto(data, peer)")

    def __init__(self, bench):
        self.name = f"microvm-{os.getpid()}"
        self.bench = bench
        self.server = None
        try:
            self.ip("netns", "add", self.name)
            self.ip("-n", self.name, "link", "set", "lo", "up")
            self.ip("-n", self.name, "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr")
            self.ip("-n", self.name, "addr", "add", f"{self.ADDRESS}/24", "dev", "tap0")
            # The guest answers no questions: what the host has learnt of its address is not to be asked for again after seconds.
            self.ip("-n", self.name, "ntable", "change", "name", "arp_cache", "dev", "tap0", "delay_probe", "3600000")
            self.ip("-n", self.name, "link", "set", "tap0", "up")
            self.ip("-n", self.name, "route", "add", "default", "via", "10.99.0.254")
            self.server = Process(self.inside(sys.executable, "-c", self.ECHO), bench.env)
            self.server.wait_for("ready")
        except Exception:
            self.close()
            raise

    @staticmethod
    def ip(*args):
        subprocess.run(["ip", *args], check=True, capture_output=True)

    def inside(self, *argv):
        return ["nsenter", f"--net=/run/netns/{self.name}", *argv]

    def close(self):
        if self.server:
            self.server.kill()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


class Bench:
    """What cases are given: the program, the guest, a directory of their own."""

    def __init__(self, program, guest, root, report):
        self.program, self.guest, self.root, self.report = program, guest, root, report
        self.asan = False
        self.directory = root
        self.mark = f"MICROVM_TEST={uuid.uuid4()}"
        name, value = self.mark.split("=")
        # Leaks are not looked for: that takes rights over itself which a confined process has given up.
        self.env = {**os.environ, name: value, "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:quarantine_size_mb=8",
                    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}
        self.processes = []

    def use(self, program, asan):
        self.program, self.asan = os.path.abspath(program), asan

    def path(self, name):
        return os.path.join(self.directory, name)

    def file(self, name, size=0, data=b""):
        with open(self.path(name), "wb") as f:
            f.write(data)
            f.truncate(max(size, len(data)))
        return self.path(name)

    def need_kvm(self):
        if not os.path.exists("/dev/kvm"):
            raise Skip("no /dev/kvm")
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise Skip("no right to /dev/kvm")

    def network(self):
        if os.geteuid():
            raise Skip("making a network namespace needs root")
        if not os.path.exists("/dev/net/tun"):
            raise Skip("no /dev/net/tun")
        network = Network(self)
        self.processes.append(network)
        return network

    def start(self, *argv, within=(), **how):
        p = Process([*within, self.program, *argv], self.env, **how)
        self.processes.append(p)
        return p

    def guest_start(self, cmdline, *options, **how):
        self.need_kvm()
        if not any(o.startswith("--memory") for o in options):
            options = ("--memory", f"size={MEMORY}", *options)
        return self.start("--kernel", self.guest, "--cmdline", f"{cmdline} ram={MEMORY}", *options, **how)

    def judge(self, text, status, expected=0):
        """Raises when a property did not hold or the run was not whole."""
        bad = [line for line in text.splitlines() if line.startswith("not ok")]
        expect(not bad, f"{len(bad)} properties do not hold\n" + "\n".join(bad))
        expect(status == expected, f"exit status {status}, expected {expected}\n{text[-2000:]}")
        expect("done 0 failed" in text, f"the guest did not come to its end\n{text[-2000:]}")

    def guest_run(self, cmdline, *options, **how):
        """A guest that prints its properties on the terminal and powers off."""
        p = self.guest_start(cmdline, *options, **how)
        status = p.finish()
        self.judge(p.output, status)
        return p.output

    def connect(self, path):
        end = time.monotonic() + HANG
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(HANG)
        while True:
            try:
                s.connect(path)
                return s
            except OSError:
                if time.monotonic() > end:
                    raise Failure(f"nobody listens at {path}")
                time.sleep(0.01)

    def end_all(self):
        for p in reversed(self.processes):
            (p.kill if isinstance(p, Process) else p.close)()
        self.processes.clear()

    def close(self):
        self.end_all()


def own_mounts():
    """This program again, where our mounts are nobody else's, and nobody else's are ours."""
    if os.environ.pop("OWN_MOUNTS", "") != "ours":
        os.environ["OWN_MOUNTS"] = "ours"
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        os.execvp("unshare", ["unshare", "--mount", "--fork", "--kill-child", "--propagation", "private", *user,
                              sys.executable, *sys.argv])


class Report:
    """Prints a line for each case and counts them."""

    def __init__(self):
        self.count = {"pass": 0, "fail": 0, "skip": 0}

    def __call__(self, name, seconds, result, reason=""):
        line = {"pass": "ok", "fail": "FAILED", "skip": "skipped"}[result]
        first, _, rest = reason.partition("\n")
        print(f"  {name:<52} {seconds:6.2f} s  {line}{': ' + first if first else ''}", flush=True)
        for text in rest.splitlines():
            print("      " + text)
        self.count[result] += 1


def run_case(name, function, bench):
    begin = time.monotonic()
    bench.directory = tempfile.mkdtemp(prefix="guest-", dir=bench.root)
    result, reason = "pass", ""
    try:
        function(bench)
    except Skip as skip:
        result, reason = "skip", str(skip)
    except Failure as failure:
        result, reason = "fail", str(failure)
    except Exception:
        result, reason = "fail", traceback.format_exc()
    bench.end_all()
    left = leftovers(bench.mark)
    if left and result != "fail":
        result, reason = "fail", "processes are left behind: " + ", ".join(left)
    shutil.rmtree(bench.directory, ignore_errors=True)
    bench.report(name, time.monotonic() - begin, result, reason)


SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
# A job in the background may be born with them ignored, and its children after it.
for each in SIGNALS[1:]:
    if signal.getsignal(each) == signal.SIG_IGN:
        signal.signal(each, signal.SIG_DFL)
