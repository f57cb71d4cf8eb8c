"""The interface, the framework and the routes of an application, found out by looking at the object.

Nothing here calls the application or imports a framework. Support for a framework is one file in this folder and one
row in `table.FRAMEWORKS`.
"""

from pywatt_host.app.introspection.interface import Found, interface_of, is_factory, state_parameter
from pywatt_host.app.introspection.route import Note, Route, RouteTable
from pywatt_host.app.introspection.table import FRAMEWORKS, framework_of, routes_of, table_of

__all__ = [
    "FRAMEWORKS",
    "Found",
    "Note",
    "Route",
    "RouteTable",
    "framework_of",
    "interface_of",
    "is_factory",
    "routes_of",
    "state_parameter",
    "table_of",
]
