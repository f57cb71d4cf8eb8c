"""Databases: the interface that applications use, and one file for each kind of database."""
