"""Names of services and ids of modules: a service never has the id of another module as its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pywatt_host.protocol.messages import Provider

MODULE = "module"


def is_taken(name: str, own: str, modules: Iterable[str]) -> bool:
    """Whether a service of the module `own` may not have this name, because it is the id of another one of `modules`.
    Case makes no difference.

    >>> is_taken("Billing", "users", ["users", "billing"]), is_taken("users", "users", ["users", "billing"])
    (True, False)
    """
    wanted = name.casefold()
    return wanted != own.casefold() and wanted in {id.casefold() for id in modules}


def without_impostors(found: Iterable[Provider], modules: Iterable[str]) -> list[Provider]:
    """The providers without services that have the id of another module as their name."""
    ids = {id.casefold() for id in modules}
    return [
        each for each in found if each.name.casefold() == each.module_id.casefold() or each.name.casefold() not in ids
    ]


def of_that_name(found: Sequence[Provider], wanted: str, modules: Iterable[str]) -> list[Provider]:
    """The providers that `module://WANTED` means: those of the module of that id, its HTTP listener first of all. Only
    where no module has that id, those of services of that name. `modules` are ids of modules that are known apart from
    the providers; `wanted` is in lower case."""
    own = [each for each in found if each.module_id.lower() == wanted]
    if own or wanted in {id.lower() for id in modules}:
        return [each for each in own if each.service_type == MODULE] or own
    return [each for each in found if each.name.lower() == wanted]
