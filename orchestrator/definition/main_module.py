"""The script that runs, under the name by which other modules import it.

`python shop.py` runs that file as the module `__main__`. If it is imported as `shop` too, its classes exist twice, its
tables are declared twice, and its operations have two names. So the import finds the running module instead.
"""

import importlib.util
import os
import sys
from pathlib import Path

MAIN = "__main__"
_SCRIPTS = (MAIN, "__mp_main__")
"""The script's names in `sys.modules`: the second one is in a process that `multiprocessing` spawned."""


def importable_name(module: str) -> str:
    """A module's name as an import statement gives it: the script's own for `__main__`, any other as it is."""
    if module not in _SCRIPTS:
        return module
    main = sys.modules[MAIN]
    for name, loaded in list(sys.modules.items()):
        if loaded is main and name not in _SCRIPTS:
            return name
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name not in _SCRIPTS:
        return str(spec.name)
    return Path(file).stem if file else MAIN


def adopt_script(name: str) -> None:
    """Let an import of `name` find the running script, if that is the same file and was not imported before."""
    file = getattr(sys.modules[MAIN], "__file__", None)
    if name in sys.modules or not file or name.rpartition(".")[2] != Path(file).stem:
        return
    try:
        spec = importlib.util.find_spec(name)
        is_script = spec is not None and bool(spec.origin) and os.path.samefile(str(spec.origin), file)
    except Exception:  # a parent package may raise anything: the import itself reports it
        return
    if is_script:
        sys.modules[name] = sys.modules[MAIN]
