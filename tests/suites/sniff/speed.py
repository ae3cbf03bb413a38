"""speed.py PORT: the shortest time, in microseconds, in which a server that speaks first was heard."""

import socket
import sys
import time

best = 1e9
for _ in range(15):
    began = time.monotonic()
    flow = socket.create_connection(("203.0.113.10", int(sys.argv[1])), 20)
    flow.recv(100)
    best = min(best, time.monotonic() - began)
    flow.close()
print(round(best * 1e6))
