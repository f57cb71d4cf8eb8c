"""What MySQL and MariaDB say when something fails, and what that is called here."""

from __future__ import annotations

import pymysql  # type: ignore[import-untyped]

# Numbers of errors (MySQL and MariaDB error reference) to the code of a StoreError.
NUMBERS = {
    1044: "authentication", 1045: "authentication", 1698: "authentication", 1862: "authentication",
    3118: "authentication", 4151: "authentication",
    1022: "integrity", 1048: "integrity", 1062: "integrity", 1216: "integrity", 1217: "integrity",
    1364: "integrity", 1451: "integrity", 1452: "integrity", 1557: "integrity", 1586: "integrity",
    3819: "integrity", 4025: "integrity",
    1205: "conflict", 1213: "conflict", 1020: "conflict",
    1021: "full", 1114: "full", 1041: "full", 1037: "full",
    1290: "read_only", 1792: "read_only", 1836: "read_only",
    1969: "timeout", 3024: "timeout", 1317: "timeout",
    1040: "unavailable", 1053: "unavailable", 1203: "unavailable", 1226: "unavailable", 1927: "unavailable",
    2002: "unavailable", 2003: "unavailable", 2006: "unavailable", 2013: "unavailable", 2014: "unavailable",
    2055: "unavailable",
    1264: "arguments", 1292: "arguments", 1366: "arguments", 1406: "arguments", 1265: "arguments",
    1411: "arguments", 1525: "arguments",
}  # fmt: skip


def text_of(error: BaseException) -> str:
    """The server's words, without the number that stands before them."""
    if isinstance(error, pymysql.err.Error) and len(error.args) > 1:
        return f"{error.args[1]} ({error.args[0]})"
    return said(error)


def said(error: BaseException) -> str:
    return str(error) or type(error).__name__
