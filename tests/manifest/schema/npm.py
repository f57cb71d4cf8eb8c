"""Packages of npm for tests: each is installed once, in a fixed version, outside of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

VERSIONS = {"yaml-language-server": "1.25.0", "ajv": "8.20.0"}


def node() -> str:
    """The command that runs JavaScript. The test is skipped where there is none."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node is not installed on this machine")
    return found


def installed(name: str) -> Path:
    """The folder `node_modules` that has the package. Two processes may install at once: the first rename wins."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed on this machine")
    package = f"{name}@{VERSIONS[name]}"
    home = Path(tempfile.gettempdir()) / f"pywatt-host-tests-{os.getuid()}" / package.replace("@", "-")
    if not (home / "node_modules" / name).exists():
        home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=home.parent))
        command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(fresh), package]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            shutil.rmtree(fresh)
            pytest.skip(f"npm cannot install {package}: {done.stderr.strip()[-200:]}")
        try:
            fresh.rename(home)
        except OSError:
            shutil.rmtree(fresh)
    return home / "node_modules"
