"""`@pywatt_module`: arguments of the decorator become a Manifest."""
