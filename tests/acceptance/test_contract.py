"""The HTTP contract, written as the existing clients call it: plain HTTP, a header, a poll loop."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.conftest import MAX_UPLOAD_BYTES
from tests.acceptance.support import GRID, Up, commit, echo, poll, submit_inline, upload
from tests.processes import wait_until

JOB_FIELDS = {
    "job_id", "experiment_id", "status", "model_name", "created_at", "output_path",
    "output_sha256", "input_sha256", "logs", "model_commit", "code_version",
}  # fmt: skip
LIBRARY_FIELDS = {
    "experiment_id", "created_at", "model_name", "model_commit", "code_version", "resolved_spec",
    "source", "input_format", "column_map", "band_map", "parameters", "period", "output_path",
    "artifacts", "metrics", "status", "logs",
}  # fmt: skip
OWN_FIELDS = {
    "attempt", "environment_key", "lock_sha256", "worker", "submitted_by", "started_at",
    "finished_at", "start_mode", "inputs", "outputs",
}  # fmt: skip
PUBLICATION_FIELDS = {
    "experiment_id", "model_name", "model_commit", "code_version", "input", "column_map",
    "band_map", "parameters", "resolved_spec", "output_path", "output_sha256", "logs",
}  # fmt: skip
SYNC_FIELDS = {
    "message", "git_output", "run_id", "old_commit", "new_commit", "added", "changed", "removed",
    "problems",
}  # fmt: skip
PUBLIC = {"/", "/health", "/docs", "/openapi.json"}
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
NOWHERE = "0" * 32
WALLS = ["namespaces", "landlock"]

SIMPLE_MODEL = '[model]\nclass = "echo"\ndescription = "{}"\n\n[model.parameters]\nmessage = "hi"\n'


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def assert_problem(answer: httpx.Response, status: int, slug: str = "") -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem.keys() >= {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert problem["type"].startswith("urn:dissmodel-platform:")
    assert problem["type"].endswith(slug)
    assert problem["detail"]
    return problem


def assert_times(content: Any) -> None:
    """Find everything that looks like a time, and see that it says which one it is."""
    if isinstance(content, dict):
        for name, value in content.items():
            if isinstance(value, str) and (name.endswith("_at") or name == "last_success"):
                assert RFC_3339.fullmatch(value), f"{name}: {value}"
                assert datetime.fromisoformat(value).tzinfo is not None
            assert_times(value)
    elif isinstance(content, list):
        for value in content:
            assert_times(value)


# --- runs


def test_submit_job_answers_with_the_job_object(http: httpx.Client, grid: dict[str, Any]) -> None:
    answer = http.post(
        "/submit_job",
        json={
            "model_name": "flood_vector",
            "input_dataset": grid["uri"],
            "input_format": "vector",
            "parameters": {"end_time": 1},
            "column_map": {"elevation": "elevation"},
            "band_map": {},
            "priority": "high",
        },
    )
    assert answer.status_code == 200
    job = answer.json()
    assert job.keys() >= JOB_FIELDS
    assert job["job_id"] == job["experiment_id"]
    assert job["status"] == "pending"
    assert job["model_name"] == "flood_vector"
    assert job["input_sha256"] == grid["checksum"]
    assert job["output_path"] is None
    assert job["output_sha256"] is None
    assert job["logs"] == []
    assert COMMIT.fullmatch(job["model_commit"])
    assert_times(job)
    assert poll(http, job["job_id"])["status"] == "completed"


def test_a_completed_run_says_where_its_output_is_and_from_what_it_was_made(
    http: httpx.Client, completed: dict[str, Any], grid: dict[str, Any]
) -> None:
    assert completed.keys() >= JOB_FIELDS
    assert completed["output_path"].startswith(
        f"s3://dissmodel-outputs/experiments/{completed['experiment_id']}/"
    )
    assert completed["input_sha256"] == grid["checksum"]
    assert re.match(r"\d+\.\d+", completed["code_version"])
    assert completed["logs"]
    assert all(isinstance(line, str) for line in completed["logs"])
    link = http.get("/download", params={"uri": completed["output_path"]}).json()["url"]
    assert sha256(httpx.get(link, trust_env=False).content) == completed["output_sha256"]
    assert_times(completed)


def test_an_inline_spec_runs_as_local_inline(http: httpx.Client) -> None:
    spec = '[model]\nclass = "echo"\n\n[model.parameters]\nmessage = "default"\n'
    job = submit_inline(
        http, spec, input_format="auto", parameters={"message": "olá"}, column_map={}, band_map={}
    )
    assert job.keys() >= JOB_FIELDS
    assert job["model_commit"] == "local-inline"
    done = poll(http, job["job_id"])
    assert done["status"] == "completed", done["logs"]
    assert done["model_commit"] == "local-inline"
    link = http.get("/download", params={"uri": done["output_path"]}).json()["url"]
    assert httpx.get(link, trust_env=False).text == "olá"


@pytest.mark.parametrize("name", ["auto", "tiff", "geotiff", "raster", "vector", "zarr"])
def test_every_known_input_format_is_taken(http: httpx.Client, name: str) -> None:
    job = submit_inline(http, '[model]\nclass = "echo"\n', input_format=name)
    assert http.get(f"/experiments/{job['job_id']}").json()["input_format"] == name
    http.delete(f"/job/{job['job_id']}")


def test_a_model_commit_selects_the_version_that_was_served_then(
    platform: Up, http: httpx.Client
) -> None:
    first = commit(platform.registry, {"models/dated.toml": SIMPLE_MODEL.format("first")})
    assert http.post("/admin/sync").status_code == 200
    second = commit(platform.registry, {"models/dated.toml": SIMPLE_MODEL.format("second")})
    assert http.post("/admin/sync").status_code == 200
    request = {"model_name": "dated", "input_dataset": ""}
    newest = http.post("/submit_job", json=request).json()
    earlier = http.post("/submit_job", json={**request, "model_commit": first}).json()
    assert newest["model_commit"] == second
    assert earlier["model_commit"] == first
    records = [http.get(f"/experiments/{job['job_id']}").json() for job in (newest, earlier)]
    descriptions = [record["resolved_spec"]["model"]["description"] for record in records]
    assert descriptions == ["second", "first"]
    never = http.post("/submit_job", json={**request, "model_commit": "1" * 40})
    assert_problem(never, 404, ":revision-not-found")
    for job in (newest, earlier):
        http.delete(f"/job/{job['job_id']}")


def test_runs_of_higher_priority_are_taken_first(platform: Up, http: httpx.Client) -> None:
    commit(platform.registry, {"models/queued.toml": SIMPLE_MODEL.format("queued")})
    assert http.post("/admin/sync").status_code == 200
    blocking = echo(http, pause=2)
    wait_until(
        lambda: http.get(f"/job/{blocking['job_id']}").json()["status"] == "running", "it runs"
    )
    jobs = {}
    for priority in ("low", "normal", "high"):
        request = {"model_name": "queued", "input_dataset": "", "priority": priority}
        jobs[priority] = http.post("/submit_job", json=request).json()["job_id"]
    started = {name: poll(http, job_id)["started_at"] for name, job_id in jobs.items()}
    assert sorted(started, key=started.__getitem__) == ["high", "normal", "low"]


def test_cancelling_a_running_experiment_ends_it_and_a_second_time_is_refused(
    http: httpx.Client,
) -> None:
    job_id = echo(http, pause=600)["job_id"]
    wait_until(lambda: http.get(f"/job/{job_id}").json()["status"] == "running", "it runs")
    answer = http.delete(f"/job/{job_id}")
    assert answer.status_code == 200
    assert answer.json()["experiment_id"] == job_id
    assert answer.json()["message"]
    assert poll(http, job_id)["status"] == "cancelled"
    assert http.get(f"/experiments/{job_id}/artifacts").json() == {"artifacts": []}
    problem = assert_problem(http.delete(f"/job/{job_id}"), 400, ":already-final")
    assert "cancelled" in problem["detail"]


def test_a_completed_experiment_cannot_be_cancelled(
    http: httpx.Client, completed: dict[str, Any]
) -> None:
    problem = assert_problem(http.delete(f"/job/{completed['job_id']}"), 400)
    assert "completed" in problem["detail"]


def test_jobs_are_listed_newest_first_and_paged_by_next(
    http: httpx.Client, completed: dict[str, Any]
) -> None:
    submitted = [echo(http, pause=0)["job_id"] for _ in range(4)]
    whole = http.get("/jobs", params={"limit": 1000}).json()
    assert whole.keys() >= {"experiments", "total", "next"}
    assert whole["next"] is None
    assert whole["total"] == len(whole["experiments"])
    assert all(job.keys() >= JOB_FIELDS for job in whole["experiments"])
    everything = [job["job_id"] for job in whole["experiments"]]
    assert everything[:4] == submitted[::-1]
    assert completed["job_id"] in everything
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = http.get("/jobs", params={"limit": 3, **cursor}).json()
        assert len(page["experiments"]) <= 3
        assert page["total"] == whole["total"]
        seen += [job["job_id"] for job in page["experiments"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == everything
    for job_id in submitted:
        poll(http, job_id)


def test_jobs_can_be_listed_by_status(http: httpx.Client, completed: dict[str, Any]) -> None:
    page = http.get("/jobs", params={"status": "completed", "limit": 1000}).json()
    assert {job["status"] for job in page["experiments"]} == {"completed"}
    assert completed["job_id"] in [job["job_id"] for job in page["experiments"]]
    assert_problem(http.get("/jobs", params={"status": "done"}), 422)
    assert_problem(http.get("/jobs", params={"limit": 0}), 422)
    assert_problem(http.get("/jobs", params={"cursor": "made up"}), 422)


def test_a_run_is_followed_to_its_end_and_told_again_afterwards(http: httpx.Client) -> None:
    job_id = echo(http, pause=1)["job_id"]
    told = []
    for _ in range(2):
        with http.stream("GET", f"/job/{job_id}/events") as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            told.append([line for line in answer.iter_lines() if line[:1] not in ("", ":", "r")])
    assert told[0] == told[1]
    data = [json.loads(line.partition(": ")[2]) for line in told[0] if line.startswith("data: ")]
    phases = [event["phase"] for event in data if event.keys() == {"at", "attempt", "phase"}]
    assert phases == [
        "building", "staging", "starting", "validate", "load", "run", "save", "collecting",
    ]  # fmt: skip
    assert [event["status"] for event in data if "status" in event] == [
        "pending", "running", "completed",
    ]  # fmt: skip
    assert_times(data)


# --- models and the registry


def test_models_are_listed_by_the_stem_of_their_file(http: httpx.Client) -> None:
    page = http.get("/models", params={"limit": 1000}).json()
    models = {model["name"]: model for model in page["models"]}
    assert models.keys() >= {"flood_vector", "game_of_life"}
    for model in models.values():
        assert model.keys() >= {"name", "class", "description", "stale", "environment"}
        assert model["environment"]["state"] in ("pending", "building", "ready", "failed")
    assert models["flood_vector"]["class"] == "flood_vector"
    assert models["flood_vector"]["stale"] is False
    assert models["flood_vector"]["environment"]["state"] == "ready"
    assert COMMIT.fullmatch(page["commit"])


def test_models_are_paged_by_next(http: httpx.Client) -> None:
    names = [model["name"] for model in http.get("/models?limit=1000").json()["models"]]
    first = http.get("/models?limit=1").json()
    assert [model["name"] for model in first["models"]] == names[:1]
    rest = http.get("/models", params={"limit": 1000, "cursor": first["next"]}).json()
    assert [model["name"] for model in rest["models"]] == names[1:]
    assert rest["next"] is None
    assert_problem(http.get("/models?limit=1001"), 422)


def test_one_model_is_shown_with_its_whole_spec(http: httpx.Client) -> None:
    model = http.get("/models/flood_vector").json()
    assert model["model_name"] == "flood_vector"
    assert model["spec"]["model"]["parameters"] == {"taxa_elevacao": 0.5, "end_time": 10}
    assert model["spec"]["model"]["class"] == "flood_vector"


def test_a_sync_says_what_was_added_changed_and_removed(platform: Up, http: httpx.Client) -> None:
    files: dict[str, str | None] = {
        "models/kept.toml": SIMPLE_MODEL.format("before"),
        "models/leaving.toml": SIMPLE_MODEL.format("leaving"),
    }
    before = commit(platform.registry, files)
    assert http.post("/admin/sync").json()["new_commit"] == before
    files = {
        "models/kept.toml": SIMPLE_MODEL.format("after"),
        "models/leaving.toml": None,
        "models/coming.toml": SIMPLE_MODEL.format("coming"),
    }
    after = commit(platform.registry, files)
    answer = http.post("/admin/sync")
    assert answer.status_code == 200
    run = answer.json()
    assert run.keys() >= SYNC_FIELDS
    assert (run["old_commit"], run["new_commit"]) == (before, after)
    assert (run["added"], run["changed"], run["removed"]) == (["coming"], ["kept"], ["leaving"])
    assert after in run["message"]
    assert http.get("/models/kept").json()["description"] == "after"
    assert_problem(http.get("/models/leaving"), 404, ":model-not-found")
    again = http.post("/admin/sync").json()
    assert (again["old_commit"], again["new_commit"]) == (after, after)
    assert (again["added"], again["changed"], again["removed"]) == ([], [], [])
    assert again["run_id"] != run["run_id"]


def test_a_sync_that_git_fails_is_never_a_success_and_the_models_stay(
    platform: Up, http: httpx.Client
) -> None:
    away = platform.registry.with_name("away")
    platform.registry.rename(away)
    try:
        problem = assert_problem(http.post("/admin/sync"), 502)
        assert "sync failed" in problem["detail"]
        health = http.get("/health")
        assert health.status_code == 200
        assert health.json()["reasons"]
        assert http.get("/models/flood_vector").status_code == 200
    finally:
        away.rename(platform.registry)
    assert http.post("/admin/sync").status_code == 200
    assert http.get("/health").json()["reasons"] == []


def test_a_broken_file_is_a_problem_with_its_place_and_hides_nothing(
    platform: Up, http: httpx.Client
) -> None:
    commit(platform.registry, {"models/edited.toml": SIMPLE_MODEL.format("works")})
    assert http.post("/admin/sync").status_code == 200
    assert http.get("/models/edited").json()["stale"] is False
    broken = '[model]\nclass = "echo\n'
    commit(platform.registry, {"models/edited.toml": broken, "models/never_good.toml": "[model"})
    answer = http.post("/admin/sync")
    assert answer.status_code == 200
    assert len(answer.json()["problems"]) == answer.json()["problem_count"] >= 2
    problems = http.get("/registry/problems").json()["problems"]
    assert all(p.keys() >= {"path", "line", "column", "code", "message"} for p in problems)
    by_path = {problem["path"]: problem for problem in problems}
    assert by_path["models/edited.toml"]["line"] == 2
    assert by_path["models/never_good.toml"]["line"] == 1
    models = {m["name"]: m for m in http.get("/models?limit=1000").json()["models"]}
    assert models.keys() >= {"flood_vector", "game_of_life", "edited"}
    assert "never_good" not in models
    assert models["edited"]["stale"] is True
    assert models["edited"]["description"] == "works"
    assert models["flood_vector"]["stale"] is False
    stale = http.post("/submit_job", json={"model_name": "edited", "input_dataset": ""})
    assert stale.status_code == 200
    http.delete(f"/job/{stale.json()['job_id']}")
    mended = {"models/edited.toml": SIMPLE_MODEL.format("mended"), "models/never_good.toml": None}
    commit(platform.registry, mended)
    assert http.post("/admin/sync").json()["changed"] == ["edited"]
    problems = http.get("/registry/problems").json()
    assert (problems["problems"], problems["total"], problems["next"]) == ([], 0, None)
    assert http.get("/models/edited").json()["stale"] is False


# --- data


def test_an_upload_gets_an_address_made_of_its_label_and_name(
    http: httpx.Client, tmp_path: Path
) -> None:
    path = tmp_path / "Ilha do Mel, março.csv"
    path.write_bytes(b"row,col\n0,0\n" * 1000)
    stored = upload(http, path, label="paraná")
    assert stored["uri"] == "s3://dissmodel-inputs/inputs/paraná/Ilha do Mel, março.csv"
    assert stored["label"] == "paraná"
    assert stored["checksum"] == sha256(path.read_bytes())
    assert stored["size_mb"] == pytest.approx(0.012)


def test_an_upload_without_a_label_goes_under_default(http: httpx.Client) -> None:
    answer = http.post("/data/upload", files={"file": ("a.txt", b"a")})
    assert answer.json()["uri"] == "s3://dissmodel-inputs/inputs/default/a.txt"


@pytest.mark.parametrize("name", ["../escape.txt", "a/b.txt", ".."])
def test_an_upload_whose_name_is_a_path_is_refused(http: httpx.Client, name: str) -> None:
    answer = http.post("/data/upload", files={"file": (name, b"a")})
    problem = assert_problem(answer, 422)
    assert problem["errors"][0]["field"] == "file"


def test_an_upload_beyond_the_limit_is_refused_and_not_kept(http: httpx.Client) -> None:
    body = bytes(MAX_UPLOAD_BYTES + 1)
    answer = http.post("/data/upload", files={"file": ("big.bin", body)})
    assert_problem(answer, 413, ":upload-too-large")
    uri = "s3://dissmodel-inputs/inputs/default/big.bin"
    assert_problem(http.get("/download", params={"uri": uri}), 404, ":object-not-found")


def test_a_new_upload_under_an_old_name_closes_the_links_to_the_old_content(
    http: httpx.Client, stranger: httpx.Client
) -> None:
    def put(content: bytes) -> str:
        answer = http.post("/data/upload", files={"file": ("twice.txt", content)})
        uri = answer.json()["uri"]
        return str(http.get("/download", params={"uri": uri}).json()["url"])

    first, second = put(b"first"), put(b"second")
    assert_problem(stranger.get(first), 404)
    assert stranger.get(second).content == b"second"


def link_to(http: httpx.Client, uri: str, **query: Any) -> httpx.Response:
    return http.get("/download", params={"uri": uri, **query})


def token_of(link: str) -> str:
    return link.partition("/d/")[2].partition("/")[0]


@pytest.fixture
def link(http: httpx.Client, grid: dict[str, Any]) -> str:
    return str(link_to(http, grid["uri"]).json()["url"])


def test_a_download_link_is_absolute_and_ends_in_the_name(
    platform: Up, http: httpx.Client, grid: dict[str, Any]
) -> None:
    answer = link_to(http, grid["uri"], expires_hours=2)
    assert answer.status_code == 200
    assert answer.json()["expires_in_hours"] == 2
    assert answer.json()["url"].startswith(f"{platform.url}/d/")
    assert answer.json()["url"].endswith("/grid.zip")


def test_a_link_opens_without_a_header(stranger: httpx.Client, link: str) -> None:
    answer = stranger.get(link)
    assert answer.status_code == 200
    assert answer.content == GRID.read_bytes()
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Length"] == str(GRID.stat().st_size)
    assert answer.headers["Content-Type"] == "application/zip"
    assert sha256(GRID.read_bytes()) in answer.headers["ETag"]


def test_a_link_answers_head_as_it_answers_get(stranger: httpx.Client, link: str) -> None:
    head, get = stranger.head(link), stranger.get(link)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("Content-Length", "Content-Type", "ETag", "Accept-Ranges"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-0", 0, 1), ("10-19", 10, 20), ("100-", 100, None), ("-16", -16, None)],
)
def test_a_link_answers_ranges(
    stranger: httpx.Client, link: str, asked: str, start: int, end: int | None
) -> None:
    whole = GRID.read_bytes()
    answer = stranger.get(link, headers={"Range": f"bytes={asked}"})
    assert answer.status_code == 206
    assert answer.content == whole[start:end]
    first = whole.index(answer.content) if start < 0 else start
    last = first + len(answer.content) - 1
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"
    assert answer.headers["Content-Length"] == str(len(answer.content))


def test_a_range_that_ends_behind_the_file_is_cut_and_one_that_begins_there_is_refused(
    stranger: httpx.Client, link: str
) -> None:
    size = GRID.stat().st_size
    cut = stranger.get(link, headers={"Range": f"bytes={size - 5}-{size + 100}"})
    assert cut.status_code == 206
    assert len(cut.content) == 5
    behind = stranger.get(link, headers={"Range": f"bytes={size}-"})
    assert_problem(behind, 416)
    assert behind.headers["Content-Range"] == f"bytes */{size}"


def test_ranges_that_are_none_are_answered_with_the_whole(
    stranger: httpx.Client, link: str
) -> None:
    for asked in ("bytes=5-2", "items=0-1", "bytes=0-1,5-6", "bytes=-", "bytes=x-y", "9" * 5000):
        assert stranger.get(link, headers={"Range": asked}).status_code == 200, asked


def test_a_client_that_has_the_file_already_is_told_so(stranger: httpx.Client, link: str) -> None:
    etag = stranger.head(link).headers["ETag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        for method in ("GET", "HEAD"):
            answer = stranger.request(method, link, headers={"If-None-Match": known})
            assert answer.status_code == 304, known
            assert answer.headers["ETag"] == etag
            assert answer.content == b""
    assert stranger.get(link, headers={"If-None-Match": '"other"'}).status_code == 200
    resumed = {"Range": "bytes=5-9", "If-Range": etag}
    assert stranger.get(link, headers=resumed).status_code == 206
    changed = {"Range": "bytes=5-9", "If-Range": '"other"'}
    assert stranger.get(link, headers=changed).status_code == 200


def test_a_browser_may_read_the_headers_of_a_link(stranger: httpx.Client, link: str) -> None:
    answer = stranger.get(link, headers={"Origin": "https://map.example", "Range": "bytes=0-1"})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    exposed = {name.strip() for name in answer.headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed >= {"Content-Range", "Content-Length", "Accept-Ranges", "ETag"}
    asked = {
        "Origin": "https://map.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "Range, X-API-Key",
    }
    assert stranger.options(link, headers=asked).status_code == 200


def test_an_expired_link_opens_nothing(
    http: httpx.Client, stranger: httpx.Client, grid: dict[str, Any]
) -> None:
    link = link_to(http, grid["uri"], expires_hours=1 / 3600).json()["url"]
    answer = wait_until(
        lambda: (got := stranger.get(link)).status_code != 200 and got, "the link expires", 10
    )
    assert "expired" in assert_problem(answer, 403)["detail"]
    assert stranger.head(link).status_code == 403


def test_a_forged_link_opens_nothing(http: httpx.Client, stranger: httpx.Client, link: str) -> None:
    token = token_of(link)
    other = upload(http, Path(__file__))
    other_token = token_of(link_to(http, other["uri"]).json()["url"])
    for forged in (token[:-1], token[:-4] + "AAAA", "A" * len(token), "x", token + "A"):
        assert_problem(stranger.get(link.replace(token, forged)), 403)
    assert stranger.get(link.replace(token, other_token)).status_code == 404
    assert stranger.get(link.replace("grid.zip", "other.zip")).status_code == 404


@pytest.mark.parametrize(
    ("uri", "status"),
    [
        ("s3://dissmodel-inputs/inputs/tests/absent.zip", 404),
        ("s3://somebody-elses/inputs/tests/grid.zip", 422),
        ("s3://dissmodel-inputs/../objects", 422),
        ("/etc/passwd", 422),
        ("file:///etc/passwd", 422),
        ("", 422),
    ],
)
def test_only_files_of_the_platform_can_be_linked_to(
    http: httpx.Client, uri: str, status: int
) -> None:
    assert_problem(link_to(http, uri), status)


# --- experiments


def test_a_record_is_flat_with_the_fields_of_the_library_and_ours(
    http: httpx.Client, completed: dict[str, Any], grid: dict[str, Any]
) -> None:
    record = http.get(f"/experiments/{completed['experiment_id']}").json()
    assert record.keys() >= LIBRARY_FIELDS | OWN_FIELDS
    assert record["source"].keys() >= {"type", "uri", "collection", "version", "checksum"}
    assert record["source"]["uri"] == grid["uri"]
    assert record["source"]["checksum"] == grid["checksum"]
    assert record["parameters"] == {"taxa_elevacao": 0.5, "end_time": 4}
    assert record["column_map"] == {"row": "row", "col": "col", "elevation": "elevation"}
    assert record["artifacts"]["output"] == completed["output_sha256"]
    assert record["resolved_spec"]["model"]["class"] == "flood_vector"
    for phase in ("validate", "load", "run", "save", "total"):
        assert record["metrics"][f"time_{phase}_sec"] >= 0
    for entry in (*record["inputs"], *record["outputs"]):
        assert entry.keys() >= {"name", "uri", "sha256", "size_bytes", "media_type"}
    assert record["attempt"] == 1
    assert COMMIT.fullmatch(record["package_commit"])
    assert_times(record)


def test_the_library_itself_accepts_the_record(
    platform: Up, http: httpx.Client, completed: dict[str, Any]
) -> None:
    record = http.get(f"/experiments/{completed['experiment_id']}").json()
    python = platform.home / "packages/environments" / record["environment_key"] / "bin/python"
    read = "import sys; from dissmodel.executor.schemas import ExperimentRecord as R; "
    read += "print(R.model_validate_json(sys.stdin.read()).model_dump_json())"
    done = subprocess.run(
        [str(python), "-c", read],
        input=json.dumps(record),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout)
    for name in LIBRARY_FIELDS - {"created_at"}:
        assert kept[name] == record[name], name


def test_artifacts_are_listed_with_address_checksum_size_and_type(
    http: httpx.Client, completed: dict[str, Any]
) -> None:
    content = http.get(f"/experiments/{completed['experiment_id']}/artifacts").json()
    (artifact,) = content["artifacts"]
    assert artifact.keys() == {"name", "uri", "sha256", "size_bytes", "media_type", "spatial"}
    assert artifact["spatial"]["layers"][0]["name"] == "flood"
    assert artifact["spatial"]["crs"].startswith("EPSG:")
    assert artifact["uri"] == completed["output_path"]
    assert artifact["sha256"] == completed["output_sha256"]
    assert artifact["media_type"] == "application/geopackage+sqlite3"
    link = link_to(http, artifact["uri"]).json()["url"]
    assert len(httpx.get(link, trust_env=False).content) == artifact["size_bytes"]


def test_a_reproduction_is_identical_and_says_so(
    http: httpx.Client, completed: dict[str, Any]
) -> None:
    answer = http.post(f"/experiments/{completed['experiment_id']}/reproduce")
    assert answer.status_code == 200
    job = answer.json()
    assert job.keys() >= JOB_FIELDS
    assert job["job_id"] != completed["job_id"]
    assert job["model_commit"] == completed["model_commit"]
    done = poll(http, job["job_id"])
    assert done["status"] == "completed", done["logs"]
    assert done["output_sha256"] == completed["output_sha256"]
    reproduction = http.get(f"/experiments/{job['job_id']}").json()["reproduction"]
    assert reproduction["verdict"] == "identical"
    assert reproduction["of"] == completed["experiment_id"]


def test_publish_gives_what_a_paper_needs(
    http: httpx.Client, completed: dict[str, Any], grid: dict[str, Any]
) -> None:
    answer = http.post(f"/experiments/{completed['experiment_id']}/publish")
    assert answer.status_code == 200
    publication = answer.json()
    assert publication.keys() >= PUBLICATION_FIELDS
    for name in ("experiment_id", "model_name", "model_commit", "code_version", "output_path"):
        assert publication[name] == completed[name]
    assert publication["output_sha256"] == completed["output_sha256"]
    assert publication["input"]["uri"] == grid["uri"]
    assert publication["input"]["checksum"] == grid["checksum"]
    assert_times(publication)


def test_what_has_no_result_is_neither_published_nor_reproduced(http: httpx.Client) -> None:
    job_id = echo(http, pause=600)["job_id"]
    for action in ("publish", "reproduce"):
        problem = assert_problem(http.post(f"/experiments/{job_id}/{action}"), 422)
        assert "only a completed one" in problem["detail"]
    http.delete(f"/job/{job_id}")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/job/{}"),
        ("DELETE", "/job/{}"),
        ("GET", "/experiments/{}"),
        ("GET", "/experiments/{}/artifacts"),
        ("POST", "/experiments/{}/reproduce"),
        ("POST", "/experiments/{}/publish"),
    ],
)
def test_an_unknown_experiment_is_not_found(http: httpx.Client, method: str, path: str) -> None:
    for unknown in (NOWHERE, "x", "é"):
        answer = http.request(method, path.format(unknown))
        assert_problem(answer, 404, ":experiment-not-found")
    assert_problem(http.request(method, path.format("%00")), 422)


# --- operation


def test_health_answers_without_a_key(stranger: httpx.Client) -> None:
    answer = stranger.get("/health")
    assert answer.status_code == 200
    health = answer.json()
    assert health["status"] == "healthy"
    assert health["ready"] is True
    assert health["reasons"] == []
    assert health["walls"] == {"builds": WALLS, "runs": WALLS}
    assert health["missing_walls"] == []
    assert_times(health)
    assert stranger.head("/health").status_code == 200


def test_metrics_are_what_prometheus_reads(http: httpx.Client, completed: dict[str, Any]) -> None:
    answer = http.get("/metrics")
    assert answer.status_code == 200
    families = {f.name: f for f in text_string_to_metric_families(answer.text)}
    by_status = {s.labels["status"]: s.value for s in families["dissmodel_experiments"].samples}
    assert by_status.keys() == {"pending", "running", "completed", "failed", "cancelled"}
    listed = http.get("/jobs?status=completed&limit=1").json()["total"]
    assert by_status["completed"] == listed
    assert families["dissmodel_workers"].samples[0].value == 1
    assert families["dissmodel_models"].samples[0].value >= 2
    last = families["dissmodel_registry_last_success_timestamp_seconds"].samples[0].value
    assert abs(time.time() - last) < 3600


def test_everything_but_the_public_paths_refuses_a_stranger(stranger: httpx.Client) -> None:
    paths = stranger.get("/openapi.json").json()["paths"]
    walked = 0
    for path, operations in paths.items():
        if path in PUBLIC or path.startswith(("/d/", "/webhooks/")):
            continue
        for method in operations:
            url = re.sub(r"\{[^}]*\}", "x", path)
            for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}):
                answer = stranger.request(method, url, headers=headers)
                if method == "head":
                    assert (answer.status_code, answer.content) == (401, b"")
                else:
                    assert_problem(answer, 401, ":not-authenticated")
                assert answer.headers["WWW-Authenticate"]
            walked += 1
    assert walked >= 14
    assert_problem(stranger.get("/d/x/y"), 403)
    assert_problem(stranger.post("/webhooks/github", json={}), 403)
    for path in ("/redoc", "/nothing", "/jobs/", "/docs/oauth2-redirect", "/health/"):
        assert_problem(stranger.get(path), 401)


def test_a_stranger_is_refused_before_his_body_is_read(
    platform: Up, stranger: httpx.Client
) -> None:
    headers = {"Content-Type": "application/json"}
    assert_problem(stranger.post("/submit_job", content=b"{", headers=headers), 401)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert_problem(stranger.post("/data/upload", content=b"junk", headers=headers), 401)
    lines = ("POST /data/upload HTTP/1.1", "Host: x", "Content-Length: 9999999999",
             "Content-Type: multipart/form-data; boundary=x", "", "")  # fmt: skip
    with socket.create_connection(("127.0.0.1", platform.port), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_public_paths_answer_a_stranger(stranger: httpx.Client) -> None:
    for path in PUBLIC:
        assert stranger.get(path).status_code == 200, path


def test_a_key_may_come_as_a_bearer_token(platform: Up, stranger: httpx.Client) -> None:
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} {platform.key}"}
        assert stranger.get("/jobs", headers=headers).status_code == 200
    headers = {"Authorization": f"Basic {platform.key}"}
    assert_problem(stranger.get("/jobs", headers=headers), 401)


def test_every_error_has_the_one_shape(http: httpx.Client) -> None:
    nothing = assert_problem(http.get("/nothing/here"), 404, ":not-found")
    assert "/nothing/here" in nothing["detail"]
    wrong_method = assert_problem(http.put("/jobs"), 405, ":method-not-allowed")
    assert "GET" in wrong_method["detail"]
    headers = {"Content-Type": "application/json"}
    no_json = assert_problem(http.post("/submit_job", content=b"{", headers=headers), 422)
    assert no_json["errors"][0]["field"] == "body"
    missing = assert_problem(http.post("/submit_job", json={"model_name": "flood_vector"}), 422)
    assert missing["errors"] == [{"field": "input_dataset", "message": "Field required"}]
    assert_problem(http.post("/data/upload", data={"label": "x"}), 422)
    half = b'{"model_name": "\\ud800", "input_dataset": "", "parameters": {"\\ud800": 1}}'
    assert_problem(http.post("/submit_job", content=half, headers=headers), 422)
    half = half.replace(b"\\ud800", b"flood_vector", 1)
    assert_problem(http.post("/submit_job", content=half, headers=headers), 422)
    assert_problem(http.get("/models/%00"), 422)
    assert_problem(http.get("/models?cursor=%00"), 422)
    cursor = base64.urlsafe_b64encode(b'["2026-01-01T00:00:00+00:00", "\\u0000"]').decode()
    assert_problem(http.get("/jobs", params={"cursor": cursor}), 422)


def test_the_picture_of_the_whole_is_served_to_people(stranger: httpx.Client) -> None:
    page = stranger.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "DisSModel Platform" in page.text
    assert stranger.head("/").status_code == 200
