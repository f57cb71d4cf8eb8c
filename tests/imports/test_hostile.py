"""Whatever a configuration contains, an import ends with manifests that load, or with one error that says where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pywatt_host.imports import UnreadableError, import_configuration
from pywatt_host.imports.gunicorn import NAMES
from pywatt_host.imports.gunicorn_table import OPTIONS
from pywatt_host.imports.hypercorn import NAMES as HYPERCORN
from pywatt_host.imports.uvicorn import OPTIONS as UVICORN

# Each example loads a manifest, so there are fewer of them than usual.
EXAMPLES = max(8, (settings.default or settings()).max_examples // 3)
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["a:b", "8080", "*", "$uri", "/a/*", "${X}", "$X", "unix:x", "\x1b[31m", "127.0.0.1:1", "a" * 3000]
    ),
)
SCALARS: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)


def attempt(kind: str, folder: Path, name: str, text: str | bytes) -> None:
    """Import a file. Anything but an UnreadableError fails the test."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        made = import_configuration(kind, [str(path)], destination=folder, environ={"X": "1"}, app="main:app")
        told = [str(finding) for finding in made.findings]
    except UnreadableError as error:
        told = [str(error)]
    assert all(text.isprintable() for text in told)


FILES = st.sampled_from(
    [
        ("unit", "u.json"),
        ("gunicorn", "g.py"),
        ("gunicorn", "g.sh"),
        ("hypercorn", "h.toml"),
        ("procfile", "Procfile"),
    ]
)


@BOUNDED
@given(file=FILES, data=st.binary(max_size=200))
def test_any_bytes(file: tuple[str, str], data: bytes, tmp_path: Path) -> None:
    attempt(file[0], tmp_path, file[1], data)


ACTIONS = st.dictionaries(
    st.sampled_from(
        ["pass", "share", "return", "location", "fallback", "rewrite", "response_headers", "types", "index", "proxy"]
    ),
    VALUES
    | st.sampled_from(["applications/a", "applications/a/t", "routes/r", "/www$uri", 404, {"pass": "applications/a"}]),
    max_size=4,
)
MATCHES = st.dictionaries(
    st.sampled_from(["uri", "method", "host", "scheme", "source", "headers", "query"]), VALUES | TEXTS, max_size=2
)
STEPS = st.lists(
    st.fixed_dictionaries({"action": ACTIONS}, optional={"match": MATCHES | VALUES, "other": VALUES}), max_size=3
)
APP_KEYS = (
    "path",
    "home",
    "callable",
    "prefix",
    "threads",
    "processes",
    "limits",
    "environment",
    "protocol",
    "targets",
)
APPS = st.fixed_dictionaries(
    {"type": st.just("python"), "module": st.just("m") | TEXTS}, optional=dict.fromkeys((*APP_KEYS, "user"), VALUES)
)
UNIT = st.fixed_dictionaries(
    {
        "listeners": st.dictionaries(
            st.sampled_from(["*:80", "[::1]:81", "unix:/x", "x", "*:443"]),
            st.fixed_dictionaries(
                {"pass": st.sampled_from(["routes", "routes/r", "applications/a", "upstreams/u"])},
                optional={"tls": VALUES, "forwarded": VALUES, "client_ip": VALUES, "backlog": VALUES},
            ),
            max_size=3,
        ),
        "routes": STEPS | st.fixed_dictionaries({"r": STEPS}),
        "applications": st.fixed_dictionaries({"a": APPS}, optional={"b": APPS | VALUES}),
    },
    optional={"settings": VALUES | st.fixed_dictionaries({"http": VALUES}), "access_log": VALUES, "more": VALUES},
)


@BOUNDED
@given(config=UNIT)
@example(
    config={
        "listeners": {"*:80": {"pass": "routes"}},
        "routes": [{"action": {"pass": "applications/a", "return": []}}],
        "applications": {"a": {"type": "python", "module": "m"}},
    }
)
def test_any_configuration_of_unit(config: Any, tmp_path: Path) -> None:
    attempt(
        "unit", tmp_path, "unit.json", json.dumps(config, allow_nan=False, default=str) if _finite(config) else "{}"
    )


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list) else True


@BOUNDED
@given(assigned=st.dictionaries(st.sampled_from(sorted(NAMES)), VALUES, max_size=4))
def test_any_values_of_gunicorns_settings(assigned: dict[str, Any], tmp_path: Path) -> None:
    text = "inf = nan = 1\n" + "".join(f"{name} = {value!r}\n" for name, value in assigned.items())
    attempt("gunicorn", tmp_path, "gunicorn.conf.py", text)


@BOUNDED
@given(assigned=st.dictionaries(st.sampled_from(sorted(HYPERCORN)), VALUES, max_size=4))
def test_any_values_of_hypercorns_settings(assigned: dict[str, Any], tmp_path: Path) -> None:
    text = "inf = nan = 1\n" + "".join(f"{name} = {value!r}\n" for name, value in assigned.items())
    attempt("hypercorn", tmp_path, "h.py", text)


FLAGS = st.sampled_from(sorted({flag for option in (*OPTIONS, *UVICORN) for flag in option.flags}))
LINE = st.lists(
    st.one_of(FLAGS, TEXTS, st.sampled_from(["gunicorn", "uvicorn", "&&", "A=b", "$(nproc)", '"', "`x`"])), max_size=8
)


@BOUNDED
@given(program=st.sampled_from(["gunicorn", "uvicorn", "hypercorn"]), words=LINE)
@example(program="uvicorn", words=["--reload-dir", "--access-log"])
def test_any_command_line(program: str, words: list[str], tmp_path: Path) -> None:
    attempt(program, tmp_path, "start.sh", f"{program} {' '.join(words)}")
    attempt("procfile", tmp_path, "Procfile", f"web: {program} {' '.join(words)}")


PIECES = st.sampled_from(
    [
        "os.environ",
        "os.environ.get('X')",
        "[1, 2]",
        "'a%s'",
        "'{}{}'",
        "Path('x')",
        "{}",
        "x",
        "1.5",
        "None",
        "(1,)",
        "len",
        "'a'",
    ]
)
OPERATORS = st.sampled_from(
    ["{} + {}", "{} % {}", "{}.format({})", "{}[{}]", "{}.get({})", "{} / {}", "{} * {}", "int({}, {})"]
)


@BOUNDED
@given(expressions=st.lists(st.tuples(OPERATORS, PIECES, PIECES), min_size=1, max_size=4))
def test_any_expression(expressions: list[tuple[str, str, str]], tmp_path: Path) -> None:
    lines = ["import os", "from pathlib import Path", "x = [each for each in (1, 2) if each]"]
    for name, (form, one, other) in zip(("bind", "workers", "timeout", "raw_env"), expressions, strict=False):
        lines += [f"x = {form.format(one, other) if form.count('{}') == 2 else one}", f"{name} = x"]
    attempt("gunicorn", tmp_path, "gunicorn.conf.py", "\n".join(lines))
