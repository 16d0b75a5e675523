"""Nothing that a server, a registry or a model wrote steers the terminal."""

from __future__ import annotations

import io
import logging
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dissmodel_platform.cli import data, main, models, runs
from dissmodel_platform.cli.echo import printable
from dissmodel_platform.cli.logs import configure_logging
from dissmodel_platform.cli.progress import RunProgress
from dissmodel_platform.cli.tables import print_table
from dissmodel_platform.errors import ServerRefused
from dissmodel_platform.settings import load_settings

HOSTILE = "a\x1b]0;taken\x07\x1b[2J\x9b31m\u202eb [red]c"
ESCAPED = r"a\x1b]0;taken\x07\x1b[2J\x9b31m\u202eb [red]c"


@given(st.text())
def test_what_is_printed_can_be_seen_and_encoded(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not {unicodedata.category(c) for c in shown if c not in "\n\t"} & {"Cc", "Cf", "Cs"}
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["plain", "São João, 3 × 4\N{NO-BREAK SPACE}km", "土地", "a\n\tb"])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("is_terminal", [False, True])
def test_cells_are_escaped(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    print_table(("model", "description"), [("evil", HOSTILE)])
    written = capsys.readouterr().out
    assert ESCAPED in written
    assert HOSTILE not in written


class Server:
    """What a platform answers, hostile in each of its words."""

    def __getattr__(self, name: str) -> object:
        job = {
            "experiment_id": HOSTILE,
            "model_name": HOSTILE,
            "status": HOSTILE,
            "output_path": HOSTILE,
            "output_sha256": HOSTILE,
            "created_at": HOSTILE,
            "logs": [HOSTILE],
            "warnings": [HOSTILE],
        }
        model = {
            "name": HOSTILE,
            "description": HOSTILE,
            "package": HOSTILE,
            "environment": {"state": HOSTILE},
            "stale": False,
        }
        answers: dict[str, object] = {
            "job": job,
            "submit": job,
            "logs": [{"at": HOSTILE, "stream": HOSTILE, "text": HOSTILE}],
            "jobs": {"experiments": [job]},
            "cancel": {"message": HOSTILE},
            "models": [model],
            "model": model,
            "lock": {
                "sha256": HOSTILE,
                "created_at": HOSTILE,
                "packages": [
                    {
                        "name": HOSTILE,
                        "version": HOSTILE,
                        "source": HOSTILE,
                        "commit": HOSTILE,
                        "built": False,
                    }
                ],
            },
            "lock_file": HOSTILE,
            "upload": {"uri": HOSTILE},
            "artifacts": [{"name": "a", "uri": "s3://a/b"}],
            "download": Path(HOSTILE),
        }
        return lambda *_, **__: answers[name]


@pytest.fixture(autouse=True)
def hostile_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every command talk to a hostile server."""
    for module in (runs, data, models):
        monkeypatch.setattr(module, "connect", lambda *_: nullcontext(Server()))


@pytest.mark.parametrize(
    "command",
    ["models", "models x", "models lock x", "models lock x --toml", "status x", "status x --json",
     "logs x", "logs x --follow --times", "jobs", "cancel x",
     "submit x", "upload FILE", "download x"],
)  # fmt: skip
def test_answers_are_escaped(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    words = [str(tmp_path / "file") if word == "FILE" else word for word in command.split()]
    result = CliRunner().invoke(main.app, words)
    assert result.exit_code == 0, result.output
    assert r"]0;taken" in result.output
    assert not set("\x1b\x07\x9b\u202e") & set(result.output)


def test_what_a_server_refuses_with_is_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise ServerRefused(422, {"detail": HOSTILE})

    monkeypatch.setattr(main, "app", refuse)
    with pytest.raises(SystemExit):
        main.main()
    assert capsys.readouterr().err == f"dissmodel-platform: {ESCAPED}\n"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_is_escaped_and_no_markup(is_terminal: bool) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal  # type: ignore[method-assign]
    job = {"status": "running", "progress": {"phase": "[red]\x07" + HOSTILE}}
    with RunProgress("[link=x]t", stream) as progress:
        progress.show(job)
    assert r"[link=x]t: [red]\x07a\x1b]0" in stream.getvalue()
    assert not set("\x07\x9b\u202e") & set(stream.getvalue())


@pytest.fixture
def root_logger() -> Iterator[None]:
    """Give the log back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("root_logger")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_lines_are_escaped(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(load_settings(log_format=log_format), "sync")
    logging.getLogger("x").warning("git said: %s", HOSTILE)
    written = capsys.readouterr().err
    assert "]0;taken" in written
    assert not set("\x1b\x07\x9b\u202e") & set(written)
