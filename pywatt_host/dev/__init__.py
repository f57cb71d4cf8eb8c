"""What `pywatt-host dev` is made of: which changes matter, the child that serves, and who answers while it is down."""
