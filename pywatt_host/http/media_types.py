"""Media types of files, by their names."""

from __future__ import annotations

from mimetypes import guess_type

# A compressed file that a client asks for by its own name is such a file, and not its content in a coding that the
# client removes: `notes.txt.gz` is saved as a file that gunzip opens (RFC 9110 section 8.4).
_COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "zstd": "application/zstd",
}
_ALWAYS_COMPRESSED = ".svgz"  # an image that no client shows without Content-Encoding


def content_headers(name: str) -> list[tuple[bytes, bytes]]:
    """Content-Type of a file, and Content-Encoding where the type alone does not tell how to read the file."""
    kind, coding = guess_type(name)
    if coding == "gzip" and name.lower().endswith(_ALWAYS_COMPRESSED):
        return [(b"content-type", b"image/svg+xml"), (b"content-encoding", b"gzip")]
    if coding is not None:
        kind = _COMPRESSED.get(coding)
    kind = kind or "application/octet-stream"
    return [(b"content-type", (f"{kind}; charset=utf-8" if kind.startswith("text/") else kind).encode())]
