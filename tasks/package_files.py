"""Files that installed packages bring. They are found without importing the packages.

Some packages import half the world, others set up a server; here only their data is wanted, so none
of their requirements needs to be installed either.
"""

import dataclasses
import importlib.util
import os
import pathlib

from promot_jax.base.errors import UserError


@dataclasses.dataclass(frozen=True)
class Package:
    """A package of PyPI whose files are read.

    Attributes:
      name: of its top-level module.
      install: the command that gets it.
      variable: environment variable that names a folder with the same files, for a package that is
        unpacked rather than installed; None for none.
    """

    name: str
    install: str
    variable: str | None = None

    def folder(self) -> pathlib.Path:
        """Returns the folder of the package.

        Raises:
          UserError: it is neither installed nor unpacked.
        """
        unpacked = self.variable and os.environ.get(self.variable)
        if unpacked:
            root = pathlib.Path(unpacked)
            inner = root / self.name
            folder = inner if inner.is_dir() else root
            if not folder.is_dir():
                raise UserError(f"{self.variable} names {unpacked}, which is no folder; correct it")
            return folder
        spec = importlib.util.find_spec(self.name)
        for place in (spec and spec.submodule_search_locations) or ():
            if os.path.isdir(place):
                return pathlib.Path(place)
        raise UserError(f"the package {self.name} is not installed; {self._get}")

    def file(self, path: str) -> pathlib.Path:
        """Returns a file or folder of the package, by its path inside.

        Raises:
          UserError: there is no such package, or nothing of that path in it.
        """
        folder = self.folder()
        found = folder / path
        if not found.exists():
            raise UserError(f"{folder} has no {path}, it may be another version; {self._get}")
        return found

    @property
    def _get(self) -> str:
        other = f", and set {self.variable} to the unpacked folder" if self.variable else ""
        return f"run `{self.install}`{other}"
