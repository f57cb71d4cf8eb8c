"""`send`: sends a message to a module, and tells what its handler said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pywatt_host.cli.running import ask_running, control_option, folder_option, only, running_hosts
from pywatt_host.cli.terminal import echo, echo_json
from pywatt_host.runtime.control_client import PATIENCE, RefusedError


@click.command()
@click.argument("module")
@click.argument("type")
@click.argument("content", metavar="[JSON]", default="{}")
@click.option(
    "--timeout", type=click.FloatRange(0.001, 3600), default=30.0, help="Seconds to wait for the reply. Default: 30."
)
@folder_option
@control_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, also for an error.")
def send(
    module: str, type: str, content: str, timeout: float, folder: Path, control: Path | None, as_json: bool
) -> int:
    """Send a message to a module and print what its handler replied, as JSON.

    TYPE is the type of the message. The JSON argument is an object with the other fields of the message. The exit code
    is 1 if there is an error instead of a reply: the module has no handler for the type, its handler raised or refused,
    or nothing answered in time. The last line on standard error says which.

    \b
    Examples:
      pywatt-host send billing charge '{"user": 7, "cents": 1200}'
      pywatt-host send billing charge '{"user": 7}' --json | jq .error.code
    """
    try:
        document = json.loads(content)
    except ValueError as fault:
        raise click.UsageError(f"the JSON argument is not valid JSON: {fault}") from None
    if not isinstance(document, dict):
        raise click.UsageError("the JSON argument must be an object, such as '{\"user\": 7}'")
    found = [
        each
        for each in running_hosts(folder.absolute(), control)
        if module in each.modules or (not each.is_workspace and module == each.id)
    ]
    one = only(found, f'module "{module}"')
    asked = {"module": module, "type": type, "content": document, "timeout": timeout}
    try:
        answer = ask_running(one, "/send", asked, timeout + 2 * PATIENCE)
    except RefusedError as refused:
        answer = {"error": {"code": "refused", "message": str(refused)}}
    error = answer.get("error")
    if as_json:
        outcome = {"error": error} if error is not None else {"reply": answer.get("reply")}
        echo_json({"module": module, "type": type, "ok": error is None, **outcome}, ascii=False)
    elif error is not None:
        echo(_told(module, type, error, timeout), err=True)
    else:
        if answer.get("reply") is None:
            echo(f"{module} has handled {type}; its handler returned nothing", err=True)
        echo_json(answer.get("reply"), ascii=False)
    return 0 if error is None else 1


def _told(module: str, type: str, error: dict[str, Any], timeout: float) -> str:
    """What went wrong, with the code at the end."""
    code, message = str(error.get("code")), str(error.get("message"))
    match code:
        case "no_handler":
            what = f'it has no handler for messages of the type "{type}"'
        case "handler_failed":
            what = f'its handler for "{type}" failed: {message}'
        case "timeout":
            what = f"no answer within {timeout:g} s"
        case "refused":
            return f"{module}: {message}"
        case "unknown_target" | "unavailable":
            what = message
        case _:
            what = f'its handler for "{type}" answered with an error: {message}'
    return f"{module}: {what} ({code})"
