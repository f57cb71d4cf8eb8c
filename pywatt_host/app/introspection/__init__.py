"""What can be told about the user's application by looking at it: its interface, its framework and its routes.

Nothing here calls the application or imports a framework. A new framework is one file beside this one and one row in
`table.FRAMEWORKS`.
"""

from pywatt_host.app.introspection.interface import Found, interface_of, is_factory, state_parameter
from pywatt_host.app.introspection.route import Route
from pywatt_host.app.introspection.table import FRAMEWORKS, framework_of, routes_of

__all__ = ["FRAMEWORKS", "Found", "Route", "framework_of", "interface_of", "is_factory", "routes_of", "state_parameter"]
