"""What carries a message from one process to another and its reply back: each row as two real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from benchmarks.server import ROOT, environment, free_port

# How many are in flight, for how many seconds -> messages answered a second.
Measure: TypeAlias = Callable[[int, float], float]

START_TIMEOUT = 30.0  # seconds
STOP_TIMEOUT = 10.0


class ChannelError(Exception):
    """A process did not start, or a measurement failed."""


@contextmanager
def process(command: list[str], folder: Path, said: str) -> Iterator[str]:
    """A process of ours, once its standard error or output says so: gives that line. It is gone afterwards."""
    log = folder / f"{time.monotonic_ns()}.log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ROOT, env=environment(folder)
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            found = [line for line in log.read_text(errors="replace").splitlines() if said in line]
            if found:
                yield found[0]
                return
            if child.poll() is not None or time.monotonic() > deadline:
                raise ChannelError(f"{command[0]} did not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.01)
    finally:
        child.terminate()
        try:
            child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def manifest(
    folder: Path, name: str, channels: Mapping[str, object], more: Mapping[str, object] = MappingProxyType({})
) -> Path:
    path = folder / f"{name}-{time.monotonic_ns()}.yaml"
    document = {
        "module": {"id": name},
        "app": f"benchmarks.apps.peer:{name}",
        "server": {"listen": "127.0.0.1:0", "control": "off"},
        "logging": {"access": False, "format": "json"},
        "channels": channels,
        **more,
    }
    path.write_text(json.dumps({key: value for key, value in document.items() if value}))
    return path


def over_http(address: str) -> Measure:
    """The asking module measures by itself and tells the result."""

    def measure(in_flight: int, seconds: float) -> float:
        url = f"{address}/measure?in_flight={in_flight}&seconds={seconds}"
        with urllib.request.urlopen(url, timeout=seconds + START_TIMEOUT) as answer:
            return float(json.load(answer)["rate"])

    return measure


@contextmanager
def direct(
    folder: Path,
    listen: Mapping[str, object],
    connect: Mapping[str, object],
    answering: Mapping[str, object] = MappingProxyType({}),
    asking: Mapping[str, object] = MappingProxyType({}),
) -> Iterator[Measure]:
    """Two hosts with these channels, and what else their manifests say."""
    run = [sys.executable, "-m", "pywatt_host", "run"]
    with ExitStack() as stack:
        stack.enter_context(process([*run, str(manifest(folder, "answering", listen, answering))], folder, '"ready"'))
        line = stack.enter_context(process([*run, str(manifest(folder, "asking", connect, asking))], folder, '"ready"'))
        yield over_http(json.loads(line)["listen"][0])


@contextmanager
def direct_ipc(folder: Path) -> Iterator[Measure]:
    path = str(folder / "peer.sock")
    with direct(folder, {"ipc": {"listen": path}}, {"ipc": {"connect": path}}) as measure:
        yield measure


@contextmanager
def direct_tcp(folder: Path) -> Iterator[Measure]:
    address = f"127.0.0.1:{free_port()}"
    with direct(folder, {"tcp": {"listen": address}}, {"tcp": {"connect": address}}) as measure:
        yield measure


@contextmanager
def through_up(folder: Path, channel: str) -> Iterator[Measure]:
    """Both under the local orchestrator, which passes messages on."""
    names = ("answering", "asking")
    modules = {name: {"manifest": str(manifest(folder, name, {})), "channel": channel} for name in names}
    gateway = f"127.0.0.1:{free_port()}"
    workspace = folder / f"wattson-{channel}.yaml"
    document = {"gateway": {"listen": gateway}, "control": "off", "modules": modules, "logging": {"format": "json"}}
    workspace.write_text(json.dumps(document))
    with process([sys.executable, "-m", "pywatt_host", "up", str(workspace)], folder, '"event":"ready"'):
        yield over_http(f"http://{gateway}/asking")


@contextmanager
def up_ipc(folder: Path) -> Iterator[Measure]:
    with through_up(folder, "ipc") as measure:
        yield measure


@contextmanager
def up_stdio(folder: Path) -> Iterator[Measure]:
    with through_up(folder, "stdio") as measure:
        yield measure


def scripted(kind: str, place: str) -> Measure:
    """Another process asks, and prints how often it was answered."""

    def measure(in_flight: int, seconds: float) -> float:
        command = [sys.executable, "-m", "benchmarks.channel_peers", kind, "ask", place, str(in_flight), str(seconds)]
        limit = seconds + START_TIMEOUT
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
        if done.returncode:
            raise ChannelError(done.stderr[-500:])
        return float(done.stdout)

    return measure


@contextmanager
def raw(folder: Path) -> Iterator[Measure]:
    """asyncio's Unix streams and json of the standard library, a line each way: what one writes by hand."""
    path = str(folder / "raw.sock")
    with process([sys.executable, "-m", "benchmarks.channel_peers", "raw", "answer", path], folder, "answering"):
        yield scripted("raw", path)


@contextmanager
def nats(folder: Path) -> Iterator[Measure]:
    """A NATS server, nats-py on both sides."""
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    with (
        process([nats_server() or "", "-a", "127.0.0.1", "-p", str(port)], folder, "Server is ready"),
        process([sys.executable, "-m", "benchmarks.channel_peers", "nats", "answer", url], folder, "answering"),
    ):
        yield scripted("nats", url)


@contextmanager
def hosts_over_nats(folder: Path) -> Iterator[Measure]:
    """Two hosts, with a NATS server between them."""
    port = free_port()
    channels: dict[str, object] = {"nats": {"servers": f"nats://127.0.0.1:{port}", "required": True}}
    with (
        process([nats_server() or "", "-a", "127.0.0.1", "-p", str(port)], folder, "Server is ready"),
        direct(folder, channels, channels) as measure,
    ):
        yield measure


@contextmanager
def hosts_over_http(folder: Path) -> Iterator[Measure]:
    """Two hosts that POST to each other."""
    address = f"127.0.0.1:{free_port()}"
    answering = {"channels": {"http": {"token": "of-the-benchmark"}}, "server": {"listen": address, "control": "off"}}
    peer = {"name": "answering", "type": "module", "address": address, "token": "of-the-benchmark"}
    with direct(folder, {}, {}, answering, {"services": {"static": [peer]}}) as measure:
        yield measure


def nats_server() -> str | None:
    """The program: of the environment that this runs in, else of the machine."""
    return shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")


def nats_missing() -> str:
    return "nats-py or nats-server is not installed" if find_spec("nats") is None or nats_server() is None else ""
