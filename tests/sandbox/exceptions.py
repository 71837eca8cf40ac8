"""Rows that no run here can use, each with the reason. A row that is used and stands here fails the test."""

# kind of role (None: any), system call, words of the row's reason (None: any), why it cannot be seen here
ROWS = [
    (None, "clock_gettime", None, "the vDSO answers where the clock is one that it can read"),
    ("main", "brk", None, "the heap has room left in these runs"),
    ("main", "ioctl", "a guest of its own", "only with --cpus nested=on, which needs a host with nested virtualisation"),
    ("main", "ioctl", "end that", "only with --cpus nested=on, which needs a host with nested virtualisation"),
    ("keeper", "brk", None, "the heap has room left in these runs"),
    (None, "ioctl", "still there", "the interface stays for as long as its machine"),
    (None, "sendto", "about the interface", "only when the host lost messages"),
    (None, "ioctl", "a large frame", "the guest sends none through passt"),
    (None, "sendmsg", "a large frame", "the guest sends none through passt"),
    ("worker", "ftruncate", "capture", "no guest here moves a mebibyte of frames"),
    ("main", "timerfd_settime", None, "nobody changes a limit while the machine runs"),
]


def find(row):
    for kind, call, words, why in ROWS:
        if kind in (None, row.kind) and call == row.call and (words is None or words in row.why):
            return why
    return None
