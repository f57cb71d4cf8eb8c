"""Kubernetes: a Deployment, a Service, and a PodDisruptionBudget if there are several replicas. The image contains the
manifest. The user creates the Secret, since the files contain no values."""

from __future__ import annotations

import re
import shlex
from typing import Any

from pywatt_host.export.container import SCRATCH, Container, container, folder_of
from pywatt_host.export.facts import Exported, ExportOptions, Facts, SecretMount
from pywatt_host.export.text import comment, document, head
from pywatt_host.export.tls_files import TlsFiles

_SECRETS = "/run/secrets/pywatt"
_NOBODY = 65534
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")


def kubernetes(facts: Facts, options: ExportOptions) -> Exported:
    """One file with all Kubernetes objects for a module."""
    inside = container(facts, balanced=True, nats=options.nats)
    mount = facts.secret_mount(_SECRETS)
    notes = facts.notes(container=True, replicas=options.replicas)
    if facts.manifest.secret_keys and mount is None:
        notes.append("no Secret is mounted; the module reads them from secrets.sources of the manifest")
    if facts.nats_is_local and options.nats is None:
        notes.append("channels.nats.servers: a local address is the container itself; set the address with --nats URL")
    if not inside.probed.answers_probes:
        notes.append(
            "clients need a certificate, and probes have none: they only check whether the port accepts connections;"
            " add server.admin for them"
        )
    objects = [_deployment(facts, options, inside, mount), _service(facts, inside)]
    if options.replicas > 1:
        objects.append(_budget(facts))
    text = head(facts.name, facts.command, notes) + comment(_hints(facts, options, inside, mount))
    text += "".join(f"---\n{document(each)}" for each in objects)
    return Exported({f"{facts.name}.yaml": text}, tuple(notes))


def secret_name(facts: Facts, options: ExportOptions) -> str:
    return options.secret or f"{facts.name}-secrets"


def _variables_name(facts: Facts) -> str:
    return f"{facts.name}-env"


def _certificate_name(facts: Facts, files: TlsFiles) -> str:
    return f"{facts.name}-{files.name}"


def _hints(facts: Facts, options: ExportOptions, inside: Container, mount: SecretMount | None) -> list[str]:
    """The commands that create the Secrets and the ConfigMap, whose values are not in the file."""
    lines: list[str] = []
    if mount is not None:
        names = [*facts.required_secrets, *facts.optional_secrets]
        lines += ["", "Create the Secret from files that contain one value each:"]
        lines.append(f"  kubectl create secret generic {secret_name(facts, options)} \\")
        lines += [f"    --from-file={name}{_more(names, number)}" for number, name in enumerate(names)]
        if facts.optional_secrets:
            lines.append(f"These secrets are not required: {', '.join(facts.optional_secrets)}")
    for each in inside.certificates:
        lines += ["", f"Create the Secret for {' and '.join(each.keys)}:"]
        if each.pair:
            lines[-1] = lines[-1].removesuffix(":") + ", or let cert-manager write it:"
            lines.append(f"  kubectl create secret tls {_certificate_name(facts, each)} \\")
            lines.append(f"    --cert={shlex.quote(each.files['tls.crt'])} --key={shlex.quote(each.files['tls.key'])}")
        else:
            lines.append(f"  kubectl create secret generic {_certificate_name(facts, each)} \\")
            lines += [
                f"    --from-file={name}={shlex.quote(path)}{_more(each.files, number)}"
                for number, (name, path) in enumerate(each.files.items())
            ]
    if facts.variables:
        lines += [
            "",
            "Create the ConfigMap with the variables:",
            f"  kubectl create configmap {_variables_name(facts)} \\",
        ]
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


def _deployment(facts: Facts, options: ExportOptions, inside: Container, mount: SecretMount | None) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(facts),
        "spec": {
            "replicas": options.replicas,
            "selector": {"matchLabels": _selector(facts)},
            "# A pod that cannot start (an invalid manifest exits with 2) does not replace a pod that serves:": None,
            "# Kubernetes restarts it with growing delays, and `kubectl rollout status` fails after this time.": None,
            "progressDeadlineSeconds": 300,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": _labels(facts)}, "spec": _pod(facts, options, inside, mount)},
        },
    }


def _pod(facts: Facts, options: ExportOptions, inside: Container, mount: SecretMount | None) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [{"name": "scratch", "emptyDir": {"sizeLimit": "64Mi"}}]
    if mount is not None:
        secret: dict[str, Any] = {"secretName": secret_name(facts, options), "# 0440": None, "defaultMode": 0o440}
        if not facts.required_secrets:
            secret["optional"] = True
        volumes.append({"name": "secrets", "secret": secret})
    for each in inside.certificates:
        keys = {"secretName": _certificate_name(facts, each), "# 0440": None, "defaultMode": 0o440}
        volumes.append({"name": each.name, "secret": keys})
    pod: dict[str, Any] = {
        "# longer than server.timeouts drain_delay and shutdown together": None,
        "terminationGracePeriodSeconds": facts.grace(balanced=True),
        "automountServiceAccountToken": False,
        "# Without this, Kubernetes sets variables such as REDIS_PORT=tcp://..., which the manifest might read.": None,
        "enableServiceLinks": False,
        "securityContext": {
            "# This requires an image whose user is a number.": None,
            "runAsNonRoot": True,
            "fsGroup": _NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if options.replicas > 1:
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _selector(facts)},
            }
        ]
    return {**pod, "containers": [_container(facts, options, inside, mount)], "volumes": volumes}


def _container(facts: Facts, options: ExportOptions, inside: Container, mount: SecretMount | None) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"name": "scratch", "mountPath": SCRATCH}]
    variables = dict(inside.variables)
    if mount is not None:
        variables |= mount.variables
        # Mount the whole folder, without subPath: the kubelet updates changed secrets only then.
        mounts.append({"name": "secrets", "mountPath": mount.path, "readOnly": True})
    mounts += [{"name": each.name, "mountPath": folder_of(each), "readOnly": True} for each in inside.certificates]
    found: dict[str, Any] = {
        "name": facts.name,
        "image": options.image or f"{facts.name}:{facts.version}",
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
    if options.cpu is not None or options.memory is not None:
        found["resources"] = _resources(options)
    return {
        **found,
        **_probes(facts, inside),
        f"# Kubernetes has no key for open files. The container runtime should allow {facts.descriptors}.": None,
        "# `kubectl describe pod` shows the last log lines, such as the faults of the manifest.": None,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }


def _resources(options: ExportOptions) -> dict[str, Any]:
    """Memory has a limit, since it cannot be taken back from a process. Processor time needs none."""
    requests = {name: value for name, value in (("cpu", options.cpu), ("memory", options.memory)) if value is not None}
    limits = {"limits": {"memory": options.memory}} if options.memory is not None else {}
    return {"requests": requests, **limits}


def _named_ports(inside: Container) -> dict[str, int]:
    found: dict[str, int] = {}
    for port in inside.http:
        found[port.scheme if port.scheme not in found else f"{port.scheme}-{port.number}"] = port.number
    found |= {"redirect": inside.redirect} if inside.redirect is not None else {}
    return found | ({"channel": inside.channel} if inside.channel is not None else {})


def _ports(inside: Container) -> list[dict[str, Any]]:
    ports = _named_ports(inside) | ({"admin": inside.admin.number} if inside.admin is not None else {})
    return [{"name": name, "containerPort": port} for name, port in ports.items()]


def _probes(facts: Facts, inside: Container) -> dict[str, Any]:
    """Liveness checks the process alone; readiness also checks what it depends on. The host reports a failed check only
    after `health.retries`, so that the probes need few failures."""
    health, probed = facts.manifest.health, inside.probed
    named = {number: name for name, number in _named_ports(inside).items()}
    port = "admin" if inside.admin is not None else named[probed.number]
    if not health.enabled or not probed.answers_probes:
        check = {"tcpSocket": {"port": port if health.enabled else named[inside.http[0].number]}}
        return {
            "startupProbe": {**check, "periodSeconds": 2, "failureThreshold": 60},
            "readinessProbe": {**check, "periodSeconds": 5, "failureThreshold": 2},
        }
    scheme = {"scheme": "HTTPS"} if probed.tls is not None else {}

    def at(path: str) -> dict[str, Any]:
        return {"httpGet": {"path": path, "port": port, **scheme}, "timeoutSeconds": 2}

    return {
        "# the module has two minutes to start": None,
        "startupProbe": {**at(health.liveness), "periodSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {**at(health.liveness), "periodSeconds": 10, "failureThreshold": 3},
        "readinessProbe": {**at(health.readiness), "periodSeconds": 5, "failureThreshold": 2},
    }


def _service(facts: Facts, inside: Container) -> dict[str, Any]:
    ports: list[dict[str, Any]] = []
    standard = {"https": 443, "http": 80}
    if inside.redirect is not None:
        standard = {"https": 443, "redirect": 80}
    for name, port in _named_ports(inside).items():
        # Clients use the standard port, whichever port the container has.
        known = standard.get(name, port)
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
