"""What a spec's ``package`` may say, and what the resolver is given for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.environments.packages import (
    BUILTIN_DIRECTORY,
    PackageRequest,
    SourceTree,
    is_local,
    request_for,
)
from dissmodel_platform.errors import EnvironmentBuildError, PackageNotFound

REQUIREMENTS = {
    "coastal-flood": "coastal-flood",
    "coastal-flood==0.1.0": "coastal-flood",
    "coastal_flood >=0.1, <2": "coastal_flood",
    "coastal.flood~=1.4": "coastal.flood",
    "flood[plots,zip]==1.*": "flood",
    "flood===1.0": "flood",
    "flood==1!2.0+local": "flood",
    "flood>=1; python_version > '3.10'": "flood",
    "git+https://example.org/lab/flood@v0.1.0": "",
    "git+https://example.org/lab/flood@v0.1.0#subdirectory=models/flood": "",
    "flood @ git+https://example.org/lab/flood@main": "flood",
    "flood@git+https://example.org/lab/flood": "flood",
    "flood[plots] @ git+ssh://git@example.org/lab/flood@v1": "flood",
    "https://example.org/flood-1.0-py3-none-any.whl": "",
    "flood @ https://example.org/flood-1.0-py3-none-any.whl#sha256=00ff": "flood",
}
LOCAL_REQUIREMENTS = {
    "git+file:///srv/flood@v0.1.0": "",
    "flood @ git+file:///srv/flood@v0.1.0": "flood",
}
LOCAL_TREES = {
    "/srv/flood": "/srv/flood",
    "file:///srv/flood": "/srv/flood",
    "file:///srv/a%20flood": "/srv/a flood",
    "flood @ file:///srv/flood": "/srv/flood",
}
UNREADABLE = [
    "-r /etc/passwd",
    "-e /srv/flood",
    "-c https://example.org/constraints",
    "--index-url https://example.org/",
    "flood --index-url https://example.org/",
    "flood\n-r /etc/passwd",
    "flood>=1\nother==2",
    "flood; python_version > '3'\n-r /etc/passwd",
    "flood ; x # -r",
    "srv/flood",
    "flood @ /srv/flood",
    "flood @ ./flood",
    "flood @ ../flood",
    "flood@/srv/flood",
    "flood @ ${HOME}/flood",
    "https://example.org/${UV_INDEX_URL}",
    "git+https://example.org/$TOKEN/flood",
    "flood; '${API_KEYS}'",
    "git+/srv/flood",
    "FILE:///srv/flood",
    "git+FILE:///srv/flood",
    "file:/srv/flood",
    "flood @ file:srv",
    "svn+https://example.org/flood",
    "~somebody/flood",
    "two words",
    "flood==",
    "@",
    ";",
    "==1.0",
    "flööd",
]


@pytest.mark.parametrize(("package", "name"), REQUIREMENTS.items())
@pytest.mark.parametrize("allow_local", [True, False])
def test_requirements_go_to_the_resolver_as_they_are(
    package: str, name: str, allow_local: bool
) -> None:
    request = request_for(package, ">=0.6,<0.7", allow_local=allow_local, python="3.11")
    assert request == PackageRequest(package, (package, "dissmodel>=0.6,<0.7"), None, name, "3.11")
    assert not request.editable
    assert request.label == package


@pytest.mark.parametrize(("package", "name"), LOCAL_REQUIREMENTS.items())
def test_local_git_repositories_are_requirements_where_they_are_allowed(
    package: str, name: str
) -> None:
    request = request_for(package, None, allow_local=True, python="3.11")
    assert request == PackageRequest(package, (package, "dissmodel"), None, name, "3.11")


@pytest.mark.parametrize(("package", "path"), LOCAL_TREES.items())
def test_local_directories_are_installed_editable_where_they_are_allowed(
    package: str, path: str
) -> None:
    request = request_for(package, None, allow_local=True, python="3.11")
    assert request.tree == SourceTree(Path(path), editable=True)
    assert request.requirements == ("dissmodel",)
    assert request.editable


def test_relative_and_home_paths_are_made_absolute() -> None:
    for package in ("./flood", "../flood", "~/flood"):
        request = request_for(package, None, allow_local=True)
        assert request.tree is not None
        assert request.tree.path.is_absolute()
        assert request.distribution == "flood"


@pytest.mark.parametrize(
    "package", [*LOCAL_REQUIREMENTS, *LOCAL_TREES, "./flood", "../flood", "~/flood"]
)
def test_local_sources_are_refused_where_they_are_not_allowed(package: str) -> None:
    assert is_local(package)
    with pytest.raises(EnvironmentBuildError, match="PLATFORM_ALLOW_LOCAL_PACKAGES=true"):
        request_for(package, None, allow_local=False)


@pytest.mark.parametrize("package", UNREADABLE)
@pytest.mark.parametrize("allow_local", [True, False])
def test_nothing_else_reaches_the_resolver(package: str, allow_local: bool) -> None:
    with pytest.raises(EnvironmentBuildError) as refused:
        request_for(package, None, allow_local=allow_local)
    assert "cannot be read" in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.text(alphabet="flood.-_[]<>=!~@:/+$ {}#;'\n\t,1*gihtps\\", max_size=40))
def test_no_accepted_text_is_an_option_a_second_line_a_variable_or_a_path(package: str) -> None:
    try:
        request = request_for(package, None, allow_local=False)
    except EnvironmentBuildError:
        return
    assert request.tree is None or request.tree.path == BUILTIN_DIRECTORY
    for line in request.requirements:
        assert "\n" not in line
        assert "$" not in line
        assert not line.startswith(("-", "/", ".", "~", "file:", "git+file:"))
        assert " -" not in line.partition(";")[0]


@pytest.mark.parametrize("package", [None, "", "  "])
def test_no_package_means_the_built_in_executors(package: str | None) -> None:
    request = request_for(package, None, allow_local=False)
    assert request.tree == SourceTree(BUILTIN_DIRECTORY, editable=False)
    assert request.tree.project_file() == BUILTIN_DIRECTORY / "pyproject.toml"
    assert request.distribution == "dissmodel-builtin-executors"
    assert request.label == "built-in executors"


@pytest.mark.parametrize(
    ("constraint", "requirement"),
    [
        (None, "dissmodel"),
        ("", "dissmodel"),
        (">=0.5,<0.7", "dissmodel>=0.5,<0.7"),
        ("dissmodel>=0.6", "dissmodel>=0.6"),
        ("~=0.6.2", "dissmodel~=0.6.2"),
        ("0.6.2", "dissmodel==0.6.2"),
        ("0.6.*", "dissmodel==0.6.*"),
    ],
)
def test_the_constraint_on_dissmodel(constraint: str | None, requirement: str) -> None:
    assert request_for("flood", constraint, allow_local=False).requirements[1] == requirement


@pytest.mark.parametrize(
    "constraint", ["@ git+https://example.org/x", "0.6\n-r x", ">=0.6 --pre", "[s3]", "new", "${X}"]
)
def test_a_constraint_that_is_none_is_refused(constraint: str) -> None:
    if constraint == "new":  # could be a version; the resolver says that it is none
        assert request_for("flood", constraint, allow_local=False).requirements[1] == (
            "dissmodel==new"
        )
        return
    with pytest.raises(EnvironmentBuildError, match="The spec's `dissmodel`"):
        request_for("flood", constraint, allow_local=False)


def test_the_digest_changes_with_all_that_the_lock_depends_on(tmp_path: Path) -> None:
    tree = _project(tmp_path)
    digests = [
        request_for("flood", None, allow_local=False, python="3.11").digest(),
        request_for("flood", None, allow_local=False, python="3.12").digest(),
        request_for("flood==1", None, allow_local=False, python="3.11").digest(),
        request_for("flood", "0.6.0", allow_local=False, python="3.11").digest(),
        request_for(None, None, allow_local=False, python="3.11").digest(),
        request_for(str(tree.path), None, allow_local=True, python="3.11").digest(),
    ]
    assert len(set(digests)) == len(digests)
    tree.project_file().write_text("[project]\ndependencies = ['numpy']\n")
    changed = request_for(str(tree.path), None, allow_local=True, python="3.11").digest()
    assert changed not in digests
    (tree.path / "flood.py").write_text("another source asks for the same packages")
    assert request_for(str(tree.path), None, allow_local=True, python="3.11").digest() == changed


def test_the_digest_of_a_tree_changes_with_names_and_contents_and_nothing_else(
    tmp_path: Path,
) -> None:
    tree = _project(tmp_path)
    before = tree.digest()
    (tree.path / "__pycache__").mkdir()
    (tree.path / "__pycache__" / "flood.pyc").write_bytes(b"x")
    (tree.path / ".git").mkdir()
    (tree.path / ".git" / "HEAD").write_text("x")
    os.utime(tree.path / "flood.py", (0, 0))
    assert tree.digest() == before
    (tree.path / "flood.py").rename(tree.path / "tide.py")
    renamed = tree.digest()
    assert renamed != before
    (tree.path / "tide.py").write_text("changed")
    assert tree.digest() != renamed


def test_the_digest_of_a_tree_takes_odd_names_links_and_large_files(tmp_path: Path) -> None:
    tree = _project(tmp_path)
    (tree.path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    (tree.path / "to nowhere").symlink_to("nowhere")
    (tree.path / "to a file").symlink_to("flood.py")
    os.mkfifo(tree.path / "pipe")
    assert len(tree.digest()) == 64


def test_a_directory_that_is_no_project_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(PackageNotFound, match="there is no pyproject"):
        SourceTree(tmp_path, editable=True).project_file()
    (tmp_path / "setup.py").write_text("")
    assert SourceTree(tmp_path, editable=True).project_file().name == "setup.py"


@pytest.mark.parametrize("name", ["pyproject.toml", "setup.py", "setup.cfg", "requirements.txt"])
def test_each_file_that_may_name_what_a_project_needs_is_part_of_its_digest(
    tmp_path: Path, name: str
) -> None:
    tree = _project(tmp_path)
    before = tree.project_digest()
    (tree.path / name).write_text("numpy")
    added = tree.project_digest()
    (tree.path / name).write_text("pandas")
    assert len({before, added, tree.project_digest()}) == 3
    (tree.path / "flood.py").write_text("x = 2\n")
    (tree.path / name).write_text("numpy")
    assert tree.project_digest() == added


def _project(directory: Path) -> SourceTree:
    tree = SourceTree(directory / "flood", editable=True)
    tree.path.mkdir()
    (tree.path / "pyproject.toml").write_text("[project]\n")
    (tree.path / "flood.py").write_text("x = 1\n")
    return tree
