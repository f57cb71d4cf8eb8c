"""`module`, `app` and `mounts`: what is served, and under which name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, PlainSerializer, Tag, WithJsonSchema

from pywatt_host.manifest.model.base import Section, key, required
from pywatt_host.manifest.values import Bool, Duration, ImportPath, Int, Interpolated, Prefix, SecretEnvText

MODULE_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


def _env_text(value: Any) -> Any:
    """Scalars become the text that YAML would print for them; the environment knows nothing else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


EnvText: TypeAlias = Annotated[
    str, BeforeValidator(_env_text), WithJsonSchema({"type": ["string", "number", "boolean"]})
]


def _factory(value: Any) -> Any:
    if value == "auto":
        return None
    return {"true": True, "false": False}.get(value, value) if isinstance(value, Interpolated) else value


def _factory_text(value: bool | None) -> bool | str:
    return "auto" if value is None else value


Factory: TypeAlias = Annotated[
    bool | None,
    BeforeValidator(_factory),
    PlainSerializer(_factory_text),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "boolean"}]}),
]


class Module(Section):
    """Who this module is: the name that health, metrics, logs and the orchestrator know it by."""

    id: str | None = key(
        None,
        "Name of the module. Left out, it is the name of the manifest's folder; an orchestrator's name wins.",
        "users",
        pattern=MODULE_ID,
    )
    version: str | None = key(
        None, "Version of the module, as text. Shown by health and in logs.", "1.4.0", min_length=1
    )
    description: str | None = key(None, "One sentence on what the module is for.", "User accounts")
    labels: dict[str, str] = key(dict, "Free labels, shown by health.", {"team": "core"})


class AppOptions(Section):
    """The keys that `app` and every application under `mounts` share."""

    import_path: ImportPath = required(
        "The application, or the factory that makes it, as `module:attribute`; dotted attributes are allowed.",
        "users.api:create_app",
    )
    interface: Literal["auto", "asgi", "wsgi"] = key(
        "auto", "The interface of the application. `auto` finds out by looking, never by calling.", "wsgi"
    )
    factory: Factory = Field(
        None,
        description="Whether the attribute is a factory to be called. A factory that takes a parameter gets the"
        " AppState; it may be sync or async. `auto` finds out by looking.",
        examples=[True],
        json_schema_extra={"default": "auto"},
    )
    args: dict[str, Any] = key(
        dict, "Keyword arguments for the factory, checked against its annotations.", {"page_size": 50}
    )
    env: dict[str, SecretEnvText] = key(
        dict,
        "Put into os.environ before the import, for applications that read it there. Scalars become text; secrets may"
        " stand in them.",
        {"MODE": "prod", "DATABASE_URL": "${secret:DATABASE_URL}"},
    )
    working_dir: str = key(
        ".",
        "Folder that is put on sys.path, relative to the manifest. The working directory stays.",
        "src",
        min_length=1,
    )
    threads: Int = key(16, "Threads for a WSGI application: so many requests of it run at once.", 32, ge=1, le=1024)
    paths: Literal["strict", "lenient"] | None = key(
        None, "Overrides server.paths for this application.", "lenient", json_schema_extra={"default": "server.paths"}
    )


class App(AppOptions):
    """The application."""

    route_prefix: Prefix = key(
        "/",
        "Where it is mounted. ASGI: root_path is set and the path keeps the prefix. WSGI: SCRIPT_NAME and PATH_INFO.",
        "/api",
    )


class AppMount(AppOptions):
    """A further application, with its own lifespan."""

    route_prefix: Prefix = required("Where it is mounted; the longest prefix that fits a request wins.", "/legacy")


class DirectoryMount(Section):
    """A folder of static files."""

    route_prefix: Prefix = required("Where it is mounted; the longest prefix that fits a request wins.", "/static")
    directory: str = required(
        "Folder of static files, relative to the manifest: entity tags, ranges, no listing, no way out.",
        "./static",
        min_length=1,
    )
    cache: Duration | None = key(None, "Cache-Control max-age of its files. Left out: none is sent.", "1h")
    html: Bool = key(False, "Serve index.html for a folder and 404.html for what is not there.", True)
    paths: Literal["strict", "lenient"] | None = key(
        None, "Overrides server.paths for this folder.", "lenient", json_schema_extra={"default": "server.paths"}
    )


def mount_kind(value: Any) -> str:
    """Which of the two kinds of mount a mapping is."""
    if isinstance(value, dict):
        return "directory" if "directory" in value else "app"
    return "directory" if isinstance(value, DirectoryMount) else "app"


Mount: TypeAlias = Annotated[
    Annotated[AppMount, Tag("app")] | Annotated[DirectoryMount, Tag("directory")], Discriminator(mount_kind)
]
