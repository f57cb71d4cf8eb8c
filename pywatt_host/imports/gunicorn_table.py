"""The settings of gunicorn 20 to 27: its options, and what a manifest has in place of those that it lacks."""

from __future__ import annotations

from pywatt_host.imports.options import table

OPTIONS = table("""
    config: -c --config
    control_socket: --control-socket
    control_socket_mode: --control-socket-mode
    control_socket_disable: --no-control-socket = on
    reload: --reload = on
    reload_engine: --reload-engine
    reload_extra_files: --reload-extra-file = list
    spew: --spew = on
    check_config: --check-config = on
    print_config: --print-config = on
    dirty_apps: --dirty-app = list
    dirty_workers: --dirty-workers
    dirty_timeout: --dirty-timeout
    dirty_threads: --dirty-threads
    dirty_graceful_timeout: --dirty-graceful-timeout
    http_protocols: --http-protocols
    http2_cleartext: --http2-cleartext
    http2_max_concurrent_streams: --http2-max-concurrent-streams
    http2_initial_window_size: --http2-initial-window-size
    http2_max_frame_size: --http2-max-frame-size
    http2_max_header_list_size: --http2-max-header-list-size
    accesslog: --access-logfile
    disable_redirect_access_to_syslog: --disable-redirect-access-to-syslog = on
    access_log_format: --access-logformat
    errorlog: --error-logfile --log-file
    loglevel: --log-level
    capture_output: --capture-output = on
    logger_class: --logger-class
    logconfig: --log-config
    logconfig_json: --log-config-json
    syslog_addr: --log-syslog-to
    syslog: --log-syslog = on
    syslog_prefix: --log-syslog-prefix
    syslog_facility: --log-syslog-facility
    enable_stdio_inheritance: -R --enable-stdio-inheritance = on
    statsd_host: --statsd-host
    dogstatsd_tags: --dogstatsd-tags
    statsd_prefix: --statsd-prefix
    enable_backlog_metric: --enable-backlog-metric = on
    proc_name: -n --name
    keyfile: --keyfile
    certfile: --certfile
    ssl_version: --ssl-version
    cert_reqs: --cert-reqs
    ca_certs: --ca-certs
    suppress_ragged_eofs: --suppress-ragged-eofs = on
    do_handshake_on_connect: --do-handshake-on-connect = on
    ciphers: --ciphers
    limit_request_line: --limit-request-line
    limit_request_fields: --limit-request-fields
    limit_request_field_size: --limit-request-field_size
    preload_app: --preload = on
    sendfile: --no-sendfile = off
    reuse_port: --reuse-port = on
    chdir: --chdir
    daemon: -D --daemon = on
    raw_env: -e --env = list
    pidfile: -p --pid
    worker_tmp_dir: --worker-tmp-dir
    user: -u --user
    group: -g --group
    umask: -m --umask
    initgroups: --initgroups = on
    forwarded_allow_ips: --forwarded-allow-ips
    pythonpath: --pythonpath
    paste: --paste --paster
    proxy_protocol: --proxy-protocol = maybe
    proxy_allow_ips: --proxy-allow-from
    protocol: --protocol
    uwsgi_allow_ips: --uwsgi-allow-from
    raw_paste_global_conf: --paste-global = list
    permit_obsolete_folding: --permit-obsolete-folding = on
    strip_header_spaces: --strip-header-spaces = on
    permit_unconventional_http_method: --permit-unconventional-http-method = on
    permit_unconventional_http_version: --permit-unconventional-http-version = on
    casefold_http_method: --casefold-http-method = on
    forwarder_headers: --forwarder-headers
    header_map: --header-map
    root_path: --root-path
    bind: -b --bind = list
    backlog: --backlog
    workers: -w --workers
    worker_class: -k --worker-class
    threads: --threads
    worker_connections: --worker-connections
    max_requests: --max-requests
    max_requests_jitter: --max-requests-jitter
    timeout: -t --timeout
    graceful_timeout: --graceful-timeout
    keepalive: --keep-alive
    asgi_loop: --asgi-loop
    asgi_lifespan: --asgi-lifespan
    asgi_disconnect_grace_period: --asgi-disconnect-grace-period
    websocket_max_message_size: --websocket-max-message-size
    http_parser: --http-parser
""")

_START = "use @on_startup of the AppState, which each worker calls"
_STOP = "use @on_shutdown of the AppState, which each worker calls"
_EACH = "write it as a middleware of the application"
_LOG = "the host logs that by itself"

HOOKS = {
    "on_starting": "use `state` in the manifest, or @on_startup of the AppState",
    "on_reload": "`pywatt-host reload` prints the verdict of a reload",
    "when_ready": _START,
    "pre_fork": _LOG,
    "post_fork": _START,
    "post_worker_init": _START,
    "worker_int": _STOP,
    "worker_abort": _LOG,
    "pre_exec": _LOG,
    "pre_request": _EACH,
    "post_request": _EACH,
    "child_exit": "the host adds up the metrics of workers that have ended by itself",
    "worker_exit": _STOP,
    "nworkers_changed": "`pywatt-host ps` shows the workers",
    "on_exit": _STOP,
    "ssl_context": "server.tls has the settings of TLS",
    "on_dirty_starting": _START,
    "dirty_post_fork": _START,
    "dirty_worker_init": _START,
    "dirty_worker_exit": _STOP,
}

_FORMAT = "logging.format is json or console"
_STDERR = "collect standard error with systemd or the container"
_HTTP2 = ("the host speaks HTTP/1.1", "put a proxy that speaks HTTP/2 in front")
_DIRTY = ("the host has no processes beside its workers", "run them as a module of their own, or use app_state.spawn")
_STRICT = ("the host refuses such a request", "mend the client")

LOST = {
    "control_socket": ("the control socket is in another place", "server.control is its path"),
    "control_socket_mode": ("the mode of the control socket is always 0600", "server.control"),
    "control_socket_disable": ("the host has a control socket of its own", "server.control: off"),
    "reload_engine": ("it is for development", "pywatt-host dev"),
    "reload_extra_files": ("it is for development", "pywatt-host dev"),
    "spew": ("it is for development", "use a debugger"),
    "check_config": ("it serves nothing", "pywatt-host validate"),
    "print_config": ("it serves nothing", "pywatt-host config"),
    "dirty_apps": _DIRTY,
    "dirty_workers": _DIRTY,
    "dirty_timeout": _DIRTY,
    "dirty_threads": _DIRTY,
    "dirty_graceful_timeout": _DIRTY,
    "http_protocols": _HTTP2,
    "http2_cleartext": _HTTP2,
    "http2_max_concurrent_streams": _HTTP2,
    "http2_initial_window_size": _HTTP2,
    "http2_max_frame_size": _HTTP2,
    "http2_max_header_list_size": _HTTP2,
    "disable_redirect_access_to_syslog": ("the host does not log to syslog", _STDERR),
    "access_log_format": ("the fields of the access log are fixed", _FORMAT),
    "capture_output": ("output of the application goes to standard error unchanged", _STDERR),
    "logger_class": ("the host has a logger of its own", _FORMAT),
    "logconfig": ("the host has log settings of its own", "logging.level and logging.loggers"),
    "logconfig_dict": ("the host has log settings of its own", "logging.level and logging.loggers"),
    "logconfig_json": ("the host has log settings of its own", "logging.level and logging.loggers"),
    "syslog": ("the host does not log to syslog", _STDERR),
    "syslog_addr": ("the host does not log to syslog", _STDERR),
    "syslog_prefix": ("the host does not log to syslog", _STDERR),
    "syslog_facility": ("the host does not log to syslog", _STDERR),
    "dogstatsd_tags": ("the host sends nothing to statsd", "metrics.labels"),
    "statsd_prefix": ("the host sends nothing to statsd", "metrics"),
    "enable_backlog_metric": ("the host has no such metric", "metrics"),
    "ssl_version": ("TLS 1.2 and newer", "server.tls.min_version"),
    "do_handshake_on_connect": ("the host decides when it does the handshake", ""),
    "ciphers": ("the host uses modern ciphers", "server.tls.min_version"),
    "reuse_port": ("all workers accept from one socket", "server.workers"),
    "daemon": ("the host stays in the foreground", "run it with systemd: pywatt-host export systemd"),
    "pidfile": ("the host writes no file with its process id", "pywatt-host ps"),
    "worker_tmp_dir": ("workers have no such files", ""),
    "user": ("the host does not change its user", "set User= in the systemd unit, or USER in the Dockerfile"),
    "group": ("the host does not change its group", "set Group= in the systemd unit, or USER in the Dockerfile"),
    "initgroups": ("the host does not change its user", "set User= in the systemd unit"),
    "tmp_upload_dir": ("uploads are not written to files by the host", "set TMPDIR for the application"),
    "secure_scheme_headers": (
        "X-Forwarded-Proto of a trusted proxy sets the scheme, and no other header does",
        "let the proxy send X-Forwarded-Proto",
    ),
    "paste": ("the host reads no Paste configuration", "name a factory that makes the application"),
    "raw_paste_global_conf": ("the host reads no Paste configuration", "name a factory that makes the application"),
    "proxy_protocol": ("the host does not speak the PROXY protocol", "let the proxy send X-Forwarded-For"),
    "proxy_allow_ips": ("the host does not speak the PROXY protocol", "server.trusted_proxies"),
    "protocol": ("the host speaks HTTP/1.1", "let the proxy speak HTTP to it"),
    "uwsgi_allow_ips": ("the host does not speak the uwsgi protocol", "server.trusted_proxies"),
    "permit_obsolete_folding": _STRICT,
    "strip_header_spaces": _STRICT,
    "permit_unconventional_http_method": _STRICT,
    "permit_unconventional_http_version": _STRICT,
    "casefold_http_method": _STRICT,
    "forwarder_headers": ("a proxy cannot set SCRIPT_NAME or PATH_INFO", "app.route_prefix"),
    "header_map": ("headers with an underscore never take the place of others", ""),
    "root_path": (
        "the path of a request has to contain app.route_prefix, and root_path is without an effect on matching",
        "set app.route_prefix if the proxy passes the prefix on, else set root_path in the application",
    ),
    "asgi_loop": ("the host uses uvloop", ""),
    "asgi_lifespan": ("the host always runs the lifespan protocol; an application may decline", ""),
    "asgi_disconnect_grace_period": ("the host tells the application at once", ""),
    "http_parser": ("the host has one parser", ""),
    "sendfile": ("the host decides how it sends files", ""),
    "enable_stdio_inheritance": ("output of the application goes to standard error unchanged", _STDERR),
    "suppress_ragged_eofs": ("a connection without its TLS end is closed", ""),
    "default_proc_name": ("the host does not change the name of its process", "module.id"),
}
