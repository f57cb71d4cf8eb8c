"""A Dockerfile: two stages, the packages that the project names, a user without rights, and no secret in any layer."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pywatt_host import __version__
from pywatt_host.export.container import Container, container, folder_of, health_command
from pywatt_host.export.facts import Exported, ExportOptions, Facts, SecretMount
from pywatt_host.export.text import head
from pywatt_host.manifest.model import DirectoryMount, Manifest
from pywatt_host.manifest.model.stores import scheme_of

FILE = "Dockerfile"
IGNORE_FILE = ".dockerignore"
_UV = "ghcr.io/astral-sh/uv:0.9"
_SECRETS = "/run/secrets"
_VENV = "/srv/venv"
_APP = "/srv/app"
_NOBODY = "65534:65534"  # a number, so that Kubernetes can check that it is not root
_MAX_BYTES = 1024 * 1024  # of a pyproject.toml or requirements.txt that is read
_EXTRAS = {
    "postgresql": "postgresql",
    "mysql": "mysql",
    "redis": "redis",
    "rediss": "redis",
    "memcached": "memcached",
}
# What no image needs, and what no image may have.
_HARMLESS = (".git", ".venv", "venv", "**/__pycache__", "**/*.pyc", ".pytest_cache", "compose.yaml", FILE, IGNORE_FILE)
_SENSITIVE = (".pywatt", ".env", ".env.*", "secrets", "**/*.pem", "**/*.key")
_IGNORED = (*_HARMLESS, *_SENSITIVE)
_HOST = re.compile(r"^\W*pywatt[-_.]host\b", re.IGNORECASE | re.MULTILINE)
# Prints the dependencies of a pyproject.toml. It runs where the image is built, so that a changed file counts.
_DEPENDENCIES = (
    "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project'].get('dependencies', []), sep='\\n')"
)


@dataclass(frozen=True, slots=True)
class _Packages:
    """The lines that install packages into the virtual environment, and whether they install pywatt-host too."""

    lines: tuple[str, ...]
    has_host: bool
    note: str = ""


def dockerfile(facts: Facts, options: ExportOptions) -> Exported:
    """The Dockerfile of a module, and a .dockerignore for the folder beside it."""
    inside = container(facts, balanced=False, nats=options.nats)
    mount = facts.secret_mount(_SECRETS)
    packages = _packages(facts.manifest.directory)
    notes = [*_notes(facts, inside, mount), *([packages.note] if packages.note else [])]
    ignored = _ignored(facts.manifest)
    text = head(facts.name, facts.command, notes)
    text += "".join(
        line + "\n" for line in [*_build(packages, _extras(facts.manifest)), "", *_image(facts, inside, mount)]
    )
    return Exported({FILE: text}, tuple(notes), {IGNORE_FILE: "".join(f"{name}\n" for name in ignored)})


def _python() -> str:
    return f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"


def _build(packages: _Packages, extras: list[str]) -> Iterator[str]:
    yield f"FROM {_python()} AS build"
    yield f"RUN python -m venv {_VENV}"
    yield "WORKDIR /src"
    yield from packages.lines
    if not packages.has_host:
        wanted = f"pywatt-host[{','.join(extras)}]" if extras else "pywatt-host"
        yield f"RUN {_VENV}/bin/pip install --no-cache-dir {shlex.quote(f'{wanted}=={__version__}')}"


def _image(facts: Facts, inside: Container, mount: SecretMount | None) -> Iterator[str]:
    variables = {"PATH": f"{_VENV}/bin:$PATH", "PYTHONDONTWRITEBYTECODE": "1"}
    own = inside.variables | (mount.variables if mount is not None else {})
    yield f"FROM {_python()}"
    yield f"COPY --from=build {_VENV} {_VENV}"
    yield f"ENV PATH={variables['PATH']} \\"
    yield f"    PYTHONDONTWRITEBYTECODE={variables['PYTHONDONTWRITEBYTECODE']}" + (" \\" if own else "")
    for number, (name, value) in enumerate(own.items(), 1):
        yield f"    {name}={_quoted(value)}" + (" \\" if number < len(own) else "")
    yield f"WORKDIR {_APP}"
    yield f"# The manifest, the application and their files; {IGNORE_FILE} leaves out what no image may have."
    yield "COPY . ."
    yield f"RUN {_VENV}/bin/python -m compileall -q ."
    yield f"USER {_NOBODY}"
    ports = [*(port.number for port in inside.http), *([inside.admin.number] if inside.admin is not None else [])]
    ports += [port for port in (inside.redirect, inside.channel) if port is not None]
    yield f"EXPOSE {' '.join(map(str, dict.fromkeys(ports)))}"
    yield f"# To let the host drain: docker stop -t {facts.grace(balanced=False)}"
    yield "STOPSIGNAL SIGTERM"
    check = json.dumps(health_command(facts, inside))
    yield f"HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD {check}"
    target = [] if facts.target == "." else [facts.target]
    yield f"CMD {json.dumps(['pywatt-host', 'run', *target])}"


def _quoted(value: str) -> str:
    """A value for ENV, which replaces variables in double quotes."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


# Packages -------------------------------------------------------------------------------------------------------------


def _packages(folder: Path) -> _Packages:
    """How to install what the project needs: uv.lock, requirements.txt or pyproject.toml, the first there is."""
    project, requirements = _text(folder / "pyproject.toml"), _text(folder / "requirements.txt")
    pip = f"{_VENV}/bin/pip install --no-cache-dir"
    if project is not None and (folder / "uv.lock").is_file():
        lines: tuple[str, ...] = (
            f"COPY --from={_UV} /uv /bin/uv",
            "COPY pyproject.toml uv.lock ./",
            f"RUN UV_PROJECT_ENVIRONMENT={_VENV} uv sync --frozen --no-dev --no-install-project",
        )
        return _Packages(lines, 'name = "pywatt-host"' in (_text(folder / "uv.lock") or ""))
    if requirements is not None:
        lines = ("COPY requirements.txt ./", f"RUN {pip} -r requirements.txt")
        return _Packages(lines, _HOST.search(requirements) is not None)
    if project is not None and (data := _project(project)) is not None:
        has_host = any(_HOST.match(str(each)) for each in data.get("dependencies", []))
        if "dependencies" in data.get("dynamic", []):
            return _Packages(("COPY . .", f"RUN {pip} ."), has_host)
        command = f'RUN {_VENV}/bin/python -c "{_DEPENDENCIES}" > requirements.txt && {pip} -r requirements.txt'
        return _Packages(("COPY pyproject.toml ./", command), has_host)
    note = "there is no requirements.txt, pyproject.toml or uv.lock beside the manifest: add what the application needs"
    return _Packages((), False, note)


def _text(path: Path) -> str | None:
    """The text of a small file; None if there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace") if path.is_file() else None
    except OSError:
        return None


def _project(text: str) -> dict[str, Any] | None:
    try:
        found = tomllib.loads(text).get("project")
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _extras(manifest: Manifest) -> list[str]:
    """The extras of pywatt-host that the manifest needs."""
    urls = [each.url for each in manifest.databases.values()] + [each.url for each in manifest.caches.values()]
    found = {_EXTRAS[scheme] for url in urls if (scheme := (scheme_of(url) or "").removesuffix("+dev")) in _EXTRAS}
    found |= {"nats"} if manifest.channels.nats is not None else set()
    found |= {"vault"} if any(source.vault for source in manifest.secrets.sources or ()) else set()
    return sorted(found)


# Files ----------------------------------------------------------------------------------------------------------------


def _named(manifest: Manifest) -> Mapping[str, str]:
    """The files and folders that the manifest names and the image has to contain, by key."""
    found: dict[str, str] = {}
    if manifest.app is not None:
        found["app.working_dir"] = manifest.app.working_dir
    for number, mount in enumerate(manifest.mounts):
        folder = mount.directory if isinstance(mount, DirectoryMount) else mount.working_dir
        key = "directory" if isinstance(mount, DirectoryMount) else "working_dir"
        found[f"mounts[{number}].{key}"] = folder
    for name, database in manifest.databases.items():
        if database.init is not None:
            found[f"databases.{name}.init"] = database.init
    if isinstance(manifest.config_schema, str):
        found["config_schema"] = manifest.config_schema
    return found


def _secret_files(manifest: Manifest) -> Iterator[str]:
    """The files that have secrets, by the manifest."""
    for source in manifest.secrets.sources or ():
        yield from (each for each in (source.dotenv, source.file, source.directory) if each is not None)
    for declared in manifest.server.declared_tls():
        for value in (declared.tls.cert, declared.tls.key, declared.tls.client_ca):
            if isinstance(value, str):
                yield value


def _ignored(manifest: Manifest) -> list[str]:
    """The lines of .dockerignore. Files that the manifest names stay in."""
    secret = [os.path.normpath(each) for each in _secret_files(manifest) if not os.path.isabs(each)]
    found = [*_IGNORED, *(each for each in secret if not each.startswith("..") and each != ".")]
    for database in manifest.databases.values():
        url = str(database.url)
        if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
            found.append(os.path.normpath(url.removeprefix("sqlite:///").partition("?")[0]) + "*")
    kept = [f"!{os.path.normpath(each)}" for each in _named(manifest).values() if os.path.normpath(each) in _IGNORED]
    return list(dict.fromkeys([*found, *kept]))


def _notes(facts: Facts, inside: Container, mount: SecretMount | None) -> Iterator[str]:
    yield from facts.notes(container=True, replicas=1)
    kept_out = ", ".join(each for each in _ignored(facts.manifest) if each not in _HARMLESS)
    yield f"{IGNORE_FILE} has to leave out secrets and data (--output writes it): {kept_out}"
    for key, path in _named(facts.manifest).items():
        if os.path.isabs(path) or os.path.normpath(path).startswith(".."):
            yield f"{key}: {path} is outside of the folder of the manifest, so the image does not have it"
    names = ", ".join([*facts.required_secrets, *facts.optional_secrets])
    if mount is not None:
        yield f"mount each secret as a file in {mount.path}: {names}"
    elif names:
        yield f"no secret is in the image; the module reads them from secrets.sources of the manifest: {names}"
    for each in inside.certificates:
        yield f"mount the files of {' and '.join(each.keys)} in {folder_of(each)}: {', '.join(each.files)}"
    if not inside.probed.answers_probes:
        yield "clients need a certificate, and the health check has none: it only checks the port (add server.admin)"
