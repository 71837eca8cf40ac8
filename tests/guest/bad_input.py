"""What a user can get wrong: one sentence that names option and value, status 1, nothing half-made."""
import os
import socket

from machine import expect

BIG = str(1 << 64)

# name, options ({guest} and files below are filled in), words that the sentence holds
ROWS = [
    ("no kernel", "--disk path={disk}", "--kernel"),
    ("kernel missing", "--kernel {none}", "--kernel {none}"),
    ("kernel a directory", "--kernel {directory}", "--kernel {directory} directory"),
    ("kernel empty", "--kernel {empty}", "--kernel {empty} empty"),
    ("kernel truncated", "--kernel {truncated}", "--kernel {truncated} truncated"),
    ("kernel a text", "--kernel {text}", "--kernel {text} not a kernel"),
    ("initramfs missing", "--kernel {guest} --initramfs {none}", "--initramfs {none}"),
    ("initramfs too large", "--kernel {guest} --memory 128M --initramfs {large}", "--initramfs {large} --memory"),
    ("disk missing", "--kernel {guest} --disk path={none}", "--disk path={none} no such file"),
    ("disk a directory", "--kernel {guest} --disk path={directory}", "--disk {directory} directory"),
    ("disk empty", "--kernel {guest} --disk path={empty}", "--disk {empty} empty"),
    ("disk of an odd size", "--kernel {guest} --disk path={text}", "--disk {text} multiple of 512"),
    ("disk twice", "--kernel {guest} --disk path={disk} path={disk}", "--disk {disk} in use"),
    ("disk socket missing", "--kernel {guest} --disk socket={none}", "--disk socket={none} no such socket vhost_mode"),
    ("disk socket no socket", "--kernel {guest} --disk socket={text}", "--disk socket={text} nobody listens"),
    ("disk socket of nobody", "--kernel {guest} --disk socket={dead}", "--disk socket={dead} nobody listens"),
    ("disk socket and path", "--kernel {guest} --disk socket={none},path={disk}", "--disk socket={none},path leave out"),
    ("disk socket and readonly", "--kernel {guest} --disk socket={none},readonly=on", "readonly leave out"),
    ("disk vhost_user alone", "--kernel {guest} --disk vhost_user=on", "--disk vhost_user=on socket=PATH"),
    ("disk server where something is", "--kernel {guest} --disk socket={text},vhost_mode=server", "{text} no socket is there"),
    ("disk server nowhere", "--kernel {guest} --disk socket={none}/s,vhost_mode=server", "{none}/s check the path"),
    ("disk socket too long", "--kernel {guest} --disk socket={none}" + "x" * 108, "--disk socket= longer than the 107"),
    ("disk socket in private memory", "--kernel {guest} --memory size=64M,shared=off --disk socket={none}", "shared"),
    ("net socket missing", "--kernel {guest} --net socket={none}", "--net socket={none} no such socket"),
    ("net socket and tap", "--kernel {guest} --net socket={none},tap=tap0", "--net socket={none} tap leave out"),
    ("net socket, odd queues", "--kernel {guest} --net socket={none},num_queues=3", "num_queues=3 pairs"),
    ("net vhost_user alone", "--kernel {guest} --net vhost_user=on", "--net vhost_user=on socket=PATH"),
    ("disk queue size", "--kernel {guest} --disk path={disk},queue_size=100", "queue_size=100 power of two"),
    ("disk serial too long", "--kernel {guest} --disk path={disk},serial=123456789012345678901", "serial= 20 bytes"),
    ("disk without path", "--kernel {guest} --disk readonly=on", "--disk path"),
    ("disk on_error unknown", "--kernel {guest} --disk path={disk},on_error=panic", "--disk on_error=panic enospc report pause"),
    ("disk limit without a time", "--kernel {guest} --disk path={disk},ops_size=5", "--disk ops_size=5 ops_refill_time="),
    ("disk group unknown", "--kernel {guest} --disk path={disk},rate_group=x", "--disk rate_group=x --rate-group"),
    ("disk a terminal", "--kernel {guest} --disk path=/dev/null", "--disk /dev/null block device"),
    ("option unknown", "--kernel {guest} --dsk path={disk}", "--dsk --disk"),
    ("key unknown", "--kernel {guest} --disk pth={disk}", "pth 'path'"),
    ("option without value", "--kernel {guest} --disk", "--disk value"),
    ("option twice", "--kernel {guest} --memory 128M --memory 64M", "--memory"),
    ("word too much", "--kernel {guest} word", "word"),
    ("size overflows", "--kernel {guest} --memory size=" + BIG, "--memory size=" + BIG + " too large"),
    ("size with a unit overflows", "--kernel {guest} --memory size=99999999999T", "--memory size= too large"),
    ("size not one", "--kernel {guest} --memory size=12Q", "--memory size=12Q not a size"),
    ("size negative", "--kernel {guest} --memory size=-1", "--memory size=-1"),
    ("memory unaligned", "--kernel {guest} --memory size=1025K", "--memory multiple of 4K"),
    ("memory beyond the host", "--kernel {guest} --memory size=7T", "--memory size 7168 GiB give less"),
    ("memory too little", "--kernel {guest} --memory size=2M", "--kernel --memory size="),
    ("vCPUs none", "--kernel {guest} --cpus boot=0", "--cpus boot=0"),
    ("vCPUs too many", "--kernel {guest} --cpus boot=1025", "--cpus boot=1025"),
    ("vCPUs topology", "--kernel {guest} --cpus boot=3,topology=1:2:1:1", "--cpus topology=1:2:1:1 3"),
    ("on-reset unknown", "--kernel {guest} --on-reset=maybe", "--on-reset maybe reboot exit"),
    ("two users of the terminal", "--kernel {guest} --serial tty --console tty", "--console tty --serial"),
    ("serial file", "--kernel {guest} --serial file={none}/x", "--serial file={none}/x"),
    ("serial socket", "--kernel {guest} --serial socket={none}/x", "--serial socket={none}/x"),
    ("serial file and socket", "--kernel {guest} --serial file=a,socket=b", "--serial file= socket="),
    ("rng source missing", "--kernel {guest} --rng src={none}", "--rng src={none}"),
    ("net two kinds", "--kernel {guest} --net user,tap=x", "--net user tap"),
    ("net no kind of address", "--kernel {guest} --net user,mac=zz", "--net mac=zz"),
    ("net group address", "--kernel {guest} --net user,mac=01:00:00:00:00:00", "--net mac= 02"),
    ("net fd not open", "--kernel {guest} --net fd=99", "--net fd=99"),
    ("net tap name too long", "--kernel {guest} --net tap=abcdefghijklmnopq", "--net tap=abcdefghijklmnopq"),
    ("config missing", "--config {none}", "--config {none}"),
    ("config no JSON", "--config {text}", "{text} JSON"),
    ("config unknown member", "--config {json}", "{json} kernl kernel"),
    ("log file", "--kernel {guest} --log-file {none}/x", "--log-file {none}/x"),
]


def dead_socket(path):
    """One whose program has ended."""
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.close()
    return path


def files(bench):
    with open(bench.guest, "rb") as f:
        head = f.read(5000)
    return {
        "guest": bench.guest,
        "none": bench.path("none"),
        "directory": bench.directory,
        "empty": bench.file("empty"),
        "truncated": bench.file("truncated", data=head),
        "text": bench.file("text", data=b"hello\n"),
        "dead": dead_socket(bench.path("dead")),
        "large": bench.file("large", 300 << 20),
        "disk": bench.file("disk", 1 << 20),
        "json": bench.file("json", data=b'{"payload": {"kernl": "x"}}'),
    }


def one_sentence(p, words):
    status = p.finish()
    text = p.output
    expect(status == 1, f"exit status {status}\n{text}")
    expect(len(text.splitlines()) == 1 and text.startswith("microvm: error: "), f"not one sentence\n{text}")
    for word in words:
        expect(word in text, f"no '{word}' in: {text}")


def refused(options, words):
    def case(bench):
        bench.need_kvm()
        names = files(bench)
        before = set(os.listdir(bench.directory))
        p = bench.start(*[o.format(**names) for o in options.split()])
        one_sentence(p, [w.format(**names) for w in words.split()])
        expect(set(os.listdir(bench.directory)) == before, "something half-made is left behind")
    return case


def socket_is_removed(bench):
    """A later option fails: what the earlier ones made goes."""
    bench.need_kvm()
    p = bench.start("--kernel", bench.guest, "--serial", f"socket={bench.path('s')}", "--disk", "path=/nonexistent")
    one_sentence(p, ["--disk", "/nonexistent"])
    expect(not os.path.exists(bench.path("s")), "the socket is left behind")


def no_passt(bench):
    bench.need_kvm()
    p = bench.start("--kernel", bench.guest, "--net", "user", within=["env", f"PATH={bench.directory}"])
    one_sentence(p, ["--net user", "passt", "apt install"])


def no_kvm(bench):
    """A mount namespace whose /dev has no kvm."""
    from machine import Skip
    if os.geteuid():
        raise Skip("hiding /dev/kvm needs root")
    within = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"]
    p = bench.start("--kernel", bench.guest, within=within)
    one_sentence(p, ["/dev/kvm"])


def no_right_to_kvm(bench):
    from machine import Skip
    if os.geteuid():
        raise Skip("becoming another user needs root")
    if os.stat("/dev/kvm").st_mode & 0o006:
        within = ["unshare", "-m", "sh", "-c", "mknod $0/kvm c 10 232 && chmod 600 $0/kvm && "
                  "mount --bind $0/kvm /dev/kvm && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"",
                  bench.directory]
    else:
        within = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    program = bench.file("microvm", data=open(bench.program, "rb").read())
    os.chmod(program, 0o755)
    os.chmod(bench.directory, 0o755)
    guest = bench.file("guest.elf", data=open(bench.guest, "rb").read())
    saved, bench.program = bench.program, program
    try:
        p = bench.start("--kernel", guest, within=within)
    finally:
        bench.program = saved
    one_sentence(p, ["/dev/kvm"])


def cases():
    for name, options, words in ROWS:
        yield f"refused: {name}", refused(options, words)
    yield "refused: nothing half-made", socket_is_removed
    yield "refused: passt not installed", no_passt
    yield "refused: no /dev/kvm", no_kvm
    yield "refused: no right to /dev/kvm", no_right_to_kvm
