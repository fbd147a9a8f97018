"""Commands, timed, with what they cost: of all their processes together.

A small process of its own runs each command, for the kernel counts the memory of whoever starts a program as the
program's. Hence nothing heavy is imported here.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping


def timed(command: str, **environment: str) -> Mapping[str, float]:
    """Run a shell pipeline; gives its seconds, its processor time, and the memory of its largest process."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", __name__, command],
        stdin=subprocess.DEVNULL, capture_output=True, env=os.environ | environment, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode} of {command}\n{done.stderr}")
    sample: Mapping[str, float] = json.loads(done.stdout)
    return sample


def at_once(commands: list[str]) -> str:
    """Make one command of several that run side by side; it fails if one of them does."""
    started = "".join(f"{command} & jobs+=($!); " for command in commands)
    return f'jobs=(); {started} for job in "${{jobs[@]}}"; do wait "$job" || exit 1; done'


def _main(command: str) -> int:
    started = time.monotonic()
    code = subprocess.call(["bash", "-o", "pipefail", "-c", command], stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"s": seconds, "CPU s": used.ru_utime + used.ru_stime, "MiB peak": used.ru_maxrss / 1024}))
    return code


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
