"""The Wattson wire protocol without I/O: bytes to frozen messages and back, and which answer belongs to which request.

`messages` are the operations of both sides, `codec` the two framings, `jsontext` a JSON reader for hostile input,
`session` correlation and timeouts. None of them knows a socket; host and orchestrator share all of it.
"""
