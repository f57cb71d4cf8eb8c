import multiprocessing
import os
from typing import Any

wsgi_app = "greetings:app"
worker_class = "uvicorn.workers.UvicornWorker"
bind = f"0.0.0.0:{os.environ.get('PORT', '8080')}"
workers = int(os.environ.get("WEB_CONCURRENCY", multiprocessing.cpu_count()))
graceful_timeout = 60
raw_env = ["MODE=prod"]
user = "www-data"


def post_fork(server: Any, worker: Any) -> None:
    server.log.info("worker %s was started", worker.pid)
