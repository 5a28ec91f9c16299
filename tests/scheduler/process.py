"""The real scheduler process, `python -m scheduler`, for tests that signal and kill it."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy.orm import Session

from compute_portal import clock, units
from compute_portal.db import Database
from compute_portal.programmes import service as programmes
from tests.cast import Cast

ROOT = Path(__file__).resolve().parents[2]
# As config/policy.toml, but everything every second.
QUICK = {"cycle_seconds": 1, "standings_seconds": 2, "pass_seconds": 1}


def environment(database: Database, folder: Path, **more: str) -> dict[str, str]:
    """Settings of the process: this database, a quick policy, a log of its phases in `folder`."""
    policy = []
    for line in (ROOT / "config" / "policy.toml").read_text().splitlines():
        name = line.split("=")[0].strip()
        policy.append(f"{name} = {QUICK[name]}" if name in QUICK else line)
    file = folder / "policy.toml"
    file.write_text("\n".join(policy))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
    return clean | {
        "PORTAL_ENV": "test",
        "PORTAL_DATABASE_URL": database.url.render_as_string(hide_password=False),
        "PORTAL_POLICY_FILE": str(file),
        "PORTAL_FAULT_LOG": str(folder / "phases"),
        **more,
    }


def start(env: dict[str, str], folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Its log goes to `folder`/log."""
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "scheduler", *arguments], cwd=ROOT, env=env, stdout=log, stderr=log
        )


def award_from_today(cast: Cast) -> None:
    """The process lives in real time: the cast gets an allocation that begins today."""
    cast.now = clock.now()
    today = clock.day_of(cast.now)

    def work(session: Session) -> None:
        programme = programmes.open_programme(
            session,
            name="本年度算力计划",
            name_en=None,
            starts_on=today,
            ends_on=today + dt.timedelta(days=200),
            pool_ids=[cast.pool],
            most_gpu_seconds=units.gpu_seconds(150_000),
            booking_approval_gpu_seconds=units.gpu_seconds(2_000),
        )
        programmes.fund(session, programme.id, units.gpu_seconds(500_000), reference="1", by=cast.finance, now=cast.now)
        cast.programme = programme.id

    cast.database.transaction(work)
    cast.allocation = cast.award(cast.yusheng, "lin", 100_000)
