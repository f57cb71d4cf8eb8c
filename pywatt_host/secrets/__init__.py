"""Secrets: values that do not show themselves, the sources that hold them, and the store that loads and keeps them."""

from pywatt_host.secrets.masking import Masker
from pywatt_host.secrets.secret import Secret
from pywatt_host.secrets.store import Refreshed, SecretStore, SecretsView

__all__ = ["Masker", "Refreshed", "Secret", "SecretStore", "SecretsView"]
