"""Put nekko's own first code into a zipapp that shiv made. Usage: finish.py FROM TO. Keeps it reproducible."""

import sys
import zipfile
from pathlib import Path

SHEBANG = b"#!/usr/bin/env python3\n"


def main(source: Path, target: Path) -> None:
    """Copy every entry as it is, but `__main__.py`."""
    main_code = Path(__file__).with_name("main.py").read_bytes()
    with target.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.infolist():
                new.writestr(entry, main_code if entry.filename == "__main__.py" else old.read(entry))
    target.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
