"""The local Wattson: several modules on one machine, as `wattson.yaml` declares them (`pywatt-host up`).

`replica` keeps one process running, `module` knows all processes of a module, `acceptor` lets their connections in.
`router`, `registry`, `topics`, `ports`, `rotations` and `stores` answer what modules ask for; `dispatch` says which of
them answers which message. `gateway` is the HTTP listener in front of the modules, `control` the socket for `ps`,
`logs`, `rotate`, `send` and `stop`. `wattson` puts all of it together.
"""
