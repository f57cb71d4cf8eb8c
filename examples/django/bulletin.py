"""A Django project in one file, which serves as an ASGI and as a WSGI application."""

from __future__ import annotations

import os
import secrets

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

settings.configure(
    DEBUG=os.environ.get("BULLETIN_DEBUG") == "true",
    SECRET_KEY=secrets.token_urlsafe(50),
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
)


def index(request: HttpRequest) -> HttpResponse:
    interface = "wsgi" if "wsgi.version" in request.META else "asgi"
    return JsonResponse({"bulletins": list(BULLETINS), "interface": interface})


def bulletin(request: HttpRequest, slug: str) -> HttpResponse:
    text = BULLETINS.get(slug)
    return JsonResponse({"slug": slug, "text": text}, status=200 if text else 404)


BULLETINS = {"welcome": "Hello from Django."}

urlpatterns = [path("", index), path("bulletins/<slug:slug>/", bulletin)]

asgi = get_asgi_application()
wsgi = get_wsgi_application()
