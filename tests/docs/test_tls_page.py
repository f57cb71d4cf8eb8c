"""The certificate that docs/tls.md makes is one that the host can use."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pywatt_host.cli.certificates import Certificates
from pywatt_host.manifest import Source, load
from tests.docs.pages import blocks
from tests.processes import PATIENCE, ROOT

PAGE = ROOT / "docs" / "tls.md"


def test_the_certificate_for_a_laptop_can_be_used(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on this machine")
    (text,) = [block.text for block in blocks(PAGE) if "openssl req" in block.text]
    command, separator, _ = text.partition("pywatt-host run")
    assert separator
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE)
    manifest = next(block.text for block in blocks(PAGE) if block.info == "manifest")
    certificates = Certificates(load(Source.of_text(manifest, directory=tmp_path), environ={}), {})
    assert list(certificates.problems()) == []
    (shown,) = certificates.handshakes()
    assert "CN=localhost; DNS:localhost, IP:127.0.0.1; valid until" in str(shown)
