"""The installed program's entry point.  Its packages are found whatever else of their names Python's path leads to.

`app`, `lattice`, `monitors` and `presets` are common names.  With PYTHONPATH set (even to ":", the current folder), somebody
else's folder of such a name would be imported instead.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("app", "lattice", "monitors", "presets")


def main() -> None:
    """Binds the packages beside this file to their names, and runs the program."""
    for name in PACKAGES:
        folder = Path(__file__).resolve().with_name(name)
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    from app.cli import main as run

    run()
