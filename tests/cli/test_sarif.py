"""`validate --format sarif`: what SARIF 2.1.0 demands, and what GitHub demands of it."""

from __future__ import annotations

import json
from typing import Any

from tests.processes import Project

FAULTY = "app: main:app\nserver: {listn: 5, listen: 8080}\nmetrics: true\n"


def report(project: Project, *arguments: str) -> dict[str, Any]:
    done = project.cli("validate", "--no-import", "--format", "sarif", *arguments)
    assert done.returncode == 2
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_each_problem_is_a_result_with_its_region_level_and_rule(project: Project) -> None:
    project.write("a b/pywatt.yaml", FAULTY)
    document = report(project, "a b")
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [result["ruleId"] for result in run["results"]] == ["unknown-key", "address", "metrics-public"]
    assert [result["level"] for result in run["results"]] == ["error", "error", "warning"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert place["artifactLocation"] == {"uri": "a%20b/pywatt.yaml", "uriBaseId": "%SRCROOT%"}
        assert place["region"].keys() == {"startLine", "startColumn", "endLine", "endColumn"}
    first = run["results"][0]
    assert first["message"]["text"] == 'server.listn: unknown key (did you mean "listen"?)'
    assert first["locations"][0]["physicalLocation"]["region"] == {
        "startLine": 2,
        "startColumn": 10,
        "endLine": 2,
        "endColumn": 15,
    }
    assert run["originalUriBaseIds"]["%SRCROOT%"]["uri"] == f"{project.folder.as_uri()}/"
    assert run["columnKind"] == "unicodeCodePoints"


def test_each_rule_has_the_help_that_github_shows(project: Project) -> None:
    project.write("pywatt.yaml", FAULTY)
    rules = report(project)["runs"][0]["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules) == 3
    for rule in rules:
        assert rule["shortDescription"]["text"]
        assert len(rule["shortDescription"]["text"]) <= 1024
        assert rule["fullDescription"]["text"]
        assert "What to do" in rule["help"]["text"]
        assert "**What to do:**" in rule["help"]["markdown"]
    assert [rule["defaultConfiguration"]["level"] for rule in rules] == ["error", "error", "warning"]


def test_a_problem_that_is_in_no_file_is_shown_at_the_manifest(project: Project) -> None:
    project.write("pywatt.yaml", "app: main:app\n")
    (result,) = report(project, "--set", "logging.level=loud")["runs"][0]["results"]
    assert result["message"]["text"].startswith("--set logging.level: ")
    (location,) = result["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "pywatt.yaml"
    assert location["physicalLocation"]["region"]["startLine"] == 1


def test_no_problem_is_a_report_without_results(project: Project) -> None:
    project.write("pywatt.yaml", "app: main:app\n")
    done = project.cli("validate", "--no-import", "--format", "sarif")
    assert done.returncode == 0
    assert json.loads(done.stdout)["runs"][0]["results"] == []
