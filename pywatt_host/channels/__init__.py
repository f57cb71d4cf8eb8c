"""Channels move messages and decide nothing: octets of a pipe, a Unix socket or a TCP connection to messages and back.

`wire` is what all of them share; `stdio`, `unix` and `tcp` open one each; `records` keeps hostile peers from filling
the log; `trace` writes a conversation down.
"""
