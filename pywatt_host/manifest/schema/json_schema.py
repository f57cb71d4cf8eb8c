"""Generates the published JSON schemas of the manifest and the workspace (draft 2020-12) from the model.

They contain standard keywords only, so that every validator takes them, also in its strict mode.

`python -m pywatt_host.manifest.schema.json_schema > schemas/pywatt.schema.json` updates the schema of pywatt.yaml, and
`python -m pywatt_host.manifest.schema.json_schema workspace > schemas/wattson.schema.json` that of wattson.yaml.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Literal

from pywatt_host import __version__
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.schema.json_sections import Writer, required_keys
from pywatt_host.manifest.schema.json_values import INTERPOLATION, Schema, explained, reference
from pywatt_host.manifest.schema.shape import manifest_shape, shape_of

# Where the schemas of a release are published. The address of a release never changes its content.
ADDRESS = f"https://schemas.pywatt.dev/pywatt-host/{__version__}"
_PROFILES = "Partial manifests by name. The one that --profile or PYWATT_PROFILE names is merged over the rest."


def manifest_schema() -> Schema:
    """Generate the schema of pywatt.yaml. The caller may change the returned mapping."""
    shape = manifest_shape()
    writer = Writer(shape.model)
    properties = writer.properties(shape, partial=False)
    partial = {
        key: value if value != properties[key] else {"$ref": f"#/properties/{key}"}
        for key, value in writer.properties(shape, partial=True).items()
        if key != "version"
    }
    profile = writer.closed(partial, "profile", "A partial manifest.")
    properties["profiles"] = {
        **explained("profiles", _PROFILES, "{}"),
        "default": {},
        "examples": [{"dev": {"logging": {"level": "debug"}}}],
        "type": "object",
        "additionalProperties": reference("profile"),
    }
    body = writer.closed(properties, "", "pywatt.yaml: an ASGI or WSGI application and how it is served.")
    return _document("pywatt.schema.json", "PyWatt Host manifest", body, {"profile": profile, **writer.sorted()})


def workspace_schema() -> Schema:
    """Generate the schema of wattson.yaml. The caller may change the returned mapping."""
    shape = shape_of(Workspace)
    writer = Writer(shape.model)
    body = writer.closed(
        writer.properties(shape, partial=False), "", "wattson.yaml: modules that run together.", required_keys(shape)
    )
    return _document("wattson.schema.json", "PyWatt Host workspace", body, writer.sorted())


def address(what: Literal["manifest", "workspace"] = "manifest") -> str:
    """The address where the schema of this release is published."""
    return f"{ADDRESS}/{'wattson' if what == 'workspace' else 'pywatt'}.schema.json"


def _document(name: str, title: str, body: Schema, definitions: Mapping[str, Schema]) -> Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{ADDRESS}/{name}",
        "title": title,
        **body,
        "$defs": {
            INTERPOLATION: {
                "title": "a text with ${NAME} in it",
                "description": "A text with ${NAME}, ${NAME:-default} or ${NAME:?message} in it.",
                "type": "string",
                "pattern": r"\$\{",
            },
            **definitions,
        },
    }


def text(what: Literal["manifest", "workspace"] = "manifest") -> str:
    """The schema as the text of its file."""
    schema = workspace_schema() if what == "workspace" else manifest_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text("workspace" if sys.argv[1:] == ["workspace"] else "manifest"), end="")
