"""docs/install.md, line by line, in an isolated root: see the end of that page for what stands in for what."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INSTALL = ROOT / "docs" / "install.md"
OPERATE = ROOT / "docs" / "operate.md"
DEPLOY = ROOT / "config" / "deploy"
NEEDED = ("nginx", "pg_createcluster", "openssl", "curl", "unshare", "setpriv")
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRELUDE = """set -Eeuo pipefail
trap 'echo "FAILED in line $LINENO: $BASH_COMMAND" >&2' ERR
"""
# What the page promises beyond its own lines.
AFTERWARDS = r"""
echo "== who runs what"
user_of() { ps -o user:20= -p "$(cat /run/stand-in/$1.pid)" | tr -d ' '; }
echo "web runs as $(user_of portal-web.service)"
echo "scheduler runs as $(user_of portal-scheduler.service)"
echo "== the watchdog hears the scheduler"
grep -m 1 WATCHDOG=1 /run/stand-in/portal-scheduler.service.told
echo "== plain http leads to https"
curl --silent --output /dev/null --write-out '%{http_code} %{redirect_url}\n' --resolve "$SITE:80:127.0.0.1" "http://$SITE/sign-in"
echo "== headers of an answer through the proxy"
ask --head "https://$SITE/sign-in" | tr -d '\r' | grep -iE '^(strict-transport|content-security|set-cookie|server)'
echo "== whichever worker is asked, it has counted what all of them answered"
for n in $(seq 20); do ask "https://$SITE/healthz" > /dev/null; done
curl --silent --fail http://127.0.0.1:9464/metrics | grep '^portal_request_seconds_count{endpoint="healthz"}'
"""
STOP = r"""
echo "== both stop in order"
systemctl stop portal-scheduler portal-web
tail -n 1 /run/stand-in/portal-web.service.told /run/stand-in/portal-scheduler.service.told
ls /tmp | grep -c portal-metrics || true
"""


def blocks(page: Path, heading: str | None = None) -> str:
    text = page.read_text(encoding="utf-8")
    if heading is not None:
        text = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = BLOCK.findall(text)
    assert found, f"{page.name} has no commands under {heading}"
    return "\n".join(found)


def release(folder: Path) -> Path:
    """What a release is: the files under version control, and those that are about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    there = b"\0".join(name for name in listed.split(b"\0") if name and (ROOT / os.fsdecode(name)).is_file())
    archive = folder / "compute-commons.tar.gz"
    tar = ["tar", "--create", "--gzip", "--null", "--files-from=-", "--transform=s,^,compute-commons/,"]
    subprocess.run([*tar, f"--file={archive}"], cwd=ROOT, input=there, check=True)
    return archive


def must_be_possible() -> None:
    missing = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing: sudo apt install postgresql nginx openssl curl")
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True).returncode:
        pytest.skip("an isolated root needs root and the right to make namespaces")


@pytest.mark.timeout(280)
def test_the_page_installs_a_portal_that_works_and_upgrades_it(tmp_path: Path) -> None:
    must_be_possible()
    script = tmp_path / "lines.sh"
    upgrade = blocks(OPERATE, "Upgrade")
    script.write_text(f"{PRELUDE}{blocks(INSTALL)}\n{AFTERWARDS}\n{upgrade}\n{STOP}", encoding="utf-8")
    folder = tmp_path / "isolated"
    folder.mkdir()
    done = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable,
         str(HERE / "isolated.py"), str(folder), str(release(tmp_path)), str(Path(sys.prefix)), str(script)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=270, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    for expected in (
        '"ok":true',
        "portal_database_up 1.0",
        "scheduler_leads 1.0",
        "Restored the state of",
        "web runs as portal",
        "scheduler runs as portal-scheduler",
        "308 https://compute.example.gov.cn/sign-in",
        "strict-transport-security: max-age=31536000; includeSubDomains",
        "WATCHDOG=1",
        'portal_request_seconds_count{endpoint="healthz"} 20.0',
    ):
        assert expected in said, f"{expected}: {said[-6000:]}"
    assert said.count("EXIT=0") == 2
    assert "BROKEN" not in said and "FAILED" not in said


def test_the_packages_of_the_page_are_those_that_ci_installs() -> None:
    line = re.search(r"^apt-get install (.*)$", INSTALL.read_text(), re.MULTILINE)
    assert line is not None
    wanted = {word for word in line[1].split() if not word.startswith("-")}
    listed = re.findall(r"^packages\+?=\(([^)]*)\)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert wanted <= set(" ".join(listed).split())


def test_every_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is missing: sudo apt install systemd")
    units = sorted(DEPLOY.glob("*.service")) + sorted(DEPLOY.glob("*.timer"))
    assert {unit.name for unit in units} == {
        "portal-web.service", "portal-scheduler.service", "portal-backup.service", "portal-backup.timer",
    }  # fmt: skip
    for unit in units:
        # Where nothing is installed its programs are missing; any will do to read the rest of the unit.
        text = re.sub(r"/opt/compute-commons/\S*python", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", *[str(tmp_path / unit.name) for unit in units]],
        capture_output=True, text=True, check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", ["portal-web.service", "portal-scheduler.service", "portal-backup.service"])
def test_a_unit_leaves_little_open(unit: str) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is missing: sudo apt install systemd")
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", str(DEPLOY / unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2500:] + done.stderr


@pytest.mark.parametrize("name", ["compose.yaml", "prometheus.yml", "alerts.yml"])
def test_an_example_is_well_formed_yaml(name: str) -> None:
    """Read by Debian's Python, since the portal itself needs no YAML."""
    read = "import sys, yaml; print(','.join(yaml.safe_load(open(sys.argv[1]))))"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", read, str(DEPLOY / name)], capture_output=True, text=True, check=False
    )
    if "No module named 'yaml'" in done.stderr:
        pytest.skip("YAML cannot be read: sudo apt install python3-yaml")
    assert done.returncode == 0, done.stderr
    expected = {"compose.yaml": "services", "prometheus.yml": "scrape_configs", "alerts.yml": "groups"}
    assert expected[name] in done.stdout.strip().split(",")


def test_prometheus_itself_accepts_its_files() -> None:
    promtool = shutil.which("promtool")
    for name, check in (("prometheus.yml", "config"), ("alerts.yml", "rules")):
        assert (DEPLOY / name).exists()
        if promtool is not None:  # of the large package `prometheus`; what the files must hold is tested without it
            done = subprocess.run(
                [promtool, "check", check, DEPLOY / name], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
