import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dissmodel_platform
from dissmodel_platform.processes import (
    SUPERVISOR_VARIABLE,
    Account,
    BoundProcess,
    die_with_supervisor,
)
from tests.processes import is_running, wait_until

SOURCE = str(Path(dissmodel_platform.__file__).parents[1])
ENVIRONMENT = {"PATH": os.defpath, "PYTHONPATH": SOURCE}
SLEEP = ["/bin/sleep", "600"]

# A parent that starts a child with the rest of its arguments, prints the child's id and waits.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
print(child.pid, flush=True)
time.sleep(600)
"""

# A child that is bound to the process that started it and says so in a file.
CHILD = """
import os, pathlib, signal, sys, time
from dissmodel_platform.processes import die_with_parent
def handler(signum, frame):
    pathlib.Path(sys.argv[1]).write_text("handler ran")
    sys.exit()
signal.signal(signal.SIGTERM, handler)
sys.platform = sys.argv[2]
die_with_parent(os.getppid())
pathlib.Path(sys.argv[1]).write_text("bound")
while True:
    time.sleep(0.05)
"""


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], int, Path]]]:
    """Starts a parent with a bound child, and leaves neither."""
    started: list[subprocess.Popen[str]] = []
    children: list[int] = []

    def start(platform: str) -> tuple[subprocess.Popen[str], int, Path]:
        report = tmp_path / "report"
        command = [sys.executable, "-c", PARENT, CHILD, str(report), platform]
        parent = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        started.append(parent)
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        children.append(child)
        wait_until(lambda: content(report) == "bound", "the child is bound")
        return parent, child, report

    yield start
    for parent in started:
        parent.kill()
        parent.communicate()
    for child in children:
        if is_running(child):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("platform", [sys.platform, "elsewhere"])
def test_a_killed_parent_takes_its_child_along_through_the_childs_own_handler(
    family: Callable[[str], tuple[subprocess.Popen[str], int, Path]], platform: str
) -> None:
    parent, child, report = family(platform)
    parent.kill()
    wait_until(lambda: not is_running(child), "the child has ended")
    assert report.read_text() == "handler ran"


def test_a_child_whose_parent_ended_before_it_looked_ends_at_once() -> None:
    code = "from dissmodel_platform.processes import die_with_parent; die_with_parent(1 << 22); x()"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False, timeout=60)
    assert done.returncode == -signal.SIGTERM


def test_a_role_under_a_supervisor_ends_with_it_and_hides_it_from_its_own_children() -> None:
    code = (
        "import os, signal, ctypes\n"
        "from dissmodel_platform.processes import die_with_supervisor\n"
        "die_with_supervisor(signal.SIGINT)\n"
        f"print({SUPERVISOR_VARIABLE!r} in os.environ)\n"
        "wanted = ctypes.c_int()\n"
        "ctypes.CDLL(None).prctl(2, ctypes.byref(wanted), 0, 0, 0)\n"
        "print(wanted.value)"
    )
    environment = {**ENVIRONMENT, SUPERVISOR_VARIABLE: str(os.getpid())}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=60
    )
    asked_for = str(signal.SIGINT.value) if sys.platform == "linux" else "0"
    assert done.stdout.decode().split() == ["False", asked_for]


def test_without_a_supervisor_nothing_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUPERVISOR_VARIABLE, raising=False)
    die_with_supervisor()


def test_a_supervisor_that_is_no_process_id_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUPERVISOR_VARIABLE, "me")
    with pytest.raises(ValueError, match="DISSMODEL_SUPERVISOR_PID='me'"):
        die_with_supervisor()


def bound(*command: str, output: int = subprocess.DEVNULL, **options: object) -> BoundProcess:
    return BoundProcess(
        command,
        death_signal=signal.SIGKILL,
        environment={"GREETING": "hello"},
        output=output,
        **options,  # type: ignore[arg-type]
    )


def test_a_bound_process_outlives_the_thread_that_started_it() -> None:
    made: list[BoundProcess] = []
    thread = threading.Thread(target=lambda: made.append(bound(*SLEEP)))
    thread.start()
    thread.join()
    [child] = made
    wait_until(lambda: _name(child.process.pid) == "sleep", "the launcher has become the program")
    assert child.process.poll() is None
    assert child.end(signal.SIGTERM) == -signal.SIGTERM


def test_a_released_bound_process_gets_its_death_signal() -> None:
    child = bound(*SLEEP)
    wait_until(lambda: _name(child.process.pid) == "sleep", "the launcher has become the program")
    child.release()
    if sys.platform != "linux":
        child.end(signal.SIGKILL)
    assert child.process.wait(30) == -signal.SIGKILL


def test_a_bound_process_ends_with_a_killed_owner_also_while_it_is_being_launched() -> None:
    code = (
        "import os, signal, subprocess, sys\n"
        "from dissmodel_platform.processes import BoundProcess\n"
        "child = BoundProcess(sys.argv[1:], death_signal=signal.SIGTERM, environment={},\n"
        "                     output=subprocess.DEVNULL)\n"
        "print(child.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *SLEEP],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    pid = int(done.stdout)
    if sys.platform != "linux":
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_running(pid), "the bound process has ended")


def test_a_bound_process_gets_only_what_it_was_given(tmp_path: Path) -> None:
    report = tmp_path / "report"
    with report.open("wb") as output:
        child = bound("/bin/sh", "-c", "echo $GREETING $HOME; pwd; cat; ps -o sid= -p $$; umask",
                      output=output.fileno())  # fmt: skip
        assert child.process.wait(30) == 0
        child.release()
    assert report.read_text().split() == ["hello", "/", str(child.process.pid), "0077"]


def test_a_program_that_cannot_be_run_is_named_in_the_output(tmp_path: Path) -> None:
    report = tmp_path / "report"
    with report.open("wb") as output:
        child = bound("/nowhere/postgres", output=output.fileno())
        assert child.process.wait(30) == 126
        child.release()
    assert "cannot run /nowhere/postgres" in report.read_text()


def test_a_process_that_ignores_the_gentle_signal_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    child = bound("/bin/sh", "-c", f"trap '' INT; : > {ready}; while :; do sleep 0.05; done")
    wait_until(ready.exists, "the program ignores the signal")
    code = child.end(signal.SIGINT, signal.SIGKILL, patience_seconds=0.2)
    assert code == -signal.SIGKILL


def test_a_launcher_that_cannot_be_started_raises_in_the_callers_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        bound(*SLEEP)


@pytest.mark.parametrize("capability", [None, 2])
def test_only_root_can_choose_the_account_and_what_it_keeps(
    tmp_path: Path, capability: int | None
) -> None:
    report = tmp_path / "report"
    with report.open("wb") as output:
        child = bound(
            "/bin/sh",
            "-c",
            "id -u; id -g; id -G; grep -e CapPrm -e CapEff -e NoNewPrivs /proc/self/status",
            output=output.fileno(),
            account=Account(65521, 65522, capability),
        )
        code = child.process.wait(30)
        child.release()
    if os.geteuid() != 0:
        assert code == 126
        assert "Operation not permitted" in report.read_text()
        return
    words = report.read_text().split()
    assert words[:3] == ["65521", "65522", "65522"]
    if sys.platform == "linux":
        rights = dict(zip(words[3::2], (int(word, 16) for word in words[4::2]), strict=True))
        kept = 0 if capability is None else 1 << capability
        assert rights == {"CapPrm:": kept, "CapEff:": kept, "NoNewPrivs:": 1}


def _name(pid: int) -> str:
    shown = subprocess.run(
        ["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return Path(shown.stdout.strip()).name
