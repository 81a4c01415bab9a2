"""Makes the running script importable under its own name.

`python shop.py` runs that file as the module `__main__`. If it were also imported as `shop`, its classes would exist
twice, its tables would be declared twice, and its operations would have two names. Therefore the import returns the
running module.
"""

import importlib.util
import os
import sys
from pathlib import Path

MAIN = "__main__"
_SCRIPTS = (MAIN, "__mp_main__")
"""The script's names in `sys.modules`. The second is used in a process that `multiprocessing` has spawned."""


def importable_name(module: str) -> str:
    """Return the name under which a module can be imported: for `__main__` the script's, otherwise its own."""
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
    """Make an import of `name` return the running script, if that is the same file and not imported yet."""
    file = getattr(sys.modules[MAIN], "__file__", None)
    if name in sys.modules or not file or name.rpartition(".")[2] != Path(file).stem:
        return
    try:
        spec = importlib.util.find_spec(name)
        is_script = spec is not None and bool(spec.origin) and os.path.samefile(str(spec.origin), file)
    except Exception:  # a parent package may raise anything; the import that follows reports it
        return
    if is_script:
        sys.modules[name] = sys.modules[MAIN]
