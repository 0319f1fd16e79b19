"""Disks: which mounts count, sizes for the caller, a write test that leaves nothing behind, mounts that hang."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from support.machine_tree import ROOT_MOUNT, plant, system
from support.patience import with_patience

from firstlight.machine import disks, mounts
from firstlight.machine.facts import Disk

GPU_CONTAINER = (
    "580 500 0:60 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A\n"
    "581 580 0:61 / /proc rw,nosuid - proc proc rw\n"
    "582 580 0:62 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k\n"
    "583 582 0:63 / /dev/shm rw - tmpfs shm rw,size=65536k\n"
    "584 580 0:64 / /sys ro - sysfs sysfs ro\n"
    "585 580 259:1 /var/lib/docker/containers/x/hosts /etc/hosts rw - xfs /dev/nvme0n1p1 rw\n"
    "586 580 259:1 /usr/lib/libcuda.so.535 /usr/lib/libcuda.so.535 ro - xfs /dev/nvme0n1p1 rw\n"
    "587 580 259:9 /data /root/autodl-tmp rw - xfs /dev/nvme1n1 rw,prjquota\n"
    "588 580 259:9 /data /mnt/the\\040same\\040again rw - xfs /dev/nvme1n1 rw,prjquota\n"
    "589 580 0:70 / /mnt/\\346\\250\\241\\345\\236\\213\\040a\\134b ro - nfs4 nas:/models rw,vers=4.2\n"
    "590 580 0:71 / /run/user/0 rw - tmpfs tmpfs rw\n"
    "591 580 0:72 / /boot rw - ext4 /dev/sda1 rw\n"
)
FOLDERS = ("/root/autodl-tmp", "/mnt/the same again", "/mnt/模型 a\\b", "/dev/shm", "/boot")


def container(tmp_path):
    files = {"/proc/self/mountinfo": GPU_CONTAINER, "/.dockerenv": "", "/etc/hosts": "127.0.0.1 localhost\n"}
    return plant(tmp_path, {**files, "/usr/lib/libcuda.so.535": "x", **dict.fromkeys(FOLDERS)})


def test_the_disks_of_a_container(tmp_path):
    root = container(tmp_path)
    before = sorted(root.rglob("*"))
    here = system(root)
    found = disks.read(here)
    assert [(disk.mount, disk.fs, disk.writable, disk.persistent) for disk in found] == [
        ("/", "overlay", True, False),
        ("/root/autodl-tmp", "xfs", True, None),
        ("/mnt/模型 a\\b", "nfs4", False, None),
    ]
    status = os.statvfs(root)
    assert found[0].total == status.f_blocks * status.f_frsize
    assert abs(found[0].free - status.f_bavail * status.f_frsize) < 1 << 30
    assert sorted(root.rglob("*")) == before
    assert here.failures == []


def test_outside_a_container_nobody_knows_what_persists(tmp_path):
    found = disks.read(system(plant(tmp_path, {"/proc/self/mountinfo": ROOT_MOUNT})))
    assert [(disk.mount, disk.persistent) for disk in found] == [("/", None)]


def test_a_live_image_runs_from_a_temporary_root(tmp_path):
    table = "1 0 0:20 / / rw - tmpfs tmpfs rw\n2 1 0:21 / /tmp rw - tmpfs tmpfs rw\n"
    found = disks.read(system(plant(tmp_path, {"/proc/self/mountinfo": table, "/tmp": None})))
    assert [(disk.mount, disk.persistent) for disk in found] == [("/", False), ("/tmp", False)]


def test_memory_that_a_person_mounted_is_listed_and_the_systems_own_is_not(tmp_path):
    folders = ("/home/u/fast", "/dev/shm", "/run/lock", "/run/media/u", "/sys/fs/cgroup", "/proc/acpi")
    lines = ["1 0 8:1 / / rw - ext4 /dev/sda1 rw"]
    lines += [f"{n} 1 0:{n} / {at} rw - tmpfs tmpfs rw" for n, at in enumerate(folders, 2)]
    tree = plant(tmp_path, {"/proc/self/mountinfo": "\n".join(lines) + "\n", **dict.fromkeys(folders)})
    found = disks.read(system(tree))
    assert [(disk.mount, disk.fs, disk.persistent) for disk in found] == [
        ("/", "ext4", None),
        ("/home/u/fast", "tmpfs", False),
    ]


def test_the_last_of_two_mounts_at_one_point_counts():
    found = mounts.parse_mountinfo(b"1 0 0:2 / / rw - rootfs rootfs rw\n2 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    assert [(mount.point, mount.fs) for mount in mounts.real_mounts(found)] == [("/", "ext4")]


def test_broken_lines_are_passed_over():
    text = b"\n27 1 8:1 / / rw\nnonsense - - -\n27 1 8:1 / /data rw opt:1 opt:2 - ext4 /dev/sda ro\n"
    assert [(mount.point, mount.read_only) for mount in mounts.parse_mountinfo(text)] == [("/data", True)]


def test_docker_hosts_and_snaps_do_not_fill_the_list():
    lines = [
        f"{number} 1 0:{number} / /var/lib/docker/overlay2/{number}/merged rw - overlay overlay rw"
        for number in range(50)
    ]
    lines += ["60 1 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro", "61 1 0:99 / /mnt/juice rw - fuse.juicefs J rw"]
    found = mounts.real_mounts(mounts.parse_mountinfo("\n".join(lines).encode()))
    assert [(mount.point, mount.fs) for mount in found] == [("/mnt/juice", "fuse.juicefs")]


def test_a_mount_that_hangs_holds_up_nobody(tmp_path):
    root = container(tmp_path)
    release = threading.Event()

    def ask(mount, path, own):
        if mount.fs == "nfs4":
            release.wait(300)
        return disks.measure_mount(mount, path, own)

    def claim(patience):
        here = system(root)
        found = disks.read(here, measure=ask, patience=patience)
        assert found[2] == Disk(mount="/mnt/模型 a\\b", fs="nfs4")
        assert found[1].writable is True
        assert [(failure.probe, failure.reason) for failure in here.failures] == [
            ("disks:/mnt/模型 a\\b", f"no answer within {patience:.1f} s (nfs4)")
        ]

    try:
        with_patience((0.5, 5.0, 50.0), claim)
    finally:
        release.set()


def test_a_stale_mount_is_listed_with_its_reason(tmp_path):
    def ask(mount, path, own):
        if mount.fs == "nfs4":
            raise OSError(116, "Stale file handle")
        return disks.measure_mount(mount, path, own)

    here = system(container(tmp_path))
    found = disks.read(here, measure=ask)
    assert (found[2].total, found[2].writable) == (None, None)
    assert "Stale file handle" in here.failures[0].reason


def test_a_user_writes_at_home_not_at_the_top(tmp_path, monkeypatch):
    """For a user who may not write to `/` the home folder on it decides; one on another mount says nothing about it."""
    data = "28 27 8:2 / /data rw - ext4 /dev/sdb rw\n"
    root = plant(tmp_path / "tree", {"/proc/self/mountinfo": ROOT_MOUNT + data, "/data": None})
    closed = {root, root / "data"}
    real = disks.can_write
    monkeypatch.setattr(disks, "can_write", lambda folder: folder not in closed and real(folder))
    home = tmp_path / "ada lovelace é"
    home.mkdir()
    by_home = {home: [True, False], Path("/data/nowhere"): [False, False], Path("relative"): [False, False]}
    for folder, expected in by_home.items():
        assert [disk.writable for disk in disks.read(system(root, HOME=str(folder)))] == expected


def test_write_test_tells_the_truth(tmp_path):
    assert disks.can_write(tmp_path) is True
    assert disks.can_write(tmp_path / "absent") is False
    assert disks.can_write(Path("/proc")) is False
    assert list(tmp_path.iterdir()) == []


def test_write_test_without_nameless_files(tmp_path, monkeypatch):
    """NFS, 9p and FUSE have no O_TMPFILE: then a named file is made and removed."""
    opened = []
    real_open = os.open

    def without(path, flags, *rest):
        opened.append(Path(path).name)
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", without)
    assert disks.can_write(tmp_path) is True
    assert any(name.startswith(".firstlight-write-test-") for name in opened)
    assert list(tmp_path.iterdir()) == []


def test_write_test_on_a_full_disk(tmp_path, monkeypatch):
    def full(_descriptor, _data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert disks.can_write(tmp_path) is False
    assert list(tmp_path.iterdir()) == []
