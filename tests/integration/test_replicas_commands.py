"""`nekko replicas`: every copy proven, restored, moved, beside a running daemon or without one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from tests.api.test_replicas import place
from tests.daemon import daemon
from tests.integration.test_verify_command import nekko

FILES = [b"%d" % number * 1000 for number in range(20)]


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    """Two tuples; the first one holds files that Stor wrote."""
    roots = [tmp_path / name for name in ("a1", "a2", "b1", "b2")]
    for root in roots:
        root.mkdir()
    for root in roots[:2]:
        for content in FILES:
            path = place(root, Digest.of(content).encoded)
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
    return roots


def run(command: str, roots: Sequence[Path], *options: str, **environ: str) -> tuple[int, str]:
    pairs = [[str(root) for root in roots[:2]], [str(root) for root in roots[2:]]]
    file = roots[0].parent / "nekko.yaml"
    file.write_text(json.dumps({"storagePairs": pairs, "requireMounts": "false", "cacheDir": str(file.parent / "c")}))
    done = subprocess.run(
        [sys.executable, "-m", "nekko", "replicas", command, "--config-file", str(file), *options],
        capture_output=True, text=True, check=False, env=os.environ | environ,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def damage(roots: Sequence[Path]) -> list[Path]:
    """Lose one copy, cut one and spoil one."""
    lost, cut, spoiled = (place(roots[n % 2], Digest.of(FILES[n]).encoded) for n in range(3))
    lost.unlink()
    os.truncate(cut, 10)
    spoiled.write_bytes(b"x" * len(FILES[2]))
    return [lost, cut, spoiled]


def copies(roots: Sequence[Path]) -> set[bytes]:
    return {path.read_bytes() for root in roots for path in root.rglob("*.dat") if ".nekko" not in path.parts}


def test_verify_tells_of_each_fault_and_changes_nothing(roots: list[Path]) -> None:
    assert run("verify", roots) == (0, "20 files, 0 faults, 0 copies changed\n")
    faults = damage(roots)
    code, told = run("verify", roots)
    assert code == 1
    assert told.endswith("20 files, 3 faults, 0 copies changed\n")
    assert all(str(path) in told for path in faults)
    assert not list(roots[0].glob(".nekko")) + list(roots[1].glob(".nekko"))
    code, told = run("verify", roots, "--json")
    assert (code, json.loads(told)["faults"], len(json.loads(told)["lines"])) == (1, 3, 3)


def test_repair_restores_what_lacks(roots: list[Path]) -> None:
    damage(roots)
    code, told = run("repair", roots)
    assert (code, "20 files, 0 faults, 3 copies restored\n" in told) == (0, True)
    assert told.count("its bytes are wrong, set aside") == 2
    assert run("verify", roots)[0] == 0
    assert copies(roots[:1]) == copies(roots[1:2]) == set(FILES)


def test_repair_tells_of_what_is_lost(roots: list[Path]) -> None:
    digest = Digest.of(FILES[0])
    for root in roots[:2]:
        place(root, digest.encoded).write_bytes(b"wrong")
    code, told = run("repair", roots)
    assert code == 1
    assert f"{digest}: no right copy is left on {roots[0]} + {roots[1]}" in told
    assert "20 files, 1 faults, 0 copies restored" in told
    line = f"{digest}: was lost on {roots[0]} + {roots[1]}: store it again, or give it up by nekko replicas rm\n"
    for command, done in (("verify", "changed"), ("repair", "restored")):
        assert run(command, roots) == (1, f"{line}19 files, 1 faults, 0 copies {done}\n")
    place(roots[1], digest.encoded).write_bytes(FILES[0])
    restored = f"{place(roots[0], digest.encoded)}: restored\n20 files, 0 faults, 1 copies restored\n"
    assert run("repair", roots) == (0, restored)


def test_storage_that_is_gone_is_a_fault_and_its_twin_is_looked_at(roots: list[Path], tmp_path: Path) -> None:
    roots[1].rename(tmp_path / "elsewhere")
    code, told = run("repair", roots)
    assert code == 1
    assert told == f"{roots[1]} is missing\n20 files, 1 faults, 0 copies restored\n"
    assert not roots[1].exists()
    assert run("rebalance", roots) == (1, f"{roots[1]} is missing\n0 files, 1 faults, 0 files moved\n")
    roots[1].touch()
    assert run("verify", roots)[1].startswith(f"{roots[1]} is no directory\n")
    assert run("rebalance", roots) == (1, f"{roots[1]} is no directory\n0 files, 1 faults, 0 files moved\n")


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[list[Path]]:
    """Two tuples, each storage a file system of its own of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    mounted: list[Path] = []
    try:
        for name in ("a1", "a2", "b1", "b2"):
            (tmp_path / name).mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path / name], check=True)
            mounted.append(tmp_path / name)
        yield mounted
    finally:
        for root in mounted:
            subprocess.run(["umount", "-l", root], check=True)


def fill(roots: Sequence[Path], files: Sequence[bytes]) -> None:
    for root in roots:
        for content in files:
            path = place(root, Digest.of(content).encoded)
            path.parent.mkdir(parents=True)
            path.write_bytes(content)


def test_rebalance_moves_files_to_the_emptier_tuple(disks: list[Path]) -> None:
    files = [os.urandom(400_000) for _ in range(10)]
    fill(disks[:2], files)
    code, told = run("rebalance", disks)
    assert code == 0, told
    assert told.splitlines()[-1] == "5 files, 0 faults, 5 files moved"
    assert copies(disks) == set(files)
    assert copies(disks[:1]) == copies(disks[1:2])
    assert len(copies(disks[2:3])) == len(copies(disks[3:])) == 5
    assert run("verify", disks)[0] == 0
    assert run("rebalance", disks) == (0, "0 files, 0 faults, 0 files moved\n")


@pytest.mark.parametrize("other_size", [2_000_000, 5_000_000])  # it would fit, and would not
def test_rebalance_leaves_a_file_that_would_only_turn_the_tables(disks: list[Path], other_size: int) -> None:
    large, small = os.urandom(5_500_000), os.urandom(other_size)
    fill(disks[:2], [large])
    fill(disks[2:], [small])
    code, told = run("rebalance", disks)
    lines = told.splitlines()
    assert (code, lines[-1]) == (0, "1 files, 0 faults, 0 files moved")
    assert f"{Digest.of(large)}: stays on {disks[0]} + {disks[1]}" in lines[0]
    assert copies(disks[:2]) == {large}
    assert copies(disks[2:]) == {small}


def test_without_storages_there_is_nothing_to_look_after(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nekko", "replicas", "verify"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        2, "Error: no storagePairs are configured: name the daemon's --config-file\n",
    )  # fmt: skip


def test_files_of_a_daemon_are_listed_and_removed(tmp_path: Path, roots: list[Path]) -> None:
    environ = os.environ | {
        "NEKKO_STORAGE_PAIRS": f"{roots[0]}:{roots[1]},{roots[2]}:{roots[3]}",
        "NEKKO_REQUIRE_MOUNTS": "false",
    }
    hashes = sorted(Digest.of(content).encoded for content in FILES)
    place(roots[0], hashes[0]).unlink()
    with daemon(tmp_path, environ=environ) as node:
        deadline = time.monotonic() + 20
        while not place(roots[0], hashes[0]).exists():  # the disks have no mark yet, so they are compared
            assert time.monotonic() < deadline
            time.sleep(0.01)
        code, told = nekko(node, "replicas", "ls")
        assert code == 0
        assert [line.split()[0] for line in told.splitlines()] == ["SHA256", *hashes]
        assert "2/2" in told.splitlines()[1]
        files = json.loads(nekko(node, "replicas", "ls", "--json")[1])
        assert [file["sha256"] for file in files] == hashes
        assert nekko(node, "replicas", "rm", hashes[0].upper(), hashes[1]) == (0, "")
        assert len(json.loads(nekko(node, "replicas", "ls", "--json")[1])) == len(FILES) - 2
        code, told = nekko(node, "replicas", "rm", "what", hashes[2])
        assert (code, "what: " in told) == (2, True)
        assert not place(roots[0], hashes[2]).exists()
    assert len(copies(roots[:1])) == len(FILES) - 3
