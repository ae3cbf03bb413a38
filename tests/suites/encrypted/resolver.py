"""A resolver for DNS over TLS, and over HTTP for a front that speaks HTTPS.

Every question goes to the name server over TCP. Usage: resolver.py CERTIFICATE KEY
"""

import base64
import http.server
import socket
import socketserver
import ssl
import struct
import sys
import threading
import urllib.parse

UPSTREAM = ("10.90.4.2", 53)


def read(stream, length):
    data = b""
    while len(data) < length:
        piece = stream.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def message(stream):
    return read(stream, struct.unpack("!H", read(stream, 2))[0])


def resolve(question):
    with socket.create_connection(UPSTREAM, 10) as stream:
        stream.sendall(struct.pack("!H", len(question)) + question)
        answer = bytearray(message(stream))
        # The name server refuses types that it has none of, and browsers give up then.
        if answer[3] & 15 == 5:
            answer[3] &= 0xF0
        return bytes(answer)


class OverHttp(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, question):
        answer = resolve(question)
        self.send_response(200)
        self.send_header("content-type", "application/dns-message")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_POST(self):
        self.reply(self.rfile.read(int(self.headers["content-length"])))

    def do_GET(self):
        query = urllib.parse.urlsplit(self.path).query
        text = urllib.parse.parse_qs(query)["dns"][0]
        self.reply(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))

    def log_message(self, *_):
        print("asked over HTTPS", flush=True)


class OverTls(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.settimeout(10)
        try:
            with CONTEXT.wrap_socket(self.request, server_side=True) as stream:
                while True:
                    answer = resolve(message(stream))
                    print("asked over TLS", flush=True)
                    stream.sendall(struct.pack("!H", len(answer)) + answer)
        except (EOFError, OSError):
            pass


class Tls(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CONTEXT.load_cert_chain(sys.argv[1], sys.argv[2])
http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 8053), OverHttp)
threading.Thread(target=http_server.serve_forever, daemon=True).start()
Tls(("::", 853), OverTls).serve_forever()
