"""A Flask application with one route, served by every WSGI row."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.get("/")
def home() -> str:
    return "Hello, world!"
