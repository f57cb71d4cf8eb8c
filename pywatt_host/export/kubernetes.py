"""Kubernetes: a Deployment with its Service, and a PodDisruptionBudget where there are several. The image holds the
manifest; the Secret is made by whoever has the values."""

from __future__ import annotations

import re
from typing import Any

from pywatt_host.export.container import SCRATCH, Container, container
from pywatt_host.export.facts import Exported, Facts, SecretMount, Wishes
from pywatt_host.export.text import comment, document, head

_SECRETS = "/run/secrets/pywatt"
_NOBODY = 65534
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")


def kubernetes(facts: Facts, wishes: Wishes) -> Exported:
    """One file with every object."""
    inside = container(facts, balanced=True, nats=wishes.nats)
    mount = facts.secret_mount(_SECRETS)
    notes = facts.notes(container=True, replicas=wishes.replicas)
    if facts.manifest.secret_keys and mount is None:
        notes.append("no Secret is mounted: secrets.sources of the manifest has places of its own")
    if facts.nats_is_local and wishes.nats is None:
        notes.append("channels.nats.servers: in a container that is the container itself; say --nats URL")
    objects = [_deployment(facts, wishes, inside, mount), _service(facts, inside)]
    if wishes.replicas > 1:
        objects.append(_budget(facts))
    text = head(facts.name, facts.command, notes) + comment(_hints(facts, wishes, mount))
    text += "".join(f"---\n{document(each)}" for each in objects)
    return Exported({f"{facts.name}.yaml": text}, tuple(notes))


def secret_name(facts: Facts, wishes: Wishes) -> str:
    return wishes.secret or f"{facts.name}-secrets"


def _variables_name(facts: Facts) -> str:
    return f"{facts.name}-env"


def _hints(facts: Facts, wishes: Wishes, mount: SecretMount | None) -> list[str]:
    """How to make what is not written here, since it holds values."""
    lines: list[str] = []
    if mount is not None:
        names = [*facts.required_secrets, *facts.optional_secrets]
        lines += ["", "The Secret, from files that hold one value each:"]
        lines.append(f"  kubectl create secret generic {secret_name(facts, wishes)} \\")
        lines += [f"    --from-file={name}{_more(names, number)}" for number, name in enumerate(names)]
        if facts.optional_secrets:
            lines.append(f"Not all are required; left out may be: {', '.join(facts.optional_secrets)}")
    if facts.variables:
        lines += ["", "The variables:", f"  kubectl create configmap {_variables_name(facts)} \\"]
        lines += [
            f"    --from-literal={name}=...{_more(facts.variables, number)}"
            for number, name in enumerate(facts.variables)
        ]
    return lines


def _more(names: Any, number: int) -> str:
    return "" if number == len(names) - 1 else " \\"


def _labels(facts: Facts) -> dict[str, str]:
    found = {"app.kubernetes.io/name": facts.name}
    version = facts.manifest.module.version or ""
    if _LABEL.match(version):
        found["app.kubernetes.io/version"] = version
    return found


def _metadata(facts: Facts) -> dict[str, Any]:
    return {"name": facts.name, "labels": _labels(facts)}


def _selector(facts: Facts) -> dict[str, str]:
    return {"app.kubernetes.io/name": facts.name}


def _deployment(facts: Facts, wishes: Wishes, inside: Container, mount: SecretMount | None) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(facts),
        "spec": {
            "replicas": wishes.replicas,
            "selector": {"matchLabels": _selector(facts)},
            "# A pod that cannot start (an invalid manifest exits with 2) takes the place of none that serves:": None,
            "# the kubelet tries again, ever more slowly, and `kubectl rollout status` fails after this time.": None,
            "progressDeadlineSeconds": 300,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": _labels(facts)}, "spec": _pod(facts, wishes, inside, mount)},
        },
    }


def _pod(facts: Facts, wishes: Wishes, inside: Container, mount: SecretMount | None) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [{"name": "scratch", "emptyDir": {"sizeLimit": "64Mi"}}]
    if mount is not None:
        secret: dict[str, Any] = {"secretName": secret_name(facts, wishes), "# 0440": None, "defaultMode": 0o440}
        if not facts.required_secrets:
            secret["optional"] = True
        volumes.append({"name": "secrets", "secret": secret})
    pod: dict[str, Any] = {
        "# longer than drain_delay and shutdown together": None,
        "terminationGracePeriodSeconds": facts.grace(balanced=True),
        "automountServiceAccountToken": False,
        "# Variables such as REDIS_PORT=tcp://..., one for each Service, could be taken for the manifest's own.": None,
        "enableServiceLinks": False,
        "securityContext": {
            "# The image must name its user as a number.": None,
            "runAsNonRoot": True,
            "fsGroup": _NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if wishes.replicas > 1:
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _selector(facts)},
            }
        ]
    return {**pod, "containers": [_container(facts, wishes, inside, mount)], "volumes": volumes}


def _container(facts: Facts, wishes: Wishes, inside: Container, mount: SecretMount | None) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"name": "scratch", "mountPath": SCRATCH}]
    variables = dict(inside.variables)
    if mount is not None:
        variables |= mount.variables
        # The whole folder and no subPath: only so does the kubelet renew what changes.
        mounts.append({"name": "secrets", "mountPath": mount.path, "readOnly": True})
    found: dict[str, Any] = {
        "name": facts.name,
        "image": wishes.image or f"{facts.name}:{facts.version}",
        "ports": _ports(inside),
        "env": [
            *({"name": name, "value": value} for name, value in variables.items()),
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *(
                {"name": name, "valueFrom": {"configMapKeyRef": {"name": _variables_name(facts), "key": name}}}
                for name in facts.variables
            ),
        ],
    }
    if wishes.cpu is not None or wishes.memory is not None:
        found["resources"] = _resources(wishes)
    return {
        **found,
        **_probes(facts, inside),
        "# What the host said last, such as the fault of the manifest, is in `kubectl describe pod`.": None,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }


def _resources(wishes: Wishes) -> dict[str, Any]:
    """Memory cannot be taken back, and so has a limit; processor time can."""
    requests = {name: value for name, value in (("cpu", wishes.cpu), ("memory", wishes.memory)) if value is not None}
    limits = {"limits": {"memory": wishes.memory}} if wishes.memory is not None else {}
    return {"requests": requests, **limits}


def _named_ports(inside: Container) -> dict[str, int]:
    found = {"http" if not number else f"http-{port}": port for number, port in enumerate(inside.http)}
    return found | ({"channel": inside.channel} if inside.channel is not None else {})


def _ports(inside: Container) -> list[dict[str, Any]]:
    ports = _named_ports(inside) | ({"admin": inside.admin} if inside.admin is not None else {})
    return [{"name": name, "containerPort": port} for name, port in ports.items()]


def _probes(facts: Facts, inside: Container) -> dict[str, Any]:
    """Liveness asks for the process alone; what it depends on is readiness's. A check of the host's fails only after
    `health.retries`, so that probes need not count far."""
    health, probed = facts.manifest.health, inside.probed
    port = "admin" if inside.admin is not None else "http"
    if not health.enabled:
        asked = {"tcpSocket": {"port": "http"}}
        return {
            "startupProbe": {**asked, "periodSeconds": 2, "failureThreshold": 60},
            "readinessProbe": {**asked, "periodSeconds": 5, "failureThreshold": 2},
        }
    scheme = {"scheme": probed.scheme} if probed.scheme != "HTTP" else {}

    def at(path: str) -> dict[str, Any]:
        return {"httpGet": {"path": path, "port": port, **scheme}, "timeoutSeconds": 2}

    return {
        "# two minutes to start in": None,
        "startupProbe": {**at(health.liveness), "periodSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {**at(health.liveness), "periodSeconds": 10, "failureThreshold": 3},
        "readinessProbe": {**at(health.readiness), "periodSeconds": 5, "failureThreshold": 2},
    }


def _service(facts: Facts, inside: Container) -> dict[str, Any]:
    ports: list[dict[str, Any]] = []
    for name, port in _named_ports(inside).items():
        # What clients know is the usual port; which one the container has is its own affair.
        known = (443 if inside.tls else 80) if name == "http" else port
        ports.append({"name": name, "port": known, "targetPort": name})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(facts),
        "spec": {"selector": _selector(facts), "ports": ports},
    }


def _budget(facts: Facts) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(facts),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _selector(facts)}},
    }
