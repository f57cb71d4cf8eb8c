"""What `pywatt-host init` writes: a new module, or a manifest around an application that exists. The texts are the
templates beside this file, with `$name` replaced."""

from pywatt_host.scaffold.adopted import Adopted, adopt
from pywatt_host.scaffold.starter import FRAMEWORKS, installed, module_id_of, starter
from pywatt_host.scaffold.writing import CannotWriteError, in_the_way, write

__all__ = [
    "FRAMEWORKS",
    "Adopted",
    "CannotWriteError",
    "adopt",
    "in_the_way",
    "installed",
    "module_id_of",
    "starter",
    "write",
]
