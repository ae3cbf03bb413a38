"""Connects to Unix sockets by every spelling: knock.py DIRECTORY/NAME…, below /run; a line for each."""
import ctypes, os, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
AF_UNIX, SOCK_STREAM = 1, 1


def connect(path):
    """As the kernel has it: no zero at the end."""
    path = os.fsencode(path)
    address = struct.pack("H", AF_UNIX) + path
    door = libc.socket(AF_UNIX, SOCK_STREAM, 0)
    failed = libc.connect(door, address, len(address))
    error = ctypes.get_errno() if failed else 0
    os.close(door)
    return error


def long(end):
    """All 108 bytes that a path may have."""
    fill = 108 - len("/run") - len(end)
    return "/run" + "/" * (fill % 2) + "/." * (fill // 2) + end


def relative(where, path):
    os.chdir(where)
    try:
        return connect(path)
    finally:
        os.chdir("/")


def knock(tail):
    directory, name = os.path.split(tail)
    parent, folder = os.path.split(directory)
    place = "/run/" + directory
    held = os.open(place, os.O_PATH)
    itself = os.open(place + "/" + name, os.O_PATH)
    link = os.path.join(os.environ["HOME"], "link-%d-%s" % (os.getuid(), directory.replace("/", "-")))
    if not os.path.islink(link):
        os.symlink(place, link)
    tries = {
        "plain": lambda: connect("/run/" + tail),
        "terminated": lambda: connect("/run/" + tail + "\0\0/other"),
        "/var": lambda: connect("/var/run/" + tail),
        "slashes": lambda: connect("//run///" + tail.replace("/", "//")),
        "dots": lambda: connect("/run/./" + directory + "/../" + folder + "/./" + name),
        "above the root": lambda: connect("/../../run/" + tail),
        "/proc/self/root": lambda: connect("/proc/self/root/run/" + tail),
        "/proc/PID/root": lambda: connect("/proc/%d/root/run/%s" % (os.getpid(), tail)),
        "/proc/self/cwd": lambda: relative(place, "/proc/self/cwd/" + name),
        "task": lambda: relative("/run", "/proc/self/task/%d/cwd/%s" % (os.getpid(), tail)),
        "long": lambda: connect(long("/" + tail)),
        "from there": lambda: relative(place, name),
        "from there, dotted": lambda: relative(place, ".//./" + name),
        "from there, up": lambda: relative(place, "../" + folder + "/" + name),
        "from above": lambda: relative("/run/" + parent, folder + "/" + name),
        "from /run": lambda: relative("/run", "./" + tail),
        "from the root": lambda: relative("/", "run/" + tail),
        "by a link to there": lambda: relative(link, name),
        "directory's descriptor": lambda: connect("/proc/self/fd/%d/%s" % (held, name)),
        "directory's descriptor, /dev": lambda: connect("/dev/fd/%d/%s" % (held, name)),
        "socket's descriptor": lambda: connect("/proc/self/fd/%d" % itself),
    }
    for spelling, work in tries.items():
        print(tail, spelling, work(), sep=": ")


for tail in sys.argv[1:]:
    knock(tail)
# Last: there is no way back from it.
if os.getuid() == 0:
    os.chroot("/run")
    os.chdir("/")
    for tail in sys.argv[1:]:
        print(tail, "another root", connect("/" + tail), sep=": ")
