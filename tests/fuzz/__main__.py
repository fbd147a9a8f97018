"""Search for inputs that break a reader, with atheris: `python -m tests.fuzz SECONDS [TARGET...]`, see `make fuzz`.

Each target runs in a process of its own, which ends at the first fault and leaves the input in build/fuzz.
"""

import subprocess
import sys
from pathlib import Path

CORPUS = Path("build/fuzz")


def search(name: str, seconds: str) -> None:
    """Search for `seconds`; ends the process."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # only in the environment of `make fuzz`

    with atheris.instrument_imports(include=["nekko"]):
        from tests.fuzz.targets import TARGETS, WORDS, try_out

    words = CORPUS / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in WORDS))
    corpus = CORPUS / name
    corpus.mkdir(exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-dict={words}", f"-artifact_prefix={CORPUS}/{name}-", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: try_out(TARGETS[name], data))
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main() -> int:
    """Search all the named targets, or all there are; give 1 if one has a fault."""
    seconds, *names = sys.argv[1:]
    CORPUS.mkdir(parents=True, exist_ok=True)
    if names[:1] == ["--one"]:
        search(names[1], seconds)
    from tests.fuzz.targets import TARGETS

    faults = 0
    for name in names or TARGETS:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", seconds, "--one", name], capture_output=True, text=True
        )
        faults += done.returncode != 0
        print(f"{name:22}{'fault: ' + done.stderr[-2000:] if done.returncode else 'no fault'}", flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
