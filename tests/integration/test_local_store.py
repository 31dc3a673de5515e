"""Where a program without AWS keeps its token: real files, real processes, real crashes."""

import errno
import fcntl
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from localcloud.aws import ROOT
from qwen_token import (
    FileStore,
    FileStoreError,
    MemoryStore,
    TokenMalformedError,
    TokenMissingError,
)
from qwen_token.errors import TokenDocumentError
from qwen_token.manager.owner_file import OwnerFile
from qwen_token.stored_token import StoredToken
from tests.minting import all_said, pieces, token
from tests.programs import run_program, start_program

NOW: Final = datetime.now(UTC)
DAY: Final = timedelta(days=1)
OLD: Final = token(left=2 * DAY, now=NOW)
NEW: Final = token(left=7 * DAY, now=NOW)
NEWER: Final = token(left=8 * DAY, now=NOW)
A_GROUP: Final = 65533
SERVICE: Final = 65534
STRANGERS: Final = token(left=2 * DAY, account="somebody-else", now=NOW)


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "token"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def read(store: FileStore) -> StoredToken:
    held = store.read()
    assert held is not None
    return held


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def test_a_file_that_is_not_there_holds_no_token_yet(path: Path) -> None:
    assert FileStore(path).read() is None
    assert FileStore(path / "and" / "no" / "directory").read() is None


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777], ids=oct)
def test_with_any_umask_only_the_owner_can_read_the_file(path: Path, mask: int) -> None:
    store = FileStore(path)
    with umask(mask):
        store.put(OLD)
    assert (mode(path), path.read_text()) == (0o600, OLD.raw)


def test_a_file_that_others_could_read_becomes_private_when_written(path: Path) -> None:
    path.write_text(OLD.raw)
    path.chmod(0o644)
    FileStore(path).put(NEW)
    assert mode(path) == 0o600


def test_the_text_is_never_in_a_file_of_another_mode(path: Path) -> None:
    shown = run(
        """
def look(event, arguments):
    if event != "os.scandir":  # its own
        for file in os.scandir(os.path.dirname(path)):
            modes.add(oct(file.stat().st_mode & 0o777))

modes = set()
os.umask(0)
sys.addaudithook(look)
assert FileStore(path).save(new, over=None)
print(*modes)
""",
        path,
    )
    assert shown == "0o600"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(f"Bearer {OLD.raw}\n", NEW.raw, id="bare"),
        pytest.param(
            json.dumps({"token": OLD.raw, "note": "日本\ud800"}),
            f'{{"token": "{NEW.raw}", "note": "\\u65e5\\u672c\\ud800", '
            f'"expires_at": {NEW.expires_at.timestamp():.0f}}}',
            id="JSON",
        ),
        pytest.param(" \n", NEW.raw, id="blank"),
        pytest.param("x.y.z", NEW.raw, id="garbage"),
    ],
)
def test_the_shape_and_the_other_keys_are_kept(path: Path, before: str, after: str) -> None:
    path.write_text(before)
    held = FileStore(path).put(NEW)
    assert path.read_text() == held.text == after
    assert read(FileStore(path)) == held


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", TokenMissingError),
        (b'{"note": 1}', TokenMissingError),
        (b"hunter2", TokenMalformedError),
        (b'{"token": ', TokenMalformedError),
        (b"\xff\xfe\x00", TokenMalformedError),
        (b"a" * 70_000, TokenMalformedError),
    ],
    ids=["empty", "no token", "no JWT", "half an object", "no text", "too long"],
)
def test_a_file_without_a_token_has_an_error_of_its_own(
    path: Path, content: bytes, kind: type[Exception]
) -> None:
    path.write_bytes(content)
    with pytest.raises(kind):
        FileStore(path).read()


def test_a_text_is_saved_over_the_one_that_it_came_of_and_over_no_other(path: Path) -> None:
    store = FileStore(path)
    assert not store.save(NEW.raw, over=OLD.raw)
    assert not path.exists()
    assert store.save(OLD.raw, over=None)
    assert not store.save(NEW.raw, over=None)
    assert path.read_text() == OLD.raw
    assert store.save(NEW.raw, over=OLD.raw)
    assert [file.name for file in path.parent.iterdir()] == ["token"]


@pytest.mark.parametrize(
    ("theirs", "stays"),
    [
        (NEW.raw, True),
        (NEWER.raw, True),
        (token(left=3 * DAY, now=NOW).raw, False),
        (STRANGERS.raw, True),
        (json.dumps({"token": OLD.raw, "note": 1}), False),
    ],
    ids=["as good", "better", "worse", "another account's", "the old one in another shape"],
)
def test_of_two_writers_the_later_expiring_token_wins(
    path: Path, theirs: str, *, stays: bool
) -> None:
    path.write_text(OLD.raw)
    store = FileStore(path)
    over = read(store)
    staged = store.stage(NEW, over=over)
    assert path.read_text() == OLD.raw
    path.write_text(theirs)
    held = store.promote(staged, over=over)
    assert held == read(store)
    assert (path.read_text() == theirs) is stays
    assert stays or held.token == NEW
    assert ("note" in path.read_text()) is ("note" in theirs)


def test_what_is_no_token_is_not_written_over_by_a_refresh(path: Path) -> None:
    path.write_text(OLD.raw)
    store = FileStore(path)
    over = read(store)
    staged = store.stage(NEW, over=over)
    path.write_text("hunter2")
    with pytest.raises(TokenMalformedError):
        store.promote(staged, over=over)
    assert path.read_text() == "hunter2"


def test_the_staged_token_is_an_alternative_for_its_own_account(path: Path) -> None:
    path.write_text(OLD.raw)
    store = FileStore(path)
    over = read(store)
    assert store.alternatives(to=over) == []
    staged = store.stage(NEW, over=over)
    assert store.alternatives(to=over) == [staged]
    assert store.alternatives(to=StoredToken(STRANGERS, "v", "")) == []
    assert store.promote(store.adopt(staged, over=over), over=over) == staged
    assert store.alternatives(to=over) == []


def test_half_a_surrogate_pair_in_the_text_does_not_block_a_promote() -> None:
    store = MemoryStore(f'{{"token": "{OLD.raw}", "note": "\ud800"}}')
    over = store.read()
    assert over is not None
    assert store.promote(store.stage(NEW, over=over), over=over).token == NEW
    assert json.loads(store.load() or "")["note"] == "\ud800"


def test_the_first_token_takes_the_place_of_no_other(path: Path) -> None:
    store = FileStore(path)
    assert store.put_first(OLD) == read(store)
    assert store.put_first(NEW).token == OLD
    assert path.read_text() == OLD.raw


# What goes wrong


def linked(path: Path) -> str:
    target = path.with_name("target")
    target.write_text(OLD.raw)
    path.symlink_to(target)
    return "symbolic link.*name the file"


def a_directory(path: Path) -> str:
    path.mkdir()
    return "Is a directory"


def a_pipe(path: Path) -> str:
    os.mkfifo(path)
    return "not a regular file"


@pytest.mark.parametrize("make", [linked, a_directory, a_pipe])
def test_what_is_no_regular_file_is_neither_read_nor_replaced(path: Path, make: Any) -> None:
    said = make(path)
    for use in (FileStore(path).load, lambda: FileStore(path).put(NEW)):
        with pytest.raises(FileStoreError, match=said):
            use()
    assert not path.is_file() or path.readlink().read_text() == OLD.raw
    assert len(list(path.parent.iterdir())) <= 2


def test_without_a_directory_the_error_says_so(path: Path) -> None:
    store = FileStore(path / "token")
    with pytest.raises(FileStoreError, match="could not be written: No such file") as caught:
        store.put(NEW)
    assert "directory that this process may write in" in caught.value.advice
    assert not pieces(NEW.raw) & pieces(all_said(caught.value))


def run(program: str, path: Path, *, texts: tuple[str, str] = (OLD.raw, NEW.raw)) -> str:
    """Run a program that has the path, the texts ``old`` and ``new``, and the store's classes."""
    head = """
import fcntl, os, resource, signal, sys, time
from qwen_token import FileStore, FileStoreError, decode_token
path, old, new = sys.stdin.read().split()
"""
    return run_program(head + program, typed="\n".join((str(path), *texts)))


def test_an_unwritable_directory_is_named_and_the_token_stays() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "token"
        path.write_text(OLD.raw)
        Path(directory).chmod(0o555)
        said = run(
            """
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write everywhere
try:
    FileStore(path).save(new, over=FileStore(path).load())
except FileStoreError as error:
    print(error)
""",
            path,
        )
        Path(directory).chmod(0o700)
        assert said == f"{path} could not be written: Permission denied"
        assert path.read_text() == OLD.raw


def test_a_disk_without_room_leaves_the_old_text_and_nothing_else(path: Path) -> None:
    path.write_text(OLD.raw)
    said = run(
        """
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    FileStore(path).save(new, over=old)
except FileStoreError as error:
    print(error)
""",
        path,
    )
    assert said == f"{path} could not be written: File too large"
    assert path.read_text() == OLD.raw
    assert [file.name for file in path.parent.iterdir()] == ["token"]


CRASHES = """
point = 0
while True:
    point += 1
    for file in os.listdir(os.path.dirname(path)):
        if file != "token":
            print("left", file.count("."))
    child = os.fork()
    if child == 0:
        seen = 0
        def die(event, arguments):
            global seen
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(die)
        assert FileStore(path).save(new, over=old)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(path) as file:
        text = file.read()
    print({old: "old", new: "new"}[text], status)
    if status == 0:
        break
    if text == new:
        assert FileStore(path).save(old, over=new)
"""


def test_killed_at_any_point_a_save_leaves_the_old_text_or_the_new_one(path: Path) -> None:
    path.write_text(OLD.raw)
    ends = run(CRASHES, path).splitlines()
    assert set(ends) <= {"old -9", "new -9", "new 0", "left 3"}
    assert ends[-1] == "new 0"
    assert ends.count("old -9") > 5
    # A crash may leave its own file behind; it never outlives the next save.
    assert "left 3" in ends
    assert [file.name for file in path.parent.iterdir()] == ["token"]


RACE = """
store = FileStore(path)
for turn in range(50):
    while True:
        text = store.load()
        count = int(text or 0)
        if store.save(str(count + 1), over=text):
            break
"""


def test_writers_of_several_processes_lose_nothing(path: Path) -> None:
    program = f"from qwen_token import FileStore\npath = {str(path)!r}{RACE}"
    with ExitStack() as running:
        racers = [running.enter_context(start_program(program)) for _ in range(4)]
        assert [racer.communicate(timeout=60) for racer in racers] == [("", "")] * 4
    assert path.read_text() == "200"
    assert [file.name for file in path.parent.iterdir()] == ["token"]


def test_a_child_that_was_forked_during_a_save_holds_no_lock(path: Path) -> None:
    said = run(
        """
reading, writing = os.pipe()
store = FileStore(path)
with store._file.locked():
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)  # till the parent is done
        os._exit(0)
assert store.save(new, over=None)
os.close(writing)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
        path,
    )
    assert said == "0"


# Other processes, and other users


def test_a_lock_on_the_directory_stops_no_writer(
    path: Path,
) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    assert FileStore(path).save(OLD.raw, over=None)
    os.close(directory)


def impatient(path: Path) -> OwnerFile:
    return OwnerFile(path, patience=timedelta(milliseconds=200))


def test_a_suspended_writer_is_not_waited_for_forever(
    path: Path,
) -> None:
    path.write_text(OLD.raw)
    stopped = f"""
import os, signal
from qwen_token import FileStore
with FileStore({str(path)!r})._file.locked():
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    with start_program(stopped) as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(FileStoreError, match="another process has held its lock") as caught:
            impatient(path).save(NEW.raw, over=OLD.raw)
        assert caught.value.may_pass
        assert path.read_text() == OLD.raw
        process.kill()
    assert impatient(path).save(NEW.raw, over=OLD.raw)
    assert [file.name for file in path.parent.iterdir()] == ["token"]


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
@pytest.mark.parametrize("name", ["token", "token.session", "token.state"])
def test_a_file_that_others_may_write_is_not_trusted(path: Path, name: str, mode: int) -> None:
    os.chown(path.parent, -1, A_GROUP if os.geteuid() == 0 else -1)
    file = path.with_name(name)
    file.write_text(OLD.raw)
    os.chown(file, -1, A_GROUP if os.geteuid() == 0 else -1)
    file.chmod(mode)
    place = OwnerFile(file)
    for use in (place.load, lambda: place.save(NEW.raw, over=OLD.raw)):
        if mode & stat.S_IWOTH or os.geteuid() == 0:
            with pytest.raises(FileStoreError, match=r"others may write .*chmod 600"):
                use()
    assert file.read_text() == OLD.raw


def test_a_file_in_a_directory_that_others_may_write_is_not_trusted(path: Path) -> None:
    path.write_text(OLD.raw)
    path.parent.chmod(0o777)
    for use in (FileStore(path).load, lambda: FileStore(path).put(NEW)):
        with pytest.raises(FileStoreError, match=r"others may write in .*chmod go-w"):
            use()
    path.parent.chmod(0o1777)
    assert FileStore(path).put(NEW).token == NEW


@pytest.mark.parametrize("make", [linked, a_directory, a_pipe])
def test_what_lies_in_the_place_of_the_lock_is_neither_waited_for_nor_followed(
    path: Path, make: Any
) -> None:
    make(path.with_name(".token.write.lock"))
    with pytest.raises(FileStoreError):
        impatient(path).save(NEW.raw, over=None)
    assert not path.exists()


def test_what_another_file_is_just_written_to_is_left_alone(path: Path) -> None:
    theirs = path.with_name(".token.session.abcd1234.new")
    theirs.write_text("theirs")
    left_behind = path.with_name(".token.abcd1234.new")
    left_behind.write_text("left behind")

    assert FileStore(path).save(NEW.raw, over=None)

    assert theirs.read_text() == "theirs"
    assert not left_behind.exists()


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "cp1252"])
def test_a_text_of_another_encoding_is_refused_and_stays(path: Path, encoding: str) -> None:
    content = json.dumps({"token": OLD.raw, "note": "für hunter2"}, ensure_ascii=False)
    path.write_bytes(content.encode(encoding))
    store = FileStore(path)
    for use in (store.read, lambda: store.put(NEW)):
        with pytest.raises(TokenMalformedError, match="UTF-8, and stays as it is") as caught:
            use()
        assert not pieces(OLD.raw) & pieces(all_said(caught.value))
    assert path.read_bytes() == content.encode(encoding)


def test_what_could_not_be_read_again_is_not_written(path: Path) -> None:
    """In bytes, as they are written: half a character takes six."""
    text = f'{{"token": "{OLD.raw}", "expires_at": 1234567890, "note": ""}}'
    room = 65_536 - len(text)
    for note, fits in (("é" * (room // 2), True), ("\ud800" * (room // 3), False)):
        store = FileStore(path)
        path.unlink(missing_ok=True)
        path.write_text(text.replace('"note": ""', f'"note": "{note if fits else ""}"'))
        over = store.load()
        written = text.replace('"note": ""', f'"note": "{note}"')
        if fits:
            assert store.put(NEW) == store.read()
            continue
        with pytest.raises(TokenMalformedError, match="would be longer than 65536 bytes"):
            store.save(written.encode(errors="backslashreplace").decode(), over=over)
        assert store.load() == over


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture(name="services")
def _services() -> Iterator[Path]:
    """Return a file's path in a service's own directory, which everybody can look into."""
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, SERVICE, SERVICE)
        Path(directory).chmod(0o755)
        yield Path(directory) / "token"


AS_SERVICE = f"os.setgid({SERVICE}); os.setuid({SERVICE})"


@as_root
def test_after_root_has_written_the_service_reads_and_writes_its_files_as_before(
    services: Path,
) -> None:
    run(f"{AS_SERVICE}\nassert FileStore(path).save(old, over=None)", services)
    store = FileStore(services)
    for place in (store, store.beside("session"), store.beside("state")):
        assert place is not None
        text = place.load()
        assert place.save(NEW.raw, over=text)
    said = run(
        f"""
{AS_SERVICE}
store = FileStore(path)
for place in (store, store.beside("session"), store.beside("state")):
    assert place.save(old, over=new)
    print(oct(os.stat(place._file.path if place is store else place.path).st_mode & 0o777))
""",
        services,
    )
    assert said.split() == ["0o600"] * 3
    assert {file.stat().st_uid for file in services.parent.iterdir()} == {SERVICE}
    assert len(list(services.parent.iterdir())) == 3


@as_root
def test_a_file_that_only_root_can_read_is_named_with_its_owner(services: Path) -> None:
    services.write_text(OLD.raw)
    services.chmod(0o600)
    said = run(
        f"""
{AS_SERVICE}
try:
    FileStore(path).load()
except FileStoreError as error:
    print(error)
""",
        services,
    )
    assert said == (
        f"{services} could not be read: Permission denied: it belongs to the user 0, and this is "
        f"the user {SERVICE}"
    )


@as_root
@pytest.mark.parametrize("what", ["the file", "the directory"])
def test_what_belongs_to_another_user_is_not_trusted(services: Path, what: str) -> None:
    services.write_text(OLD.raw)
    if what == "the file":
        os.chown(services, A_GROUP, -1)
    else:
        os.chown(services.parent, A_GROUP, -1)
        os.chown(services, SERVICE, -1)
    said = run(
        f"""
{AS_SERVICE}
for use in (FileStore(path).load, lambda: FileStore(path).save(new, over=old)):
    try:
        use()
    except FileStoreError as error:
        print(error)
""",
        services,
    )
    assert said.count(f"belongs to another user ({A_GROUP})") == 2
    assert services.read_text() == OLD.raw


@as_root
def test_root_trusts_nobody_elses_file_where_anybody_may_put_one(path: Path) -> None:
    path.parent.chmod(0o1777)
    path.write_text(OLD.raw)
    os.chown(path, SERVICE, SERVICE)
    left = path.with_name(".token.abcd1234.new")
    left.write_text("")
    os.chown(left, SERVICE, SERVICE)

    with pytest.raises(FileStoreError, match=rf"another user \({SERVICE}\), and is not trusted"):
        FileStore(path).load()
    path.unlink()
    assert FileStore(path).save(NEW.raw, over=None)
    assert left.exists()


# ── Of what a file system may add ─────────────────────────────────────────────────────────────────

ACCESS: Final = "system.posix_acl_access"
FOR_NEW_FILES: Final = "system.posix_acl_default"


def let_the_service(path: Path, attribute: str, *, may: int) -> None:
    """Give another user rights of their own to a file, or to all that a directory will hold."""
    nobody = 0xFFFFFFFF
    owner, user, group, mask, others = 0x01, 0x02, 0x04, 0x10, 0x20
    entries = [
        (owner, 0o7, nobody),
        (user, may, SERVICE),
        (group, 0, nobody),
        (mask, may, nobody),
        (others, 0, nobody),
    ]
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, attribute, struct.pack("<I", 2) + packed)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("this file system has no access control lists")


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="as Linux keeps these lists")


@linux_only
@pytest.mark.parametrize("what", ["the file", "the directory"])
def test_another_user_who_may_write_by_an_access_list_is_somebody_else(
    path: Path, what: str
) -> None:
    """The mode shows what the list gives as the group's, and the group is the owner's own."""
    path.write_text(OLD.raw)
    path.chmod(0o600)
    let_the_service(path if what == "the file" else path.parent, ACCESS, may=0o6)

    with pytest.raises(FileStoreError, match="others may write"):
        FileStore(path).load()
    with pytest.raises(FileStoreError, match="others may write"):
        FileStore(path).save(NEW.raw, over=OLD.raw)
    assert path.read_text() == OLD.raw


@linux_only
def test_who_may_only_read_by_an_access_list_may_not_read_what_is_written(path: Path) -> None:
    path.write_text(OLD.raw)
    let_the_service(path, ACCESS, may=0o4)
    let_the_service(path.parent, FOR_NEW_FILES, may=0o6)
    path.chmod(0o640)

    assert FileStore(path).save(NEW.raw, over=OLD.raw)

    # The group's part of the mode is the most that the list gives to anybody.
    assert mode(path) == 0o600


@as_root
def test_on_a_file_system_that_is_only_read_a_token_is_read_and_a_save_says_so(
    tmp_path: Path,
) -> None:
    path = tmp_path / "token"
    path.write_text(OLD.raw)
    path.chmod(0o600)
    program = f"""
from qwen_token import FileStore, FileStoreError
store = FileStore({str(path)!r})
assert store.load() == {OLD.raw!r}
try:
    store.save({NEW.raw!r}, over={OLD.raw!r})
except FileStoreError as error:
    print(error)
"""
    mounted = (
        'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 77; exec "$2" -c "$3"'
    )
    done = subprocess.run(  # noqa: S603 - our own words
        # A mount of this process alone.
        ["unshare", "--mount", "sh", "-c", mounted, "sh", tmp_path, sys.executable, program],  # noqa: S607
        env={**os.environ, "PYTHONPATH": str(ROOT / "layers/qwen_token")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this process may mount nothing")
    assert done.stdout.strip() == f"{path} could not be written: Read-only file system"
    assert (done.returncode, path.read_text()) == (0, OLD.raw)


@as_root
@pytest.mark.parametrize("flag", ["i", "a"], ids=["immutable", "append-only"])
def test_a_file_whose_flags_keep_it_as_it_is_stays_and_the_save_says_so(
    path: Path, flag: str
) -> None:
    path.write_text(OLD.raw)
    path.chmod(0o600)
    chattr = shutil.which("chattr")
    if chattr is None or subprocess.run([chattr, f"+{flag}", path], check=False).returncode:  # noqa: S603
        pytest.skip("this file system has no flags")
    try:
        with pytest.raises(FileStoreError) as caught:
            FileStore(path).save(NEW.raw, over=OLD.raw)
    finally:
        subprocess.run([chattr, f"-{flag}", path], check=True)  # noqa: S603

    assert str(caught.value) == f"{path} could not be written: Operation not permitted"
    assert FileStore(path).load() == OLD.raw
    assert [each.name for each in path.parent.iterdir()] == ["token"]


@pytest.mark.parametrize("extension", ["\n", "\r\n", "\n\n# of the browser, on Monday\n"])
def test_lines_after_a_token_are_kept_or_keep_the_token_from_being_replaced(
    path: Path, extension: str
) -> None:
    path.write_text(before := OLD.raw + extension)
    path.chmod(0o600)
    store = FileStore(path)
    if not extension.isspace():
        with pytest.raises((TokenMalformedError, TokenDocumentError)):
            store.put(NEW)
        assert path.read_bytes().decode() == before
        return

    store.put(NEW)

    assert read(store).token == NEW


def test_the_home_directory_and_the_working_directory_are_those_of_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    stores = [FileStore("~/token"), FileStore("token")]
    monkeypatch.chdir("/")
    assert stores[0].save(OLD.raw, over=None)
    assert stores[1].load() == OLD.raw
    assert repr(stores[0]) == f"FileStore('{tmp_path}/token')"
