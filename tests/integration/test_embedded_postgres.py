import contextlib
import fcntl
import importlib.util
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

import dissmodel_platform
from dissmodel_platform.database import account as accounts
from dissmodel_platform.database.embedded import EmbeddedPostgres, running_url
from dissmodel_platform.database.programs import ENVIRONMENT, Programs
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.processes import Account, BoundProcess
from tests.processes import is_running, wait_until

SOURCE = str(Path(dissmodel_platform.__file__).parents[1])
IS_ROOT = os.geteuid() == 0
DAC_OVERRIDE, DAC_READ_SEARCH, KILL = 1, 2, 5
ALL_RIGHTS = (1 << 41) - 1

# Runs a server until it is ended, after the lines in its second argument.
OWNER = """
import json, os, sys, time
from pathlib import Path
from dissmodel_platform.database import embedded
exec(sys.argv[2])
server = embedded.EmbeddedPostgres(Path(sys.argv[1]))
print(json.dumps({"owner": os.getpid()}), flush=True)
server.start()
print(json.dumps({"server": server.process.pid, "url": server.url}), flush=True)
time.sleep(600)
"""


def with_descendants(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in pairs if its_parent == parent]
    return found


def remember(url: str, word: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        connection.execute("INSERT INTO words VALUES (%s)", [word])


def remembered(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [word for (word,) in connection.execute("SELECT word FROM words")]


def is_locked(path: Path) -> bool:
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@dataclass
class Owner:
    process: subprocess.Popen[str]
    directory: Path
    server: int = 0
    url: str = ""

    def await_server(self) -> "Owner":
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline())
        self.server, self.url = answer["server"], answer["url"]
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where the server's files go; afterwards no server is left there."""
    directory = tmp_path / "home" / "pg"
    yield directory
    lock = directory / "server.lock"
    if lock.exists():
        wait_until(lambda: not is_locked(lock), "all servers of this test have ended")


@pytest.fixture
def server(directory: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(directory) as server:
        yield server


@pytest.fixture
def own(directory: Path) -> Iterator[Callable[..., Owner]]:
    """Runs a server in a process of its own."""
    started: list[Owner] = []

    def start(directory: Path = directory, before: str = "") -> Owner:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(directory), before],
            env={"PATH": os.defpath, "PYTHONPATH": SOURCE, "TMPDIR": tempfile.gettempdir()},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        owner = Owner(process, directory)
        started.append(owner)
        assert json.loads(process.stdout.readline()) == {"owner": process.pid}
        return owner

    yield start
    for owner in started:
        owner.process.kill()
        owner.process.communicate()


def test_a_new_directory_becomes_a_database_of_ones_own(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url) as connection:
        assert connection.info.dbname == "dissmodel_platform"
        rows = connection.execute("SELECT name, setting FROM pg_settings").fetchall()
        connection.execute("CREATE SCHEMA mine")
        [superuser] = connection.execute(
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        ).fetchone() or [None]
        [collation] = connection.execute(
            "SELECT datlocale FROM pg_database WHERE datname = current_database()"
        ).fetchone() or [None]
    assert superuser is False
    assert collation == "C.UTF-8"
    expected = {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "fsync": "on",
        "data_checksums": "on",
        "max_connections": "200",
    }
    assert {name: setting for name, setting in rows if name in expected} == expected


def test_what_was_committed_is_there_after_a_clean_stop(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        remember(server.url, "kept")
    with EmbeddedPostgres(directory) as server:
        assert remembered(server.url) == ["kept"]


def test_one_server_object_can_be_started_again_after_it_was_stopped(directory: Path) -> None:
    server = EmbeddedPostgres(directory)
    for _ in range(2):
        server.start()
        psycopg.connect(server.url).close()
        with pytest.raises(DatabaseError, match="started already"):
            server.start()
        server.stop()
        server.stop()
        for use in (lambda: server.url, server.poll):
            with pytest.raises(DatabaseError, match="has not been started"):
                use()


def test_a_clean_stop_leaves_no_process_no_zombie_and_no_address(directory: Path) -> None:
    server = EmbeddedPostgres(directory)
    server.start()
    pids = with_descendants(server.process.pid)
    assert len(pids) > 1
    server.stop()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not (directory / "data" / "postmaster.pid").exists()
    assert running_url(directory) is None


def test_a_stop_does_not_wait_for_those_who_are_still_connected(directory: Path) -> None:
    server = EmbeddedPostgres(directory)
    server.start()
    with suppress(psycopg.OperationalError), psycopg.connect(server.url) as connection:
        connection.execute("SELECT 1")
        process = server.process
        server.stop()
        assert process.returncode == 0


def test_a_server_started_from_a_thread_outlives_it(directory: Path) -> None:
    server = EmbeddedPostgres(directory)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    assert running_url(directory) == server.url
    assert server.poll() is None
    server.stop()


def test_other_commands_find_a_running_server(directory: Path, server: EmbeddedPostgres) -> None:
    code = (
        "import sys, pathlib\n"
        "from dissmodel_platform.database.embedded import running_url\n"
        "print(running_url(pathlib.Path(sys.argv[1])))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, "home/pg"],
        cwd=directory.parents[1],
        env={"PATH": os.defpath, "PYTHONPATH": SOURCE, "TMPDIR": tempfile.gettempdir()},
        capture_output=True,
        check=True,
        text=True,
    )
    assert found.stdout.strip() == server.url


def test_where_nothing_was_ever_started_no_server_is_found(tmp_path: Path) -> None:
    assert running_url(tmp_path / "nothing") is None
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("where", ["this process", "another process"])
def test_a_second_starter_is_told_that_the_directory_is_in_use(
    directory: Path, own: Callable[..., Owner], where: str
) -> None:
    first = EmbeddedPostgres(directory)
    if where == "this process":
        first.start()
        pid, url = os.getpid(), first.url
    else:
        owner = own().await_server()
        pid, url = owner.process.pid, owner.url
    with pytest.raises(DatabaseError, match=rf"already in use .*\(process {pid}\)"):
        EmbeddedPostgres(directory).start()
    assert running_url(directory) == url
    first.stop()


def test_of_many_starters_at_once_one_gets_the_directory(directory: Path) -> None:
    servers = [EmbeddedPostgres(directory) for _ in range(4)]
    refused: list[DatabaseError] = []
    barrier = threading.Barrier(len(servers))

    def start(server: EmbeddedPostgres) -> None:
        barrier.wait()
        try:
            server.start()
        except DatabaseError as error:
            refused.append(error)

    threads = [threading.Thread(target=start, args=[server]) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == len(servers) - 1
    assert running_url(directory) is not None
    for server in servers:
        server.stop()


def test_a_killed_owner_takes_the_server_along_and_nothing_committed_is_lost(
    directory: Path, own: Callable[..., Owner]
) -> None:
    owner = own().await_server()
    remember(owner.url, "kept")
    pids = with_descendants(owner.server)
    owner.kill()
    if sys.platform == "linux":
        wait_until(lambda: not any(map(is_running, pids)), "PostgreSQL has ended")
        assert running_url(directory) is None
    with EmbeddedPostgres(directory) as server:
        assert remembered(server.url) == ["kept"]


def test_a_start_right_after_the_owner_was_killed_waits_for_the_old_server(
    directory: Path, own: Callable[..., Owner]
) -> None:
    owner = own().await_server()
    remember(owner.url, "kept")
    os.kill(owner.server, signal.SIGSTOP)  # so that it cannot end yet
    owner.kill()
    server = EmbeddedPostgres(directory)
    thread = threading.Thread(target=server.start)
    thread.start()
    holder = directory / "owner.lock"
    wait_until(lambda: holder.read_text() == str(os.getpid()), "the new owner has the directory")
    with pytest.raises(DatabaseError, match="already in use"):
        EmbeddedPostgres(directory).start()
    assert thread.is_alive()
    os.kill(owner.server, signal.SIGCONT)
    thread.join()
    assert remembered(server.url) == ["kept"]
    server.stop()


def test_a_server_that_its_killed_owner_left_behind_is_stopped_by_the_next_start(
    directory: Path, own: Callable[..., Owner]
) -> None:
    unbound = (
        "made = embedded.BoundProcess\n"
        "embedded.BoundProcess = lambda *a, **k: made(*a, **{**k, 'death_signal': 0})"
    )
    owner = own(before=unbound).await_server()
    owner.kill()
    remember(owner.url, "kept")
    assert is_running(owner.server)
    with EmbeddedPostgres(directory) as server:
        assert not is_running(owner.server)
        assert remembered(server.url) == ["kept"]


def test_after_everything_was_killed_at_once_it_comes_back_with_all_data(
    directory: Path, own: Callable[..., Owner]
) -> None:
    owner = own().await_server()
    for number in range(3):
        remember(owner.url, str(number))
    with psycopg.connect(owner.url) as connection:
        connection.execute("INSERT INTO words VALUES ('not committed')")
        for pid in [*with_descendants(owner.server), owner.process.pid]:
            os.kill(pid, signal.SIGKILL)
        with suppress(psycopg.OperationalError):
            connection.rollback()
    owner.process.wait()
    assert (directory / "data" / "postmaster.pid").exists()
    assert running_url(directory) is None
    with EmbeddedPostgres(directory) as server:
        assert remembered(server.url) == ["0", "1", "2"]


def test_the_number_of_a_killed_server_may_be_another_processs_by_now(
    directory: Path, own: Callable[..., Owner]
) -> None:
    owner = own().await_server()
    remember(owner.url, "kept")
    for pid in [*with_descendants(owner.server), owner.process.pid]:
        with contextlib.suppress(ProcessLookupError):  # it ends with the one before
            os.kill(pid, signal.SIGKILL)
    owner.process.wait()
    uid = (directory / "data").stat().st_uid
    stranger = subprocess.Popen(["/bin/sleep", "600"], user=uid if IS_ROOT else None)
    for name in ("data/postmaster.pid", "socket/.s.PGSQL.5432.lock"):
        file = directory / name
        if file.exists():
            _, rest = file.read_text().split("\n", 1)
            file.write_text(f"{stranger.pid}\n{rest}")
    assert running_url(directory) is None
    with EmbeddedPostgres(directory) as server:
        assert remembered(server.url) == ["kept"]
        assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_server_that_somebody_else_started_there_is_left_alone(directory: Path) -> None:
    with EmbeddedPostgres(directory):
        pass
    command = Programs.find().server_command(directory / "data", directory / "socket")
    account = accounts.server_account(directory / "data", [directory.parent])
    foreign = BoundProcess(
        command,
        death_signal=signal.SIGKILL,
        environment=ENVIRONMENT,
        output=subprocess.DEVNULL,
        account=account,
    )
    wait_until(lambda: running_url(directory), "the foreign server accepts connections")
    with pytest.raises(DatabaseError, match=rf"did not start \(process {foreign.process.pid}\)"):
        EmbeddedPostgres(directory).start()
    assert running_url(directory)
    foreign.end(signal.SIGINT, signal.SIGKILL)
    with EmbeddedPostgres(directory) as server:
        psycopg.connect(server.url).close()


def test_a_copy_of_a_running_servers_files_is_not_taken_for_that_server(
    tmp_path: Path, own: Callable[..., Owner]
) -> None:
    owner = own().await_server()
    remember(owner.url, "kept")
    with psycopg.connect(owner.url.replace("//dissmodel_platform@", "//postgres@")) as connection:
        connection.execute("CHECKPOINT")
    copy = tmp_path / "copy" / "pg"
    os.kill(owner.server, signal.SIGSTOP)
    shutil.copytree(owner.directory, copy, ignore=shutil.ignore_patterns(".s.PGSQL*"))
    os.kill(owner.server, signal.SIGCONT)
    with EmbeddedPostgres(copy) as server:
        assert server.url != owner.url
        assert remembered(server.url) == ["kept"]
        assert remembered(owner.url) == ["kept"]


def test_an_initdb_that_was_killed_half_way_does_not_wedge_the_next_start(
    directory: Path, own: Callable[..., Owner]
) -> None:
    owner = own()
    wait_until((directory / "data.new" / "PG_VERSION").exists, "initdb is at work")
    owner.kill()
    assert not (directory / "data").exists()
    with EmbeddedPostgres(directory) as server:
        psycopg.connect(server.url).close()
    assert not (directory / "data.new").exists()


def test_a_start_that_is_interrupted_leaves_no_process_and_can_be_repeated(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[psycopg.Connection] = []
    connect = psycopg.connect

    def interrupted(*arguments: object, **options: object) -> psycopg.Connection:
        if not made:
            with suppress(psycopg.OperationalError):
                made.append(connect(*arguments, **options))  # type: ignore[arg-type]
        if made:
            raise KeyboardInterrupt
        raise psycopg.OperationalError("not yet")

    server = EmbeddedPostgres(directory)
    monkeypatch.setattr(psycopg, "connect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    monkeypatch.undo()
    made[0].close()
    assert not is_locked(directory / "server.lock")
    assert not is_locked(directory / "owner.lock")
    server.start()
    server.stop()


@pytest.mark.parametrize("name", ["x" * 120, "first, second", 'it\'s a "quoted" näme'])
def test_a_path_that_a_socket_cannot_have_is_fine(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name / "pg"
    server = EmbeddedPostgres(directory)
    server.start()
    remember(server.url, "kept")
    assert running_url(directory) == server.url
    sockets = Path((directory / "socket-directory").read_text().removesuffix("\n"))
    found = sockets.stat()
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert found.st_uid == (directory / "data").stat().st_uid
    server.stop()
    assert sockets.is_relative_to(directory) or not sockets.exists()
    server.start()
    assert remembered(server.url) == ["kept"]
    server.stop()


def test_a_short_socket_directory_that_others_could_have_made_is_not_believed(
    tmp_path: Path, own: Callable[..., Owner]
) -> None:
    directory = tmp_path / ("x" * 120) / "pg"
    owner = own(directory).await_server()
    sockets = Path((directory / "socket-directory").read_text().removesuffix("\n"))
    sockets.chmod(0o755)
    assert running_url(directory) is None
    owner.kill()
    with EmbeddedPostgres(directory):
        assert str(sockets) not in (directory / "socket-directory").read_text()
    shutil.rmtree(sockets)


def test_a_short_socket_directory_survives_its_killed_owner_and_is_used_again(
    tmp_path: Path, own: Callable[..., Owner]
) -> None:
    directory = tmp_path / ("x" * 120) / "pg"
    owner = own(directory).await_server()
    owner.kill()
    with EmbeddedPostgres(directory) as server:
        assert server.url == owner.url
        assert running_url(directory) == server.url


def test_a_directory_can_be_moved_between_two_starts(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        remember(server.url, "kept")
    moved = directory.with_name("moved")
    directory.rename(moved)
    with EmbeddedPostgres(moved) as server:
        assert remembered(server.url) == ["kept"]
        assert running_url(moved) == server.url


def test_directories_above_stay_as_closed_as_they_are(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    above = [closed, *closed.parents]
    before = [(place, place.stat().st_mode, place.stat().st_uid) for place in above]
    with EmbeddedPostgres(closed / "home" / "pg") as server:
        remember(server.url, "kept")
        assert remembered(server.url) == ["kept"]
        if IS_ROOT and sys.platform == "linux":
            assert _capabilities(server.process.pid) == 1 << DAC_READ_SEARCH
    assert [(place, place.stat().st_mode, place.stat().st_uid) for place in above] == before


def test_nobody_else_gets_at_the_database(directory: Path, server: EmbeddedPostgres) -> None:
    closed = {
        "data": 0o700,
        "socket": 0o700,
        "socket/.s.PGSQL.5432": 0o700,
        "server.log": 0o600,
        "owner.lock": 0o600,
        "server.lock": 0o600,
    }
    assert {name: stat.S_IMODE((directory / name).stat().st_mode) for name in closed} == closed
    uid = server_uid(directory)
    mine = directory.stat()
    assert mine.st_uid == os.geteuid()
    if IS_ROOT:
        assert uid not in (0, 65534)
        assert (stat.S_IMODE(mine.st_mode), mine.st_gid) == (0o710, uid)
        code = "import psycopg, sys; psycopg.connect(sys.argv[1])"
        with pytest.raises(subprocess.CalledProcessError) as refused:
            run_as(Account(65534, 65534, DAC_READ_SEARCH), code, server.url, tmp=directory.parent)
        assert "Permission denied" in refused.value.output
    else:
        assert uid == os.geteuid()
        assert stat.S_IMODE(mine.st_mode) == 0o700


def test_behind_open_directories_roots_server_keeps_no_right_at_all() -> None:
    home = Path("/var/tmp") / f"dissmodel-platform-test-{os.getpid()}"
    home.mkdir(mode=0o755)
    try:
        with EmbeddedPostgres(home / "pg") as server:
            needed = [Programs.find().server, home]
            if IS_ROOT and sys.platform == "linux":
                account = accounts.server_account(home / "pg" / "data", needed)
                assert account is not None
                kept = 0 if account.capability is None else 1 << account.capability
                assert _capabilities(server.process.pid) == kept
            psycopg.connect(server.url).close()
    finally:
        shutil.rmtree(home)


def test_files_that_root_copied_are_handed_to_the_servers_account(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        remember(server.url, "kept")
    uid = server_uid(directory)
    for place, _, names in os.walk(directory):
        for path in (Path(place), *(Path(place) / name for name in names)):
            os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
    with EmbeddedPostgres(directory) as server:
        assert remembered(server.url) == ["kept"]
    assert server_uid(directory) == uid


def test_an_ordinary_user_runs_the_server_as_himself(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    code = (
        "import os, sys, pathlib, psycopg\n"
        "from dissmodel_platform.database.embedded import EmbeddedPostgres\n"
        "directory = pathlib.Path(sys.argv[1]) / 'pg'\n"
        "for _ in range(2):\n"
        "    with EmbeddedPostgres(directory) as server:\n"
        "        psycopg.connect(server.url).close()\n"
        "        assert (directory / 'data').stat().st_uid == os.geteuid()\n"
        "        assert directory.stat().st_mode & 0o777 == 0o700\n"
        "print(os.geteuid())"
    )
    if IS_ROOT:
        os.chown(home, 65534, 65534)
        # The capability is for this test's interpreter and packages, which root may keep to itself.
        account = Account(65534, 65534, DAC_READ_SEARCH)
        assert run_as(account, code, str(home), tmp=tmp_path).split() == ["65534"]
    else:
        subprocess.run(
            [sys.executable, "-c", code, str(home)],
            env={"PATH": os.defpath, "PYTHONPATH": SOURCE, "TMPDIR": tempfile.gettempdir()},
            check=True,
        )


def test_the_directory_of_another_user_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.mkdir(parents=True)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(DatabaseError, match=f"belongs to uid {mine}, .* runs as uid {mine + 1}"):
        EmbeddedPostgres(directory).start()


@pytest.mark.parametrize("capability", [DAC_READ_SEARCH, DAC_OVERRIDE])
def test_root_passes_closed_directories_by_the_least_right_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: int
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    held = ALL_RIGHTS & ~(1 << DAC_READ_SEARCH) | 1 << capability
    monkeypatch.setattr(accounts, "_effective_capabilities", lambda: held)
    account = accounts.server_account(tmp_path / "data", [tmp_path])
    assert account is not None
    assert account.capability == capability
    assert account.uid in range(65520, 65534)


def test_root_without_such_a_right_is_told_which_directory_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    held = ALL_RIGHTS & ~(1 << DAC_READ_SEARCH | 1 << DAC_OVERRIDE)
    monkeypatch.setattr(accounts, "_effective_capabilities", lambda: held)
    with pytest.raises(DatabaseError, match=r"refuses to run as root.*cannot enter /"):
        accounts.server_account(tmp_path / "data", [tmp_path])


def test_a_root_that_may_not_signal_others_is_refused_because_the_server_could_not_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(accounts, "_effective_capabilities", lambda: ALL_RIGHTS & ~(1 << KILL))
    with pytest.raises(DatabaseError, match=r"refuses to run as root.*lacks CAP_KILL"):
        accounts.server_account(tmp_path / "data", [])


def test_a_user_without_a_name_is_told_that_initdb_wants_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nameless)
    monkeypatch.setattr(accounts, "server_account", lambda *_: None)
    with pytest.raises(DatabaseError, match=rf"uid {os.geteuid()} has none.*/etc/passwd"):
        EmbeddedPostgres(directory).start()


def test_a_server_that_ended_by_itself_is_noticed_and_its_last_words_are_shown(
    directory: Path, server: EmbeddedPostgres
) -> None:
    server.ensure_alive()
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.poll() is not None, "the end has been noticed")
    with pytest.raises(DatabaseError, match=r"(?s)exit code 0.*database system is shut down"):
        server.ensure_alive()
    server.stop()
    server.start()
    server.ensure_alive()


def test_a_cluster_that_postgresql_refuses_is_reported_with_its_reason(directory: Path) -> None:
    with EmbeddedPostgres(directory):
        pass
    version = directory / "data" / "PG_VERSION"
    version.write_text("9.6\n")
    for _ in range(2):  # the second time proves that the directory was let go
        with pytest.raises(DatabaseError, match=r"(?s)initialized by PostgreSQL version 9\.6.*log"):
            EmbeddedPostgres(directory).start()
    version.write_text("18\n")
    with EmbeddedPostgres(directory) as server:
        psycopg.connect(server.url).close()


def test_a_failed_initdb_is_reported_with_its_reason_and_leaves_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Programs.initdb_command
    with monkeypatch.context() as patch:
        patch.setattr(
            Programs, "initdb_command", lambda self, data: [*command(self, data), "--locale=xx_XX"]
        )
        with pytest.raises(DatabaseError, match=r'(?s)initdb: exit code 1.*locale name "xx_XX"'):
            EmbeddedPostgres(directory).start()
    assert not (directory / "data").exists()
    with EmbeddedPostgres(directory) as server:
        psycopg.connect(server.url).close()


def test_without_the_wheel_the_extra_is_named(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatabaseError, match=r"dissmodel-platform\[server\]"):
        EmbeddedPostgres(directory).start()
    assert not directory.exists()


def test_the_log_stays_bounded_while_the_server_writes_on(
    directory: Path, server: EmbeddedPostgres
) -> None:
    log = directory / "server.log"
    with log.open("ab") as junk:
        junk.write(b"junk\n" * 1_000_000)
    assert server.poll() is None
    assert log.stat().st_size < 1_000_000
    assert (directory / "server.log.1").stat().st_size >= 5_000_000
    with psycopg.connect(server.url) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM missing_table")
    wait_until(lambda: "missing_table" in log.read_text(), "the server has written on")
    assert "\0" not in log.read_text()


def server_uid(directory: Path) -> int:
    return (directory / "data").stat().st_uid


def run_as(account: Account, code: str, *arguments: str, tmp: Path) -> str:
    report = tmp / "report"
    with report.open("wb") as output:
        child = BoundProcess(
            [sys.executable, "-c", code, *arguments],
            death_signal=signal.SIGKILL,
            environment={"PATH": os.defpath, "PYTHONPATH": SOURCE},
            output=output.fileno(),
            account=account,
        )
        status = child.process.wait(120)
        child.release()
    if status != 0:
        raise subprocess.CalledProcessError(status, "code", output=report.read_text())
    return report.read_text()


def _capabilities(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("CapEff:")), 16)
