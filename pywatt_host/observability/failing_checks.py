"""Which checks of a health report do not pass, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def failing_checks(report: Mapping[str, Any] | None) -> str:
    """The checks of a report that do not pass, and why: `db failing: connection refused; cache starting`. Empty where
    all pass. The report is that of a module, which may say anything.

    >>> failing_checks({"checks": {"db": {"status": "failing", "error": "refused"}, "cache": {"status": "passing"}}})
    'db failing: refused'
    """
    checks = report.get("checks") if report is not None else None
    found = []
    for name, check in checks.items() if isinstance(checks, Mapping) else ():
        if isinstance(check, Mapping) and check.get("status") not in ("passing", "healthy"):
            error = check.get("error")
            found.append(f"{name} {check.get('status')}" + (f": {error}" if error else ""))
    return "; ".join(found)
