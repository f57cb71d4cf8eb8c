"""How problems are shown: text with a caret, JSON, annotations."""

from __future__ import annotations

import pytest

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Problem, Source, as_json, load, render_github, render_text


def problems(text: str, name: str = "pywatt.yaml") -> tuple[Problem, ...]:
    with pytest.raises(ManifestError) as caught:
        load(Source.of_text(text, name=name), environ={})
    return caught.value.problems


def test_a_problem_is_shown_with_its_line_a_caret_and_the_count() -> None:
    assert render_text(problems("app: main:app\nserver:\n  lissten: :80\nmetrics: true\n")) == (
        'pywatt.yaml:3:3: server.lissten: unknown key (did you mean "listen"?) [unknown-key]\n'
        "      lissten: :80\n"
        "      ^~~~~~~\n"
        "pywatt.yaml:4:10: warning: metrics: the metrics are served to every client of the public listener"
        " (set server.admin.listen to serve them on a separate listener, or set metrics.auth) [metrics-public]\n"
        "    metrics: true\n"
        "             ^~~~\n"
        "1 error, 1 warning\n"
    )


def test_the_caret_stands_below_wide_characters_and_in_long_lines() -> None:
    text = render_text(problems("app: m:a\nmodule: {description: '你好', idd: 1}"))
    source, caret = text.splitlines()[1:3]
    # Each of the two characters is two columns wide on a terminal.
    assert caret.index("^") == source.index("idd") + 2
    text = render_text(problems("app: m:a\nmodule: {description: '" + "x" * 500 + "', idd: 1}"))
    source, caret = text.splitlines()[1:3]
    assert source[caret.index("^") :].startswith("idd")
    assert len(source) < 130


def test_control_characters_of_the_file_never_reach_the_terminal() -> None:
    found = problems('app: m:a\nserver: {paths: "\\e[31m\\u202e", "\\a": 1}\nmodule: {id: "' + "x" * 5000 + '"}')
    for text in (render_text(found), str(as_json(found)), render_github(found)):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\a" not in text
    assert all(len(str(problem)) < 400 for problem in found)


def test_colours_are_opt_in() -> None:
    found = problems("ap: m:a")
    assert "\x1b[" not in render_text(found)
    assert render_text(found, color=True).startswith("\x1b[1mpywatt.yaml:1:1: \x1b[0m\x1b[31map: unknown key")


def test_the_json_form_has_these_keys() -> None:
    assert as_json(problems("ap: m:a")) == [
        {
            "file": "pywatt.yaml",
            "line": 1,
            "column": 1,
            "path": "ap",
            "code": "unknown-key",
            "severity": "error",
            "message": "unknown key",
            "hint": 'did you mean "app"?',
        }
    ]


def test_the_json_form_of_an_override_has_no_line() -> None:
    with pytest.raises(ManifestError) as caught:
        load(Source.of_text("app: m:a"), environ={}, overrides=["server.lisen=:80"])
    (found,) = as_json(caught.value.problems)
    assert (found["file"], found["line"], found["column"], found["path"]) == ("--set", None, None, "server.lisen")


def test_annotations_are_escaped() -> None:
    found = problems("app: m:a\nserver: {control: '', paths: '100%,:'}", name="a,b:c%.yaml")
    assert render_github(found).splitlines() == [
        "::error file=a%2Cb%3Ac%25.yaml,line=2,col=19,title=length::server.control: the value is empty"
        " (write a value, or remove it)",
        '::error file=a%2Cb%3Ac%25.yaml,line=2,col=30,title=choice::server.paths: "100%25,:"'
        " is not one of strict, lenient",
    ]
