"""What money is about in the demo city: prices of the night, contract prices, a subsidy, statements in every state.

`before` happens when the city opens, `during` on a day of its second month, `after` when its two months have been
lived; all of it by the portal's own verbs.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from compute_portal import clock, units
from compute_portal.access import Actor, Role
from compute_portal.bookings import service as bookings
from compute_portal.bookings import waiting
from compute_portal.bookings.service import BookingRequest
from compute_portal.bookings.states import BookingKind
from compute_portal.db import Session
from compute_portal.enterprises.models import Enterprise
from compute_portal.pools import service as pools
from compute_portal.programmes import service as programmes
from compute_portal.sentences import Refusal
from compute_portal.statements import disputes, payments
from compute_portal.statements import service as statements
from compute_portal.statements.models import Statement, StatementLine
from compute_portal.statements.states import StatementState
from compute_portal.subsidies import service as subsidies
from compute_portal.subsidies.models import Scheme

from . import changes, claiming, demo_office, month_end
from .context import Context
from .demo_office import DAY, Office
from .virtual import VirtualTime

NIGHT = (22, 8)
NOBODY_CAME = "luyu"
WINDOW_HOURS = 4
FIRMS_OF_H800 = ("qingwu", "zhuzhao", "fanying", "hexin", "mufeng")


def before(office: Office, start: dt.datetime) -> None:
    """H20 is cheaper at night, 910B for micro enterprises; a programme bears part of the price, and has the money."""
    town = office.town
    by, first = town.bureau[Role.FINANCE], clock.day_of(start) + DAY

    def work(session: Session) -> None:
        pools.set_tariff(
            session, town.pools["H20"], from_on=first, price_micro_yuan=units.parse_yuan("5.20"), hours=NIGHT, by=by,
            now=start,
        )  # fmt: skip
        programmes.set_discount(
            session, town.pools["910B"], from_on=first, until_on=first + 300 * DAY, size_class="micro", percent=20,
            by=by, now=start,
        )  # fmt: skip
        subsidies.cover_programmes(session, now=start)
        covered = Scheme.programme_id == town.programmes[demo_office.PROGRAMME]
        scheme_id = session.scalars(sa.select(Scheme.id).where(covered)).one()
        subsidies.fund(session, scheme_id, units.parse_yuan("800000"), reference="opening", by=by, now=start)

    office.do(work)


def during(office: Office, virtual: VirtualTime, now: dt.datetime) -> None:
    """Nine days ago a firm booked a window and nobody came."""
    town = office.town
    begins = clock.floor_hour(now) - 9 * DAY
    asked = BookingRequest(
        town.allocations[NOBODY_CAME, "910B"], BookingKind.FIXED, "夜间回归测试", 16, begins, begins + 6 * clock.HOUR
    )

    def book(at: dt.datetime) -> None:
        _book(office, NOBODY_CAME, asked, at)

    too_late = dt.timedelta(minutes=office.policy.bookings.claim_minutes + 1)
    virtual.at(begins - 20 * clock.HOUR, book)
    virtual.at(begins, lambda _at: None)
    virtual.at(begins + too_late, lambda at: changes.run(virtual.context, at))


def after(office: Office, context: Context, now: dt.datetime) -> None:
    _wait_list(office, now)
    _last_month(office, now)
    claiming.run(context, now)


def _book(office: Office, firm: str, asked: BookingRequest, at: dt.datetime) -> None:
    by = office.town.firms[firm].members[0]
    office.do(lambda session: bookings.submit(session, asked, by=by, policy=office.policy.bookings, now=at))


def _wait_list(office: Office, now: dt.datetime) -> None:
    """One firm has all of a pool's hours that may be booked in a window, another one waits for them."""
    town, policy = office.town, office.policy.bookings
    begins = clock.ceil_hour(now) + 3 * DAY
    full = False
    for firm in FIRMS_OF_H800:
        asked = BookingRequest(
            town.allocations[firm, "H800"], BookingKind.FIXED, "多机对比实验", 512 * policy.fixed_share_percent // 100,
            begins, begins + WINDOW_HOURS * clock.HOUR,
        )  # fmt: skip
        try:
            if full:
                by = town.firms[firm].members[0]
                office.do(
                    lambda session, asked=asked, by=by: waiting.join(session, asked, by=by, policy=policy, now=now)  # type: ignore[misc]
                )
                return
            _book(office, firm, asked, now)
            full = True
        except Refusal as refusal:
            # A firm may have enough fixed bookings already; the next one is asked. A full window is what is wanted.
            full = full or refusal.sentence.id in waiting.FULL


def _last_month(office: Office, now: dt.datetime) -> None:
    """Of last month's statements one is returned, one approved, one disputed, one unpaid, two settled; others wait."""
    town = office.town
    one, other = (actor for actor in town.officials.values() if Role.FINANCE in actor.roles)
    month = clock.previous_month(clock.month_of(now))
    with town.database.read_only() as session:
        in_review = session.execute(
            sa.select(Statement.id, Enterprise.id, Enterprise.name)
            .join(Enterprise, Enterprise.id == Statement.enterprise_id)
            .where(
                Statement.month == month,
                Statement.state == StatementState.IN_REVIEW,
                Statement.amount_micro_yuan > 0,
                Statement.incomplete_since.is_(None),
            )
            .order_by(Statement.id)
            .limit(6)
        ).all()
    managers = {firm.id: firm.manager for firm in town.firms.values()}
    for number, (id, enterprise_id, name) in enumerate(in_review):
        if number == 0:
            _do_return(office, id, one, now)
            continue
        office.do(lambda session, id=id: statements.check(session, id, by=one, now=now))  # type: ignore[misc]
        office.do(lambda session, id=id: statements.approve(session, id, by=other, now=now))  # type: ignore[misc]
        if number == 1:
            continue
        _issue(office, id, other, now)
        if number == 2:
            _dispute(office, id, managers[enterprise_id], now)
        if number > 3:
            _pay(office, id, name, one, now)


def _do_return(office: Office, id: int, by: Actor, now: dt.datetime) -> None:
    reason = "有一次节点故障，请先核对抵扣。"
    office.do(lambda session: statements.return_(session, id, reason=reason, by=by, now=now))


def _issue(office: Office, id: int, by: Actor, now: dt.datetime) -> None:
    policy = office.policy.statements
    office.do(lambda session: statements.issue(session, id, issuer=month_end.issuer(), policy=policy, by=by, now=now))


def _dispute(office: Office, id: int, by: Actor, now: dt.datetime) -> None:
    def work(session: Session) -> None:
        line_id = session.scalars(
            sa.select(StatementLine.id).where(StatementLine.statement_id == id).order_by(StatementLine.position)
        ).first()
        assert line_id is not None
        disputes.open_dispute(
            session, line_id, reason="这项任务中断过两次，卡时与我方日志不符。", policy=office.policy.statements, by=by,
            now=now,
        )  # fmt: skip

    office.do(work)


def _pay(office: Office, id: int, name: str, by: Actor, now: dt.datetime) -> None:
    """Money and fapiao; the last payment makes it settled."""

    def work(session: Session) -> None:
        statement = session.get_one(Statement, id)
        amount = statement.amount_micro_yuan + statement.tax_micro_yuan
        payments.enter_payment(
            session, reference=f"ICBC-{statement.number}", amount_micro_yuan=amount, paid_on=clock.day_of(now),
            payer=name, note=f"算力服务费 {statement.number}", by=by, now=now,
        )  # fmt: skip
        payments.enter_fapiao(
            session, id, number=f"{26352000000000000000 + id}", amount_micro_yuan=amount,
            issued_on=clock.day_of(now), by=by, now=now,
        )  # fmt: skip

    office.do(work)
