"""What uv 0.13 prints, word for word but for the machine's own paths, and the error it becomes."""

from __future__ import annotations

import pytest

from dissmodel_platform.environments.failures import explain
from dissmodel_platform.errors import (
    BuildFailed,
    EnvironmentBuildError,
    PackageNotFound,
    PackageUnreachable,
    PackageUnsatisfiable,
    PythonMismatch,
    VersionNotFound,
)

GIT_FETCH = (
    "process didn't exit successfully: `/usr/bin/git fetch --force --update-head-ok "
    "'{address}' '+refs/tags/{tag}:refs/remotes/origin/tags/{tag}'` (exit status: 128)"
)
MISSING_TAG = f"""\
error: Git operation failed
  cause: failed to clone into: /srv/cache/git-v2/db/784c1ede6456fbb6
  cause: failed to fetch branch or tag `v9.9.9`
  cause: {GIT_FETCH.format(address="https://example.org/a/good", tag="v9.9.9")}
         --- stderr
         fatal: couldn't find remote ref refs/tags/v9.9.9"""
MISSING_TAG_OF_A_NAMED_PACKAGE = f"""\
error: Failed to download and build `good-model @ git+https://example.org/a/good@v9.9.9`
  cause: Git operation failed
  cause: failed to fetch into: /srv/cache/git-v2/db/784c1ede6456fbb6
  cause: failed to fetch branch or tag `v9.9.9`
  cause: {GIT_FETCH.format(address="https://example.org/a/good", tag="v9.9.9")}
         --- stderr
         fatal: couldn't find remote ref refs/tags/v9.9.9"""
MISSING_COMMIT = """\
error: Git operation failed
  cause: failed to fetch into: /srv/cache/git-v2/db/784c1ede6456fbb6
  cause: failed to fetch commit `0123456789012345678901234567890123456789`
  cause: process didn't exit successfully: `/usr/bin/git fetch --force --update-head-ok \
'https://example.org/a/good' '+0123456789012345678901234567890123456789:refs/commit/\
0123456789012345678901234567890123456789'` (exit status: 128)
         --- stderr
         fatal: remote error: upload-pack: not our ref 0123456789012345678901234567890123456789
         fatal: git upload-pack: not our ref 0123456789012345678901234567890123456789"""
FULL_DISK = """\
error: Failed to download and build `tide==1.0`
  cause: Failed to extract archive: tide-1.0.tar.gz
  cause: failed to write file tide-1.0/backend.py: No space left on device (os error 28)
  cause: No space left on device (os error 28)"""
MISSING_REPOSITORY = f"""\
error: Git operation failed
  cause: failed to clone into: /srv/cache/git-v2/db/96deb8d950467b15
  cause: failed to fetch branch or tag `v1`
  cause: {GIT_FETCH.format(address="file:///srv/git/nowhere", tag="v1")}
         --- stderr
         fatal: '/srv/git/nowhere' does not appear to be a git repository
         fatal: Could not read from remote repository.

         Please make sure you have the correct access rights
         and the repository exists."""
UNREACHABLE_GIT = f"""\
error: Git operation failed
  cause: failed to clone into: /srv/cache/git-v2/db/d24da47c3c9ed1c1
  cause: failed to fetch branch or tag `v1`
  cause: {GIT_FETCH.format(address="http://127.0.0.1:9/x.git", tag="v1")}
         --- stderr
         fatal: unable to access 'http://127.0.0.1:9/x.git/': Failed to connect to 127.0.0.1 \
port 9 after 0 ms: Couldn't connect to server"""
UNKNOWN_GIT_HOST = f"""\
error: Git operation failed
  cause: failed to clone into: /srv/cache/git-v2/db/c3f5097586840f41
  cause: failed to fetch branch or tag `v1`
  cause: {GIT_FETCH.format(address="https://git.example.org/a/b", tag="v1")}
         --- stderr
         fatal: unable to access 'https://git.example.org/a/b/': Could not resolve host: \
git.example.org"""
UNREACHABLE_INDEX = """\
error: Failed to fetch: http://127.0.0.1:9/hatchling/
  cause: error sending request for url (http://127.0.0.1:9/hatchling/)
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)"""
UNKNOWN_PACKAGE = """\
error: No solution found when resolving dependencies
  cause: Because coastal-floood was not found in the package registry and you require \
coastal-floood, we can conclude that your requirements are unsatisfiable."""
UNKNOWN_DEPENDENCY = """\
error: No solution found when resolving dependencies
  cause: Because no-such-package was not found in the package registry and flood==0.1.0 depends on \
no-such-package, we can conclude that flood==0.1.0 cannot be used.
         And because only flood==0.1.0 is available and you require flood, we can conclude that \
your requirements are unsatisfiable."""
UNKNOWN_VERSION = """\
error: No solution found when resolving dependencies
  cause: Because there is no version of hatchling==0.0.99 and you require hatchling==0.0.99, we \
can conclude that your requirements are unsatisfiable."""
VERSION_TOO_NEW = """\
error: No solution found when resolving dependencies
  cause: Because only dissmodel<=0.6.6 is available and you require dissmodel>=99, we can conclude \
that your requirements are unsatisfiable."""
CONTRADICTORY = """\
error: No solution found when resolving dependencies
  cause: Because contradictory==0.1.0 depends on numpy>=2.1 and numpy<2, we can conclude that \
contradictory==0.1.0 cannot be used.
         And because only contradictory==0.1.0 is available and you require contradictory, we can \
conclude that your requirements are unsatisfiable."""
CONTRADICTS_THE_LIBRARY = """\
error: No solution found when resolving dependencies
  cause: Because dissmodel==0.6.2 depends on numpy>=1.24,<3.0 and you require dissmodel==0.6.2, we \
can conclude that you require numpy>=1.24,<3.0.
         And because you require numpy<1.10, we can conclude that your requirements are \
unsatisfiable."""
WRONG_PYTHON = """\
error: No solution found when resolving dependencies
  cause: Because the requested Python version (>=3.11) does not satisfy Python>=3.99 and \
wrong-python==0.1.0 depends on Python>=3.99, we can conclude that wrong-python==0.1.0 \
cannot be used.
         And because only wrong-python==0.1.0 is available and you require wrong-python, we can \
conclude that your requirements are unsatisfiable.

hint: The `--python-version` value (>=3.11) includes Python versions that are not supported by \
your dependencies (e.g., wrong-python==0.1.0 only supports >=3.99). Consider using a higher \
`--python-version` value."""
MISSING_BACKEND = """\
error: The build backend returned an error
  cause: Call to `no_such_backend.get_requires_for_build_wheel` failed (exit status: 1)

         [stderr]
         Traceback (most recent call last):
           File "<string>", line 8, in <module>
         ModuleNotFoundError: No module named 'no_such_backend'"""
SYNTAX_ERROR = """\
error: The build backend returned an error
  cause: Call to `setuptools.build_meta:__legacy__.get_requires_for_build_wheel` failed (exit \
status: 1)

         [stderr]
         Traceback (most recent call last):
           File "<string>", line 14, in <module>
           File "/srv/cache/builds-v0/.tmpdQ177n/lib/python3.11/site-packages/setuptools/\
build_meta.py", line 317, in run_setup
             exec(code, locals())  # noqa: S102 # exec is intentional here
             ^^^^^^^^^^^^^^^^^^^^
           File "<string>", line 3
             setup(name="syntax-error-in-setup", version="0.1.0", packages=["model"]
                  ^
         SyntaxError: '(' was never closed"""
NO_PROJECT = """\
error: `/srv/cache/git-v2/checkouts/d9b364c91bfb2f04/2e89fa9` does not appear to be a Python \
project, as neither `pyproject.toml` nor `setup.py` are present in the directory"""
NO_SUBDIRECTORY = """\
error: The source distribution `git+https://example.org/a/good@v0.1.0#subdirectory=nope` has no \
subdirectory `nope`"""


@pytest.mark.parametrize(
    ("output", "error", "cause"),
    [
        (FULL_DISK, BuildFailed, "the worker's disk is full"),
        (MISSING_TAG, VersionNotFound, "no such version (tag, branch or commit)"),
        (MISSING_TAG_OF_A_NAMED_PACKAGE, VersionNotFound, "no such version (tag, branch"),
        (MISSING_COMMIT, VersionNotFound, "no such version (tag, branch or commit)"),
        (MISSING_REPOSITORY, PackageNotFound, "its git repository is not found"),
        (UNREACHABLE_GIT, PackageUnreachable, "cannot be reached"),
        (UNKNOWN_GIT_HOST, PackageUnreachable, "cannot be reached"),
        (UNREACHABLE_INDEX, PackageUnreachable, "cannot be reached"),
        (UNKNOWN_PACKAGE, PackageNotFound, "coastal-floood is not found in the package index"),
        (UNKNOWN_DEPENDENCY, PackageNotFound, "no-such-package is not found in the package index"),
        (UNKNOWN_VERSION, VersionNotFound, "no such version (hatchling==0.0.99)"),
        (VERSION_TOO_NEW, VersionNotFound, "no such version (dissmodel>=99)"),
        (CONTRADICTORY, PackageUnsatisfiable, "depends on numpy>=2.1 and numpy<2"),
        (CONTRADICTS_THE_LIBRARY, PackageUnsatisfiable, "And because you require numpy<1.10"),
        (WRONG_PYTHON, PythonMismatch, "widen `requires-python` in the package"),
        (
            MISSING_BACKEND,
            BuildFailed,
            "its build failed: ModuleNotFoundError: No module named 'no_such_backend'. ",
        ),
        (SYNTAX_ERROR, BuildFailed, "its build failed: SyntaxError: '(' was never closed. "),
        (NO_PROJECT, PackageNotFound, "does not appear to be a Python project"),
        (NO_SUBDIRECTORY, PackageNotFound, "has no subdirectory `nope`"),
        ("", BuildFailed, "the tool printed nothing"),
        ("error: Something new", BuildFailed, "its build failed: Something new. "),
    ],
)
def test_each_text_becomes_one_sentence_that_names_package_and_cause(
    output: str, error: type[EnvironmentBuildError], cause: str
) -> None:
    told = explain("a-package", output)
    assert type(told) is error
    assert str(told).startswith("Package 'a-package' cannot be installed: ")
    assert cause in str(told)
    assert "\n" not in str(told)
    assert str(told).endswith(".")
    assert told.output_tail == output


def test_the_tools_hints_and_prefixes_are_not_repeated() -> None:
    contradiction = str(explain("a", CONTRADICTORY + "\n\nhint: Do this. unsatisfiable"))
    assert "hint" not in contradiction
    assert "cause:" not in contradiction
    assert "error:" not in contradiction


def test_braces_in_what_is_printed_are_only_text() -> None:
    told = explain("{found}", "RuntimeError: {last_line} {0}")
    assert "'{found}'" in str(told)
    assert "RuntimeError: {last_line} {0}. " in str(told)
