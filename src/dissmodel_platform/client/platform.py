"""A typed client of the HTTP API."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

import httpx

from dissmodel_platform.errors import (
    ClientError,
    ExperimentFailed,
    ServerRefused,
    ServerUnreachable,
)
from dissmodel_platform.types import ExperimentStatus

Json = dict[str, Any]

_TIMEOUT = httpx.Timeout(30.0, read=300.0)
_POLL_SECONDS = 0.1
_SLOWEST_POLL_SECONDS = 1.0
_PAGE = 1000
_STREAM_TIMEOUT = httpx.Timeout(30.0, read=60.0)  # the server says every 15 s that it is there
_PATIENCE_SECONDS = 30.0
"""How long a submission whose answer was lost is sent again, and a broken stream taken up again."""

_BUSY = frozenset({502, 503, 504})

# this machine is reached directly, whatever proxy the environment names for others
_NO_PROXY = {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}


class Platform:
    """A platform at an address.

    Parameters
    ----------
    url : str
        Base address, such as ``http://127.0.0.1:8000``.
    key : str, optional
        API key.

    Raises
    ------
    ClientError
        The address or the key cannot be one.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        if key and not (key.isascii() and key.isprintable()):
            raise ClientError("The API key holds a character that a header cannot carry; check it.")
        headers = {"X-API-Key": key} if key else {}
        try:
            self._http = httpx.Client(
                base_url=self.url, headers=headers, timeout=_TIMEOUT, mounts=_NO_PROXY
            )
        except httpx.InvalidURL as error:
            raise ClientError(
                f"{url!r} is no address ({error}); give one such as http://127.0.0.1:8000."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def health(self) -> Json:
        """Return the state of the server; also when it is not healthy."""
        with _reaching(self.url):
            answer = self._http.get("/health")
        return self._content(answer)

    def models(self) -> list[Json]:
        """Return the models that can be run, by name, all of one commit."""
        return list(self._listed("/models", "models"))

    def model(self, name: str, *, commit: str | None = None) -> Json:
        """Return one model with its whole spec."""
        return self._get(f"/models/{_part(name)}", **_given(commit=commit))

    def lock(self, name: str, *, commit: str | None = None) -> Json:
        """Return the packages that a model's runs are made of.

        Parameters
        ----------
        name : str
            Name in the registry.
        commit : str, optional
            A published commit of the registry; the newest by default.
        """
        return self._get(f"/models/{_part(name)}/lock", **_given(commit=commit))

    def lock_file(self, name: str, *, commit: str | None = None) -> str:
        """Return a model's lock as a standard lock file (PEP 751, ``pylock.toml``)."""
        query = {"format": "toml", **_given(commit=commit)}
        return self._answer("GET", f"/models/{_part(name)}/lock", params=query).text

    def relock(self, name: str, *, commit: str | None = None, wait: bool = True) -> Json:
        """Have a worker make a new lock of a model's version, and return what changed.

        Parameters
        ----------
        wait : bool
            Whether to wait for it to end, however long it takes, or as long as the server does.

        Raises
        ------
        ClientError
            There is no new lock; the old one stays.
        """
        path = f"/models/{_part(name)}"
        found = self._send("POST", f"{path}/relock", params=_given(commit=commit))
        while wait and found["state"] == "waiting":
            time.sleep(_SLOWEST_POLL_SECONDS)
            found = self._get(f"{path}/relocks/{_part(found['relock_id'])}")
        if found["state"] == "failed":
            raise ClientError(found["message"])
        return found

    def build(self, name: str, *, commit: str | None = None) -> Json:
        """Have a worker build a model's environment, also where that failed before."""
        return self._send("POST", f"/models/{_part(name)}/build", params=_given(commit=commit))

    def problems(self) -> list[Json]:
        """Return what is wrong with the files of the registry's served commit."""
        return list(self._listed("/registry/problems", "problems"))

    def sync(self) -> Json:
        """Sync the registry and return what changed, with the first hundred problems."""
        return self._send("POST", "/admin/sync")

    def upload(self, path: Path, *, label: str = "default") -> Json:
        """Upload a file; the answer's ``uri`` names it as an input.

        Raises
        ------
        ClientError
            The file cannot be read.
        """
        try:
            with path.open("rb") as file:
                return self._send(
                    "POST", "/data/upload", files={"file": (path.name, file)}, data={"label": label}
                )
        except OSError as error:
            raise ClientError(f"{path} cannot be read: {error.strerror}.") from error

    def submit(
        self,
        model_name: str,
        input_dataset: str = "",
        *,
        parameters: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        input_sha256: str | None = None,
        **more: Any,
    ) -> Json:
        """Submit a run and return its job object, once, also where the connection breaks.

        Parameters
        ----------
        model_name : str
            Name in the registry.
        input_dataset : str
            Address of the input, such as the ``uri`` of an upload.
        parameters : mapping, optional
            Overrides of the model's defaults.
        idempotency_key : str, optional
            Your own name for this submission; by default a new one for each call. The same request
            with the same key is the same experiment, however often it is submitted.
        input_sha256 : str, optional
            SHA-256 (64 hexadecimal digits) that the input must have.
        **more
            Other fields of the request, such as ``priority`` or ``column_map``.

        Raises
        ------
        ServerUnreachable
            The answer was lost, and the server has not come back within half a minute.
        """
        body = {
            "model_name": model_name,
            "input_dataset": input_dataset,
            "parameters": dict(parameters or {}),
            **_given(input_sha256=input_sha256),
            **more,
        }
        return self._send_once("/submit_job", idempotency_key, json=body)

    def job(self, experiment_id: str) -> Json:
        """Return where an experiment stands."""
        return self._get(f"/job/{_part(experiment_id)}")

    def jobs(self, *, limit: int = 50, status: str | None = None) -> Json:
        """Return a page of experiments, newest first."""
        chosen = {} if status is None else {"status": status}
        return self._get("/jobs", limit=limit, **chosen)

    def record(self, experiment_id: str) -> Json:
        """Return the whole record of an experiment."""
        return self._get(f"/experiments/{_part(experiment_id)}")

    def artifacts(self, experiment_id: str) -> list[Json]:
        """Return the files of a result."""
        path = f"/experiments/{_part(experiment_id)}/artifacts"
        artifacts: list[Json] = self._get(path)["artifacts"]
        return artifacts

    def cancel(self, experiment_id: str) -> Json:
        """Cancel a pending or running experiment."""
        return self._send("DELETE", f"/job/{_part(experiment_id)}")

    def reproduce(self, experiment_id: str, *, idempotency_key: str | None = None) -> Json:
        """Submit a reproduction and return its job object; the key is as for a submission.

        Once it has completed, ``record(id)["reproduction"]`` has the ``verdict`` (``identical``,
        ``equal content`` or ``different``) and what differs in each of the ``artifacts``.
        """
        path = f"/experiments/{_part(experiment_id)}/reproduce"
        return self._send_once(path, idempotency_key)

    def logs(self, experiment_id: str, *, follow: bool = False) -> Iterator[Json]:
        """Yield the lines of an experiment's log, oldest first.

        Each has ``text``, ``stream`` (``stdout``, ``stderr``, ``record`` or ``platform``), ``at``
        (RFC 3339) and ``attempt``; an older server tells the text alone.

        Parameters
        ----------
        follow : bool
            Whether to wait for more until the experiment has ended.
        """
        try:
            if follow:
                yield from (e for e in self.events(experiment_id) if e["event"] == "log")
            else:
                yield from self._listed(f"/job/{_part(experiment_id)}/logs", "lines")
        except ServerRefused as refusal:
            if not _is_unknown_there(refusal):
                raise
            yield from self._polled_lines(experiment_id, follow=follow)

    def events(self, experiment_id: str, *, after: int | None = None) -> Iterator[Json]:
        """Yield what has happened to an experiment and then what happens, until it has ended.

        A connection that breaks is taken up where it was; nothing is lost or told twice.

        Parameters
        ----------
        after : int, optional
            ``id`` of the last event that is known already.

        Yields
        ------
        dict
            ``id``, ``event`` (``log``, ``phase``, ``progress`` or ``status``), ``at``, ``attempt``
            and what the event tells. The last is a ``status`` that is final.

        Raises
        ------
        ServerUnreachable
            The server has not come back within half a minute.
        """
        path = f"/job/{_part(experiment_id)}/events"
        last, pauses = after, _Pauses()
        while True:
            try:
                for event in self._stream(path, last, pauses):
                    last = event["id"]
                    yield event
                    if event["event"] == "status" and ExperimentStatus(event["status"]).is_final:
                        return
            except _HasEnded:
                return
            except httpx.TransportError as error:
                pauses.wait_or_raise(_unreachable(self.url, error))
            else:  # the server was stopped in good order
                pauses.wait_or_raise(_unreachable(self.url, "the stream ended too soon"))

    def _stream(self, path: str, last: int | None, pauses: _Pauses) -> Iterator[Json]:
        """Yield the events of one answer; while it goes on, all is well."""
        headers = {"Accept": "text/event-stream"}
        if last is not None:
            headers["Last-Event-ID"] = str(last)
        with self._http.stream("GET", path, headers=headers, timeout=_STREAM_TIMEOUT) as answer:
            if answer.status_code == 204:
                raise _HasEnded
            if answer.is_error:
                answer.read()
                raise _refusal(answer)
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                pauses.reset()
                name, _, value = line.partition(":")
                if name:
                    fields[name] = value.removeprefix(" ")
                elif not line and "data" in fields:
                    event = {"id": int(fields["id"]), "event": fields["event"]}
                    yield event | json.loads(fields["data"])
                    fields = {}

    def _polled_lines(self, experiment_id: str, *, follow: bool) -> Iterator[Json]:
        """Yield the log's lines from a server that has no stream of them."""
        known: list[str] = []
        while True:
            job = self.job(experiment_id)
            lines = job["logs"]
            for text in lines[_overlap(known, lines) :]:
                yield {"text": text, "stream": None, "at": None, "attempt": None}
            known = lines
            if not follow or ExperimentStatus(job["status"]).is_final:
                return
            time.sleep(_SLOWEST_POLL_SECONDS)

    def wait(
        self,
        experiment_id: str,
        *,
        timeout_seconds: float | None = None,
        on_change: Callable[[Json], None] | None = None,
    ) -> Json:
        """Wait until an experiment has completed, and return its job object.

        Parameters
        ----------
        timeout_seconds : float, optional
            How long to wait; the run goes on afterwards.
        on_change : callable, optional
            Called with each job object that was read.

        Raises
        ------
        ExperimentFailed
            It failed or was cancelled; the message is the last line of its log.
        TimeoutError
            It has not ended yet.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause = _POLL_SECONDS
        while True:
            job = self.job(experiment_id)
            if on_change is not None:
                on_change(job)
            status = ExperimentStatus(job["status"])
            if status is ExperimentStatus.COMPLETED:
                return job
            if status is ExperimentStatus.CANCELLED:
                raise ExperimentFailed(f"Experiment {experiment_id} was cancelled.")
            if status.is_final:
                reason = job["logs"][-1] if job["logs"] else "no reason was logged"
                raise ExperimentFailed(f"Experiment {experiment_id} {status.value}: {reason}")
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"Experiment {experiment_id} is still {status.value}.")
            time.sleep(pause)
            pause = min(pause * 1.2, _SLOWEST_POLL_SECONDS)

    def download(self, uri: str, destination: Path) -> Path:
        """Download a file; ``destination`` appears only once it is whole.

        Raises
        ------
        ClientError
            The destination cannot be written.
        """
        link = self._get("/download", uri=uri)["url"]
        arriving = destination.with_name(f".{destination.name}.part")
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._fetch(link, arriving)
                arriving.replace(destination)
            finally:
                arriving.unlink(missing_ok=True)
        except OSError as error:
            raise ClientError(f"{destination} cannot be written: {error.strerror}.") from error
        return destination

    def _fetch(self, link: str, path: Path) -> None:
        with _reaching(self.url), self._http.stream("GET", link) as answer:
            if answer.is_error:
                answer.read()
                raise _refusal(answer)
            with path.open("wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)

    def _listed(self, path: str, key: str) -> Iterator[Json]:
        """Yield the entries of all pages of a listing."""
        cursor: dict[str, str] = {}
        while True:
            page = self._get(path, limit=_PAGE, **cursor)
            yield from page[key]
            if page["next"] is None:
                return
            cursor = {"cursor": page["next"]}

    def _get(self, path: str, **query: Any) -> Json:
        return self._send("GET", path, params=query)

    def _send(self, method: str, path: str, **content: Any) -> Json:
        return self._content(self._answer(method, path, **content))

    def _send_once(self, path: str, key: str | None, **content: Any) -> Json:
        """Post a submission until it is answered; its key makes that one submission."""
        headers = {"Idempotency-Key": key or uuid4().hex}
        pauses = _Pauses()
        was_sent = False
        while True:
            try:
                answer = self._http.post(path, headers=headers, **content)
            except httpx.TransportError as error:
                could_connect = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                was_sent = was_sent or could_connect
                fault: ClientError = _unreachable(self.url, error)
                if not was_sent:
                    raise fault from error
            else:
                if not answer.is_error:
                    return self._content(answer)
                fault = _refusal(answer)
                if answer.status_code not in _BUSY:
                    raise fault
                was_sent = True
            pauses.wait_or_raise(fault)

    def _answer(self, method: str, path: str, **content: Any) -> httpx.Response:
        with _reaching(self.url):
            answer = self._http.request(method, path, **content)
        if answer.is_error:
            raise _refusal(answer)
        return answer

    def _content(self, answer: httpx.Response) -> Json:
        """Return the JSON object of an answer; anything else comes from another program."""
        try:
            content = answer.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ServerUnreachable(
                f"What answers at {self.url} is no platform; check --url or DISSMODEL_PLATFORM_URL."
            )
        return content


class _HasEnded(Exception):
    """The experiment has ended, and all its events are known."""


class _Pauses:
    """Pauses that grow, up to a limit of all of them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew: all is well."""
        self._deadline: float | None = None
        self._next = _POLL_SECONDS

    def wait_or_raise(self, fault: ClientError) -> None:
        """Pause, or raise what has gone wrong where that has been so for too long."""
        if self._deadline is None:
            self._deadline = time.monotonic() + _PATIENCE_SECONDS
        if time.monotonic() > self._deadline:
            raise fault
        time.sleep(self._next)
        self._next = min(self._next * 2, 2 * _SLOWEST_POLL_SECONDS)


def _is_unknown_there(refusal: ServerRefused) -> bool:
    """Say whether a server is too old to know the path, rather than without the experiment."""
    kind = str(refusal.problem.get("type", ""))
    return refusal.status in (404, 405) and not kind.endswith(":experiment-not-found")


def _overlap(known: list[str], lines: list[str]) -> int:
    """Return how many lines of a log's end were known: the server keeps back the oldest."""
    for count in range(min(len(known), len(lines)), 0, -1):
        if known[-count:] == lines[:count]:
            return count
    return 0


def _part(name: str) -> str:
    """Return a name as one part of a path."""
    return quote(name, safe="")


def _given(**query: str | None) -> dict[str, str]:
    """Return the parts of a query that have a value."""
    return {name: value for name, value in query.items() if value is not None}


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, reason: object) -> ServerUnreachable:
    return ServerUnreachable(
        f"No platform answers at {url} ({reason}); start one with `dissmodel-platform up`, or name "
        f"another with --url or DISSMODEL_PLATFORM_URL."
    )


def _refusal(answer: httpx.Response) -> ServerRefused:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict) or "detail" not in problem:
        problem = {"detail": f"The server answered {answer.status_code} {answer.reason_phrase}."}
    if answer.status_code == 401:
        hint = "On the command line, give the key with --key or DISSMODEL_PLATFORM_KEY."
        problem = {**problem, "detail": f"{problem['detail']} {hint}"}
    return ServerRefused(answer.status_code, problem)
