"""Data stores: databases and caches.

Applications use `databases.database.Database` and `caches.cache.Cache`. Behind each of them is a backend, one file for
each kind of store, which turns a `StoreUrl` into connections or operations. `kinds` chooses the backend for a URL.
"""
