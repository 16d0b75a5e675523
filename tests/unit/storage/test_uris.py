"""Names are names: nothing that leaves a directory or deceives a reader gets through."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.storage.uris import (
    INPUTS_BUCKET,
    MAX_NAME_BYTES,
    OUTPUTS_BUCKET,
    LogicalUri,
    check_name,
    input_uri,
    output_uri,
)
from dissmodel_platform.types import ExperimentId

EXPERIMENT = ExperimentId("0123456789abcdef0123456789abcdef")

TRICKS = [
    "",
    ".",
    "..",
    "../secret",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "C:\\windows",
    "a\x00b",
    "a\nb",
    "a\x7fb",
    "a\u2028b",
    "gpj.\u202egpkg",  # shows as gkpg.jpg
    "\ud800",
    " grid.zip",
    "grid.zip ",
    "\u00a0grid.zip",
    "x" * (MAX_NAME_BYTES + 1),
    "ã" * (MAX_NAME_BYTES // 2 + 1),
]

names = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Cf", "Zl", "Zp"], exclude_characters="/\\"),
    min_size=1,
    max_size=60,
).filter(lambda name: name == name.strip() and name not in {".", ".."})


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_refused_as_label_as_file_name_and_as_part_of_an_output_name(
    trick: str,
) -> None:
    with pytest.raises(InvalidInput) as label_error:
        input_uri(trick, "grid.zip")
    assert list(label_error.value.fields) == ["label"]
    with pytest.raises(InvalidInput) as name_error:
        input_uri("coast", trick)
    assert list(name_error.value.fields) == ["file"]
    if trick != "a/b":
        with pytest.raises(InvalidInput):
            output_uri(EXPERIMENT, f"tiles/{trick}")
        with pytest.raises(InvalidInput):
            LogicalUri(INPUTS_BUCKET, f"inputs/coast/{trick}")


@pytest.mark.parametrize("trick", TRICKS)
def test_a_refusal_shows_no_control_character_and_stays_short(trick: str) -> None:
    with pytest.raises(InvalidInput) as error:
        check_name(trick)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


def test_letters_of_any_script_and_inner_spaces_are_fine() -> None:
    uri = input_uri("Maré alta", "São Luís – 海岸 grid (v2).zip")
    assert str(uri) == "s3://dissmodel-inputs/inputs/Maré alta/São Luís – 海岸 grid (v2).zip"
    assert uri.name == "São Luís – 海岸 grid (v2).zip"


def test_a_name_typed_on_macos_is_the_name_typed_on_linux() -> None:
    composed = "São Luís.tif"
    assert input_uri("a", unicodedata.normalize("NFD", composed)) == input_uri("a", composed)


def test_an_output_name_may_hold_directories_but_not_leave_them() -> None:
    uri = output_uri(EXPERIMENT, "result.zarr/0/0")
    assert str(uri) == f"s3://dissmodel-outputs/experiments/{EXPERIMENT}/result.zarr/0/0"
    for name in ("../x", "/x", "a//b", "a/", ""):
        with pytest.raises(InvalidInput):
            output_uri(EXPERIMENT, name)


@pytest.mark.parametrize("bad", ["", "..", "0" * 31, "0" * 33, "A" * 32, "0" * 32 + "\n"])
def test_an_experiment_id_is_32_hexadecimal_digits(bad: str) -> None:
    with pytest.raises(InvalidInput):
        output_uri(ExperimentId(bad), "output.tif")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "grid.zip",
        "/etc/passwd",
        "file:///etc/passwd",
        "S3://dissmodel-inputs/inputs/a/b",
        "s3:/dissmodel-inputs/inputs/a/b",
        "s3://",
        "s3://dissmodel-inputs",
        "s3://dissmodel-inputs/",
        "s3:///inputs/a",
        "s3://dissmodel-inputs//inputs/a",
        "s3://dissmodel-inputs/inputs/a/",
        "s3://dissmodel-inputs/inputs/../../x",
        "s3://dissmodel-inputs.evil.example/inputs/a/b",
        "s3://user@dissmodel-inputs/inputs/a/b",
        "s3://other-bucket/inputs/a/b",
        "s3://dissmodel-inputs/" + "k/" * 600 + "k",
        " s3://dissmodel-inputs/inputs/a/b",
    ],
)
def test_an_address_that_is_not_one_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        LogicalUri.parse(text)


def test_a_bucket_that_the_operator_listed_is_served() -> None:
    text = "s3://national-archive/2024/dem.tif"
    with pytest.raises(InvalidInput, match="not served here"):
        LogicalUri.parse(text)
    uri = LogicalUri.parse(text, buckets={INPUTS_BUCKET, "national-archive"})
    assert (uri.bucket, uri.key) == ("national-archive", "2024/dem.tif")


def test_percent_signs_are_letters_and_are_never_decoded() -> None:
    uri = LogicalUri.parse("s3://dissmodel-inputs/inputs/a/%2e%2e")
    assert uri.name == "%2e%2e"


@settings(deadline=None)
@given(label=names, name=names)
def test_an_input_address_reads_back_as_itself(label: str, name: str) -> None:
    uri = input_uri(label, name)
    assert LogicalUri.parse(str(uri)) == uri
    assert uri.name == unicodedata.normalize("NFC", name)
    assert uri.bucket == INPUTS_BUCKET


@settings(deadline=None)
@given(parts=st.lists(names, min_size=1, max_size=4))
def test_an_output_address_reads_back_as_itself(parts: list[str]) -> None:
    uri = output_uri(EXPERIMENT, "/".join(parts))
    assert LogicalUri.parse(str(uri)) == uri
    assert uri.bucket == OUTPUTS_BUCKET


@settings(deadline=None)
@given(text=st.text(max_size=80), bucket=st.sampled_from([INPUTS_BUCKET, OUTPUTS_BUCKET]))
def test_whatever_parses_prints_as_it_was_and_has_harmless_segments(text: str, bucket: str) -> None:
    address = f"s3://{bucket}/{text}"
    try:
        uri = LogicalUri.parse(address)
    except InvalidInput:
        return
    assert str(uri) == address
    assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(letter) for letter in address}
    assert not {"", ".", ".."} & set(uri.key.split("/"))
    assert "\\" not in uri.key
