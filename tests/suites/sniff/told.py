#!/usr/bin/python3
"""told.py ADDRESS NAME: asks for NAME at ADDRESS, waits for a line, and asks once more."""

import socket
import sys

address, name = sys.argv[1:]
flow = socket.create_connection((address, 80), 20)


def ask():
    flow.sendall(b"GET / HTTP/1.1\r\nHost: " + name.encode() + b"\r\n\r\n")
    said = b""
    while b"sent=0\n" not in said:
        part = flow.recv(4096)
        if not part:
            raise OSError("it has ended")
        said += part
    print(said[said.index(b"peer="):].decode().split()[0], flush=True)


ask()
sys.stdin.readline()
try:
    ask()
except OSError:
    print("ended", flush=True)
