"""Child processes: started, watched, restarted and stopped.

`process` has what all supervised processes share. `child` runs one on the event loop; `protocol_child` (the modules of
`up`) and `serving_child` (`dev`) add how parent and child talk.
"""
