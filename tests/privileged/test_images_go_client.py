"""The image API's description, taken at its word: go-swagger generates a client of it, which is compiled and used."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.daemon import daemon
from tests.privileged.image_host import ImageHost, needs_root
from tests.privileged.test_images_api import BASE, arguments

ROOT = Path(__file__).parents[2]
SWAGGER, SOURCE = ROOT / "build/peers/swagger", ROOT / "packaging/peers/swagger"
pytestmark = [
    needs_root,
    pytest.mark.peers,
    pytest.mark.skipif(not SWAGGER.exists(), reason="Go was not there to build go-swagger"),
]


def test_generated_client_runs_a_container(image_host: ImageHost, tmp_path: Path) -> None:
    module = tmp_path / "module"
    shutil.copytree(SOURCE, module)
    with daemon(image_host.directory, *arguments(image_host)) as served:
        (module / "swagger.json").write_text(json.dumps(served.ask("GET", f"{BASE}/swagger.json")[1]))
        environment = {**os.environ, "GOFLAGS": "-mod=readonly"}
        for command in (
            [str(SWAGGER), "validate", "swagger.json"],
            [str(SWAGGER), "generate", "client", "--quiet", "--spec=swagger.json", "--name=imageapi"],
            ["go", "build", "-o", "client-program", "."],
        ):
            done = subprocess.run(command, cwd=module, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        used = subprocess.run(
            [module / "client-program", served.socket, image_host.squashfs(hello="x")],
            capture_output=True, text=True,
        )  # fmt: skip
        assert used.returncode == 0, used.stdout + used.stderr
        told = [json.loads(line) for line in used.stdout.splitlines()]
        made, [listed], stopped, refused = told[2]["Payload"], told[3]["Payload"], told[4]["Payload"], told[5]
        assert (made["state"], "no program" in made["error"]) == ("dead", True)
        assert made == listed == stopped == told[6]["Payload"]
        assert (refused["code"], "is used by" in refused["message"]) == (409, True)
        assert served.ask("GET", f"{BASE}/attach") == (200, [])
