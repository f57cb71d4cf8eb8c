"""`pywatt-host`, and `python -m pywatt_host`."""

from __future__ import annotations

from pywatt_host.cli import main

if __name__ == "__main__":
    main()
