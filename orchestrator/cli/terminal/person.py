"""Who sits at the terminal, as the system knows them."""

import getpass


def this_person() -> str:
    """The system user's name; `somebody` where the system has none for it, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "somebody"
