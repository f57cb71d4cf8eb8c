"""Runs WSGI applications (PEP 3333) as ASGI applications, with each request in a thread."""

from pywatt_host.wsgi.app import WsgiApp

__all__ = ["WsgiApp"]
