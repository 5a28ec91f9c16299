"""From a fresh clone to a running portal, with nothing but Python 3.11 or newer: `python3 bootstrap.py demo`.

Makes `.venv`, installs the locked and hashed wheels once, then becomes the command that was asked for. What can go
wrong before that point (no venv module, no network, port taken) is one sentence with the fix, and exit code 2.
Standard library only, and no syntax newer than Python 3.7: an old Python must live long enough to say that it is old.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed"
RUNTIME = ROOT / "requirements.txt"
TESTS = ROOT / "tests" / "requirements.txt"
INSTALL_LOG = ROOT / "var" / "log" / "install.log"
OLDEST_PYTHON = (3, 11)
THIS_PYTHON = ".".join(map(str, sys.version_info[:2]))
MANY_ROUNDS = "100"
LOCK_HEADER = "# Locked from {source} for Python {python} and newer. Do not edit: renew with `make lock`.\n"


class SetupError(Exception):
    """Something outside this project is missing; the message is one sentence with the fix."""


# --- what a person can ask for ---------------------------------------------------------------------------------------


def demo(args: list[str]) -> int:
    from config import demo as supervisor  # only now: an old Python cannot read it

    try:
        supervisor.claim_port(os.environ)  # before the installation: nobody waits a minute to hear that a port is taken
    except supervisor.DemoError as error:
        raise SetupError(str(error)) from None
    install(RUNTIME)
    return become(["-m", "config.demo", *args])


def test(args: list[str]) -> int:
    install(TESTS)
    return become(["-m", "pytest", *in_parallel(args), *args])


def faults(args: list[str]) -> int:
    install(TESTS)
    os.environ.setdefault("ROUNDS", MANY_ROUNDS)
    return become(["-m", "pytest", "-m", "faults", "-o", "timeout=0", *in_parallel(args), *args])


def axe_all(args: list[str]) -> int:
    install(TESTS)
    os.environ["AXE"] = "all"
    return become(["-m", "pytest", "-o", "timeout=0", "tests/browser/test_everybody.py", *args])


def bench(args: list[str]) -> int:
    install(TESTS)
    return become(["-m", "pytest", "-m", "bench", "-o", "timeout=0", "-s", *args])


def check(args: list[str]) -> int:
    """Runs every step even when an early one fails: one round tells all there is to mend."""
    install(TESTS)
    failed = []
    with tempfile.TemporaryDirectory(prefix="portal-check-") as scratch:
        environ = {
            **os.environ,
            "PORTAL_ENV": "test",
            "PORTAL_DATABASE_URL": f"sqlite:///{scratch}/check.sqlite",
            "PORTAL_PUBLIC_URL": "http://127.0.0.1:8000",
            "PORTAL_SECRET_KEY": "only-for-this-check-on-a-database-that-is-thrown-away",
        }
        for title, command in CHECKS:
            print(f"== {title}", flush=True)
            if subprocess.run([str(VENV_PYTHON), *command], cwd=ROOT, env=environ).returncode:
                failed.append(title)
    if failed:
        print(f"make check failed: {', '.join(failed)}.", file=sys.stderr)
        return 1
    print("make check: all is well.")
    return 0


CHECKS = [
    ("ruff check", ["-m", "ruff", "check", "."]),
    ("ruff format", ["-m", "ruff", "format", "--check", "."]),
    ("mypy", ["-m", "mypy"]),
    ("import contracts", ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]),
    ("models equal migrations", ["-m", "flask", "--app", "wsgi", "check-models"]),
]


def lock(args: list[str]) -> int:
    """Resolve both requirement files again; the tests' lock is bound to the pins of the runtime's."""
    uv = shutil.which("uv")
    if uv is None:
        raise SetupError("`make lock` needs uv and it is not on PATH: install it with `pipx install uv`.")
    python = ".".join(map(str, OLDEST_PYTHON))
    for lock_file in (RUNTIME, TESTS):
        source = lock_file.with_suffix(".in")
        command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--only-binary", ":all:"]
        command += ["--python-version", python, "--no-annotate", "--no-header", "--no-emit-index-url"]
        command += ["--no-emit-find-links", "--output-file", str(lock_file), *args, str(source)]
        if subprocess.run(command, cwd=ROOT).returncode:
            return 1
        header = LOCK_HEADER.format(source=source.relative_to(ROOT), python=python)
        lock_file.write_text(header + without_header(lock_file.read_text()))
    return 0


def without_header(text: str) -> str:
    return re.sub(r"\A(#.*\n)+", "", text)


def only_install(args: list[str]) -> int:
    install(RUNTIME)
    return 0


COMMANDS = {
    "demo": demo,
    "test": test,
    "check": check,
    "axe-all": axe_all,
    "bench": bench,
    "faults": faults,
    "lock": lock,
    "install": only_install,
}


# --- .venv and what is in it -----------------------------------------------------------------------------------------


def install(lock_file: Path) -> None:
    """Make `.venv` hold exactly what `lock_file` says; a second call with the same lock installs nothing.

    Raises SetupError. Two commands started at once wait for each other; one that is killed half-way is repeated by
    the next, since the stamp is written last.
    """
    with open(__file__) as only_one_at_a_time:
        fcntl.flock(only_one_at_a_time, fcntl.LOCK_EX)
        make_venv()
        if not is_installed(lock_file):
            packages = len(re.findall(r"^[a-zA-Z]", lock_file.read_text(), re.MULTILINE))
            print(f"Installing {packages} packages into .venv (once; about a minute) …", flush=True)
            STAMP.unlink(missing_ok=True)
            install_wheels(lock_file)
            STAMP.write_text("\n".join(fingerprint(lock_file)) + "\n")


def make_venv() -> None:
    """Raises SetupError when this Python cannot make one. A venv of another Python version is made anew."""
    if venv_version() == THIS_PYTHON:
        return
    needed = ["venv"] if shutil.which("uv") else ["venv", "ensurepip"]
    if any(importlib.util.find_spec(module) is None for module in needed):
        raise SetupError("This Python has no venv module: install it with `sudo apt install python3-venv`.")
    command = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)]
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if made.returncode:
        reason = made.stdout.decode(errors="replace").strip().splitlines()[-1:]
        raise SetupError(f"No virtual environment could be made in {VENV}: {''.join(reason) or 'no reason given'}.")


def venv_version() -> str | None:
    """'3.11', or None when there is no venv or its Python has gone."""
    asked = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
    try:
        answer = subprocess.run([str(VENV_PYTHON), "-c", asked], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    return answer.stdout.decode().strip() or None


def is_installed(lock_file: Path) -> bool:
    """Looks at the stamp only. What the tests' lock installed contains what the portal needs to run."""
    return STAMP.exists() and set(fingerprint(lock_file)) <= set(STAMP.read_text().split())


def fingerprint(lock_file: Path) -> list[str]:
    """One digest; for the tests' lock a second one, of the runtime lock that it was resolved with and contains."""
    files = [TESTS, RUNTIME] if lock_file == TESTS else [lock_file]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def install_wheels(lock_file: Path) -> None:
    """By uv when it is there (seven times faster), else or when uv fails by pip: each brings its own settings.

    Raises SetupError with the reason when neither gets through; everything both said is in INSTALL_LOG.
    """
    wheels_only = ["install", "--require-hashes", "--only-binary", ":all:", "-r", str(lock_file)]
    uv = shutil.which("uv")
    attempts = [[uv, "pip", *wheels_only, "--compile-bytecode", "--python", str(VENV_PYTHON)]] if uv else []
    if importlib.util.find_spec("ensurepip") is not None:
        attempts.append([str(VENV_PYTHON), "-m", "pip", *wheels_only])
    INSTALL_LOG.parent.mkdir(parents=True, exist_ok=True)
    said = ""
    with open(INSTALL_LOG, "w") as log:
        for command in attempts:
            if command[0] != uv:
                bring_pip()
            outcome = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said = outcome.stdout.decode(errors="replace")
            log.write(said)
            if outcome.returncode == 0:
                return
    raise SetupError(why_it_failed(said))


def bring_pip() -> None:
    here = subprocess.run(
        [str(VENV_PYTHON), "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if here.returncode:
        subprocess.run([str(VENV_PYTHON), "-m", "ensurepip"], stdout=subprocess.DEVNULL, check=True)


NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|Connection(Reset)?Error|Connection refused|ProxyError|SSLError"
    r"|name resolution|Network is unreachable|error sending request|dns error|operation timed out|tunnel",
    re.IGNORECASE,
)
WRONG_HASH = re.compile(r"DO NOT MATCH THE HASHES|hash mismatch", re.IGNORECASE)
NO_WHEEL = re.compile(r"(?:No matching distribution found for|no wheels? .*?for|Because) `?([\w.\-]+)", re.IGNORECASE)


def why_it_failed(said: str) -> str:
    """One sentence from what pip or uv said. Network first: pip ends its failures with 'no matching distribution'."""
    log = INSTALL_LOG.relative_to(ROOT)
    if "No space left on device" in said:
        return f"The disk is full: free about 500 MB for {VENV} and start again."
    if NO_NETWORK.search(said):
        return (
            "The package index cannot be reached: check the network, or point pip at a mirror (PIP_INDEX_URL,"
            f" PIP_CERT, HTTPS_PROXY), and start again; details are in {log}."
        )
    if WRONG_HASH.search(said):
        return (
            "A package does not match its hash in the lock, so nothing was installed: ask whoever runs your package"
            f" index why it serves another file; details are in {log}."
        )
    missing = NO_WHEEL.search(said)
    if missing and "(from versions: none)" in said:  # all that pip says when it may not retry
        return (
            f"The package index offers no wheel of {missing.group(1)} at all: check the network and which index pip is"
            f" told to use (PIP_INDEX_URL, PIP_NO_INDEX), and start again; details are in {log}."
        )
    if missing:
        return (
            f"The package index has no wheel of {missing.group(1)} for Python {THIS_PYTHON} on this machine: try"
            f" another Python (make PYTHON=python3.12 …); details are in {log}."
        )
    return f"The packages could not be installed: the reason is at the end of {log}."


# --- starting --------------------------------------------------------------------------------------------------------


def in_parallel(args: list[str]) -> list[str]:
    """One worker more than there are cores, as some wait for processes; as many as the caller said if they did. Each
    gets a stretch of neighbours, which share what is costly to begin, and takes from others when it is done."""
    if any(arg.startswith(("-n", "--numprocesses", "--pdb", "--trace")) for arg in args):
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return ["-n", str(max(2, min(4, cores + 1))), "--dist", "worksteal"]


def become(command: list[str]) -> int:
    """Replace this process, so that a signal reaches the command itself."""
    sys.stdout.flush()
    os.chdir(ROOT)
    # Tests start the portal's processes a hundred times: its modules are compiled once.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.execv(str(VENV_PYTHON), [str(VENV_PYTHON), *command])  # noqa: S606 - no shell is meant


def main(argv: list[str]) -> int:
    try:
        if sys.version_info[:2] < OLDEST_PYTHON:
            raise SetupError(
                f"Python 3.11 or newer is needed and this is {THIS_PYTHON}: install one and name it,"
                " for example `make demo PYTHON=python3.12`."
            )
        if not argv or argv[0] not in COMMANDS:
            raise SetupError(f"Say what to do: python3 bootstrap.py {'|'.join(COMMANDS)}.")
        return COMMANDS[argv[0]](argv[1:])
    except SetupError as error:
        print(error, file=sys.stderr)
    except PermissionError as error:
        print(f"{error.filename} may not be written: start from a folder that is yours.", file=sys.stderr)
    except OSError as error:
        print(f"{error.strerror} ({error.filename or ROOT}): mend that and start again.", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped before it was ready; start again whenever you like.", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
