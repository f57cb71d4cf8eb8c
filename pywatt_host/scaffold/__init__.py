"""What `pywatt-host init` writes: a new module, or a manifest for an existing application. The templates are beside
this file; `$name` in them is replaced."""

from pywatt_host.scaffold.adopted import Adopted, adopt
from pywatt_host.scaffold.finding import Candidate, CannotFindError, candidates, in_file
from pywatt_host.scaffold.starter import FRAMEWORKS, installed, module_id_of, starter
from pywatt_host.scaffold.writing import CannotWriteError, in_the_way, write

__all__ = [
    "FRAMEWORKS",
    "Adopted",
    "Candidate",
    "CannotFindError",
    "CannotWriteError",
    "adopt",
    "candidates",
    "in_file",
    "in_the_way",
    "installed",
    "module_id_of",
    "starter",
    "write",
]
