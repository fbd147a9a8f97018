"""`nekko` and `python -m nekko`: the version is answered at once, all else by `nekko.cli`."""

import sys
from pathlib import Path

from nekko.cli.output import guarded


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(guarded(_command))


def _command() -> int:
    if sys.argv[1:] in (["version"], ["--version"]):
        # Before click and all the rest is imported: probes and packagers ask this often.
        from nekko.cli.version import version_text

        sys.stdout.write(f"{version_text()}\n")
        return 0
    from nekko.cli.main import run

    program = Path(sys.argv[0]).name
    return run(sys.argv[1:], "ociregistry" if program == "ociregistry" else "nekko")


if __name__ == "__main__":
    main()
