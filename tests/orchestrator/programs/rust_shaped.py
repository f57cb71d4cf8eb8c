# mypy: ignore-errors
"""A module in the shapes of the original's Rust types, with the standard library alone. Like serde without defaults, it
refuses every message that is not exactly one of its own.

Standard input: init. It serves HTTP at init.listen, announces, and speaks frames over init.ipc_channel or
init.tcp_channel where there is one, else lines on standard input and output.

Answers messages: {"type": "echo", ...} with the same; {"type": "relay", "to", "message"} with what that module answers;
{"type": "secret", "name"} with its length; {"type": "mute"} never; {"type": "die"} by crashing.
"""

import http.server
import json
import os
import socket
import struct
import sys
import threading
import uuid

SHAPES = {
    "secret": {"op", "name", "value", "rotation_id"},
    "rotated": {"op", "keys", "rotation_id"},
    "shutdown": {"op"},
    "heartbeat": {"op"},
    "register_service_provider_response": {"op", "success", "provider_id", "error"},
    "discover_service_providers_response": {"op", "success", "providers", "error"},
    "http_request": {"op", "request_id", "method", "uri", "headers", "body"},
    "routed_module_message": {"op", "source_module_id", "original_request_id", "payload"},
    "routed_module_response": {"op", "source_module_id", "request_id", "payload"},
}
OPTIONAL = {"rotation_id"}


class Lines:
    def send(self, op):
        sys.stdout.write(json.dumps(op) + "\n")
        sys.stdout.flush()

    def receive(self):
        line = sys.stdin.readline()
        return json.loads(line) if line else None


class Frames:
    def __init__(self, sock, init):
        self.sock = sock
        self.lock = threading.Lock()
        self.send({"op": "identify", "module_id": init["module_id"], "auth_token": init["auth_token"]})

    def send(self, op):
        envelope = {"id": str(uuid.uuid4()), "content": op, "metadata": {}}
        octets = json.dumps(envelope).encode()
        with self.lock:
            self.sock.sendall(struct.pack(">IB", len(octets), 1) + octets)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                return None
            data += piece
        return data

    def receive(self):
        head = self.exactly(5)
        if head is None:
            return None
        length, format = struct.unpack(">IB", head)
        if format != 1:
            raise SystemExit("not JSON")
        return json.loads(self.exactly(length))


class Module:
    def __init__(self, init):
        self.id = init["module_id"]
        self.waiting = {}
        self.secrets = {}
        self.rotations = 0
        host, _, port = init["listen"].rpartition(":")
        self.server = http.server.ThreadingHTTPServer((host, int(port)), self.handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.stdio = Lines()
        self.channel = self.stdio
        if init.get("ipc_channel"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(init["ipc_channel"]["socket_path"])
            self.channel = Frames(sock, init)
        elif init.get("tcp_channel"):
            host, _, port = init["tcp_channel"]["address"].rpartition(":")
            self.channel = Frames(socket.create_connection((host, int(port))), init)

    def handler(self):
        module = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = json.dumps(
                    {"module": module.id, "path": self.path, "pid": os.getpid(), "headers": dict(self.headers)}
                ).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler

    def payload(self, content):
        return {"data": list(json.dumps(content).encode()), "format": "Json"}

    def content(self, payload):
        assert set(payload) == {"data", "format"}, payload
        document = json.loads(bytes(payload["data"]))
        return document["content"] if "content" in document and "type" not in document else document

    def route(self, target, request_id, content):
        self.channel.send(
            {
                "op": "route_to_module",
                "target_module_id": target,
                "target_endpoint": "",
                "request_id": request_id,
                "payload": self.payload(content),
            }
        )

    def check(self, message):
        shape = SHAPES.get(message.get("op"))
        if shape is None or not shape - OPTIONAL <= set(message) <= shape:
            sys.stderr.write(f"refused: {json.dumps(message)}\n")
            os._exit(9)

    def run(self):
        host, port = self.server.server_address[:2]
        address = f"{host}:{port}"
        endpoints = [
            {"path": "/things/{id}", "methods": ["GET"]},
            {"path": "/echo", "methods": ["POST"], "auth": "jwt"},
        ]
        self.stdio.send({"op": "announce", "listen": address, "endpoints": endpoints})
        self.channel.send(
            {
                "op": "register_service_provider",
                "service_type": {"Custom": "things"},
                "name": f"{self.id}-things",
                "version": None,
                "address": address,
                "metadata": None,
            }
        )
        if self.channel is not self.stdio:
            threading.Thread(target=self.listen, args=(self.stdio,), daemon=False).start()
        self.listen(self.channel)

    def listen(self, channel):
        while True:
            message = channel.receive()
            if message is None:
                if channel is self.stdio:
                    os._exit(5)
                return
            self.check(message)
            getattr(self, message["op"], lambda message, channel: None)(message, channel)

    def heartbeat(self, message, channel):
        channel.send({"op": "heartbeat_ack"})

    def shutdown(self, message, channel):
        os._exit(0)

    def rotated(self, message, channel):
        self.rotations += 1
        channel.send({"op": "rotation_ack", "rotation_id": message["rotation_id"], "status": "success"})

    def secret(self, message, channel):
        source, request_id = self.secrets.pop(message["name"])
        self.route(source, request_id, {"type": "secret", "length": len(message["value"]), "rotations": self.rotations})

    def http_request(self, message, channel):
        body = f"{message['method']} {message['uri']} over the channel".encode()
        channel.send(
            {
                "op": "http_response",
                "request_id": message["request_id"],
                "status_code": 200,
                "headers": {"content-type": "text/plain"},
                "body": list(body),
            }
        )

    def routed_module_message(self, message, channel):
        source, request_id = message["source_module_id"], message["original_request_id"]
        content = self.content(message["payload"])
        kind = content.get("type")
        if kind == "echo":
            self.route(source, request_id, {**content, "from": self.id, "pid": os.getpid()})
        elif kind == "relay":
            inner = str(uuid.uuid4())
            self.waiting[inner] = (source, request_id)
            self.route(content["to"], inner, content["message"])
        elif kind == "secret":
            self.secrets[content["name"]] = (source, request_id)
            self.channel.send({"op": "get_secret", "name": content["name"]})
        elif kind == "die":
            os._exit(7)
        elif kind == "garbage":
            sys.stdout.write('just a print\n{"half": \n')
            sys.stdout.flush()
            self.route(source, request_id, None)
        elif kind != "mute":
            self.route(source, request_id, {"type": "error", "code": "no_handler", "message": "none"})

    def routed_module_response(self, message, channel):
        source, request_id = self.waiting.pop(message["request_id"])
        self.route(source, request_id, {"type": "relayed", "answer": self.content(message["payload"])})


if __name__ == "__main__":
    init = json.loads(sys.stdin.readline())
    sys.stderr.write(f"{init['module_id']} begins\n")
    Module(init).run()
