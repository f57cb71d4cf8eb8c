"""The manifests that the host is measured with, as text."""

from __future__ import annotations

from benchmarks.tokens import SECRET

LONG = 200  # lines

NOTHING_ON = """\
health: false
metrics: false
logging: {access: false}
"""

EVERYTHING_ON = """\
health: true
metrics: true
logging: {level: info, format: json, access: true}
"""


def host_manifest(
    app: str,
    port: int,
    *,
    interface: str = "asgi",
    paths: tuple[str, ...] = ("/",),
    full: bool,
    tokens: bool = False,
    workers: int = 1,
    reload: bool = False,
    tls: bool = False,
    tracing: str = "",
) -> str:
    """A manifest that serves `app` on loopback, with everything on and `paths` declared, or with nothing on. With
    `tokens`, every path asks for one; with `reload`, SIGHUP reloads; with `tls`, the certificate beside the manifest is
    used. `tracing` is the value of that key."""
    text = f"version: 1\nmodule: {{id: benchmark}}\napp: {{import_path: {app}, interface: {interface}, threads: 16}}\n"
    more = (f", workers: {workers}" if workers > 1 else "") + (", reload: signal" if reload else "")
    more += ", tls: {cert: certificate.pem, key: key.pem}" if tls else ""
    text += f"server: {{listen: 127.0.0.1:{port}{more}}}\n"
    text += f"tracing: {tracing}\n" if tracing else ""
    if not full:
        return text + NOTHING_ON
    auth = "auth: jwt" if tokens else "auth: none"
    endpoints = "".join(f'  - {{path: "{path}", methods: [GET], {auth}}}\n' for path in paths)
    schemes = f'auth: {{jwt: {{secret: "{SECRET}"}}}}\n' if tokens else ""
    return f"{text}{EVERYTHING_ON}{schemes}endpoints:\n{endpoints}"


def long_manifest() -> str:
    """A valid manifest of LONG lines that uses most sections, as a large service would have it."""
    head = """\
version: 1
module:
  id: users
  version: 1.4.0
  description: User accounts
  labels: {team: core}
app:
  import_path: benchmarks.apps.raw:app
  interface: asgi
server:
  listen: ["127.0.0.1:${BENCH_PORT:-0}"]
  limits: {body: 10MiB, header: 64KiB, concurrency: 1000}
  timeouts: {header: 10s, keep_alive: 5s, shutdown: 25s}
health:
  path: /health
  interval: 5s
metrics:
  path: /metrics
  buckets: [0.005, 0.05, 0.5]
logging:
  level: ${BENCH_LEVEL:-info}
  format: json
config:
  page_size: 50
  regions: [north, south]
profiles:
  dev:
    logging: {level: debug}
endpoints:
"""
    lines = head.splitlines()
    for number in range(LONG // 2):
        lines += [f'  - path: "/api/v1/things{number}/{{id}}/parts/{{part}}"', "    methods: [GET, PUT, DELETE]"]
    return "\n".join(lines[:LONG]) + "\n"  # an endpoint cut after its path is still one: methods have a default
