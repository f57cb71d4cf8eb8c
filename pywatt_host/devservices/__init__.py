"""Private servers for development, from the packages of the extra `dev`. All processes that work in a folder share its
servers; the last of them stops the servers, and their data are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DEV_SERVICES = "PYWATT_DEV_SERVICES"  # the environment variable by which `dev` and `up` name the folder to a child
DEV_SCHEME = "+dev:"  # the part of a URL that asks for a private server


def dev_folder(environ: Mapping[str, str]) -> Path | None:
    """The folder that `dev` or `up` names, in which private servers and the issuer `dev` keep what they have; None in a
    process that neither of them has started."""
    folder = environ.get(DEV_SERVICES)
    return Path(folder) if folder else None
