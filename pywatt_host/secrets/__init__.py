"""Secrets: values that never show themselves, the sources they come from, and the store that keeps them together."""

from pywatt_host.secrets.masking import Masker
from pywatt_host.secrets.secret import Secret
from pywatt_host.secrets.store import Refreshed, SecretStore, SecretsView

__all__ = ["Masker", "Refreshed", "Secret", "SecretStore", "SecretsView"]
