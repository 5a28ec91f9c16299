"""An isolated root for commands that install things: run as root under `unshare --mount --net --pid --fork`.

    isolated.py FOLDER RELEASE VENV SCRIPT

The machine's files are the lower layer of an overlay whose upper one is in memory, the network has loopback only, and
every process ends with the namespace. In it stand: a cluster of PostgreSQL as Debian's package makes it, the release at
/root/compute-commons.tar.gz, and stand-ins for `systemctl`, `apt-get` and `make` (see there). Then SCRIPT runs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STAND_INS = HERE / "stand_ins"
IN_MEMORY = ("run", "tmp", "var/tmp", "etc/postgresql", "var/lib/postgresql", "var/log/postgresql", "var/backups")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def main(folder: Path, release: Path, venv: Path, script: Path) -> int:
    loopback_up()
    root = make_root(folder)
    inside(root / "root").mkdir(exist_ok=True)
    shutil.copy(release, root / "root" / "compute-commons.tar.gz")
    shutil.copy(script, root / "root" / "lines.sh")
    python = Path(os.path.realpath(venv / "bin" / "python"))
    give(root, venv)
    give(root, Path(sys.base_prefix))
    put_stand_ins(root, venv, python)
    os.chroot(root)
    os.chdir("/root")
    make_cluster()
    environ = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}
    return subprocess.run(["bash", "/root/lines.sh"], env=environ, stdin=subprocess.DEVNULL, check=False).returncode


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sh", b"lo", 0)
        _, flags = struct.unpack("16sh", fcntl.ioctl(control, SIOCGIFFLAGS, asked))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def run(*argv: object) -> None:
    subprocess.run([str(word) for word in argv], check=True)


def make_root(folder: Path) -> Path:
    space, root = folder / "space", folder / "root"
    for one in (space, root):
        one.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", space)
    for one in ("upper", "work"):
        (space / one).mkdir()
    run("mount", "-t", "overlay", "-o", f"lowerdir=/,upperdir={space}/upper,workdir={space}/work", "overlay", root)
    for name in IN_MEMORY:
        inside(root / name).mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", "mode=1777" if name.endswith("tmp") else "mode=0755", "tmpfs", root / name)
    run("mount", "-t", "proc", "proc", root / "proc")
    run("mount", "--rbind", "/dev", root / "dev")
    return root


def inside(path: Path) -> Path:
    assert "root" in path.parts, path  # never the machine's own files
    return path


def give(root: Path, path: Path) -> None:
    """The same path, read-only, to be reached by every user: the packages that `make test` installed lie there."""
    if path == Path("/usr"):
        return
    there = inside(root / path.relative_to("/"))
    there.mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", "-o", "ro", path, there)
    for parent in there.parents:
        if parent == root:
            break
        parent.chmod(parent.stat().st_mode | 0o001)


def put_stand_ins(root: Path, venv: Path, python: Path) -> None:
    place = inside(root / "usr/local/sbin")
    place.mkdir(parents=True, exist_ok=True)
    for one in STAND_INS.iterdir():
        text = one.read_text().replace("@PYTHON@", str(python)).replace("@VENV@", str(venv))
        (place / one.name).write_text(text)
        (place / one.name).chmod(0o755)
    shown = inside(root / "usr/local/bin/python3")
    shown.unlink(missing_ok=True)
    shown.symlink_to(python)


def make_cluster() -> None:
    for folder in ("/etc/postgresql", "/var/lib/postgresql", "/var/log/postgresql"):
        shutil.chown(folder, "postgres", "postgres")
    (version,) = sorted(os.listdir("/usr/lib/postgresql"), key=int)[-1:]
    made = subprocess.run(
        ["pg_createcluster", version, "main", "--start", "--", "--no-sync"],
        env={"PATH": PATH, "LANG": "C.UTF-8"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        sys.exit(f"pg_createcluster failed: {made.stdout}{made.stderr}")


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:5])))
