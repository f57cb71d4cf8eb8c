"""`profiles`: partial manifests in the manifest, of which one may be active."""

from __future__ import annotations

from dataclasses import replace

from pywatt_host.manifest.layers.interpolation import Variables, interpolate
from pywatt_host.manifest.problems import KeyPath, Report, display_path, near_miss, quote
from pywatt_host.manifest.schema.normalize import Normalizer
from pywatt_host.manifest.schema.shape import manifest_shape
from pywatt_host.manifest.yaml.node import Mark, Node, Origin, problem_at


def active_profile(
    profiles: Node | None, wanted: str, variables: Variables, report: Report, faulted: set[KeyPath]
) -> Node | None:
    """Return the profile called `wanted`, interpolated and normalized. Its faulty paths are added to `faulted`.

    Of the other profiles, only the structure is checked, because their variables may be unset.
    """
    declared: dict[str, Node] = profiles.value if profiles is not None else {}
    active: Node | None = None
    for name, node in declared.items():
        path: KeyPath = ("profiles", name)
        if not isinstance(node.value, dict):
            message = "the profile is empty" if node.value is None else f"expected a mapping, not {quote(node.value)}"
            report.add(
                node.problem(path, "type", message, "write the keys that differ, such as logging: {level: debug}")
            )
            continue
        for key in ("version", "profiles"):
            if key in node.value:
                mark = (node.keys or {}).get(key)
                report.add(
                    node.problem(
                        (*path, key), "unknown-key", "a profile cannot contain this key", "remove it", mark=mark
                    )
                )
        entries = {key: item for key, item in node.value.items() if key not in ("version", "profiles")}
        body = Node(entries, node.mark, node.origin, keys=node.keys)
        found = Report()
        if name == wanted:
            origin = Origin(node.origin.name, node.origin.kind, node.origin.lines, profile=name)
            body = interpolate(body, manifest_shape(), variables, found, origin=origin)
        normalizer = Normalizer(found, manifest_shape(), open_templates=name != wanted)
        expanded = normalizer.normalize(body, manifest_shape())
        for problem in found.problems:
            shown = f"{display_path(path)}{'' if problem.path.startswith('[') else '.'}{problem.path}"
            report.add(replace(problem, path=shown))
        if name == wanted:
            active = expanded
            faulted |= normalizer.faulted
    if wanted and wanted not in declared:
        _unknown_profile(profiles, wanted, list(declared), report)
    return active


def _unknown_profile(profiles: Node | None, wanted: str, declared: list[str], report: Report) -> None:
    meant = near_miss(wanted, declared)
    hint = f"declared: {', '.join(declared)}" if declared else "the manifest declares no profiles"
    hint += f'; did you mean "{meant}"?' if meant else ""
    message = f'the profile "{wanted[:60]}" is not declared'
    if profiles is not None:
        report.add(profiles.problem(("profiles",), "unknown-profile", message, hint))
    else:
        report.add(problem_at(Origin("--profile", "set"), Mark(), (), "unknown-profile", message, hint))


def without_profiles(root: Node, report: Report) -> tuple[Node, Node | None]:
    """Separate the manifest from its profiles."""
    profiles = root.value.get("profiles")
    if profiles is None:
        return root, None
    rest = {key: node for key, node in root.value.items() if key != "profiles"}
    if not isinstance(profiles.value, dict):
        empty = profiles.value is None
        code = "no-value" if empty else "type"
        message = "the key has no value" if empty else f"expected a mapping, not {quote(profiles.value)}"
        mark = (root.keys or {}).get("profiles")
        report.add(
            profiles.problem(
                ("profiles",),
                code,
                message,
                "write profiles by name, such as dev: {logging: {level: debug}}",
                mark=mark,
            )
        )
        profiles = None
    return Node(rest, root.mark, root.origin, keys=root.keys), profiles
