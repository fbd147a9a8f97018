"""The version of this program. Imports nothing heavy: it is answered before everything else."""

from importlib import import_module

from nekko import __version__


def version_text() -> str:
    """Give name and version, with commit and date of the build where the package carries them."""
    try:
        build = import_module("nekko._build")
    except ModuleNotFoundError:
        return f"nekko {__version__}"
    return f"nekko {__version__} (commit {build.COMMIT}, built {build.DATE})"
