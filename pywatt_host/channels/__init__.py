"""Channels turn the bytes of a pipe, a Unix socket or a TCP connection into messages, and messages into bytes.

`wire` is one connection of any kind; `stdio` and `sockets` open it; `records` bounds what hostile peers can log;
`trace` writes messages to a file.
"""
