#!/usr/bin/python3
"""Talk to a program on a terminal, or to a socket, as a person would.

    expect.py [--log FILE|-] [--patience S] [--size ROWSxCOLUMNS] (--run | --socket PATH | --open PTY) STEP... [-- COMMAND...]

Steps, in order: `wait:REGEX` until the output since the last match has it; `send:TEXT` with \\r, \\n, \\x01 and the like
understood; `size:ROWSxCOLUMNS` changes the window; `close` hangs up; `end:STATUS` waits for the command's end with that
exit status; `restored` asserts that the terminal's settings are what they were before the command started.
What the other side says goes to the log, without its carriage returns; `-` is standard output. Exit status 0 when all steps went well; else 1 and one
line on standard error.
"""
import fcntl, os, pty, re, select, signal, socket, struct, subprocess, sys, termios, time, tty


class Failure(Exception):
    pass


class Talk:
    def __init__(self, fd, log, patience):
        self.fd, self.log, self.patience = fd, log, patience
        self.seen = b""
        self.child = None
        self.slave = None
        self.before = None

    def read(self, seconds):
        if self.fd is None or not select.select([self.fd], [], [], seconds)[0]:
            return self.fd is not None
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # a terminal whose other side is gone says EIO
            data = b""
        if not data:
            return False
        self.seen += data
        self.log.write(data.replace(b"\r", b""))
        self.log.flush()
        return True

    def wait(self, pattern):
        end = time.monotonic() + self.patience
        while True:
            found = re.search(pattern.encode(), self.seen)
            if found:
                self.seen = self.seen[found.end():]
                return
            if time.monotonic() > end:
                raise Failure(f"no '{pattern}' within {self.patience} s")
            if not self.read(1.0):
                # The last words may hold it.
                if re.search(pattern.encode(), self.seen):
                    continue
                raise Failure(f"the other side hung up before '{pattern}'")
            if self.child and self.child.poll() is not None and not self.read(0.2):
                raise Failure(f"the program ended before '{pattern}'")

    def send(self, text):
        data = text.encode().decode("unicode_escape").encode("latin-1")
        while data:
            data = data[os.write(self.fd, data):]

    def size(self, text):
        rows, columns = (int(n) for n in text.split("x"))
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self, status):
        end = time.monotonic() + self.patience
        while self.child.poll() is None:
            if time.monotonic() > end:
                raise Failure(f"the program did not end within {self.patience} s")
            self.read(0.2)
        while self.read(0.2) and select.select([self.fd], [], [], 0)[0]:
            pass
        if self.child.returncode != int(status):
            raise Failure(f"exit status {self.child.returncode}, not {status}")

    def signal(self, number):
        self.child.send_signal(getattr(signal, number))

    def restored(self, _):
        if termios.tcgetattr(self.slave) != self.before:
            raise Failure("the terminal's settings were not restored")

    def raw(self, _):
        end = time.monotonic() + self.patience
        while termios.tcgetattr(self.slave)[3] & termios.ICANON:
            if time.monotonic() > end:
                raise Failure("the terminal was not set raw")
            time.sleep(0.1)

    def close(self, _):
        os.close(self.fd)
        self.fd = None


def start(talk, command, size):
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    talk.fd, talk.slave, talk.before = master, slave, termios.tcgetattr(slave)

    def own_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    talk.child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own_terminal)


def connect(path, patience):
    end = time.monotonic() + patience
    while True:
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(path)
            return os.dup(s.fileno())
        except OSError as error:
            if time.monotonic() > end:
                raise Failure(f"{path}: {error}")
            time.sleep(0.1)


def main(arguments):
    command = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1:]
    log, patience, size, how, where = os.devnull, 300.0, (24, 80), "--run", None
    while arguments and arguments[0].startswith("--"):
        option = arguments.pop(0)
        if option == "--log":
            log = arguments.pop(0)
        elif option == "--patience":
            patience = float(arguments.pop(0))
        elif option == "--size":
            size = tuple(int(n) for n in arguments.pop(0).split("x"))
        elif option in ("--socket", "--open"):
            how, where = option, arguments.pop(0)
        elif option != "--run":
            sys.exit(f"expect: unknown option {option}")
    talk = Talk(None, sys.stdout.buffer if log == "-" else open(log, "wb"), patience)
    step = ""
    try:
        if how == "--socket":
            talk.fd = connect(where, patience)
        elif how == "--open":
            talk.fd = os.open(where, os.O_RDWR | os.O_NOCTTY)
            tty.setraw(talk.fd)
        else:
            start(talk, command, size)
        for step in arguments:
            verb, _, text = step.partition(":")
            if verb not in ("wait", "send", "size", "end", "signal", "restored", "raw", "close"):
                raise Failure(f"unknown step {step}")
            getattr(talk, verb)(text)
    except Failure as failure:
        print(f"at step '{step}': {failure}", file=sys.stderr)
        return 1
    finally:
        if talk.child and talk.child.poll() is None:
            talk.child.kill()
            talk.child.wait()
    return 0


sys.exit(main(sys.argv[1:]))
