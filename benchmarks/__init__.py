"""Ratios, not figures: the host beside bare uvicorn, hand-glued stacks and other servers, interleaved in one run.

`python -m benchmarks --help` says what can be measured; README.md says how to read it.
"""
