"""Django: the AppState as `request.pywatt`, over ASGI and WSGI.

>>> MIDDLEWARE = ["pywatt_host.django.PywattMiddleware"]
>>> def root(request):
...     return JsonResponse({"module_id": request.pywatt.module_id})

`app_state(request)` is the same, typed and without the middleware. `claims(request)` are the claims of its credential.
Where PyWatt Host does not serve the application (`manage.py runserver`, Django's test client), using `request.pywatt`
raises RuntimeError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware
from django.utils.functional import SimpleLazyObject

if TYPE_CHECKING:
    from pywatt_host.app.state import AppState


def app_state(request: Any) -> AppState:
    """The AppState of the module. Raises RuntimeError where PyWatt Host does not serve the application."""
    scope = getattr(request, "scope", None)  # with ASGI; with WSGI it is in the environ
    state = scope.get("state", {}).get("pywatt") if scope is not None else request.META.get("pywatt.state")
    if state is None:
        raise RuntimeError("there is no AppState: this application is not served by PyWatt Host")
    return cast("AppState", state)


def claims(request: Any) -> dict[str, Any]:
    """The verified claims of the request's credential; empty where the endpoint needs no credential."""
    scope = getattr(request, "scope", None)
    found: dict[str, Any] = (scope if scope is not None else request.META).get("pywatt.claims", {})
    return found


def _middleware(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if iscoroutinefunction(get_response):

        async def answer(request: Any) -> Any:
            request.pywatt = SimpleLazyObject(lambda: app_state(request))
            return await cast("Awaitable[Any]", get_response(request))

        return answer

    def answer_in_thread(request: Any) -> Any:
        request.pywatt = SimpleLazyObject(lambda: app_state(request))
        return get_response(request)

    return answer_in_thread


# A function with the name of a class, like Django's own middleware. Django accepts both.
PywattMiddleware = sync_and_async_middleware(_middleware)
