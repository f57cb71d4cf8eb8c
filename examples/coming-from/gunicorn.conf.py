import multiprocessing
import os

wsgi_app = "board:app"
worker_class = "uvicorn.workers.UvicornWorker"
bind = f"0.0.0.0:{os.environ.get('PORT', '8080')}"
workers = int(os.environ.get("WEB_CONCURRENCY", multiprocessing.cpu_count()))
graceful_timeout = 60
raw_env = ["MODE=prod"]
user = "www-data"


def post_fork(server, worker):
    server.log.info("worker %s was started", worker.pid)
