"""What is over goes, what is not stays, and the access log lets nothing go early."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from compute_portal import retention, verify
from compute_portal.access import Role
from compute_portal.bookings.models import Estimate
from compute_portal.desk.models import TimetableRun
from compute_portal.enterprises.models import Invitation
from compute_portal.notices.models import Delivery, Notice
from compute_portal.policy import Policy
from compute_portal.signin.models import AccessLogEntry, FormKey, OneTimeLink, RetentionRun, SignInTry, UserSession
from tests.cast import HOUR, NOW, Cast
from tests.web import make_app

DAY = dt.timedelta(days=1)


def row_of(record: str, cast: Cast, booking_id: int, name: str, at: dt.datetime) -> Any:
    """A row whose days are counted from `at`."""
    user, enterprise = cast.users["lin"], cast.yusheng
    rows: dict[str, Any] = {
        "form_keys": FormKey(key=name, user_id=user, result="/", at=at),
        "sign_in_tries": SignInTry(who="x", at=at),
        "one_time_links": OneTimeLink(
            purpose="reset", token_hash=name, address="a@b.cn", made_at=at, expires_at=at + HOUR
        ),
        "invitations": Invitation(
            enterprise_id=enterprise, address=f"{name}@b.cn", role=Role.MEMBER, language="zh", invited_by=user,
            invited_at=at - HOUR, sent_at=at - HOUR, expires_at=at,
        ),
        "sessions": UserSession(token_hash=name, user_id=user, created_at=at, seen_at=at, expires_at=at),
        "timetable_runs": TimetableRun(entry="metering", due_at=at, started_at=at),
        "notices": Notice(
            user_id=user, about={"id": "mail-reset"}, body=[], at=at, delivery=Delivery.SENT, done_at=at, tries=1,
            next_try_at=at,
        ),
        "estimates": Estimate(
            booking_id=booking_id, pool_id=cast.pool, made_at=at, place=1, waiting=1, expected_seconds=60,
            p10_seconds=0, p50_seconds=60, p90_seconds=600, waited_seconds=60, closed_at=at,
        ),
        "access_log": AccessLogEntry(at=at, kind="sign-in", user_id=user, address="", path="/"),
    }  # fmt: skip
    return rows[record]


def fill(cast: Cast, policy: Policy) -> None:
    """Of each kind a row that is a day too old, and one that is a day short of it."""

    booking_id = cast.submit(cast.flexible(), policy.bookings)

    def rows(session: Any) -> None:
        session.execute(sa.delete(Notice))
        for record in retention.RECORDS:
            limit = NOW - dt.timedelta(days=record.days(policy.retention))
            for name, at in (("old", limit - DAY), ("young", limit + DAY)):
                session.add(row_of(record.name, cast, booking_id, name, at))

    cast.database.transaction(rows)


def kept(cast: Cast) -> dict[str, int]:
    with cast.database.read_only() as session:
        return {
            record.name: session.scalar(sa.select(sa.func.count()).select_from(record.model)) or 0
            for record in retention.RECORDS
        }


def test_what_is_over_goes_and_is_written_down_and_the_rest_stays(cast: Cast, policy: Policy) -> None:
    fill(cast, policy)
    assert set(kept(cast).values()) == {2}
    with cast.database.read_only() as session:
        found = {due.record.name: due.rows for due in retention.due(session, policy.retention, now=NOW)}
    removed = retention.remove(cast.database.transaction, policy.retention, now=NOW)
    assert removed == found == dict.fromkeys(kept(cast), 1)
    assert set(kept(cast).values()) == {1}
    assert set(retention.remove(cast.database.transaction, policy.retention, now=NOW).values()) == {0}
    with cast.database.read_only() as session:
        runs = {run.record: run.removed for run in session.scalars(sa.select(RetentionRun))}
        assert verify.run(session) == []
    assert runs == removed


def test_the_access_log_lets_nothing_go_that_no_limit_is_written_down_for(cast: Cast, policy: Policy) -> None:
    fill(cast, policy)
    run = cast.database.transaction
    for _ in range(2):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            run(lambda s: s.execute(sa.delete(AccessLogEntry)))
        retention.remove(run, policy.retention, now=NOW)  # takes the old one; the young one still stays
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        run(lambda s: s.execute(sa.update(AccessLogEntry).values(kind="x")))
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        run(lambda s: s.execute(sa.delete(RetentionRun)))
    with sa.orm.Session(cast.database.engine) as session:
        assert verify.try_to_change(session) == []


def test_the_command_lists_what_would_go_and_removes_it_only_without_dry_run(cast: Cast, policy: Policy) -> None:
    fill(cast, policy)
    invoke = make_app(cast.database, policy).test_cli_runner().invoke
    listed = invoke(args=["retention", "--dry-run"])
    assert listed.exit_code == 0 and "access_log" in listed.output and "would go" in listed.output
    assert set(kept(cast).values()) == {2}
    done = invoke(args=["retention"])
    assert done.exit_code == 0 and "removed" in done.output
    assert set(kept(cast).values()) <= {0, 1}
