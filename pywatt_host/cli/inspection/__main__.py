"""The child process, as `python -m` starts it."""

from pywatt_host.cli.inspection.child import main

main()
