"""The commands of a fresh machine: what they say when something is missing, and how the demo starts and stops."""

from __future__ import annotations

import ast
import ensurepip
import hashlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bootstrap
from config import demo
from config.settings import Settings
from config.systemd import tell_systemd

ROOT = Path(__file__).resolve().parents[2]
WITHIN_SECONDS = 20
# of this machine: where its packages come from, and whether Python may keep what it compiled (pip is slow otherwise)
LEFT_OUT = re.compile(r"^(PIP|UV)_|_proxy$|^PYTHONDONTWRITEBYTECODE$", re.IGNORECASE)


def run_bootstrap(clone: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Without the index settings of this machine, and by default without uv."""
    kept = {name: value for name, value in os.environ.items() if not LEFT_OUT.search(name)}
    kept |= {"PATH": str(clone / "bin"), "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}
    command = [sys.executable, str(clone / "bootstrap.py"), *args]
    return subprocess.run(
        command, cwd=clone, env=kept | environ, capture_output=True, text=True, timeout=60, check=False
    )


def assert_one_sentence(outcome: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert outcome.returncode == 2, outcome
    assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
    assert "Traceback" not in outcome.stdout + outcome.stderr
    for part in parts:
        assert part in outcome.stderr


def make_clone(folder: Path) -> Path:
    """The files that matter before anything is installed, and a lock of one package that exists nowhere else."""
    for name in ("config", "tests", "bin"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "bootstrap.py", folder)
    shutil.copy(ROOT / "config" / "demo.py", folder / "config")
    lock = "city-clock==1.0 --hash=sha256:" + hashlib.sha256(a_wheel(folder / "wheels").read_bytes()).hexdigest()
    (folder / "requirements.txt").write_text(lock + "\n")
    (folder / "tests" / "requirements.txt").write_text("# for tests\n" + lock + "\n")
    return folder


def a_wheel(folder: Path) -> Path:
    folder.mkdir()
    wheel = folder / "city_clock-1.0-py3-none-any.whl"
    about = "city_clock-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("city_clock.py", "NOON = 12\n")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: city-clock\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", f"city_clock.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    return wheel


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return make_clone(tmp_path / "clone")


@pytest.fixture(scope="module")
def one_clone_with_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One virtual environment for all tests that let the real pip run, unpacked from the wheel that Python brings:
    bootstrap's own way (ensurepip) takes eight seconds more."""
    clone = make_clone(tmp_path_factory.mktemp("pip") / "clone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    bundled = [
        *Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"),
        *Path("/usr/share/python-wheels").glob("pip-*"),
    ]
    with zipfile.ZipFile(bundled[0]) as pip:
        pip.extractall(next(clone.glob(".venv/lib/*/site-packages")))
    return clone


@pytest.fixture
def clone_with_pip(one_clone_with_pip: Path) -> Path:
    for left_over in (*one_clone_with_pip.glob(".venv/lib/*/site-packages/city_clock*"), one_clone_with_pip / "bin/uv"):
        if left_over.is_dir():
            shutil.rmtree(left_over)
        else:
            left_over.unlink(missing_ok=True)
    (one_clone_with_pip / ".venv" / "installed").unlink(missing_ok=True)
    return one_clone_with_pip


def fake_uv(clone: Path, exit_code: int = 0) -> Path:
    """A `uv` that writes down how it was called."""
    calls = clone / "uv-calls"
    script = clone / "bin" / "uv"
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexit {exit_code}\n')
    script.chmod(0o755)
    calls.touch()
    return calls


# --- one sentence, and the fix ---------------------------------------------------------------------------------------


def test_an_old_python_is_told_which_one_is_needed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(bootstrap, "OLDEST_PYTHON", (9, 0))
    assert bootstrap.main(["demo"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "PYTHON=python3.12" in said


def test_an_old_python_can_read_the_file_that_tells_it():
    ast.parse((ROOT / "bootstrap.py").read_text(), feature_version=(3, 7))
    beside_the_standard_library = set(re.findall(r"^(?:from|import) (\w+)", (ROOT / "bootstrap.py").read_text(), re.M))
    assert beside_the_standard_library <= set(sys.stdlib_module_names)


def test_a_python_without_ensurepip_names_the_package_to_install(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(bootstrap, "VENV_PYTHON", clone / ".venv" / "bin" / "python")
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    assert bootstrap.main(["install"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "apt install python3-venv" in said
    assert not (clone / ".venv").exists()


def test_a_taken_port_is_named_before_anything_is_installed(clone: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        outcome = run_bootstrap(clone, "demo", PORT=str(port))
    assert_one_sentence(outcome, f"Port {port} is already in use", f"PORT={port + 1}")
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1", "80 80"])
def test_a_port_that_is_none_is_refused(clone: Path, port: str):
    with pytest.raises(demo.DemoError, match="from 1 to 65535"):
        demo.claim_port({"PORT": port})


def test_an_unknown_word_lists_the_known_ones(clone: Path):
    assert_one_sentence(run_bootstrap(clone, "serve"), "demo|test|check|axe-all|bench|faults|lock|install")


def test_an_index_out_of_reach_is_one_sentence_with_uv_and_then_pip(clone_with_pip: Path):
    uv_calls = fake_uv(clone_with_pip, exit_code=2)
    outcome = run_bootstrap(clone_with_pip, "install", PIP_INDEX_URL="http://127.0.0.1:9/simple/", PIP_RETRIES="1")
    assert_one_sentence(outcome, "cannot be reached", "PIP_INDEX_URL", "var/log/install.log")
    assert uv_calls.read_text().startswith("pip install --require-hashes --only-binary :all: -r ")
    assert "127.0.0.1" in (clone_with_pip / "var" / "log" / "install.log").read_text()


def test_a_missing_wheel_is_named(clone_with_pip: Path, tmp_path: Path):
    outcome = run_bootstrap(clone_with_pip, "install", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert_one_sentence(outcome, "offers no wheel of city-clock at all", "PIP_NO_INDEX")


def test_a_wheel_with_another_hash_is_not_installed(clone_with_pip: Path, tmp_path: Path):
    with a_wheel(tmp_path / "tampered").open("ab") as tampered:
        tampered.write(b" ")
    outcome = run_bootstrap(clone_with_pip, "install", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "tampered"))
    assert_one_sentence(outcome, "does not match its hash")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("error: Request failed after 3 retries\n  Caused by: error sending request for url (https://…)", "reached"),
        (
            "  × No solution found when resolving dependencies:\n  ╰─▶ Because numpy==2.4.6 has no wheels with",
            "of numpy",
        ),
        ("error: Failed to fetch\n  Caused by: Hash mismatch for `click==8.5.1`", "hash"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for numpy==2.4.6", "wheel of numpy for Python"),
        ("something new", "could not be installed: the reason is at the end of var/log/install.log"),
    ],
)
def test_what_the_installers_say_becomes_a_sentence(said: str, sentence: str):
    assert sentence in bootstrap.why_it_failed(said)


# --- installed once --------------------------------------------------------------------------------------------------


def test_pip_installs_the_locked_wheel(clone_with_pip: Path):
    outcome = run_bootstrap(clone_with_pip, "install", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(clone_with_pip / "wheels"))
    assert outcome.returncode == 0, outcome
    python = clone_with_pip / ".venv" / "bin" / "python"
    noon = subprocess.run([python, "-c", "import city_clock; print(city_clock.NOON)"], capture_output=True, check=True)
    assert noon.stdout == b"12\n"


def test_a_second_run_installs_nothing_until_the_lock_changes(clone: Path):
    calls = fake_uv(clone)

    def installs() -> int:
        before = len(calls.read_text().splitlines())
        assert run_bootstrap(clone, "install").returncode == 0
        return len(calls.read_text().splitlines()) - before

    assert installs() == 1
    assert installs() == 0
    with (clone / "requirements.txt").open("a") as lock:
        lock.write("# another lock\n")
    assert installs() == 1
    (clone / ".venv" / "installed").unlink()  # as after a kill half-way
    assert installs() == 1


def test_what_tests_need_contains_what_the_portal_needs(clone: Path, monkeypatch: pytest.MonkeyPatch):
    for name, path in {"RUNTIME": "requirements.txt", "TESTS": "tests/requirements.txt", "STAMP": "stamp"}.items():
        monkeypatch.setattr(bootstrap, name, clone / path)
    assert not bootstrap.is_installed(bootstrap.RUNTIME)
    bootstrap.STAMP.write_text("\n".join(bootstrap.fingerprint(bootstrap.TESTS)))
    assert bootstrap.is_installed(bootstrap.TESTS)
    assert bootstrap.is_installed(bootstrap.RUNTIME)
    bootstrap.STAMP.write_text("\n".join(bootstrap.fingerprint(bootstrap.RUNTIME)))
    assert not bootstrap.is_installed(bootstrap.TESTS)


@pytest.mark.parametrize("name", ["requirements.txt", "tests/requirements.txt"])
def test_a_lock_names_no_index_and_no_folder_and_hashes_every_package(name: str):
    text = (ROOT / name).read_text()
    assert not re.search(r"://|index-url|find-links|^\s*-e|/tmp|/home|/root", text, re.MULTILINE)
    packages = re.split(r"\n(?=[a-zA-Z])", text)[1:]
    assert len(packages) > 30
    assert [package.split()[0] for package in packages if "--hash=sha256:" not in package] == []


def test_tests_run_with_the_versions_that_the_portal_runs_with():
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([a-zA-Z][^\\\n]*)", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements.txt") - pins("tests/requirements.txt") == set()


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets is not None
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([\w-]+) +\S", listed, re.MULTILINE) == targets[1].split()
    assert set(targets[1].split()) - {"help"} == set(bootstrap.COMMANDS)


# --- nothing is skipped quietly --------------------------------------------------------------------------------------

SKIPPING = """
import pytest

def test_that_passes(): pass
@pytest.mark.skip(reason="no Chromium here")
def test_that_skips(): pass
@pytest.mark.xfail(reason="known", strict=True)
def test_that_fails_as_known(): assert False
"""


@pytest.mark.parametrize(("strict", "workers", "exit_code"), [("", "0", 0), ("1", "2", 1)])
def test_skips_are_counted_and_forbidden_when_strict(tmp_path: Path, strict: str, workers: str, exit_code: int):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_one.py").write_text(SKIPPING)
    (tmp_path / "test_two.py").write_text("import pytest\npytest.skip('no cluster', allow_module_level=True)\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.strict_plugin", "-p", "xdist", "-n", workers]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ |= {"PYTHONPATH": str(ROOT), "STRICT": strict, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    outcome = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert outcome.returncode == exit_code, outcome.stdout + outcome.stderr
    assert "2 tests skipped" in outcome.stdout
    assert "1 × no Chromium here" in outcome.stdout
    assert "1 × no cluster" in outcome.stdout
    assert "sudo apt install chromium-headless-shell fonts-noto-cjk" in outcome.stdout


# --- the demo --------------------------------------------------------------------------------------------------------

# The demo starts `python -m flask`, `-m gunicorn` and `-m scheduler` in its own folder: these stand in for them there.
FAKE_FLASK = """
import os, sys
print("asked:", sys.argv[3], os.environ["PORTAL_ENV"], os.environ["PORTAL_DATABASE_URL"])
sys.exit(4 if os.path.exists(sys.argv[3] + "-is-broken") else 0)
"""
FAKE_SCHEDULER = """
import pathlib, signal, sys, time
def stop(number, frame):
    pathlib.Path(__name__ + "-stopped-by").write_text(signal.Signals(number).name)
    sys.exit(0)
__name__ = pathlib.Path(__file__).stem
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
pathlib.Path(__name__ + "-runs").touch()
while not pathlib.Path(__name__ + "-is-broken").exists():
    time.sleep(0.02)
print("the disk fell out")
sys.exit(70)
"""
FAKE_DEMO_CITY = """
import os, sys
if sys.argv[1:] == ["demo-city"]:
    print("asked:", "demo-city", os.environ["PORTAL_ENV"], os.environ["PORTAL_DATABASE_URL"])
    sys.exit(0)
"""
FAKE_GUNICORN = """
import http.server, os, threading
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
port = int(os.environ["PORTAL_BIND"].split(":")[1])
threading.Thread(target=http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever, daemon=True).start()
"""


@pytest.fixture
def a_demo(clone: Path) -> Path:
    (clone / "flask.py").write_text(FAKE_FLASK)
    (clone / "gunicorn.py").write_text(FAKE_GUNICORN + FAKE_SCHEDULER)
    (clone / "scheduler.py").write_text(FAKE_DEMO_CITY + FAKE_SCHEDULER)
    return clone


@pytest.fixture
def start_demo(a_demo: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started = []

    def start(*prefix: str, **environ: str) -> subprocess.Popen[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "config.demo"],
            cwd=a_demo,
            env={**os.environ, "PORT": port, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=WITHIN_SECONDS)


def wait_for(*files: Path) -> None:
    give_up_at = time.monotonic() + WITHIN_SECONDS
    while not all(file.exists() for file in files):
        assert time.monotonic() < give_up_at, f"{files} did not appear"
        time.sleep(0.02)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(f"{words!r} was not said: {said}{process.stderr.read() if process.stderr else ''}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_both_processes_by_their_own_handlers(start_demo, a_demo: Path, number: signal.Signals):
    # as a shell does for a command with & behind it
    process = start_demo("/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", PORTAL_DATABASE_URL="postgresql://real/one")
    said = read_until(process, "Ctrl-C stops both")
    assert re.search(r"http://127\.0\.0\.1:\d+$", said, re.MULTILINE)
    assert "asked: demo-sign-ins demo sqlite:///" in said
    wait_for(a_demo / "gunicorn-runs", a_demo / "scheduler-runs")
    process.send_signal(number)
    process.communicate(timeout=WITHIN_SECONDS)
    assert process.returncode == 0
    assert (a_demo / "gunicorn-stopped-by").read_text() == "SIGTERM"
    assert (a_demo / "scheduler-stopped-by").read_text() == "SIGTERM"
    setup = (a_demo / "var" / "log" / "setup.log").read_text()
    database = f"sqlite:///{a_demo}/var/portal.sqlite"
    assert setup.splitlines() == [f"asked: migrate demo {database}", f"asked: demo-city demo {database}"]


def test_when_one_process_ends_the_other_is_stopped_and_the_demo_says_which(start_demo, a_demo: Path):
    process = start_demo()
    wait_for(a_demo / "gunicorn-runs", a_demo / "scheduler-runs")
    (a_demo / "scheduler-is-broken").touch()
    _, said = process.communicate(timeout=WITHIN_SECONDS)
    assert process.returncode == 1
    assert said.strip().splitlines() == [
        "The scheduler stopped by itself (exit code 70), so all was stopped:"
        " the reason is at the end of var/log/scheduler.log."
    ]
    assert (a_demo / "gunicorn-stopped-by").read_text() == "SIGTERM"
    assert "the disk fell out" in (a_demo / "var" / "log" / "scheduler.log").read_text()


def test_a_migration_that_fails_ends_the_demo_before_anything_is_served(start_demo, a_demo: Path):
    (a_demo / "migrate-is-broken").touch()
    process = start_demo()
    _, said = process.communicate(timeout=WITHIN_SECONDS)
    assert process.returncode == 1
    assert said == "Preparing the database failed: the reason is at the end of var/log/setup.log.\n"
    assert not (a_demo / "scheduler-runs").exists()


DEAF = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path("grandchild").write_text(str(grandchild.pid))
pathlib.Path("deaf-runs").touch()
time.sleep(60)
"""
WITH_A_DEAF_CHILD = """
import pathlib, sys
from config.demo import Child, Supervisor
supervisor = Supervisor({}, cwd=pathlib.Path(), stop_within=0.2)
deaf = Child("deaf child", [sys.executable, "deaf.py"], pathlib.Path("deaf.log"))
supervisor.start([deaf])
supervisor.run_until_stopped([deaf])
"""


def test_a_child_that_does_not_stop_is_killed_with_all_it_started(clone: Path):
    (clone / "deaf.py").write_text(DEAF)
    process = subprocess.Popen([sys.executable, "-c", WITH_A_DEAF_CHILD], cwd=clone)
    wait_for(clone / "deaf-runs")
    grandchild = int((clone / "grandchild").read_text())
    process.terminate()
    assert process.wait(WITHIN_SECONDS) == 0
    assert not is_running(grandchild)


def is_running(pid: int) -> bool:
    """A zombie that nobody has collected yet does not run."""
    give_up_at = time.monotonic() + 2
    while time.monotonic() < give_up_at:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state == "Z":
            return False
        time.sleep(0.02)
    return True


def test_the_secret_key_is_made_once_and_only_for_its_owner(tmp_path: Path):
    file = tmp_path / "var" / "secret-key"
    first = demo.secret_key(file)
    assert len(first) >= 48
    assert demo.secret_key(file) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["secret-key"]


def test_the_demo_can_be_moved_to_another_database_on_purpose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(demo, "VAR", tmp_path)
    moved = demo.demo_environment({"DEMO_DATABASE_URL": "postgresql://demo"}, 8001)
    assert moved["PORTAL_DATABASE_URL"] == "postgresql://demo"
    assert moved["PORTAL_PUBLIC_URL"] == "http://127.0.0.1:8001"


# --- a server --------------------------------------------------------------------------------------------------------


def test_systemd_hears_what_a_process_tells_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    tell_systemd("READY=1")  # nobody listens: nothing happens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        tell_systemd("READY=1")
        tell_systemd("WATCHDOG=1")
        assert [systemd.recv(64), systemd.recv(64)] == [b"READY=1", b"WATCHDOG=1"]


def test_the_scheduler_tells_systemd_what_its_unit_waits_for():
    """A unit that waits for messages which never come kills a healthy scheduler, again and again."""
    unit = (ROOT / "config" / "deploy" / "portal-scheduler.service").read_text()
    assert re.search(r"^Type=notify$", unit, re.MULTILINE)
    assert re.search(r"^WatchdogSec=\d+$", unit, re.MULTILINE)
    told = "".join(file.read_text() for file in (ROOT / "scheduler").rglob("*.py"))
    assert 'tell_systemd("READY=1")' in told
    assert 'tell_systemd("WATCHDOG=1")' in told


def test_every_setting_is_in_the_example():
    example = (ROOT / "config" / "env.example").read_text()
    described = set(re.findall(r"^#?(PORTAL_\w+)=", example, re.MULTILINE))
    read = {f"PORTAL_{name.upper()}" for name in Settings.model_fields}
    read |= set(re.findall(r"PORTAL_\w+", (ROOT / "config" / "gunicorn.py").read_text()))
    assert described == read
