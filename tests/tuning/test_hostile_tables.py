"""Whatever lies where tuned tables are looked for: no forward fails for it, nothing waits, and nothing else is lost."""

import errno
import os
import time

import pytest

from segattn_triton.tuning import tables as tuned
from segattn_triton.tuning.tables import Table

DEVICE = "NVIDIA H200"
TABLE = Table(DEVICE, 90, configs={"a b": {1: 2}}, spaces={"a": "x"})


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(tuned.Path, "home", lambda: tmp_path)
    tuned.user_path(DEVICE).parent.mkdir(parents=True)
    return tmp_path


def found(caplog) -> list[str]:
    """What a first forward says of the user's table, which is none."""
    begin = time.monotonic()
    assert TABLE not in tuned.tables(DEVICE, 90)
    assert time.monotonic() - begin < 10
    return [line for line in caplog.messages if "tuned table ignored" in line]


@pytest.fixture
def without_rights():
    """What root may do is not what a user may."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield
    if is_root:
        os.seteuid(0)


@pytest.mark.parametrize("depth", [0, 1, 2], ids=["home", ".cache", "table's folder"])
def test_a_folder_that_may_not_be_looked_into(depth, home, caplog, request):
    tuned.write(tuned.user_path(DEVICE), TABLE)
    folder = [home, home / ".cache", home / ".cache" / "segattn_triton"][depth]
    folder.chmod(0)
    request.addfinalizer(lambda: folder.chmod(0o755))
    request.getfixturevalue("without_rights")
    (said,) = found(caplog)
    assert said.endswith("cannot be read: Permission denied")


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENAMETOOLONG, errno.EMFILE])
def test_a_system_that_cannot_read(code, home, caplog, monkeypatch):
    own, path = os.open, tuned.user_path(DEVICE)

    def failing(name, *args, **kwargs):
        if os.fspath(name) == os.fspath(path):
            raise OSError(code, os.strerror(code), os.fspath(path))
        return own(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)
    (said,) = found(caplog)
    assert said.endswith(f"cannot be read: {os.strerror(code)}")


def test_no_table_is_no_news(home, caplog):
    assert not found(caplog)
    (home / ".cache" / "segattn_triton").rmdir()
    (home / ".cache" / "segattn_triton").write_text("a file in the place of the folder")
    assert not found(caplog)


def place_pipe(path):
    os.mkfifo(path)


def place_device(path):
    path.symlink_to("/dev/zero")


def place_folder(path):
    path.mkdir()


def place_circle(path):
    path.symlink_to(path)


def place_huge(path):
    with path.open("wb") as file:
        file.truncate(tuned.MOST_BYTES + 1)


def place_deep(path):
    path.write_text("[" * 100_000)


PLACED = [place_pipe, place_device, place_folder, place_circle, place_huge, place_deep]


@pytest.mark.cheap
@pytest.mark.parametrize("place", PLACED, ids=lambda place: place.__name__.removeprefix("place_"))
def test_what_is_no_table(place, home, caplog):
    place(tuned.user_path(DEVICE))
    (said,) = found(caplog)
    assert len(said.splitlines()) == 1 and len(said) < 300


def test_a_link_in_the_place_of_the_lock_is_not_followed(home):
    """What it points at keeps its content."""
    path, other = tuned.user_path(DEVICE), home / "diary"
    other.write_text("dear diary")
    path.with_name(f".{path.name}.lock").symlink_to(other)
    with pytest.raises(OSError) as refused:
        tuned.write(path, TABLE)
    assert refused.value.errno == errno.ELOOP and refused.value.filename
    assert other.read_text() == "dear diary" and not path.exists()


def test_a_link_in_the_place_of_the_draft_is_not_followed(home):
    path, other = tuned.user_path(DEVICE), home / "diary"
    other.write_text("dear diary")
    path.with_name(f".{path.name}.{os.getpid()}").symlink_to(other)
    tuned.write(path, TABLE)
    assert other.read_text() == "dear diary" and tuned.read(path) == TABLE


def test_drafts_of_killed_writers_go(home):
    """Those of a writer that may be at work stay, and so does what is no draft."""
    path = tuned.user_path(DEVICE)
    dead, alive, others = (path.with_name(name) for name in (f".{path.name}.1", f".{path.name}.2", ".other.json.1"))
    for file in (dead, alive, others):
        file.write_text("{")
    for file in (dead, others):
        os.utime(file, (0, 0))
    tuned.write(path, TABLE)
    assert not dead.exists() and alive.exists() and others.exists() and tuned.read(path) == TABLE
