"""`pywatt-host dev`: which changes of files count, the session that restarts the serving child, and the 503 while no
child serves."""
