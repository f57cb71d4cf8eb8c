"""A Flask application that a factory creates. The AppState is in the WSGI environ of each request."""

from __future__ import annotations

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

from pywatt_host import AppState


def create_app(title: str) -> Flask:
    app = Flask(__name__)
    guests: list[str] = []

    @app.get("/")
    def index() -> ResponseReturnValue:
        state: AppState = request.environ["pywatt.state"]
        return jsonify(title=title, module=state.module_id, guests=guests)

    @app.post("/guests/<name>")
    def sign(name: str) -> ResponseReturnValue:
        guests.append(name)
        return jsonify(number=len(guests)), 201

    return app
