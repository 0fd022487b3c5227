"""The disk of a store: locks that hold, that do not, and that hold on one host alone."""

import errno
import fcntl

import pytest

from rkd.errors import ArtifactError
from rkd.store import shared_disk
from rkd.store.shared_disk import check_disk

LINE = "{id} 1 0:{id} / {point} {options} shared:1 - {kind} server:/export {more}\n"


def mounted(tmp_path, monkeypatch, *mounts):
    """A table of mounts: (point, kind, options of the mount, options of the file system)."""
    table = tmp_path / "mountinfo"
    rows = [("/", "ext4", "rw", "rw"), *mounts]
    table.write_text(
        "".join(
            LINE.format(id=20 + place, point=point, kind=kind, options=options, more=more)
            for place, (point, kind, options, more) in enumerate(rows)
        ),
        encoding="utf-8",
    )
    monkeypatch.setattr(shared_disk, "MOUNTS", table)


def test_a_disk_with_locks_is_taken_and_nothing_stays_there(tmp_path):
    assert check_disk(tmp_path / "new" / "store") is None
    assert list((tmp_path / "new" / "store").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "options", "more", "said"),
    [
        ("nfs", "rw", "rw,vers=3,nolock,addr=10.0.0.1", "nolock"),
        ("nfs4", "rw,local_lock=flock", "rw,vers=4.2", "local_lock=flock"),
        ("nfs", "rw", "rw,local_lock=all", "local_lock=all"),
        ("lustre", "rw", "rw,localflock", "localflock"),
        ("nfs4", "rw", "rw,vers=4.2,local_lock=none", None),
        ("nfs", "rw", "rw,local_lock=posix", None),  # `flock` is not one of these
        ("lustre", "rw", "rw,flock", None),
        ("ext4", "rw", "rw,nolock", None),
    ],
)
def test_locks_that_hold_on_one_host_alone_are_told(tmp_path, monkeypatch, kind, options, more, said):
    mounted(tmp_path, monkeypatch, (tmp_path, kind, options, more))
    warning = check_disk(tmp_path / "store")
    assert warning is None if said is None else f"`{said}`" in warning


def test_the_innermost_mount_counts(tmp_path, monkeypatch):
    share, own = ("nfs", "rw", "rw,nolock"), ("ext4", "rw", "rw")
    mounted(tmp_path, monkeypatch, (tmp_path, *share), (tmp_path / "scratch", *own))
    assert check_disk(tmp_path / "scratch" / "store") is None
    assert "nolock" in check_disk(tmp_path / "store")
    mounted(tmp_path, monkeypatch, (tmp_path, *own), (tmp_path, *share))  # the later one lies over the earlier one
    assert "nolock" in check_disk(tmp_path / "store")


def test_a_blank_in_the_name_of_a_mount_is_read(tmp_path, monkeypatch):
    folder = tmp_path / "my disk"
    mounted(tmp_path, monkeypatch, (str(folder).replace(" ", r"\040"), "nfs", "rw", "rw,nolock"))
    assert "nolock" in check_disk(folder)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_refused(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ArtifactError, match=r"has no locks \(no locks available\).*nolock"):
        check_disk(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_grants_a_lock_twice_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(ArtifactError, match="grants one lock twice"):
        check_disk(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"artifacts\.root=.*file/store cannot be written"):
        check_disk(tmp_path / "file" / "store")
