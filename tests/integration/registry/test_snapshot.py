"""From a commit to what is published of it: what changed, what is refused, and why."""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dissmodel_platform.registry.git_faults import GitFailed, GitFault
from dissmodel_platform.registry.snapshot import read_models, read_snapshot


def snapshot(mirror, base=None):
    return read_snapshot(mirror, mirror.update().revision, base)


def names(change) -> list[str]:
    return [file.name for file in change.changed]


def codes(change) -> dict[str, str]:
    return {problem.path: problem.code for problem in change.problems}


def good(registry, *stems: str) -> dict[str, str]:
    return {f"{stem}.toml": registry.model(stem) for stem in stems}


def test_the_first_snapshot_holds_every_model(registry, mirror) -> None:
    files = good(registry, "flood", "game_of_life")
    commit = registry.commit(files, others=[(registry.FILE, b"catalog.yaml", b"sources: {}\n")])
    change = snapshot(mirror)
    assert (change.revision, change.base) == (commit, None)
    assert names(change) == ["flood", "game_of_life"]
    assert change.present == {"flood", "game_of_life"}
    assert change.problems == ()
    assert change.catalog is not None
    assert (change.catalog.path, change.catalog.size_bytes) == ("catalog.yaml", 12)
    readings = list(read_models(mirror, change))
    assert [reading.parsed.spec.class_name for reading in readings] == ["flood", "game_of_life"]
    for reading in readings:
        content = files[f"{reading.file.name}.toml"]
        assert reading.file.oid == registry.blob(content.encode())
        assert reading.file.path == f"models/{reading.file.name}.toml"
        assert reading.file.size_bytes == len(content)


def test_a_later_snapshot_holds_what_differs_from_the_base(registry, mirror) -> None:
    base = registry.commit(good(registry, "same", "edited", "gone"))
    registry.commit({**good(registry, "same", "added"), "edited.toml": registry.model("edited", 2)})
    change = snapshot(mirror, base)
    assert names(change) == ["added", "edited"]
    assert change.removed == {"gone"}
    assert change.present == {"same", "edited", "added"}


def test_the_same_tree_changes_nothing(registry, mirror) -> None:
    base = registry.commit(good(registry, "a"))
    registry.commit(good(registry, "a"))
    change = snapshot(mirror, base)
    assert (change.changed, change.removed) == ((), frozenset())


def test_a_base_that_the_mirror_has_lost_means_reading_everything(registry, mirror) -> None:
    registry.commit(good(registry, "a"))
    change = snapshot(mirror, "1" * 40)
    assert change.base is None
    assert names(change) == ["a"]


def test_one_bad_file_does_not_hide_the_others(registry, mirror) -> None:
    registry.commit({**good(registry, "a", "z"), "bad.toml": "[model", "worse.toml": b"\xff\xfe"})
    change = snapshot(mirror)
    assert change.problems == ()
    parsed = {reading.file.name: reading.parsed for reading in read_models(mirror, change)}
    assert [name for name, result in parsed.items() if result.spec] == ["a", "z"]
    assert parsed["bad"].problems[0].code == "invalid-toml"
    assert parsed["worse"].problems[0].code == "not-utf8"


def test_a_registry_without_models_says_so(registry, mirror) -> None:
    base = registry.commit(good(registry, "a", "b"))
    registry.commit_tree([(registry.FILE, b"README.md", b"x")])
    change = snapshot(mirror, base)
    assert codes(change) == {"models": "no-models-directory"}
    assert change.removed == {"a", "b"}
    assert change.present == frozenset()


@pytest.mark.parametrize("mode", ["FILE", "LINK", "SUBMODULE"])
def test_models_that_is_no_directory_says_so(registry, mirror, mode: str) -> None:
    base = registry.commit(good(registry, "a"))
    what = "1" * 40 if mode == "SUBMODULE" else b"/etc"
    registry.commit_tree([(getattr(registry, mode), b"models", what)])
    change = snapshot(mirror, base)
    assert codes(change) == {"models": "no-models-directory"}
    assert change.removed == {"a"}


def test_only_toml_files_directly_in_models_are_models(registry, mirror) -> None:
    nested = registry.tree([(registry.FILE, b"inner.toml", registry.model("inner").encode())])
    registry.commit_models(
        [
            (registry.FILE, b"a.toml", registry.model("a").encode()),
            (registry.FILE, b"README.md", b"x"),
            (registry.FILE, b".gitkeep", b""),
            (registry.FILE, b"shouted.TOML", b"x"),
            (registry.FILE, b"short.tml", b"x"),
            (registry.TREE, b"more", nested),
            (registry.TREE, b"tree.toml", nested),
        ]
    )
    change = snapshot(mirror)
    assert names(change) == ["a"]
    assert codes(change) == {
        "models/shouted.TOML": "suffix-ignored",
        "models/short.tml": "suffix-ignored",
        "models/more": "directory-ignored",
        "models/tree.toml": "directory-ignored",
    }
    assert not any(problem.is_error for problem in change.problems)
    assert change.refused == frozenset()


def test_an_executable_file_is_a_file(registry, mirror) -> None:
    base = registry.commit(good(registry, "a"))
    registry.commit_models([(b"100755", b"a.toml", registry.model("a").encode())])
    change = snapshot(mirror, base)
    assert (change.problems, change.changed) == ((), ())


def hostile(registry) -> dict[str, tuple[list, str]]:
    """Entries that are refused, the path that says so, and its code."""
    text = registry.model("x").encode()
    return {
        "link out of the repository": (
            [(registry.LINK, b"x.toml", b"/etc/passwd")],
            {"models/x.toml": "symbolic-link"},
        ),
        "link to a model": (
            [(registry.LINK, b"x.toml", b"good.toml")],
            {"models/x.toml": "symbolic-link"},
        ),
        "submodule": (
            [(registry.SUBMODULE, b"x.toml", "1" * 40)],
            {"models/x.toml": "submodule"},
        ),
        "submodule of nothing": (
            [(registry.SUBMODULE, b"x.toml", "0" * 40)],
            {"models/x.toml": "submodule"},
        ),
        "empty": ([(registry.FILE, b"x.toml", b"")], {"models/x.toml": "empty-file"}),
        "oversized": (
            [(registry.FILE, b"x.toml", b"#" * 300_000)],
            {"models/x.toml": "too-large"},
        ),
        "not UTF-8": (
            [(registry.FILE, b"x\xff.toml", text)],
            {"models/x\\xff.toml": "invalid-name"},
        ),
        "control characters": (
            [(registry.FILE, b"x\n\x1b[31m\x7f.toml", text)],
            {"models/x\\n\\x1b[31m\\x7f.toml": "invalid-name"},
        ),
        "right to left": (
            [(registry.FILE, "x\u202e.toml".encode(), text)],
            {"models/x\\u202e.toml": "invalid-name"},
        ),
        "slash": ([(registry.FILE, b"x/y.toml", text)], {"models/x/y.toml": "invalid-name"}),
        "slashes upwards": (
            [(registry.FILE, b"../../x.toml", text)],
            {"models/../../x.toml": "invalid-name"},
        ),
        "backslash": ([(registry.FILE, b"x\\y.toml", text)], {"models/x\\y.toml": "invalid-name"}),
        "blank": ([(registry.FILE, b"x y.toml", text)], {"models/x y.toml": "invalid-name"}),
        "hidden": ([(registry.FILE, b".x.toml", text)], {"models/.x.toml": "invalid-name"}),
        "option": ([(registry.FILE, b"-x.toml", text)], {"models/-x.toml": "invalid-name"}),
        "no stem": ([(registry.FILE, b".toml", text)], {"models/.toml": "invalid-name"}),
        "long": (
            [(registry.FILE, b"x" * 5_000 + b".toml", text)],
            {"models/" + "x" * 293 + "…": "invalid-name"},
        ),
        "dots": ([(registry.FILE, b"..", text)], {}),
        "a dot": ([(registry.FILE, b".", text)], {}),
        "git's own": ([(registry.FILE, b".git", text)], {}),
        "case": (
            [(registry.FILE, b"x.toml", text), (registry.FILE, b"X.toml", text)],
            {"models/x.toml": "name-clash", "models/X.toml": "name-clash"},
        ),
        "twice": (
            [(registry.FILE, b"x.toml", text), (registry.FILE, b"x.toml", text + b"\n")],
            {"models/x.toml": "name-clash"},
        ),
        "zero-padded mode": ([(b"0100644", b"x.md", text)], {}),
    }


CASES = [
    *("link out of the repository", "link to a model", "submodule", "submodule of nothing"),
    *("empty", "oversized", "not UTF-8", "control characters", "right to left", "slash"),
    *("slashes upwards", "backslash", "blank", "hidden", "option", "no stem", "long", "dots"),
    *("a dot", "git's own", "case", "twice", "zero-padded mode"),
]


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_is_refused_and_the_others_are_published(
    registry, mirror, case: str
) -> None:
    entries, expected = hostile(registry)[case]
    base = registry.commit(good(registry, "good"))
    content = registry.model("good", 2).encode()
    registry.commit_models([(registry.FILE, b"good.toml", content), *entries])
    for change in (snapshot(mirror), snapshot(mirror, base)):
        assert codes(change) == expected
        assert names(change) == ["good"]
        (reading,) = read_models(mirror, change)
        assert reading.parsed.spec is not None
        assert change.removed == frozenset()
        json.dumps([asdict(problem) for problem in change.problems]).encode()
        for problem in change.problems:
            problem.path.encode()
            assert problem.path.isprintable()


def test_every_hostile_case_is_tried(registry) -> None:
    assert set(hostile(registry)) == set(CASES)


def test_a_hostile_gitmodules_file_does_not_stop_the_registry(registry, mirror) -> None:
    text = b'[submodule "../x"]\n path = x\n url = --upload-pack=touch /tmp/x\n'
    for mode, what in ((registry.FILE, text), (registry.LINK, b"/etc/passwd")):
        registry.commit(good(registry, "a"), others=[(mode, b".gitmodules", what)])
        assert names(snapshot(mirror)) == ["a"]


def test_a_pointer_to_lfs_is_refused_by_its_content(registry, mirror) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    registry.commit({"a.toml": pointer})
    (reading,) = read_models(mirror, snapshot(mirror))
    assert [problem.code for problem in reading.parsed.problems] == ["lfs-pointer"]


def test_very_many_problems_are_counted_instead_of_listed(registry, mirror) -> None:
    entries = [(registry.FILE, f"x {i}.toml".encode(), b"x") for i in range(1_200)]
    registry.commit_models([*entries, (registry.FILE, b"a.toml", registry.model("a").encode())])
    change = snapshot(mirror)
    assert names(change) == ["a"]
    assert len(change.problems) == 1_001
    assert "200 more" in change.problems[-1].message


def test_a_listing_without_end_is_refused(registry, mirror) -> None:
    oid = registry.blob(b"x")
    entries = [(registry.FILE, b"%05d" % i + b"x" * 4_000, oid) for i in range(4_000)]
    registry.commit_models(entries)
    with pytest.raises(GitFailed) as caught:
        snapshot(mirror)
    assert caught.value.fault is GitFault.TOO_LARGE


def test_malformed_objects_stop_the_fetch_and_the_mirror_stays(registry, mirror) -> None:
    registry.commit(good(registry, "a"))
    old = mirror.update().revision
    entry = b"100644 %s\0" + bytes.fromhex(registry.blob(b"x"))
    raw = entry.replace(b"%s", b"b.toml") + entry.replace(b"%s", b"a.toml")
    registry.commit_tree([(registry.TREE, b"models", registry.write_object("tree", raw))])
    with pytest.raises(GitFailed) as caught:
        mirror.update()
    assert caught.value.fault is GitFault.REFUSED_OBJECT
    assert mirror.tip() == old


def test_a_model_that_was_refused_comes_back_when_its_namesake_goes(registry, mirror) -> None:
    base = registry.commit({**good(registry, "a", "b"), "A.toml": registry.model("A")})
    assert snapshot(mirror).refused == {"a", "A"}
    registry.commit(good(registry, "a", "b"))
    change = snapshot(mirror, base)
    assert names(change) == ["a"]
    assert change.removed == {"A"}
    assert change.problems == ()


def test_a_model_that_a_namesake_joins_is_refused_though_unchanged(registry, mirror) -> None:
    base = registry.commit(good(registry, "a", "b"))
    registry.commit({**good(registry, "a", "b"), "A.toml": registry.model("A")})
    change = snapshot(mirror, base)
    assert change.changed == ()
    assert change.refused == {"a", "A"}
    assert change.removed == frozenset()
    assert set(codes(change)) == {"models/a.toml", "models/A.toml"}


def test_a_file_that_becomes_a_link_is_refused_and_not_withdrawn(registry, mirror) -> None:
    base = registry.commit(good(registry, "a", "b"))
    registry.commit_models(
        [
            (registry.LINK, b"a.toml", b"b.toml"),
            (registry.FILE, b"b.toml", registry.model("b").encode()),
        ]
    )
    change = snapshot(mirror, base)
    assert (change.changed, change.removed, change.refused) == ((), frozenset(), {"a"})
    back = registry.commit(good(registry, "a", "b"))
    change = read_snapshot(mirror, mirror.update().revision, change.revision)
    assert change.revision == back
    assert names(change) == ["a"]


def test_a_model_renamed_in_case_only_is_withdrawn_and_added(registry, mirror) -> None:
    base = registry.commit(good(registry, "Flood"))
    registry.commit(good(registry, "flood"))
    change = snapshot(mirror, base)
    assert (names(change), change.removed, change.problems) == (["flood"], {"Flood"}, ())


def test_a_damaged_object_is_an_error_and_never_a_missing_model(registry, mirror) -> None:
    registry.commit(good(registry, "a", "b"))
    change = snapshot(mirror)
    for pack in (mirror.directory / "objects" / "pack").glob("*.pack"):
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes()[:40] + bytes(200))
    with pytest.raises(GitFailed) as caught:
        list(read_models(mirror, change))
    assert caught.value.fault is GitFault.CORRUPT
    with pytest.raises(GitFailed) as caught:
        read_snapshot(mirror, change.revision, None)
    assert caught.value.fault is GitFault.CORRUPT
    mirror.rebuild()
    assert names(read_snapshot(mirror, change.revision, None)) == ["a", "b"]


STEMS = st.sampled_from(["a", "A", "b", "c", "x y", "-o", ".h"])
KINDS = st.sampled_from(["good", "other", "broken", "empty", "link", "absent"])


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.dictionaries(STEMS, KINDS), min_size=2, max_size=4))
def test_following_the_changes_ends_where_reading_everything_does(
    registry, mirror, history: list[dict[str, str]]
) -> None:
    base, known, served = None, set(), {}
    for commit in history:
        entries = []
        for stem, kind in commit.items():
            content = {
                "good": registry.model(stem).encode(),
                "other": registry.model(stem, 2).encode(),
                "broken": b"[model",
                "empty": b"",
                "link": b"elsewhere",
            }.get(kind)
            if content is not None:
                mode = registry.LINK if kind == "link" else registry.FILE
                entries.append((mode, f"{stem}.toml".encode(), content))
        registry.commit_models(entries or [(registry.FILE, b"README.md", b"x")])
        change = snapshot(mirror, base)
        whole = read_snapshot(mirror, change.revision, None)
        served = {name: oid for name, oid in served.items() if name not in change.removed}
        served = {name: oid for name, oid in served.items() if name not in change.refused}
        served |= {file.name: file.oid for file in change.changed}
        assert served == {file.name: file.oid for file in whole.changed}
        assert change.problems == whole.problems
        assert change.present == whole.present
        assert change.removed == known - change.present
        base, known = change.revision, set(change.present)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux does")
def test_memory_stays_flat_while_many_large_files_are_read(registry, mirror) -> None:
    filler = "# " + "x" * 200_000 + "\n"
    registry.commit({f"m{i}.toml": registry.model(f"m{i}") + filler for i in range(200)})
    change = snapshot(mirror)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for reading in read_models(mirror, change) if reading.parsed.spec) == 200
    grown_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kilobytes < 20_000
