"""Manifests that differ in what a deployment has to know, and what is written for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pywatt_host.export import Facts, read
from pywatt_host.manifest import Source

COMMAND = "pywatt-host export demo"
APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("declined")
    status = 200 if scope["path"] == "/" else 404
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})
"""
SECRETS = {"DATABASE_URL": {"description": "Where users live"}, "PAGE_TOKEN": {"required": False}}
TLS = {"cert": "tls/server.pem", "key": "tls/server.key"}

MANIFESTS: dict[str, dict[str, Any]] = {
    "smallest": {},
    "named": {"module": {"id": "users", "version": "1.4.0+build.7", "description": 'User "accounts", 100 %\nof them'}},
    "odd-id": {"module": {"id": "9.Users_API"}},
    "every-interface": {"server": {"listen": ":9000"}},
    "privileged": {"server": {"listen": ":80"}},
    "port-0": {"server": {"listen": "127.0.0.1:0"}},
    "ipv6": {"server": {"listen": "[::1]:8080"}},
    "several": {"server": {"listen": [":8080", ":8081"]}},
    "unix": {
        "server": {
            "listen": {"unix": "run/x.sock", "mode": "0660", "group": "www-data"},
            "trusted_proxies": ["unix"],
            "control": "run/control.sock",
        }
    },
    "systemd": {"server": {"listen": "systemd"}},
    "workers": {"server": {"workers": 4}},
    "workers-auto": {"server": {"workers": "auto"}},
    "reload": {"server": {"reload": "watch"}},
    "admin": {"server": {"listen": ":8080", "admin": {"listen": ":9090"}}, "metrics": True},
    "admin-loopback": {"server": {"admin": {"listen": "127.0.0.1:8081"}}, "metrics": {"path": "/numbers"}},
    "admin-unix": {"server": {"admin": {"listen": "unix:run/admin.sock"}, "control": "off"}},
    "admin-same-port": {"server": {"listen": "unix:run/x.sock", "admin": {"listen": "127.0.0.1:8080"}}},
    "slow": {"server": {"timeouts": {"drain_delay": "12s", "shutdown": "1m30s"}}},
    "health-elsewhere": {"health": {"path": "/h", "liveness": "/h/live", "readiness": "/h/ready"}},
    "health-off": {"health": False},
    "secrets": {"secrets": {"keys": SECRETS}},
    "secrets-optional": {"secrets": {"keys": {"PAGE_TOKEN": {"required": False}}}},
    "secrets-mounted": {"secrets": {"sources": ["env", {"directory": "/etc/values"}], "keys": SECRETS}},
    "secrets-dotenv": {"secrets": {"sources": ["env", {"dotenv": ".env"}, {"directory": "here"}], "keys": SECRETS}},
    "secrets-vault": {
        "secrets": {
            "sources": [{"vault": {"address": "https://v.example", "path": "secret/users", "token": "${TOKEN}"}}],
            "keys": SECRETS,
        }
    },
    "sqlite": {
        "databases": {"default": "sqlite:///app.db", "other": "sqlite:////data/o.db"},
        "caches": {"c": "memory://"},
    },
    "variables": {"config": {"region": "${REGION}", "zone": "${ZONE:-x}", "set": "${SET_HERE:-x}"}},
    "nats": {"channels": {"nats": "nats://127.0.0.1:4222"}},
    "nats-elsewhere": {"channels": {"nats": ["nats://a.example", "nats://b.example"]}},
    "tls": {"server": {"listen": ":8443", "tls": TLS}},
    "tls-redirect": {"server": {"listen": "127.0.0.1:443", "tls": {**TLS, "redirect": ":80"}}},
    "tls-clients": {"server": {"listen": ":8443", "tls": {**TLS, "client_ca": "/etc/tls/clients.pem"}}},
    "tls-optional": {
        "server": {"listen": ":8443", "tls": {**TLS, "client_ca": "ca.pem", "client_cert": "optional"}},
        "health": {"path": "/h"},
    },
    "tls-admin": {
        "server": {
            "listen": ":8443",
            "tls": {**TLS, "client_ca": "ca.pem"},
            "admin": {"listen": ":9090", "tls": {"cert": "tls/admin.pem", "key": "tls/admin.key"}},
        }
    },
    "tls-own": {
        "server": {
            "listen": [
                {"address": "127.0.0.1:8080", "tls": "off"},
                {"address": "127.0.0.1:8443", "tls": {"cert": "/etc/tls/100 % o'own.pem", "key": "/etc/tls/own.key"}},
            ]
        }
    },
    "tls-both": {"server": {"listen": [{"address": ":8080", "tls": "off"}, ":8443"], "tls": TLS}},
    "tls-secrets": {
        "server": {"listen": ":8443", "tls": {"cert": "${secret:TLS_CERT}", "key": "${secret:TLS_KEY}"}},
    },
    "tls-unix": {"server": {"listen": "unix:run/x.sock", "tls": TLS}},
    "channel": {"channels": {"tcp": {"listen": ":9100", "token": "${secret:CHANNEL_TOKEN}"}}},
}
ENVIRON = {"SET_HERE": "yes", "TOKEN": "a-token-of-vault-that-nobody-may-see", "PYWATT__SERVER__LISTEN": ":1"}


def manifest(name: str) -> dict[str, Any]:
    """The caller's own."""
    return {"app": "main:app", **deepcopy(MANIFESTS[name])}


def facts_of(data: Mapping[str, Any], environ: Mapping[str, str] = ENVIRON, profile: str | None = None) -> Facts:
    """The facts of a manifest in the folder `users`, which is only there by name."""
    app = data["app"] if isinstance(data["app"], dict) else {"import_path": data["app"]}
    text = json.dumps({**data, "app": {"working_dir": "/", **app}})
    source = Source.of_text(text, directory=Path("/srv/users"))
    return read(source, profile=profile, environ=environ, command=COMMAND)[0]


def facts(name: str) -> Facts:
    return facts_of(manifest(name))
