"""Data stores: databases and caches behind one seam each, one backend a file.

`database.Database` and `cache.Cache` are what users see. A backend turns a `StoreUrl` into connections or operations;
`kinds` has a row for each.
"""
