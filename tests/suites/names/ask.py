"""Asks for names, and uses what it was told, one step for each argument, one line for each step."""

import os, select, socket, struct, sys, time

DNS = sys.argv[1]


def wire(name):
    return b"".join(bytes([len(l)]) + l.encode() for l in name.strip(".").split(".")) + b"\0"


def query(number, name, kind):
    head = struct.pack(">HHHHHH", number, 0x100, 1, 0, 0, 0)
    return head + wire(name) + struct.pack(">HH", kind, 1)


def dns_socket():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((DNS, 53))
    s.settimeout(10)
    return s


def ask(name, kind):
    """The answer without its number, or the code."""
    s = dns_socket()
    s.send(query(7, name, kind))
    answer = s.recv(4096)
    return answer


def address(answer):
    """The last address of an answer, or its code."""
    if struct.unpack(">H", answer[6:8])[0] == 0:
        return "code %d" % (answer[3] & 15)
    length = 16 if struct.unpack(">H", answer[-18:-16])[0] == 16 else 4
    family = socket.AF_INET6 if length == 16 else socket.AF_INET
    return socket.inet_ntop(family, answer[-length:])


def look(name):
    return "%s %s" % (address(ask(name, 1)), address(ask(name, 28)))


def back(ip):
    """The name, or all that can be told of an answer without one."""
    if ":" in ip:
        digits = socket.inet_pton(socket.AF_INET6, ip).hex()
        name = ".".join(reversed(digits)) + ".ip6.arpa"
    else:
        name = ".".join(reversed(ip.split("."))) + ".in-addr.arpa"
    answer = ask(name, 12)
    rest = answer[12 + len(wire(name)) + 4 :]
    count = struct.unpack(">H", answer[6:8])[0]
    if not count:
        return "code %d, %s, %d bytes" % (answer[3] & 15, answer[2:12].hex(), len(rest))
    labels, at = [], 12
    while rest[at]:
        labels.append(rest[at + 1 : at + 1 + rest[at]].decode())
        at += 1 + rest[at]
    return ".".join(labels)


def target(text):
    ip, port = text.rsplit(",", 1)
    return (socket.AF_INET6 if ":" in ip else socket.AF_INET), (ip, int(port))


def tcp(text):
    family, to = target(text)
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(20)
    try:
        s.connect(to)
        said = s.recv(100)
        return "open " + said.decode().strip() if said else "ended"
    except ConnectionError as error:
        return type(error).__name__


def udp(text):
    family, to = target(text)
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(10)
    try:
        s.connect(to)
        s.send(b"x")
        return "said " + s.recv(100).decode()
    except ConnectionError as error:
        return type(error).__name__


def silent(text):
    """Sends a datagram that nobody answers."""
    family, to = target(text)
    socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", to)
    return "sent"


def keep(text):
    """Keeps a connection open until standard input ends."""
    s = socket.create_connection(target(text)[1])
    said = s.recv(100)
    sys.stdin.read()
    return said


def become(uid):
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    return "user"


def many(text):
    """FILE,COUNT,TYPE: what is told is held against what the file has from before."""
    file, count, kind = text.split(",")
    count, kind = int(count), int(kind)
    size = 4 if kind == 1 else 16
    before = open(file, "rb").read() if os.path.exists(file) else b""
    told, failed = bytearray(size * count), 0
    s = dns_socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    names = [b"\x07n%06d" % n + b"\x04wild\x04test\0" for n in range(count)]
    tail = struct.pack(">HH", kind, 1)
    for begin in range(0, count, 50_000):
        # Fewer than there are numbers of queries.
        todo, asked = list(range(begin, min(count, begin + 50_000))), {}
        while todo or asked:
            while todo and len(asked) < 100:
                n = todo.pop()
                asked[n & 0xFFFF] = n
                s.send(struct.pack(">HHHHHH", n & 0xFFFF, 0x100, 1, 0, 0, 0) + names[n] + tail)
            if not select.select([s], [], [], 1)[0]:
                todo.extend(asked.values())
                asked.clear()
                continue
            answer = s.recv(4096)
            n = asked.pop(struct.unpack(">H", answer[:2])[0], None)
            if n is None:
                continue
            if answer[3] & 15 or not answer[7]:
                failed += 1
                continue
            told[n * size : n * size + size] = answer[-size:]
    if not before:
        open(file, "wb").write(told)
    each = lambda text: [bytes(text[n : n + size]) for n in range(0, len(text), size)]
    changed = sum(a != b for a, b in zip(each(told), each(before)))
    return "%d different, %d changed, %d failed" % (len(set(each(told))), changed, failed)


for step in sys.argv[2:]:
    verb, _, text = step.partition(":")
    print(globals()[verb](text), flush=True)
