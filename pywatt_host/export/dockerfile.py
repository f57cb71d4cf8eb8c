"""A Dockerfile: two stages, the packages that the project names, a user without rights, and no secret in any layer."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pywatt_host import __version__
from pywatt_host.export.container import Container, container, folder_of, health_command, stays
from pywatt_host.export.facts import Exported, ExportOptions, Facts, SecretMount
from pywatt_host.export.requirements import Requirements, read_requirements, text_of
from pywatt_host.export.text import head
from pywatt_host.manifest.model import DirectoryMount, Manifest
from pywatt_host.manifest.model.stores import scheme_of
from pywatt_host.manifest.values import Address

FILE = "Dockerfile"
IGNORE_FILE = ".dockerignore"
_UV = "ghcr.io/astral-sh/uv:0.9"
_SECRETS = "/run/secrets"
_VENV = "/srv/venv"
_APP = "/srv/app"
_NOBODY = "65534:65534"  # a number, so that Kubernetes can check that it is not root
_SOURCE = "/src"  # where the packages are installed from
_EXTRAS = {
    "postgresql": "postgresql",
    "mysql": "mysql",
    "redis": "redis",
    "rediss": "redis",
    "memcached": "memcached",
}
# What no image needs, and what no image may have.
_HARMLESS = (
    "**/.git",
    "**/.venv",
    "venv",
    "**/__pycache__",
    "**/*.pyc",
    ".pytest_cache",
    "compose.yaml",
    FILE,
    IGNORE_FILE,
)
_SENSITIVE = (
    *("**/.pywatt", "**/.env", "**/.env.*", "**/secrets", "**/*.pem", "**/*.key", "**/*.p12", "**/*.pfx", "**/*.jks"),
    *("**/id_rsa*", "**/id_dsa*", "**/id_ecdsa*", "**/id_ed25519*", "**/.ssh", "**/.aws", "**/.netrc", "**/.pypirc"),
    *("**/.git-credentials", "**/.pgpass", "**/.npmrc", "**/.htpasswd"),
)
_PACKAGES_OF_THAT_NAME = "!**/secrets/**/*.py"
_IGNORED = (*_HARMLESS, *_SENSITIVE)
_LOCAL_SOURCE = re.compile(r'\b(editable|directory|path|virtual) = "(?!\.")')  # of a package in uv.lock
_FILE_URL = re.compile(r"@\s*file:")
_HOST = re.compile(r"^\W*pywatt[-_.]host\b", re.IGNORECASE | re.MULTILINE)
# Prints the dependencies of a pyproject.toml. It runs where the image is built, so that a changed file counts.
_DEPENDENCIES = (
    "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project'].get('dependencies', []), sep='\\n')"
)


@dataclass(frozen=True, slots=True)
class _Packages:
    """The lines that install packages into the virtual environment, and whether they install pywatt-host too. `folder`
    is the folder of these lines: packages that are installed in place need the one that the image has."""

    lines: tuple[str, ...]
    has_host: bool
    notes: tuple[str, ...] = ()
    folder: str = _SOURCE


def dockerfile(facts: Facts, options: ExportOptions) -> Exported:
    """The Dockerfile of a module, and a .dockerignore for the folder beside it."""
    inside = container(facts, balanced=False, nats=options.nats)
    mount = facts.secret_mount(_SECRETS)
    packages = _packages(facts.manifest.directory)
    notes = [*_notes(facts, inside, mount), *packages.notes]
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
    yield f"WORKDIR {packages.folder}"
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
    project, requirements = text_of(folder / "pyproject.toml"), read_requirements(folder)
    pip = f"{_VENV}/bin/pip install --no-cache-dir"
    if project is not None and (lock := text_of(folder / "uv.lock")) is not None:
        whole = _LOCAL_SOURCE.search(lock) is not None
        lines: tuple[str, ...] = (
            f"COPY --from={_UV} /uv /bin/uv",
            "COPY . ." if whole else "COPY pyproject.toml uv.lock ./",
            f"RUN UV_PROJECT_ENVIRONMENT={_VENV} uv sync --frozen --no-dev --no-install-project",
        )
        return _Packages(lines, 'name = "pywatt-host"' in lock, folder=_APP if whole else _SOURCE)
    if requirements is not None:
        lines = (*_copied(requirements), f"RUN {pip} -r requirements.txt")
        notes = tuple(f"{each}: the image cannot be built with it" for each in requirements.missing)
        has_host = _HOST.search(requirements.text) is not None
        return _Packages(lines, has_host, notes, _APP if requirements.whole else _SOURCE)
    if project is not None and (data := _project(project)) is not None:
        dependencies = [str(each) for each in data.get("dependencies", [])]
        has_host = any(map(_HOST.match, dependencies))
        if "dependencies" in data.get("dynamic", []) or any(_FILE_URL.search(each) for each in dependencies):
            return _Packages(("COPY . .", f"RUN {pip} ."), has_host)
        command = f'RUN {_VENV}/bin/python -c "{_DEPENDENCIES}" > requirements.txt && {pip} -r requirements.txt'
        return _Packages(("COPY pyproject.toml ./", command), has_host)
    note = "there is no requirements.txt, pyproject.toml or uv.lock beside the manifest: add what the application needs"
    return _Packages((), False, (note,))


def _copied(requirements: Requirements) -> Iterator[str]:
    """The lines that copy what requirements.txt needs."""
    if requirements.whole:
        yield "COPY . ."
        return
    folders: dict[str, list[str]] = {}
    for name in requirements.files:
        folders.setdefault(os.path.dirname(name), []).append(name)
    for folder, names in folders.items():
        yield f"COPY {' '.join(names)} {folder or '.'}/"


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
    kept = [f"!{path}" for each in _named(manifest).values() if _is_ignored(path := os.path.normpath(each))]
    return list(dict.fromkeys([*found, _PACKAGES_OF_THAT_NAME, *kept]))


def _is_ignored(path: str) -> bool:
    """Whether a file or folder is left out, by itself or with one that it is in."""
    parts = path.split("/")
    return any(
        any(fnmatch(part, name) for part in (parts if name != pattern else parts[:1]))
        for pattern in _IGNORED
        for name in (pattern.removeprefix("**/"),)
    )


def _notes(facts: Facts, inside: Container, mount: SecretMount | None) -> Iterator[str]:
    yield from facts.notes(container=True, replicas=1)
    kept_out = ", ".join(each for each in _ignored(facts.manifest) if each not in _HARMLESS and each[0] != "!")
    yield f"{IGNORE_FILE} has to leave out secrets and data (--output writes it): {kept_out}"
    for key, path in _named(facts.manifest).items():
        if os.path.isabs(path) or os.path.normpath(path).startswith(".."):
            yield f"{key}: {path} is outside of the folder of the manifest, so the image does not have it"
    yield from _moved(facts, inside)
    names = ", ".join([*facts.required_secrets, *facts.optional_secrets])
    if mount is not None:
        yield f"mount each secret as a file in {mount.path}: {names}"
    elif names:
        yield f"no secret is in the image; the module reads them from secrets.sources of the manifest: {names}"
    for each in inside.certificates:
        yield f"mount the files of {' and '.join(each.keys)} in {folder_of(each)}: {', '.join(each.files)}"
    if not inside.probed.answers_probes:
        yield "clients need a certificate, and the health check has none: it only checks the port (add server.admin)"


def _moved(facts: Facts, inside: Container) -> Iterator[str]:
    """The addresses that are others in the container."""
    server = facts.manifest.server
    ports = [port.number for port in inside.http]
    places: list[tuple[str, Sequence[Address], list[int]]] = [("server.listen", server.listen, ports)]
    if server.admin is not None and inside.admin is not None:
        places.append(("server.admin", server.admin.listen, [inside.admin.number]))
    if server.tls is not None and server.tls.redirect is not None and inside.redirect is not None:
        places.append(("server.tls.redirect", [server.tls.redirect], [inside.redirect]))
    for key, addresses, numbers in places:
        moved = [str(each) for each in addresses if not stays(each, numbers)]
        if moved:
            own = ", ".join(f":{number}" for number in numbers)
            warned = (
                ", which every container of its network reaches: do not publish it" if key == "server.admin" else ""
            )
            yield f"{key}: the image has {own} in the place of {', '.join(moved)}{warned}"
