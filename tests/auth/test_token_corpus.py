"""Every token of the corpus over HTTP, to an ASGI and to a WSGI application that answer everybody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.auth.corpus import Case, cases
from tests.processes import Connection, Host, Project

ASGI = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    body = json.dumps({"reached": True, "sub": scope["pywatt.claims"].get("sub")}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
WSGI = """
import json

def app(environ, start_response):
    body = json.dumps({"reached": True, "sub": environ["pywatt.claims"].get("sub")}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
UNAUTHORIZED = {"type": "about:blank", "title": "Unauthorized", "status": 401}


def schemes() -> dict[str, dict[str, Any]]:
    """Each set of options once, by a name."""
    different = {json.dumps(case.options, sort_keys=True): dict(case.options) for case in cases()}
    return {f"s{number}": options for number, options in enumerate(different.values())}


@pytest.fixture
def host(project: Project) -> Host:
    """All schemes in one host, each with an endpoint in both applications."""
    project.write("asgi.py", ASGI)
    project.write("wsgi.py", WSGI)
    names = schemes()
    project.manifest(
        app={"import_path": "asgi:app", "route_prefix": "/unused"},
        mounts=[
            {"route_prefix": "/a", "import_path": "asgi:app"},
            {"route_prefix": "/w", "import_path": "wsgi:app", "interface": "wsgi"},
        ],
        auth=names,
        endpoints=[{"path": f"/{way}/{name}", "auth": name} for way in "aw" for name in names],
        server={"listen": "127.0.0.1:0", "limits": {"header": "128KiB"}},
        metrics=True,
    )
    return project.host()


def asked(connection: Connection, path: str, token: bytes) -> tuple[int, Any, str]:
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ".encode()
    connection.send(head + token + b"\r\n\r\n")
    response = connection.response()
    return response.status, response.json(), response.headers.get("www-authenticate", "")


def test_the_corpus_is_large_and_says_why() -> None:
    assert len(cases()) >= 160
    assert len({case.id for case in cases()}) == len(cases())
    assert all(case.why for case in cases())
    assert sum(case.good for case in cases()) >= 40


def test_every_bad_token_is_401_and_every_good_one_200(host: Host) -> None:
    names = {json.dumps(options, sort_keys=True): name for name, options in schemes().items()}
    sent: list[Case] = [case for case in cases() if case.fits_a_header]
    assert len(sent) >= 150
    wrong: list[str] = []
    for way in "aw":
        with host.connect() as connection:
            for case in sent:
                path = f"/{way}/{names[json.dumps(case.options, sort_keys=True)]}"
                for _ in range(2):  # the second time it may be remembered
                    status, body, challenge = asked(connection, path, case.token)
                    if case.good:
                        if status != 200 or body != {"reached": True, "sub": body.get("sub")}:
                            wrong.append(f"{case.id} ({way}): {status} in place of 200: {case.why}")
                    elif (
                        status != 401
                        or body != UNAUTHORIZED
                        or 'error="invalid_token"' not in challenge.replace("bearer", "Bearer")
                    ):
                        wrong.append(f"{case.id} ({way}): {status} {body} {challenge} in place of 401: {case.why}")
    assert wrong == []
    text = host.get("/metrics").body.decode()
    refused = sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("pywatt_auth_failures_total{")
    )
    assert refused == 4 * sum(not case.good for case in sent)
    assert not any("Traceback" in line for line in host.lines)
