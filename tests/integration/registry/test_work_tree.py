"""A work tree as it stands, read without a trace in the repository it belongs to."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.registry.work_tree import WorkTree
from tests.acceptance.support import commit, git

MODEL = '[model]\nclass = "a"\n'

OpenTree = Callable[..., WorkTree]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Make a registry with one commit, at a path that has to be quoted everywhere."""
    place = tmp_path / 'a "registry" of Ana\'s'
    commit(place, {"models/a.toml": MODEL, "README.md": "Models\n"})
    return place


@pytest.fixture
def open_tree(tmp_path: Path) -> OpenTree:
    opened = 0

    def open_(path: Path) -> WorkTree:
        nonlocal opened
        opened += 1
        scratch = tmp_path / f"scratch{opened}"
        scratch.mkdir()
        return WorkTree(path, scratch)

    return open_


def contents(tree: WorkTree) -> dict[str, str]:
    """Commit the work tree and return mode and content of each file."""
    entries = tree.reader.entries(tree.commit())
    blobs = [entry for entry in entries if entry.size_bytes is not None]
    read = tree.reader.read_blobs([entry.oid for entry in blobs], max_bytes=10_000)
    return {
        os.fsdecode(entry.path): f"{entry.mode[:3]} {(blob.data or b'').decode()}"
        for entry, blob in zip(blobs, read, strict=True)
    }


def traces(directory: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of everything below a directory."""
    found = {}
    for path in [directory, *directory.rglob("*")]:
        status = path.lstat()
        found[str(path.relative_to(directory))] = (status.st_size, status.st_mtime_ns)
    return found


def test_files_count_as_they_stand_whether_staged_or_not(repository, open_tree) -> None:
    (repository / "models/a.toml").write_text("edited")
    (repository / "models/new.toml").write_text("new")
    (repository / "catalog.yaml").write_text("sources: {}")
    (repository / "models/staged.toml").write_text("staged")
    git(repository, "add", "models/staged.toml")
    assert contents(open_tree(repository)) == {
        "catalog.yaml": "100 sources: {}",
        "models/a.toml": "100 edited",
        "models/new.toml": "100 new",
        "models/staged.toml": "100 staged",
    }


def test_removed_files_are_gone(repository, open_tree) -> None:
    commit(repository, {"models/b.toml": MODEL, "catalog.yaml": "sources: {}"})
    (repository / "models/a.toml").unlink()
    git(repository, "rm", "--cached", "--quiet", "catalog.yaml")
    (repository / "catalog.yaml").unlink()
    assert list(contents(open_tree(repository))) == ["models/b.toml"]
    shutil.rmtree(repository / "models")
    assert contents(open_tree(repository)) == {}


def test_the_repository_is_not_touched(repository, open_tree) -> None:
    commit(repository, {"models/b.toml": MODEL})
    (repository / "models/new.toml").write_text("new")
    (repository / "models/a.toml").write_text("edited")
    before = traces(repository)
    tree = open_tree(repository)
    assert contents(tree)
    tree.fork_point("HEAD~1")
    tree.file("models/a.toml")
    assert traces(repository) == before


def test_ignored_files_stay_out(repository, open_tree) -> None:
    (repository / ".gitignore").write_text("models/draft.toml\ncatalog.yaml\n")
    (repository / ".git/info/exclude").write_text("mine.toml\n")
    for name in ("models/draft.toml", "models/mine.toml", "catalog.yaml"):
        (repository / name).write_text(MODEL)
    assert list(contents(open_tree(repository))) == ["models/a.toml"]


def test_links_and_directories_are_committed_as_what_they_are(repository, open_tree) -> None:
    (repository / "models/link.toml").symlink_to("a.toml")
    (repository / "models/below").mkdir()
    (repository / "models/below/c.toml").write_text(MODEL)
    tree = open_tree(repository)
    listed = {entry.path: entry.mode for entry in tree.reader.entries(tree.commit())}
    assert listed == {
        b"models/a.toml": "100644",
        b"models/below": "040000",
        b"models/link.toml": "120000",
    }


def test_a_directory_that_became_a_file_and_the_reverse(repository, open_tree) -> None:
    commit(repository, {"models/d.toml/x": "x", "models/b.toml": MODEL})
    shutil.rmtree(repository / "models/d.toml")
    (repository / "models/d.toml").write_text("a file now")
    (repository / "models/b.toml").unlink()
    (repository / "models/b.toml").mkdir()
    (repository / "models/b.toml/x").write_text("x")
    tree = open_tree(repository)
    listed = {entry.path: entry.mode for entry in tree.reader.entries(tree.commit())}
    assert listed == {
        b"models/a.toml": "100644",
        b"models/b.toml": "040000",
        b"models/d.toml": "100644",
    }
    assert tree.left_out == ()


def test_the_directory_of_models_becomes_a_link(repository, open_tree) -> None:
    (repository / "models").rename(repository / "elsewhere")
    (repository / "models").symlink_to("elsewhere")
    assert contents(open_tree(repository)) == {"models": "120 elsewhere"}


def test_the_directory_of_models_takes_the_place_of_a_file(repository, open_tree) -> None:
    git(repository, "rm", "-r", "--quiet", "models")
    commit(repository, {"models": "a file"})
    (repository / "models").unlink()
    (repository / "models").mkdir()
    (repository / "models/b.toml").write_text(MODEL)
    assert list(contents(open_tree(repository))) == ["models/b.toml"]


def test_a_repository_inside_the_registry_is_left_out(repository, open_tree) -> None:
    for name in ("below", "model.toml"):
        git(repository, "init", "--quiet", f"models/{name}")
    (repository / "models/b.toml").write_text(MODEL)
    tree = open_tree(repository)
    assert list(contents(tree)) == ["models/a.toml", "models/b.toml"]
    assert [(path, problem.code) for path, problem in tree.left_out] == [
        (b"models/model.toml", "submodule")
    ]


def test_what_cannot_be_read_is_told_and_hides_no_other_file(repository, open_tree) -> None:
    (repository / ".gitattributes").write_text("models/odd.toml working-tree-encoding=UTF-16\n")
    for name in ("b", "odd", "c"):
        (repository / f"models/{name}.toml").write_text("x")
    (repository / "models/a.toml").unlink()
    os.mkfifo(repository / "models/a.toml")
    with (repository / "models/huge.toml").open("wb") as huge:
        huge.truncate(3 * 1024**3)
    tree = open_tree(repository)
    assert list(contents(tree)) == ["models/b.toml", "models/c.toml"]
    assert sorted((path, problem.code) for path, problem in tree.left_out) == [
        (b"models/a.toml", "not-a-file"),
        (b"models/huge.toml", "too-large"),
        (b"models/odd.toml", "unreadable"),
    ]


@pytest.mark.parametrize("place", ["repository", "user", "default"])
def test_what_the_user_s_git_ignores_stays_out(repository, tmp_path, place) -> None:
    home = tmp_path / "home of the user"
    (home / ".config/git").mkdir(parents=True)
    environ = {"HOME": str(home)}
    if place == "default":
        (home / ".config/git/ignore").write_text("draft*\n")
    else:
        (home / "ignored").write_text("draft*\n")
        config = repository / ".git/config" if place == "repository" else home / ".gitconfig"
        stated = home / "ignored" if place == "repository" else "~/ignored"
        git(repository, "config", "--file", str(config), "core.excludesFile", str(stated))
    (repository / "models/draft.toml").write_text("not yet")
    (tmp_path / "scratch").mkdir()
    tree = WorkTree(repository, tmp_path / "scratch", environ=environ)
    assert list(contents(tree)) == ["models/a.toml"]
    assert tree.file("models/draft.toml") is None


def test_line_ends_are_those_that_would_be_committed(repository, open_tree) -> None:
    git(repository, "config", "core.autocrlf", "true")
    for name in ("a", "b"):
        (repository / f"models/{name}.toml").write_bytes(b"[model]\r\n")
    tree = open_tree(repository)
    assert set(contents(tree).values()) == {"100 [model]\n"}


def test_names_of_any_bytes_are_committed(repository, open_tree) -> None:
    odd = [b"models/\xff\xfe.toml", b"models/a\nb.toml", b"models/:(top)x.toml", b"models/*.toml"]
    for name in odd:
        Path(os.fsdecode(os.fsencode(repository) + b"/" + name)).write_text(MODEL)
    tree = open_tree(repository)
    listed = {entry.path for entry in tree.reader.entries(tree.commit())}
    assert listed == {b"models/a.toml", *odd}


def test_nothing_that_the_repository_configures_is_run(repository, tmp_path, open_tree) -> None:
    trap = tmp_path / "trap"
    trap.write_text("#!/bin/sh\ntouch '" + str(tmp_path / "sprung") + "'\ncat\n")
    trap.chmod(0o755)
    (repository / ".gitattributes").write_text("*.toml filter=trap\n")
    for key in ("core.fsmonitor", "filter.trap.clean", "filter.trap.process", "core.sshCommand"):
        git(repository, "config", key, str(trap))
    for hook in ("pre-commit", "post-index-change", "reference-transaction"):
        shutil.copy(trap, repository / ".git/hooks" / hook)
    (repository / "models/new.toml").write_text("new")
    assert contents(open_tree(repository))["models/new.toml"] == "100 new"
    assert not (tmp_path / "sprung").exists()


def test_an_edit_in_the_second_of_its_staging_is_seen(repository, open_tree) -> None:
    file = repository / "models/a.toml"
    for number in range(5):
        file.write_text(f"old {number}")
        git(repository, "add", "--all")
        file.write_text(f"new {number}")
        assert contents(open_tree(repository))["models/a.toml"] == f"100 new {number}"


def test_a_conflict_elsewhere_does_not_matter_and_one_in_a_model_is_its_text(
    repository, open_tree
) -> None:
    git(repository, "switch", "--quiet", "--create", "other")
    commit(repository, {"README.md": "Theirs\n", "models/a.toml": "theirs\n"})
    git(repository, "switch", "--quiet", "main")
    commit(repository, {"README.md": "Ours\n", "models/a.toml": "ours\n"})
    merge = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "merge", "other"]
    merged = subprocess.run(merge, cwd=repository, capture_output=True, check=False)
    assert merged.returncode == 1, merged.stderr
    text = contents(open_tree(repository))["models/a.toml"]
    assert "<<<<<<< HEAD" in text


def test_a_directory_below_the_top_will_do(repository, open_tree) -> None:
    tree = open_tree(repository / "models")
    assert tree.directory == repository
    assert list(contents(tree)) == ["models/a.toml"]


def test_a_second_work_tree_of_a_repository(repository, tmp_path, open_tree) -> None:
    second = tmp_path / "second"
    git(repository, "worktree", "add", "--quiet", "-b", "topic", str(second))
    (second / "models/b.toml").write_text(MODEL)
    assert list(contents(open_tree(second))) == ["models/a.toml", "models/b.toml"]
    assert list(contents(open_tree(repository))) == ["models/a.toml"]


def test_a_split_index(repository, open_tree) -> None:
    git(repository, "update-index", "--split-index")
    (repository / "models/b.toml").write_text(MODEL)
    before = traces(repository / ".git")
    assert list(contents(open_tree(repository))) == ["models/a.toml", "models/b.toml"]
    assert traces(repository / ".git") == before


def test_files_that_a_sparse_checkout_leaves_out_are_not_gone(repository, open_tree) -> None:
    commit(repository, {"catalog.yaml": "sources: {}", "models/b.toml": MODEL})
    git(repository, "sparse-checkout", "set", "--no-cone", "/models/b.toml")
    assert not (repository / "models/a.toml").exists()
    assert list(contents(open_tree(repository))) == [
        "catalog.yaml",
        "models/a.toml",
        "models/b.toml",
    ]


def test_a_repository_with_long_ids(tmp_path, open_tree) -> None:
    place = tmp_path / "long"
    place.mkdir()
    git(place, "init", "--quiet", "--initial-branch=main", "--object-format=sha256")
    base = commit(place, {"models/a.toml": MODEL})
    assert len(base) == 64
    tree = open_tree(place)
    assert tree.fork_point("main") == base
    assert list(contents(tree)) == ["models/a.toml"]


def test_before_the_first_commit(tmp_path, open_tree) -> None:
    place = tmp_path / "fresh"
    (place / "models").mkdir(parents=True)
    git(place, "init", "--quiet", "--initial-branch=main")
    tree = open_tree(place)
    assert tree.head() is None
    assert contents(tree) == {}
    (place / "models/a.toml").write_text(MODEL)
    assert list(contents(open_tree(place))) == ["models/a.toml"]
    with pytest.raises(InvalidInput, match="There is no commit 'main'"):
        tree.fork_point("main")


def test_the_fork_point_is_where_the_branches_parted(repository, open_tree) -> None:
    parted = git(repository, "rev-parse", "HEAD")
    git(repository, "switch", "--quiet", "--create", "topic")
    head = commit(repository, {"models/b.toml": MODEL})
    git(repository, "switch", "--quiet", "main")
    commit(repository, {"models/c.toml": MODEL})
    git(repository, "switch", "--quiet", "topic")
    tree = open_tree(repository)
    assert tree.fork_point("main") == parted
    assert tree.head() == head


@pytest.mark.parametrize("ref", ["nowhere", "--all", "-x", "", "HEAD:models", "a\0b", "..", "@{u}"])
def test_what_is_no_commit_is_refused_as_a_base(repository, open_tree, ref) -> None:
    with pytest.raises(InvalidInput, match="There is no commit"):
        open_tree(repository).fork_point(ref)


def test_histories_without_a_common_commit_are_refused(repository, tmp_path, open_tree) -> None:
    git(repository, "switch", "--quiet", "--orphan", "stranger")
    commit(repository, {"models/z.toml": MODEL})
    with pytest.raises(InvalidInput, match="fetch-depth: 0"):
        open_tree(repository).fork_point("main")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", "-b", "main", repository.as_uri(), str(shallow))
    git(shallow, "fetch", "--quiet", "--depth=1", "origin", "stranger:stranger")
    with pytest.raises(InvalidInput, match="fetch-depth: 0"):
        open_tree(shallow).fork_point("stranger")


def test_a_shallow_clone_can_be_read(repository, tmp_path, open_tree) -> None:
    commit(repository, {"models/b.toml": MODEL})
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", repository.as_uri(), str(shallow))
    (shallow / "models/c.toml").write_text(MODEL)
    assert len(contents(open_tree(shallow))) == 3


@pytest.mark.parametrize("what", ["nothing", "file", "plain", "bare", "dot-git"])
def test_what_is_no_work_tree_is_refused(repository, tmp_path, open_tree, what) -> None:
    places = {
        "nothing": tmp_path / "not there",
        "file": repository / "README.md",
        "plain": tmp_path,
        "bare": tmp_path / "bare.git",
        "dot-git": repository / ".git",
    }
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), str(places["bare"]))
    with pytest.raises(InvalidInput, match=r"no directory|not in the work tree"):
        open_tree(places[what])


def test_files_of_the_repository_can_be_inputs_and_others_cannot(
    repository, tmp_path, open_tree
) -> None:
    (tmp_path / "secret").write_text("not for models")
    (repository / "data").mkdir()
    for name in ("committed.txt", "new.txt", "draft.txt", "[ab].txt"):
        (repository / "data" / name).write_text("data")
    (repository / ".gitignore").write_text("draft.txt\n")
    git(repository, "add", "data/committed.txt")
    (repository / "data/link.txt").symlink_to(tmp_path / "secret")
    (repository / "data/inside.txt").symlink_to("new.txt")
    tree = open_tree(repository)
    for good in ("data/committed.txt", "data/new.txt", "data/[ab].txt", "data/inside.txt"):
        assert tree.file(good) == repository / good
    for bad in ("data/draft.txt", "data/link.txt", "data", "data/", "data/*.txt", ".git/config"):
        assert tree.file(bad) is None, bad
    for bad in ("../secret", "data/a.txt", "", "."):
        assert tree.file(bad) is None, bad
