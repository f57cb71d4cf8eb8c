"""`module`, `app` and `mounts`: the identity of the module, and the applications and folders that it serves."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, PlainSerializer, Tag, WithJsonSchema

from pywatt_host.manifest.model.base import Section, key, required
from pywatt_host.manifest.values import (
    ENV_VALUE_PATTERN,
    Bool,
    Duration,
    EnvName,
    Format,
    ImportPath,
    Int,
    Interpolated,
    Prefix,
    SecretEnvText,
    without_nul,
)

MODULE_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
ModuleId: TypeAlias = Annotated[
    str,
    Field(pattern=MODULE_ID),
    Format(
        "a module id",
        "use letters, digits, dots, dashes and underscores; start with a letter or a digit; at most 63 characters",
    ),
]


def _env_text(value: Any) -> Any:
    """Convert a scalar to the text that YAML would print for it, because environment variables are text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return without_nul(str(value)) if isinstance(value, str | int | float) else value


EnvText: TypeAlias = Annotated[
    str,
    BeforeValidator(_env_text),
    WithJsonSchema({"type": ["string", "number", "boolean"], "pattern": ENV_VALUE_PATTERN}),
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
    """The identity of the module: the name that health, metrics, logs and the orchestrator use for it."""

    id: ModuleId | None = key(
        None,
        "Name of the module. If omitted, the name of the manifest's folder. A name that an orchestrator gives"
        " takes precedence.",
        "users",
    )
    version: str | None = key(
        None, "Version of the module, as a string. Shown in health reports and logs.", "1.4.0", min_length=1
    )
    description: str | None = key(None, "One sentence that says what the module is for.", "User accounts")
    labels: dict[str, str] = key(dict, "Free-form labels, shown in health reports.", {"team": "core"})


class AppOptions(Section):
    """The keys that `app` and every application under `mounts` have in common."""

    import_path: ImportPath = required(
        "Import path of the application, or of the factory that creates it, as `module:attribute`. The attribute"
        " may contain dots.",
        "users.api:create_app",
    )
    interface: Literal["auto", "asgi", "wsgi"] = key(
        "auto", "Interface of the application. `auto` detects it by inspecting the object, and never calls it.", "wsgi"
    )
    factory: Factory = Field(
        None,
        description="Whether the attribute is a factory that the host calls to get the application. A factory that"
        " takes a parameter receives the AppState. It may be sync or async. `auto` detects a factory by inspecting the"
        " object.",
        examples=[True],
        json_schema_extra={"default": "auto"},
    )
    args: dict[str, Any] = key(
        dict,
        "Keyword arguments for the factory. The host checks them against the factory's annotations.",
        {"page_size": 50},
    )
    env: dict[EnvName, SecretEnvText] = key(
        dict,
        "Variables that the host puts into os.environ before the import, for applications that read them there."
        " Numbers and bools become strings. Values may contain secrets.",
        {"MODE": "prod", "DATABASE_URL": "${secret:DATABASE_URL}"},
    )
    working_dir: str = key(
        ".",
        "Folder that the host puts on sys.path, relative to the manifest. The working directory of the process"
        " does not change.",
        "src",
        min_length=1,
    )
    threads: Int = key(
        16,
        "Number of threads for a WSGI application, which is also the number of its requests that run at the same time.",
        32,
        ge=1,
        le=1024,
    )
    paths: Literal["strict", "lenient"] | None = key(
        None, "Overrides server.paths for this application.", "lenient", json_schema_extra={"default": "server.paths"}
    )


class App(AppOptions):
    """The application to serve."""

    route_prefix: Prefix = key(
        "/",
        "URL prefix that the application is mounted under. ASGI: the host sets root_path, and the path keeps the"
        " prefix. WSGI: the host sets SCRIPT_NAME and PATH_INFO.",
        "/api",
    )


class AppMount(AppOptions):
    """An additional application, with its own lifespan."""

    route_prefix: Prefix = required(
        "URL prefix that the application is mounted under. If several prefixes match a request, the longest one is"
        " used.",
        "/legacy",
    )


class DirectoryMount(Section):
    """A folder of static files."""

    route_prefix: Prefix = required(
        "URL prefix that the folder is mounted under. If several prefixes match a request, the longest one is used.",
        "/static",
    )
    directory: str = required(
        "Folder of static files, relative to the manifest. The host sends entity tags, supports byte ranges, does"
        " not list the folder, and serves no file outside of it.",
        "./static",
        min_length=1,
    )
    cache: Duration | None = key(
        None, "Value of max-age in the Cache-Control header of the files. If omitted, the header is not sent.", "1h"
    )
    html: Bool = key(
        False, "Whether the host serves index.html for a folder, and 404.html for a file that does not exist.", True
    )
    hidden: Bool = key(
        False,
        "Whether the host serves files and folders whose names begin with a dot. Otherwise they are 404, apart from"
        " `.well-known`.",
        True,
    )
    paths: Literal["strict", "lenient"] | None = key(
        None, "Overrides server.paths for this folder.", "lenient", json_schema_extra={"default": "server.paths"}
    )


def mount_kind(value: Any) -> str:
    """Tell whether a mapping is a mounted application or a mounted folder. The answer is no key of either: places of
    errors have both keys and these words."""
    if isinstance(value, dict):
        return "folder" if "directory" in value else "app"
    return "folder" if isinstance(value, DirectoryMount) else "app"


Mount: TypeAlias = Annotated[
    Annotated[AppMount, Tag("app")] | Annotated[DirectoryMount, Tag("folder")], Discriminator(mount_kind)
]
