"""The mirror against real repositories: every history, every damage, every kill."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from dissmodel_platform.errors import RegistryError, RevisionNotFound, SettingsError
from dissmodel_platform.registry.git_faults import GitFailed, GitFault
from dissmodel_platform.registry.mirror import Mirror
from dissmodel_platform.registry.mirror_lock import MirrorLock
from dissmodel_platform.registry.mirror_reader import Relation
from tests.processes import is_running

DEADLINE_SECONDS = 30.0


def wait_for(condition, message: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.01)


def blobs_of(mirror, revision) -> dict[bytes, bytes]:
    entries = [entry for entry in mirror.entries(revision) if entry.size_bytes is not None]
    blobs = mirror.read_blobs([entry.oid for entry in entries], max_bytes=1_000_000)
    return {entry.path: blob.data for entry, blob in zip(entries, blobs, strict=True)}


def test_the_first_update_clones_and_the_next_ones_follow(registry, mirror) -> None:
    first = registry.commit({"a.toml": registry.model("a")})
    state = mirror.update()
    assert (state.revision, state.ref, state.previous) == (first, "refs/heads/main", None)
    assert state.is_new
    assert "main" in state.git_output
    second = registry.commit({"a.toml": registry.model("a", 2)})
    state = mirror.update()
    assert (state.revision, state.previous, state.is_new) == (second, first, False)
    assert blobs_of(mirror, second) == {b"models/a.toml": registry.model("a", 2).encode()}


def test_nothing_is_fetched_where_nothing_changed(registry, mirror, monkeypatch) -> None:
    registry.commit({"a.toml": registry.model("a")})
    mirror.update()
    commands = []
    run = mirror._git.run
    monkeypatch.setattr(mirror._git, "run", lambda *a, **k: commands.append(a[0]) or run(*a, **k))
    assert not mirror.update().is_changed
    assert commands == ["ls-remote", "rev-parse"]


def test_a_named_branch_is_followed_and_the_others_are_not(registry, make_mirror) -> None:
    registry.commit({"a.toml": registry.model("a")})
    main = registry.tip()
    registry.git("update-ref", "refs/heads/stable", main)
    registry.commit({"a.toml": registry.model("a", 2)})
    state = make_mirror(branch="stable").update()
    assert (state.revision, state.ref) == (main, "refs/heads/stable")


def test_an_unset_branch_is_the_one_that_the_remotes_head_names(registry, mirror) -> None:
    old = registry.commit({"a.toml": registry.model("a")})
    mirror.update()
    registry.git("update-ref", "refs/heads/trunk", old)
    registry.git("symbolic-ref", "HEAD", "refs/heads/trunk")
    registry.branch = "trunk"
    new = registry.commit({"a.toml": registry.model("a", 2)})
    state = mirror.update()
    assert (state.revision, state.ref) == (new, "refs/heads/trunk")


def test_a_branch_renamed_below_its_own_name_does_not_collide(registry, make_mirror) -> None:
    commit = registry.commit({"a.toml": registry.model("a")})
    registry.git("update-ref", "refs/heads/serve", commit)
    make_mirror(branch="serve").update()
    registry.git("update-ref", "-d", "refs/heads/serve")
    registry.git("update-ref", "refs/heads/serve/now", commit)
    assert make_mirror(branch="serve/now").update().revision == commit


def test_a_missing_branch_is_named_with_those_there_are(registry, make_mirror) -> None:
    registry.commit({"a.toml": registry.model("a")})
    with pytest.raises(GitFailed, match=r"no branch 'man'.*It has 'main'") as caught:
        make_mirror(branch="man").update()
    assert caught.value.fault is GitFault.NO_BRANCH


def test_a_branch_whose_name_only_ends_alike_is_another(registry, make_mirror) -> None:
    commit = registry.commit({"a.toml": registry.model("a")})
    registry.git("update-ref", "refs/heads/refs/heads/prod", commit)
    with pytest.raises(GitFailed) as caught:
        make_mirror(branch="prod").update()
    assert caught.value.fault is GitFault.NO_BRANCH


def test_a_deleted_branch_leaves_the_mirror_as_it_was(registry, mirror) -> None:
    commit = registry.commit({"a.toml": registry.model("a")})
    mirror.update()
    registry.git("update-ref", "refs/heads/other", commit)
    registry.git("update-ref", "-d", "refs/heads/main")
    with pytest.raises(GitFailed, match="default branch") as caught:
        mirror.update()
    assert caught.value.fault is GitFault.NO_BRANCH
    assert mirror.tip() == commit


def test_an_empty_repository_is_said_to_be_empty_and_recovers(registry, mirror) -> None:
    with pytest.raises(GitFailed, match="no commit yet") as caught:
        mirror.update()
    assert caught.value.fault is GitFault.EMPTY
    commit = registry.commit({"a.toml": registry.model("a")})
    assert mirror.update().revision == commit


def test_a_repository_that_became_empty_leaves_the_mirror_as_it_was(registry, mirror) -> None:
    commit = registry.commit({"a.toml": registry.model("a")})
    mirror.update()
    registry.git("update-ref", "-d", "refs/heads/main")
    with pytest.raises(GitFailed) as caught:
        mirror.update()
    assert caught.value.fault is GitFault.EMPTY
    assert mirror.tip() == commit


def test_an_unreachable_remote_is_no_reason_to_touch_the_mirror(registry, mirror) -> None:
    commit = registry.commit({"a.toml": registry.model("a")})
    mirror.update()
    registry.directory.rename(registry.directory.with_name("away"))
    with pytest.raises(GitFailed) as caught:
        mirror.update()
    assert caught.value.fault is GitFault.NOT_FOUND
    assert blobs_of(mirror, commit)


def test_an_unreachable_host_is_told_from_a_missing_repository(tmp_path, make_mirror) -> None:
    with pytest.raises(GitFailed) as caught:
        make_mirror("https://127.0.0.1:9/a/b.git").update()
    assert caught.value.fault is GitFault.UNREACHABLE
    assert not (tmp_path / "home" / "registry.git").exists()


def test_a_local_registry_is_refused_where_it_is_not_allowed(tmp_path, registry) -> None:
    from dissmodel_platform.registry.mirror import Mirror

    with pytest.raises(SettingsError):
        Mirror(tmp_path / "m", str(registry.directory), None, allow_local=False)


def test_a_registry_of_another_user_is_read(registry, mirror) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    commit = registry.commit({"a.toml": registry.model("a")})
    for path in [registry.directory, *registry.directory.rglob("*")]:
        os.chown(path, 12345, 12345)
    assert mirror.update().revision == commit


def test_a_work_tree_can_be_the_registry(tmp_path, registry, make_mirror) -> None:
    commit = registry.commit({"a.toml": registry.model("a")})
    registry.git("clone", "--quiet", str(registry.directory), str(tmp_path / "work"))
    assert make_mirror(f"file://{tmp_path}/work").update().revision == commit


def test_a_path_with_odd_characters_works(tmp_path, registry, make_mirror) -> None:
    commit = registry.commit({"a.toml": registry.model("a")})
    odd = tmp_path / "100%25 é #?"
    registry.directory.rename(odd)
    with pytest.raises(SettingsError):
        make_mirror(str(odd))
    odd = odd.rename(tmp_path / "100%25é#?")
    assert make_mirror(str(odd)).update().revision == commit


def test_another_remote_in_the_same_place_is_followed(tmp_path, registry, make_mirror) -> None:
    old = registry.commit({"a.toml": registry.model("a")})
    make_mirror().update()
    other = type(registry)(tmp_path / "other.git")
    new = other.commit({"b.toml": registry.model("b")})
    mirror = make_mirror(str(other.directory))
    assert mirror.update().revision == new
    assert mirror.relation(old, new) is Relation.REWRITE


def test_relations_are_told_by_comparing_commits(registry, mirror) -> None:
    first = registry.commit({"a.toml": registry.model("a")})
    second = registry.commit({"a.toml": registry.model("a", 2)})
    mirror.update()
    mirror.keep(second)
    assert mirror.relation(first, second) is Relation.FAST_FORWARD
    assert mirror.relation(second, first) is Relation.REWIND
    assert mirror.relation(second, second) is Relation.SAME
    beside = registry.commit({"a.toml": registry.model("a", 3)}, parent=first)
    assert mirror.update().revision == beside
    assert mirror.relation(second, beside) is Relation.REWRITE
    unrelated = registry.commit({"a.toml": registry.model("a", 4)}, parent=None)
    assert mirror.update().revision == unrelated
    assert mirror.relation(second, unrelated) is Relation.REWRITE
    assert mirror.relation("0" * 40, second) is Relation.REWRITE
    with pytest.raises(RevisionNotFound):
        mirror.relation(second, "0" * 40)
    with pytest.raises(RevisionNotFound):
        mirror.relation(second, "--help")


def test_a_rewind_is_followed(registry, mirror) -> None:
    first = registry.commit({"a.toml": registry.model("a")})
    registry.commit({"b.toml": registry.model("b")})
    mirror.update()
    registry.reset(first)
    state = mirror.update()
    assert state.revision == first
    assert mirror.relation(state.previous, first) is Relation.REWIND


def test_a_published_commit_survives_force_pushes_and_tidying(registry, mirror) -> None:
    published = registry.commit({"a.toml": registry.model("a")})
    mirror.update()
    mirror.keep(published)
    dropped = registry.commit({"a.toml": registry.model("a", 99)})
    mirror.update()
    for value in range(60):
        registry.commit({"a.toml": registry.model("a", value)}, parent=None)
        mirror.update()
    packs = mirror.directory / "objects" / "pack"
    assert len(list(packs.glob("*.pack"))) > 50
    mirror.maintain()
    assert len(list(packs.glob("*.pack"))) == 1
    assert blobs_of(mirror, published) == {b"models/a.toml": registry.model("a").encode()}
    assert not mirror.has_commit(dropped)
    assert mirror.is_sound()


def test_keeping_what_is_not_there_fails(registry, mirror) -> None:
    registry.commit({"a.toml": registry.model("a")})
    mirror.update()
    with pytest.raises(GitFailed):
        mirror.keep("0" * 39 + "1")


def test_changes_are_those_between_two_trees(registry, mirror) -> None:
    old = registry.commit({"a.toml": "a", "b.toml": "b", "c.toml": "c"})
    new = registry.commit(
        {"a.toml": "a", "b.toml": "B", "d.toml": "d"},
        others=[(registry.FILE, b"catalog.yaml", b"x"), (registry.FILE, b"README.md", b"x")],
    )
    mirror.update()
    kinds = {change.path: (change.old_mode, change.new_mode) for change in mirror.changes(old, new)}
    assert kinds == {
        b"models/b.toml": ("100644", "100644"),
        b"models/c.toml": ("100644", "000000"),
        b"models/d.toml": ("000000", "100644"),
        b"catalog.yaml": ("000000", "100644"),
    }


def test_changes_are_found_when_models_appears_and_disappears(registry, mirror) -> None:
    without = registry.commit_tree([(registry.FILE, b"README.md", b"x")])
    within = registry.commit({"a.toml": "a", "b.toml": "b"})
    as_file = registry.commit_tree([(registry.FILE, b"models", b"x")])
    mirror.update()
    paths = [b"models/a.toml", b"models/b.toml"]
    assert [change.path for change in mirror.changes(without, within)] == paths
    assert [change.path for change in mirror.changes(within, without)] == paths
    assert {change.path for change in mirror.changes(within, as_file)} == {b"models", *paths}
    assert [change.path for change in mirror.changes(without, as_file)] == [b"models"]


def test_files_are_read_in_order_and_large_ones_are_passed_over(registry, mirror) -> None:
    contents = {f"m{i}.toml": bytes([65 + i]) * (1 + 3000 * i) for i in range(20)}
    registry.commit(contents)
    revision = mirror.update().revision
    entries = mirror.entries(revision)
    blobs = list(mirror.read_blobs([entry.oid for entry in entries], max_bytes=20_000))
    assert [blob.oid for blob in blobs] == [entry.oid for entry in entries]
    for entry, blob in zip(entries, blobs, strict=True):
        content = contents[entry.path.decode().removeprefix("models/")]
        assert blob.size_bytes == entry.size_bytes == len(content)
        assert blob.data == (content if len(content) <= 20_000 else None)


def test_a_reader_that_stops_early_leaves_no_process(registry, mirror) -> None:
    registry.commit({f"m{i}.toml": b"x" * 100_000 + bytes([i]) for i in range(50)})
    revision = mirror.update().revision
    oids = [entry.oid for entry in mirror.entries(revision)]
    blobs = mirror.read_blobs(oids, max_bytes=1_000_000)
    next(blobs)
    (process,) = mirror._git._running
    blobs.close()
    assert process._child.returncode is not None
    assert not mirror._git._running


def test_a_hash_of_256_bits_works_too(tmp_path, registry, make_mirror) -> None:
    registry.git("init", "--quiet", "--bare", "--object-format=sha256", str(tmp_path / "long.git"))
    registry.git("symbolic-ref", "HEAD", "refs/heads/main")
    registry.directory = tmp_path / "long.git"
    registry.object_format = "sha256"
    registry.git("symbolic-ref", "HEAD", "refs/heads/main")
    first = registry.commit({"a.toml": registry.model("a")})
    assert len(first) == 64
    mirror = make_mirror()
    assert mirror.update().revision == first
    mirror.keep(first)
    second = registry.commit({"b.toml": registry.model("b")})
    assert mirror.update().revision == second
    assert mirror.relation(first, second) is Relation.FAST_FORWARD
    assert len(mirror.changes(first, second)) == 2


def test_a_registry_that_moves_to_longer_ids_is_cloned_anew(
    tmp_path, registry, make_mirror
) -> None:
    old = registry.commit({"a.toml": registry.model("a")})
    make_mirror().update()
    make_mirror().keep(old)
    registry.git("init", "--quiet", "--bare", "--object-format=sha256", str(tmp_path / "long.git"))
    registry.directory = tmp_path / "long.git"
    registry.object_format = "sha256"
    registry.git("symbolic-ref", "HEAD", "refs/heads/main")
    new = registry.commit({"a.toml": registry.model("a", 2)})
    state = make_mirror().update([old])
    assert (state.revision, state.previous, state.is_new) == (new, old, True)
    assert state.lost == (old,)
    assert make_mirror().relation(old, new) is Relation.REWRITE
    assert not make_mirror().update().is_new


def test_a_shallow_registry_is_called_that_and_the_mirror_stays(
    tmp_path, registry, make_mirror
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    registry.commit({"a.toml": registry.model("a", 2)})
    shallow = tmp_path / "shallow.git"
    registry.git("clone", "-q", "--bare", "--depth=1", f"file://{registry.directory}", str(shallow))
    for _ in range(2):
        with pytest.raises(GitFailed, match="--unshallow") as caught:
            make_mirror(remote=str(shallow)).update()
        assert caught.value.fault is GitFault.SHALLOW
        other = registry.commit({"a.toml": registry.model("a", 3)}, parent=None)
        assert make_mirror().update().revision == other
        inode = make_mirror().directory.stat().st_ino
    assert make_mirror().directory.stat().st_ino == inode


# --- damage ---------------------------------------------------------------------------------


def remove_objects(mirror: Path) -> None:
    shutil.rmtree(mirror / "objects")


def cut_pack(mirror: Path) -> None:
    pack = max((mirror / "objects" / "pack").glob("*.pack"), key=lambda path: path.stat().st_size)
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes()[:-30])


def flip_pack(mirror: Path) -> None:
    for pack in (mirror / "objects" / "pack").glob("*.pack"):
        pack.chmod(0o600)
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 0xFF
        pack.write_bytes(data)


def remove_index(mirror: Path) -> None:
    for path in (mirror / "objects" / "pack").glob("*.idx"):
        path.unlink()


def empty_head(mirror: Path) -> None:
    (mirror / "HEAD").write_text("")


def spoil_config(mirror: Path) -> None:
    (mirror / "config").write_text("[core\nbare = ???")


def spoil_tip(mirror: Path) -> None:
    (mirror / "refs" / "mirror" / "tip").write_text("not an id\n")


def point_tip_nowhere(mirror: Path) -> None:
    (mirror / "refs" / "mirror" / "tip").write_text("1" * 40 + "\n")


def spoil_packed_refs(mirror: Path) -> None:
    (mirror / "packed-refs").write_bytes(b"\xff\x00 rubbish\n")


def empty_directory(mirror: Path) -> None:
    shutil.rmtree(mirror)
    mirror.mkdir()


def replace_by_file(mirror: Path) -> None:
    (mirror / "refs" / "mirror" / "tip").unlink()
    (mirror / "refs" / "mirror").rmdir()
    (mirror / "refs" / "mirror").write_text("in the way")


DAMAGES = [
    remove_objects,
    cut_pack,
    flip_pack,
    remove_index,
    empty_head,
    spoil_config,
    spoil_tip,
    point_tip_nowhere,
    spoil_packed_refs,
    empty_directory,
    replace_by_file,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("is_changed", [True, False], ids=["new commit", "no new commit"])
def test_a_damaged_mirror_mends_itself(registry, make_mirror, damage, is_changed: bool) -> None:
    mirror = make_mirror()
    commit = registry.commit({"a.toml": registry.model("a", 1), "b.toml": registry.model("b")})
    mirror.update()
    mirror.keep(commit)
    damage(mirror.directory)
    if is_changed:
        commit = registry.commit({"a.toml": registry.model("a", 2), "b.toml": registry.model("b")})
    mirror = make_mirror()
    assert mirror.update().revision == commit
    try:
        content = blobs_of(mirror, commit)
    except GitFailed as error:
        assert error.fault is GitFault.CORRUPT
        mirror.rebuild()
        content = blobs_of(mirror, commit)
    assert len(content) == 2
    beside = {path.name for path in mirror.directory.parent.iterdir()}
    assert beside == {"registry.git", "registry.git.lock", "registry.git.gitconfig"}


def test_a_damaged_mirror_that_is_too_large_to_be_examined_is_cloned_anew(
    tmp_path, registry, make_mirror, monkeypatch
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    make_mirror().update()
    empty_head(make_mirror().directory)
    new = registry.commit({"a.toml": registry.model("a", 2)})
    monkeypatch.setattr("dissmodel_platform.registry.mirror._FSCK_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(Mirror, "tip", lambda mirror: "0" * 40)
    mirror = make_mirror(environ={**os.environ, **stalling_git(tmp_path, "fsck")})
    state = mirror.update()
    assert (state.revision, state.is_new) == (new, True)


def test_a_mirror_behind_a_link_mends_itself(tmp_path, registry, make_mirror) -> None:
    registry.commit({"a.toml": registry.model("a")})
    link = make_mirror().directory
    make_mirror().update()
    elsewhere = tmp_path / "large disk" / "mirror.git"
    elsewhere.parent.mkdir()
    link.rename(elsewhere)
    link.symlink_to(elsewhere)
    assert not make_mirror().update().is_new
    empty_head(elsewhere)
    new = registry.commit({"a.toml": registry.model("a", 2)})
    assert make_mirror().update().is_new
    assert link.is_symlink()
    assert make_mirror().tip() == new
    assert not make_mirror().update().is_new


def test_damage_that_no_update_meets_is_mended_when_tidying(registry, mirror, monkeypatch) -> None:
    monkeypatch.setattr("dissmodel_platform.registry.mirror._PACKS_BEFORE_TIDYING", 1)
    commit = registry.commit({"a.toml": registry.model("a")})
    mirror.update()
    cut_pack(mirror.directory)
    assert not mirror.is_sound()
    mirror.maintain()
    assert mirror.is_sound()
    assert mirror.tip() == commit


def test_published_commits_are_carried_over_to_a_new_clone(registry, mirror) -> None:
    kept = []
    for value in range(5):
        kept.append(registry.commit({"a.toml": registry.model("a", value)}, parent=None))
        mirror.update()
        mirror.keep(kept[-1])
    registry.git("gc", "--quiet", "--prune=now")
    empty_head(mirror.directory)
    state = mirror.rebuild()
    assert state.is_new
    assert "4 published commits were not found again" in state.git_output
    # Without HEAD the old mirror is no repository any more, and the remote has forgotten.
    assert set(state.lost) == set(kept[:-1])
    assert mirror.has_commit(kept[-1])


def test_a_rebuild_takes_what_the_old_mirror_still_has(registry, mirror) -> None:
    kept = []
    for value in range(5):
        kept.append(registry.commit({"a.toml": registry.model("a", value)}, parent=None))
        mirror.update()
        mirror.keep(kept[-1])
    registry.git("gc", "--quiet", "--prune=now")
    state = mirror.rebuild()
    assert state.lost == ()
    for value, commit in enumerate(kept):
        assert blobs_of(mirror, commit) == {b"models/a.toml": registry.model("a", value).encode()}


def test_one_damaged_commit_does_not_take_the_others_along(registry, mirror) -> None:
    kept = []
    for value in range(4):
        kept.append(registry.commit({"a.toml": registry.model("a", value)}, parent=None))
        mirror.update()
        mirror.keep(kept[-1])
    registry.git("gc", "--quiet", "--prune=now")
    for pack in (mirror.directory / "objects" / "pack").glob("*.idx"):
        listed = subprocess.run(
            ["git", "show-index"], input=pack.read_bytes(), capture_output=True, check=True
        ).stdout
        if kept[1].encode() in listed:
            pack.with_suffix(".pack").unlink()
            pack.unlink()
    state = mirror.rebuild()
    assert state.lost == (kept[1],)
    assert mirror.has_commit(kept[0])
    assert mirror.has_commit(kept[2])


def test_a_rebuild_asks_the_remote_for_what_is_nowhere_else(registry, mirror) -> None:
    forgotten = registry.commit({"a.toml": registry.model("a")})
    kept = registry.commit({"a.toml": registry.model("a", 2)}, parent=None)
    mirror.update()
    state = mirror.rebuild(published=[forgotten, "2" * 40])
    assert state.lost == ("2" * 40,)
    assert blobs_of(mirror, forgotten)
    assert mirror.tip() == kept


def test_a_rebuild_that_cannot_reach_the_remote_changes_nothing(registry, mirror) -> None:
    commit = registry.commit({"a.toml": registry.model("a")})
    mirror.update()
    registry.directory.rename(registry.directory.with_name("away"))
    with pytest.raises(GitFailed):
        mirror.rebuild()
    assert blobs_of(mirror, commit)


def test_a_full_disk_leaves_the_mirror_whole_and_the_next_update_succeeds(
    registry, make_mirror
) -> None:
    old = registry.commit({"a.toml": registry.model("a")})
    make_mirror().update()
    noise = random.Random(1).randbytes(3_000_000)
    new = registry.commit({"a.toml": registry.model("a", 2)}, others=[(registry.FILE, b"x", noise)])
    small = make_mirror(max_file_bytes=1_000_000)
    with pytest.raises(GitFailed) as caught:
        small.update()
    assert caught.value.fault is GitFault.TOO_LARGE
    assert small.tip() == old
    assert blobs_of(small, old)
    mirror = make_mirror()
    assert mirror.update().revision == new
    assert not list((mirror.directory / "objects" / "pack").glob("tmp_*"))


def test_a_device_without_space_is_named_and_recovers(tmp_path, registry, monkeypatch) -> None:
    from dissmodel_platform.registry.mirror import Mirror

    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system")
    try:
        mirror = Mirror(small / "registry.git", str(registry.directory), None, allow_local=True)
        old = registry.commit({"a.toml": registry.model("a")})
        mirror.update()
        noise = random.Random(1).randbytes(3_000_000)
        registry.commit({"a.toml": "x"}, others=[(registry.FILE, b"x", noise)])
        with pytest.raises(GitFailed) as caught:
            mirror.update()
        assert caught.value.fault is GitFault.DISK_FULL
        assert mirror.tip() == old
        assert blobs_of(mirror, old)
        new = registry.commit({"a.toml": registry.model("a", 2)}, parent=old)
        assert mirror.update().revision == new
    finally:
        subprocess.run(["umount", str(small)], check=True)


# --- locks and kills --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lock",
    ["config.lock", "HEAD.lock", "packed-refs.lock", "refs/mirror/tip.lock", "gc.pid",
     "objects/pack/tmp_pack_AbCdEf", "objects/info/commit-graph.lock", "packed-refs.new",
     "objects/pack/pack-0123456789abcdef.keep"],
)  # fmt: skip
def test_what_a_killed_git_left_is_removed_under_the_lock(registry, mirror, lock: str) -> None:
    registry.commit({"a.toml": registry.model("a")})
    mirror.update()
    left = mirror.directory / lock
    left.parent.mkdir(exist_ok=True, parents=True)
    left.write_text("left behind")
    new = registry.commit({"a.toml": registry.model("a", 2)})
    assert mirror.update().revision == new
    mirror.keep(new)
    assert not left.exists()


def test_lock_files_are_not_touched_while_another_writer_holds_the_lock(
    registry, make_mirror
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    writer = make_mirror()
    writer.update()
    other = make_mirror(lock_timeout_seconds=0.2)
    with writer.locked():
        left = writer.directory / "refs" / "mirror" / "tip.lock"
        left.write_text("in use")
        with pytest.raises(RegistryError, match="Another process"):
            other.update()
        assert left.exists()
    other.update()
    assert not left.exists()


def test_the_lock_is_re_entrant_and_keeps_other_threads_out(registry, make_mirror) -> None:
    registry.commit({"a.toml": registry.model("a")})
    mirror = make_mirror()
    order: list[str] = []
    started = threading.Event()

    def second() -> None:
        started.set()
        with mirror.locked():
            order.append("second")

    with mirror.locked():
        mirror.update()
        thread = threading.Thread(target=second)
        thread.start()
        started.wait()
        mirror.keep(mirror.tip())
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


SYNC = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from dissmodel_platform.registry.mirror import Mirror
    directory, remote, rounds = sys.argv[1:]
    mirror = Mirror(Path(directory), remote, None, allow_local=True)
    print("ready", flush=True)
    for _ in range(int(rounds)):
        with mirror.locked():
            mirror.keep(mirror.update().revision)
        print("done", flush=True)
    """
)


def start_sync(mirror, registry, rounds: int = 1, **variables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SYNC, mirror.directory, registry.directory, str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **variables},
    )


def test_processes_take_turns(registry, mirror) -> None:
    registry.commit({"a.toml": registry.model("a")})
    processes = [start_sync(mirror, registry, 10) for _ in range(4)]
    for value in range(10):
        registry.commit({"a.toml": registry.model("a", value)})
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert mirror.update().revision == registry.tip()
    assert mirror.is_sound()


def stalling_git(directory: Path, command: str) -> dict[str, str]:
    """Make git wait before one command until the file ``go`` appears; ``reached`` says it waits."""
    real = shutil.which("git")
    program = directory / "bin" / "git"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *{command}*)\n'
        f"  touch {directory}/reached\n"
        f"  while [ ! -e {directory}/go ]; do sleep 0.02; done;;\n"
        "esac\n"
        f'exec {real} "$@"\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


def test_a_git_that_outlives_its_killed_sync_is_ended_by_the_next_writer(
    tmp_path, registry, make_mirror
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    make_mirror().update()
    new = registry.commit({"a.toml": registry.model("a", 2)})
    process = start_sync(make_mirror(), registry, **stalling_git(tmp_path, "fetch"))
    wait_for((tmp_path / "reached").exists, "the fetch never began")
    stalling = children_of(process.pid)
    assert stalling
    process.kill()
    process.communicate()
    mirror = make_mirror()
    assert mirror.update().revision == new, "it did not wait for what nobody would have ended"
    assert mirror.is_sound()
    assert not any(is_running(pid) for pid in stalling)


def test_a_git_whose_sync_is_alive_is_left_alone(tmp_path, registry, make_mirror) -> None:
    registry.commit({"a.toml": registry.model("a")})
    make_mirror().update()
    new = registry.commit({"a.toml": registry.model("a", 2)})
    process = start_sync(make_mirror(), registry, **stalling_git(tmp_path, "fetch"))
    wait_for((tmp_path / "reached").exists, "the fetch never began")
    with pytest.raises(RegistryError, match="Another process"):
        make_mirror(lock_timeout_seconds=0.3).update()
    (tmp_path / "go").touch()
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, stderr
    assert make_mirror().tip() == new


def test_tidying_goes_on_after_one_that_was_killed_while_it_packed_references(
    registry, mirror, monkeypatch
) -> None:
    monkeypatch.setattr("dissmodel_platform.registry.mirror._PACKS_BEFORE_TIDYING", 1)
    registry.commit({"a.toml": registry.model("a")})
    inode = mirror.update() and mirror.directory.stat().st_ino
    (mirror.directory / "packed-refs.new").write_bytes(b"")
    mirror.maintain()
    assert (mirror.directory / "packed-refs").exists()
    assert mirror.directory.stat().st_ino == inode, "it was not cloned anew"


def test_a_lock_file_that_was_removed_admits_one_writer_at_a_time(tmp_path) -> None:
    path = tmp_path / "lock"
    holder, waiting = MirrorLock(path), MirrorLock(path)
    taken = threading.Event()

    def wait() -> None:
        with waiting.held(DEADLINE_SECONDS):
            taken.set()
            assert waiting.inherited

    thread = threading.Thread(target=wait)
    with holder.held(1):
        thread.start()
        path.unlink()
        with pytest.raises(RegistryError, match="was removed"):
            assert holder.inherited
    thread.join()
    assert taken.is_set()
    assert path.exists(), "the waiting one holds the file that others find"


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("dissmodel_platform.registry.mirror_lock.fcntl.flock", refuse)
    lock = MirrorLock(tmp_path / "lock")
    with pytest.raises(RegistryError, match=r"knows no locks.*PLATFORM_HOME"), lock.held(1):
        pytest.fail("it cannot be held")


def test_a_fetch_that_stalls_is_ended_and_the_next_update_succeeds(
    tmp_path, registry, make_mirror
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    make_mirror().update()
    new = registry.commit({"a.toml": registry.model("a", 2)})
    stalled = make_mirror(
        environ={**os.environ, **stalling_git(tmp_path, "fetch")}, network_timeout_seconds=0.5
    )
    with pytest.raises(GitFailed) as caught:
        stalled.update()
    assert caught.value.fault is GitFault.TIMEOUT
    assert make_mirror().update().revision == new


def test_an_interrupted_update_leaves_the_mirror_usable(tmp_path, registry, make_mirror) -> None:
    old = registry.commit({"a.toml": registry.model("a")})
    make_mirror().update()
    new = registry.commit({"a.toml": registry.model("a", 2)})
    stalled = make_mirror(environ={**os.environ, **stalling_git(tmp_path, "fetch")})
    failures: list[GitFailed] = []

    def update() -> None:
        try:
            stalled.update()
        except GitFailed as error:
            failures.append(error)

    thread = threading.Thread(target=update)
    thread.start()
    wait_for((tmp_path / "reached").exists, "the fetch never began")
    stalled.interrupt()
    thread.join(DEADLINE_SECONDS)
    assert [error.fault for error in failures] == [GitFault.INTERRUPTED]
    mirror = make_mirror()
    assert mirror.tip() == old
    assert mirror.update().revision == new


@pytest.mark.parametrize("step", ["building", "ready", "ready and broken"])
def test_a_swap_that_was_killed_is_finished(registry, make_mirror, step: str) -> None:
    commit = registry.commit({"a.toml": registry.model("a")})
    mirror = make_mirror()
    mirror.update()
    beside = {name: mirror.directory.with_name(f"registry.git.{name}") for name in
              ("building", "ready", "broken")}  # fmt: skip
    if step == "building":
        shutil.copytree(mirror.directory, beside["building"])
        (beside["building"] / "HEAD").unlink()
    else:
        shutil.copytree(mirror.directory, beside["ready"])
        empty_head(mirror.directory)
        if step == "ready and broken":
            mirror.directory.rename(beside["broken"])
    mirror = make_mirror()
    assert not mirror.update().is_new
    assert blobs_of(mirror, commit)
    assert not any(path.exists() for path in beside.values())


def children_of(pid: int) -> list[int]:
    """Descendants of a process, also those in other sessions."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            found += [child, *children_of(child)]
    return found


def kill(pid: int, *, with_children: bool) -> None:
    """End a process as the kernel does when memory runs out, or with all that it started."""
    children = children_of(pid) if with_children else []
    os.kill(pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds children as Linux does")
def test_a_sync_killed_at_any_point_leaves_a_mirror_that_goes_on(registry, make_mirror) -> None:
    chance = random.Random(20)
    registry.commit({f"m{i}.toml": registry.model(f"m{i}") for i in range(300)})
    mirror = make_mirror()
    process = start_sync(mirror, registry)
    assert process.stdout.readline() == b"ready\n"
    began = time.monotonic()
    process.communicate()
    whole_seconds = time.monotonic() - began
    published: set[str] = {mirror.tip()}
    for round_number in range(30):
        if round_number % 3 == 0:
            shutil.rmtree(mirror.directory)
            published.clear()
        new = registry.commit(
            {f"m{i}.toml": registry.model(f"m{i}", round_number) for i in range(300)},
            parent=chance.choice(["tip", None]),
        )
        process = start_sync(mirror, registry)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0, whole_seconds))  # the random point, not a wait for anything
        kill(process.pid, with_children=round_number % 2 == 0)
        process.communicate()
        state = make_mirror().update()
        assert state.revision == new
        assert state.lost == ()
        mirror.keep(new)
        published.add(new)
        assert len(blobs_of(mirror, new)) == 300
        assert all(mirror.has_commit(commit) for commit in published)
    assert mirror.is_sound()
