"""The local Wattson: several modules on one machine, as `wattson.yaml` declares them (`pywatt-host up`).

`child` is a process, `replica` keeps one running, `link` is a connection to it; `router`, `registry`, `topics`, `ports`
and `rotations` are what modules ask for, put together by `answers`; `gateway` is the HTTP listener in front of them,
`control` the socket for `ps`, `logs`, `rotate`, `send` and `stop`; `wattson` is all of it.
"""
