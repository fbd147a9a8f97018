"""Platforms: how they are written, which entries of an index serve which wish."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import PlatformInvalidError
from nekko.oci.platform import ALL_PLATFORMS, Platform, PlatformSelection

AMD64, ARM64, ARM_V7 = Platform("linux", "amd64"), Platform("linux", "arm64"), Platform("linux", "arm", "v7")


@pytest.mark.parametrize(
    ("text", "platform"), [("linux/amd64", AMD64), ("Linux/AMD64", AMD64), ("linux/arm/v7", ARM_V7)]
)
def test_platform_survives_its_text(text: str, platform: Platform) -> None:
    assert Platform.parse(text) == platform
    assert Platform.parse(str(platform)) == platform


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/am d64", "linux/amd64\n"])
def test_platform_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(PlatformInvalidError, match="write os/architecture"):
        Platform.parse(text)


def test_host_is_a_platform_that_can_be_written() -> None:
    assert Platform.parse(str(Platform.host())) == Platform.host()
    assert Platform.host().os == "linux"


def test_platform_survives_its_json() -> None:
    for platform in (AMD64, ARM_V7):
        assert Platform.from_json(platform.to_json()) == platform


def test_json_members_of_a_wrong_type_count_as_absent() -> None:
    assert Platform.from_json({"os": 7, "architecture": "ARM64", "variant": None}) == Platform("", "arm64")


@pytest.mark.parametrize(
    ("entry", "wanted", "expected"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/arm64", False),
        ("windows/amd64", "linux/amd64", False),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm/v7", "linux/arm/v7", True),
        ("linux/arm/v6", "linux/arm/v7", False),
    ],
)
def test_entry_matches_what_is_wanted(entry: str, wanted: str, expected: bool) -> None:
    assert Platform.parse(entry).matches(Platform.parse(wanted)) is expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [("all", "all"), (" linux/arm64 , linux/amd64", "linux/amd64,linux/arm64"), ("host", str(Platform.host()))],
)
def test_selection_survives_its_text(text: str, shown: str) -> None:
    selection = PlatformSelection.parse(text)
    assert str(selection) == shown
    assert PlatformSelection.parse(shown) == selection


@pytest.mark.parametrize("text", ["", "all,host", "linux/amd64,", "everything"])
def test_selection_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(PlatformInvalidError):
        PlatformSelection.parse(text)


def test_selection_wants_its_platforms_and_entries_without_one() -> None:
    selection = PlatformSelection.parse("linux/amd64")
    assert [selection.wants(entry) for entry in (AMD64, ARM64, None)] == [True, False, True]
    assert ALL_PLATFORMS.wants(ARM64)


def test_selection_covers_what_is_no_wider() -> None:
    one, two = PlatformSelection.parse("linux/amd64"), PlatformSelection.parse("linux/amd64,linux/arm64")
    assert two.covers(one)
    assert not one.covers(two)
    assert ALL_PLATFORMS.covers(two)
    assert ALL_PLATFORMS.covers(ALL_PLATFORMS)
    assert not two.covers(ALL_PLATFORMS)


def test_selections_join() -> None:
    one, other = PlatformSelection.parse("linux/amd64"), PlatformSelection.parse("linux/arm64")
    assert str(one | other) == "linux/amd64,linux/arm64"
    assert (one | ALL_PLATFORMS) == (ALL_PLATFORMS | one) == ALL_PLATFORMS


def test_missing_platforms_are_those_that_no_entry_serves() -> None:
    selection = PlatformSelection.parse("linux/amd64,linux/arm64")
    assert selection.missing_from([AMD64, ARM_V7]) == {ARM64}
    assert selection.missing_from([]) == {AMD64, ARM64}
    assert selection.missing_from([None]) == frozenset()
    assert ALL_PLATFORMS.missing_from([]) == frozenset()


@given(st.text(), st.booleans())
def test_any_text_is_a_selection_or_invalid(text: str, is_slashed: bool) -> None:
    try:
        selection = PlatformSelection.parse(f"linux/{text}" if is_slashed else text)
    except PlatformInvalidError:
        return
    assert PlatformSelection.parse(str(selection)) == selection
