"""Which hosts and paths an operator's limits let through."""

from pathlib import Path

import pytest

from nekko.errors import AccessDeniedError
from nekko.images.permitted import Permitted


@pytest.mark.parametrize(
    ("host", "is_permitted"),
    [
        ("10.1.2.3", True),
        ("10.1.2.3.example", False),
        ("11.1.2.3", False),
        ("fd00::5", True),
        ("fd00::5%eth0", True),
        ("fe80::5", False),
        ("disks.example", True),
        ("DISKS.example.", True),
        ("a.disks.example", False),
        ("a.b.cluster", True),
        ("cluster", False),
        ("acluster", False),
    ],
)
def test_host_is_compared_with_names_suffixes_and_networks(host: str, is_permitted: bool) -> None:
    permitted = Permitted(hosts=("10.0.0.0/8", "fd00::/8", "disks.example", "*.cluster"))
    if is_permitted:
        permitted.check_host(host)
    else:
        with pytest.raises(AccessDeniedError, match="imagesAllowedHosts"):
            permitted.check_host(host)


def test_path_is_compared_after_its_links_were_followed(tmp_path: Path) -> None:
    inside, link = tmp_path / "inside", tmp_path / "link"
    inside.mkdir()
    link.symlink_to(inside)
    (inside / "out").symlink_to("/etc")
    permitted = Permitted(paths=(link,))
    for each in (inside, inside / "file", link / "file"):
        permitted.check_path(str(each))
    for each in (tmp_path, tmp_path / "inside2", inside / "out", inside / ".." / "x", Path("/etc")):
        with pytest.raises(AccessDeniedError, match="imagesAllowedPaths"):
            permitted.check_path(str(each))


def test_without_limits_everything_is_permitted() -> None:
    Permitted().check_path("/etc")
    Permitted().check_host("anywhere")
