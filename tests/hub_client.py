"""Released clients of the Hub, each in an environment of its own (`packaging/setup peers`)."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

PEERS = Path(__file__).parents[1] / "build/peers"
VERSIONS = ("hub-0", "hub-1", "hub-2")
CALLS = """
import json, sys, huggingface_hub
for name, arguments in json.loads(sys.argv[1]):
    try:
        print(json.dumps({"value": str(getattr(huggingface_hub, name)(**arguments))}))
    except Exception as error:
        print(json.dumps({"error": [kind.__name__ for kind in type(error).__mro__]}))
"""


@dataclass
class Client:
    """A released client with a cache of its own, for which the Hub is at `endpoint`."""

    programs: Path
    home: Path
    endpoint: str

    async def run(self, *command: str | Path, **environment: str) -> str:
        """Run a program of its environment; gives what it printed."""
        given = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "HF_HOME": str(self.home / "hf"),
            "HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }  # fmt: skip
        program, *arguments = command
        done = await trio.run_process(
            [self.programs / program, *arguments], env=given | environment, check=False,
            capture_stdout=True, stderr=subprocess.STDOUT,
        )  # fmt: skip
        printed = done.stdout.decode()
        assert done.returncode == 0, printed
        return printed

    async def call(self, *calls: tuple[str, dict[str, Any]], **environment: str) -> list[dict[str, Any]]:
        """Call functions of the library, one after the other."""
        printed = await self.run("python", "-W", "ignore", "-c", CALLS, json.dumps(calls), **environment)
        return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def content_of(folder: Path) -> dict[str, bytes]:
    """Give the files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
