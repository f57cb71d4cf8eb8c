"""WSGI applications (PEP 3333) served as ASGI ones, each request in a thread."""

from pywatt_host.wsgi.app import WsgiApp

__all__ = ["WsgiApp"]
