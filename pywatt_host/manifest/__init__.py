"""The manifest: reads the text of a file into frozen, typed data, and writes it back."""

from __future__ import annotations

from pywatt_host.manifest.load import InitLayer, Loaded, load, load_manifest
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.problems import Problem, as_json, render_github, render_text
from pywatt_host.manifest.schema.dump import dump
from pywatt_host.manifest.source import Source
from pywatt_host.manifest.values import SecretTemplate

__all__ = [
    "InitLayer",
    "Loaded",
    "Manifest",
    "Problem",
    "SecretTemplate",
    "Source",
    "as_json",
    "dump",
    "load",
    "load_manifest",
    "render_github",
    "render_text",
]
