"""What apps send first, in parts; each line of the output is what came of it."""

import socket
import ssl
import sys
import time

ADDRESS = "203.0.113.10"


def connect(port):
    flow = socket.create_connection((ADDRESS, port), 20)
    flow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return flow


def secure(name, size, wait):
    """A request over TLS whose hello comes after so many seconds, in parts of this size."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    read, write = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(read, write, server_hostname=name)
    flow = connect(443)
    time.sleep(wait)

    def until(step):
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                done = None
            out = write.read()
            for at in range(0, len(out), size):
                flow.sendall(out[at:at + size])
            if done is not None:
                return done
            read.write(flow.recv(65536))

    until(lambda: client.do_handshake() or True)
    until(lambda: client.write(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"))
    return until(lambda: client.read(4096)).decode().split("peer=")[1].split()[0]


def echoed(*parts):
    """What the echo makes of these bytes: all of them, in order, whatever they look like."""
    flow = connect(7)
    for part in parts:
        flow.sendall(part)
        time.sleep(0.01)
    flow.shutdown(socket.SHUT_WR)
    said = b""
    while part := flow.recv(65536):
        said += part
    return "whole" if said == b"".join(parts) else f"{len(said)} bytes"


for name in "v4.test", "origin.test":
    for size, wait in (1, 0), (100, 0), (100000, 0), (100000, 0.02), (100, 0.2):
        print(name, size, wait, secure(name, size, wait))
hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
for what, parts in {
    "nothing": [],
    "one byte": [b"\x16"],
    "half a hello": [hello],
    "half a hello, then the rest": [hello, bytes(1000)],
    "bad records": [b"\x16\x03\x01\x00\x00" * 5000],
    "a hello that never ends": [b"\x16\x03\x01\x00\x01\x01" * 20000],
    "half a request": [b"GET / HTTP/1.1\r\nHost: v4."],
    "a long request": [b"GET / HTTP/1.1\r\nX: " + b"a" * 100000],
    "any bytes": [bytes(range(256)) * 400],
}.items():
    print(what, echoed(*parts))
# The server speaks first, and the app only then.
flow = connect(2001)
banner = flow.recv(100)
flow.sendall(hello)
flow.shutdown(socket.SHUT_WR)
said = b""
while part := flow.recv(65536):
    said += part
print("a banner", "whole" if said == hello and banner.startswith(b"10.90.2.2:") else (banner, said))
sys.stdout.flush()
