# mypy: ignore-errors
"""A module in the shapes of the original's Python half, with the standard library alone: it announces without `op`,
with `auth: null`, on standard input and output alone, and serves HTTP there as well. It asks for the secret GREETING
before it announces, and answers every message with its own id."""

import http.server
import json
import sys
import threading

init = json.loads(sys.stdin.readline())


def send(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{init['module_id']} has {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


send({"op": "get_secret", "name": "GREETING"})
greeting = json.loads(sys.stdin.readline())
assert greeting["op"] == "secret", greeting
print("a print that was forgotten", flush=True)
host, _, port = init["listen"].rpartition(":")
server = http.server.ThreadingHTTPServer((host, int(port)), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
send({"listen": init["listen"], "endpoints": [{"path": "/hello", "methods": ["GET"], "auth": None}]})
sys.stderr.write(f"the greeting is {greeting['value']}\n")
for line in sys.stdin:
    message = json.loads(line)
    if message["op"] == "heartbeat":
        send({"op": "heartbeat_ack"})
    elif message["op"] == "shutdown":
        break
    elif message["op"] == "rotated":
        send({"op": "rotation_ack", "rotation_id": message["rotation_id"], "status": "error", "message": "not mine"})
    elif message["op"] == "routed_module_message":
        content = {"type": "hello", "from": init["module_id"]}
        send(
            {
                "op": "route_to_module",
                "target_module_id": message["source_module_id"],
                "target_endpoint": "",
                "request_id": message["original_request_id"],
                "payload": {"data": list(json.dumps(content).encode()), "format": "Json"},
            }
        )
