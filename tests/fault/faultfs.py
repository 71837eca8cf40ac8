"""A file system whose files fail on demand: the kernel's FUSE protocol (linux/fuse.h, version 7.31) over a folder of real
files. The program under test reaches it by whatever way it has, io_uring included, and meets what a bad disk or a far
server would give it. No page cache in between: each of its requests is one of ours."""
import ctypes
import errno
import os
import stat
import struct
import threading
import time

LOOKUP, FORGET, GETATTR, SETATTR, UNLINK, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC = 1, 2, 3, 4, 10, 14, 15, 16, 17, 18, 20
FLUSH, INIT, OPENDIR, RELEASEDIR, ACCESS, CREATE, INTERRUPT, DESTROY, BATCH_FORGET, FALLOCATE = 25, 26, 27, 29, 34, 35, 36, 38, 42, 43
LSEEK = 46
NAMES = {READ: "read", WRITE: "write", FSYNC: "fsync", FALLOCATE: "fallocate"}
SILENT = (FORGET, BATCH_FORGET, INTERRUPT, DESTROY)
DIRECT_IO, FATTR_SIZE, MAX_WRITE, ROOT = 1, 1 << 3, 128 << 10, 1
MNT_DETACH = 2

libc = ctypes.CDLL(None, use_errno=True)


class FaultFs:
    """Mounted at `path` for as long as it lives. `faults` maps read, write, fsync and fallocate to what happens to them:
    an errno, ("short", bytes), ("slow", seconds), once; nothing: they work. `count` says how many came while it was so."""

    def __init__(self, path, backing, lock=None):
        """`lock`: the errno that locks of files get, such as those of a server that has lost its lock manager."""
        self.path, self.backing, self.lock = path, backing, lock
        self.faults, self.count = {}, {}
        self.nodes, self.files = {}, {}
        self.handles = iter(range(1, 1 << 30))
        os.makedirs(path)
        os.makedirs(backing)
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        how = f"fd={self.fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
        if libc.mount(b"faultfs", path.encode(), b"fuse", 0, how.encode()):
            code = ctypes.get_errno()
            os.close(self.fd)
            raise OSError(code, os.strerror(code))
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def close(self):
        self.faults = {}
        libc.umount2(self.path.encode(), MNT_DETACH)
        self.thread.join(10)
        for fd in self.files.values():
            os.close(fd)
        os.close(self.fd)

    def serve(self):
        while True:
            try:
                request = os.read(self.fd, MAX_WRITE + 4096)
            except OSError as e:
                if e.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return    # unmounted
            _, op, unique, node = struct.unpack_from("<IIQQ", request)
            if op in SILENT:
                continue
            code, answer = 0, b""
            try:
                answer = self.answer(op, node, request[40:])
            except OSError as e:
                code = -e.errno
            try:
                os.write(self.fd, struct.pack("<IiQ", 16 + len(answer), code, unique) + answer)
            except OSError:
                pass    # whoever asked has gone

    def answer(self, op, node, body):
        if op == INIT:
            # big writes and asynchronous direct reads; locks that we are asked for, else the kernel's own
            flags = 1 << 5 | 1 | (1 << 1 if self.lock else 0)
            return struct.pack("<IIIIHHIIHHI7I", 7, 31, 0, flags, 16, 12, MAX_WRITE, 1, 0, 0, 0, *[0] * 7)
        handler = getattr(self, f"op{op}", None)
        if not handler:
            raise OSError(errno.ENOSYS, "")
        if op in NAMES and NAMES[op] in self.faults:
            name = NAMES[op]
            self.count[name] = self.count.get(name, 0) + 1
            fault = self.faults[name]
            if isinstance(fault, int):
                raise OSError(fault, "")
            if fault[0] == "slow":
                self.faults = {}    # once
                time.sleep(fault[1])
            elif fault[0] == "short":
                return handler(node, body, fault[1])
        return handler(node, body)

    def real(self, node):
        return self.backing if node == ROOT else os.path.join(self.backing, self.nodes[node])

    def attr(self, node):
        s = os.lstat(self.real(node))
        return struct.pack("<QQQQQQIIIIIIIIII", node, s.st_size, s.st_blocks, int(s.st_atime), int(s.st_mtime), int(s.st_ctime),
                           0, 0, 0, s.st_mode, s.st_nlink, s.st_uid, s.st_gid, 0, 4096, 0)

    def entry(self, name):
        path = os.path.join(self.backing, name)
        s = os.lstat(path)
        if not stat.S_ISREG(s.st_mode):
            raise OSError(errno.ENOENT, "")
        self.nodes[s.st_ino + 1] = name
        return struct.pack("<QQQQII", s.st_ino + 1, 0, 0, 0, 0, 0) + self.attr(s.st_ino + 1)

    def opened(self, fd):
        handle = next(self.handles)
        self.files[handle] = fd
        return struct.pack("<QII", handle, DIRECT_IO, 0)

    def op1(self, _, body):                             # lookup
        return self.entry(body.rstrip(b"\0").decode())

    def op3(self, node, _):                             # getattr
        return struct.pack("<QII", 0, 0, 0) + self.attr(node)

    def op4(self, node, body):                          # setattr: the size only
        valid, = struct.unpack_from("<I", body)
        if valid & FATTR_SIZE:
            os.truncate(self.real(node), struct.unpack_from("<Q", body, 16)[0])
        return struct.pack("<QII", 0, 0, 0) + self.attr(node)

    def op10(self, _, body):                            # unlink
        os.unlink(os.path.join(self.backing, body.rstrip(b"\0").decode()))
        return b""

    def op14(self, node, body):                         # open
        flags, = struct.unpack_from("<I", body)
        return self.opened(os.open(self.real(node), flags & (os.O_ACCMODE | os.O_TRUNC) | os.O_CLOEXEC))

    def op35(self, _, body):                            # create
        flags, mode = struct.unpack_from("<II", body)
        name = body[16:].rstrip(b"\0").decode()
        fd = os.open(os.path.join(self.backing, name), flags & (os.O_ACCMODE | os.O_EXCL) | os.O_CREAT | os.O_CLOEXEC, mode)
        return self.entry(name) + self.opened(fd)

    def op15(self, _, body, most=MAX_WRITE):            # read
        handle, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(self.files[handle], min(size, most), offset)

    def op16(self, _, body, most=MAX_WRITE):            # write
        handle, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(self.files[handle], body[40:40 + min(size, most)], offset), 0)

    def op20(self, _, body):                            # fsync
        os.fdatasync(self.files[struct.unpack_from("<Q", body)[0]])
        return b""

    def op43(self, _, body):                            # fallocate
        handle, offset, length, mode = struct.unpack_from("<QQQI", body)
        if libc.fallocate(self.files[handle], mode, ctypes.c_long(offset), ctypes.c_long(length)):
            raise OSError(ctypes.get_errno(), "")
        return b""

    def op46(self, _, body):                            # lseek
        handle, offset, whence = struct.unpack_from("<QQI", body)
        return struct.pack("<Q", os.lseek(self.files[handle], offset, whence))

    def op31(self, *_):                                 # getlk, setlk, setlkw
        raise OSError(self.lock, "")

    op32 = op33 = op31

    def op18(self, _, body):                            # release
        os.close(self.files.pop(struct.unpack_from("<Q", body)[0]))
        return b""

    def op17(self, *_):                                 # statfs
        return struct.pack("<QQQQQIIII6I", 1 << 30, 1 << 29, 1 << 29, 1 << 20, 1 << 19, 4096, 255, 4096, 0, *[0] * 6)

    def op25(self, *_):                                 # flush, access, opendir, releasedir
        return b""

    op34 = op29 = op25

    def op27(self, *_):
        return struct.pack("<QII", 0, 0, 0)
