"""The Flask application made ASGI by a2wsgi, with as many threads as every other WSGI row has."""

from __future__ import annotations

from a2wsgi import WSGIMiddleware

from benchmarks.apps.flask_app import app as flask_app

# Flask takes any dict for its environ, a2wsgi promises one of its own type: the same thing, typed apart.
app = WSGIMiddleware(flask_app, workers=16)  # type: ignore[arg-type]
