"""Calls to others: how long they may take, when they are tried again, and when no longer; and who answers for a
module."""
