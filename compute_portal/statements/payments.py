"""What the bank reports and which fapiao were made out, matched with statements; what does not fit waits on a list."""

from __future__ import annotations

import datetime as dt
import re

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import units
from ..access import Actor, Permission, require
from ..db import lock
from ..enterprises.models import Enterprise
from ..lifecycle import note_event
from ..sentences import NotFound, Refusal, Sentence
from . import queries
from .models import Fapiao, Payment, Statement
from .service import has_open_dispute, locked, settle
from .states import FINAL, StatementState

NUMBER = re.compile(r"S-20\d{4}-\d{5,}")
FAPIAO = re.compile(r"\d{20}")


def enter_payment(
    session: Session,
    *,
    reference: str,
    amount_micro_yuan: int,
    paid_on: dt.date,
    payer: str,
    note: str = "",
    by: Actor,
    now: dt.datetime,
) -> Payment:
    """Money came in. It is matched at once when its note names a statement, or payer and amount fit exactly one.

    Raises Refusal at `reference` when the bank's reference was entered before, at `amount` when it is not whole fen.
    """
    require(by, Permission.PAYMENT_ENTER)
    _whole_fen(amount_micro_yuan)
    if session.scalar(sa.select(Payment.id).where(Payment.reference == reference)) is not None:
        raise Refusal(Sentence("payment-known", reference=reference), "reference")
    payment = Payment(
        reference=reference,
        amount_micro_yuan=amount_micro_yuan,
        paid_on=paid_on,
        payer=payer,
        note=note,
        entered_by=by.user_id,
        entered_at=now,
    )
    session.add(payment)
    session.flush()
    statement_id = _find_statement(session, payment)
    if statement_id is not None:
        _match(session, payment, locked(session, statement_id), by, now)
    return payment


def _find_statement(session: Session, payment: Payment) -> int | None:
    named = NUMBER.search(payment.note)
    final = Statement.state.in_(FINAL)
    if named is not None:
        return session.scalar(sa.select(Statement.id).where(Statement.number == named[0], final))
    fitting = session.scalars(
        sa.select(Statement.id)
        .join(Enterprise, Enterprise.id == sa.func.coalesce(Statement.sponsor_id, Statement.enterprise_id))
        .where(
            Enterprise.name == payment.payer,
            Statement.state == StatementState.ISSUED,
            Statement.amount_micro_yuan + Statement.tax_micro_yuan == payment.amount_micro_yuan,
            sa.not_(sa.exists().where(Payment.statement_id == Statement.id)),
        )
        .limit(2)
    ).all()
    return fitting[0] if len(fitting) == 1 else None


def match(session: Session, payment_id: int, number: str, *, by: Actor, now: dt.datetime) -> Payment:
    """A person says which statement it pays. Raises Refusal at `number` when there is no such issued statement."""
    require(by, Permission.PAYMENT_MATCH)
    payment = lock(session, Payment, payment_id)
    if payment is None:
        raise NotFound
    if payment.statement_id is not None:
        raise Refusal(Sentence("payment-matched-already"))
    statement_id = session.scalar(
        sa.select(Statement.id).where(Statement.number == number.strip().upper(), Statement.state.in_(FINAL))
    )
    if statement_id is None:
        raise Refusal(Sentence("no-issued-statement", number=number.strip()), "number")
    _match(session, payment, locked(session, statement_id), by, now)
    return payment


def _match(session: Session, payment: Payment, statement: Statement, by: Actor, now: dt.datetime) -> None:
    payment.statement_id, payment.matched_by, payment.matched_at = statement.id, by.user_id, now
    session.flush()
    note_event(
        session, statement, verb="pay", at=now, by=by,
        why=Sentence("payment-received", amount=payment.amount_micro_yuan, on=payment.paid_on),
    )  # fmt: skip
    paid = queries.paid_micro_yuan(session, statement.id)
    whole = paid == statement.amount_micro_yuan + statement.tax_micro_yuan
    if whole and statement.state is StatementState.ISSUED and not has_open_dispute(session, statement.id):
        settle(session, statement.id, by=by, now=now)


def unmatch(session: Session, payment_id: int, *, by: Actor, now: dt.datetime) -> Payment:
    """It was matched with the wrong statement, which is not settled yet. Twice changes nothing.

    Raises Refusal("settled-stays").
    """
    require(by, Permission.PAYMENT_MATCH)
    payment = lock(session, Payment, payment_id)
    if payment is None:
        raise NotFound
    if payment.statement_id is None:
        return payment
    statement = locked(session, payment.statement_id)
    if statement.state is StatementState.SETTLED:
        raise Refusal(Sentence("settled-stays"))
    payment.statement_id = payment.matched_by = payment.matched_at = None
    note_event(
        session, statement, verb="unpay", at=now, by=by,
        why=Sentence("payment-taken-back", amount=payment.amount_micro_yuan),
    )  # fmt: skip
    return payment


def enter_fapiao(
    session: Session,
    statement_id: int,
    *,
    number: str,
    amount_micro_yuan: int,
    issued_on: dt.date,
    by: Actor,
    now: dt.datetime,
) -> Fapiao:
    """A fapiao was made out. Another amount than payable is kept, and stands on the reconcile list.

    Raises Refusal at `number` when it is not 20 digits or known, Refusal("not-issued-yet").
    """
    require(by, Permission.FAPIAO_ENTER)
    _whole_fen(amount_micro_yuan)
    if not FAPIAO.fullmatch(number):
        raise Refusal(Sentence("fapiao-20-digits"), "number")
    if session.scalar(sa.select(Fapiao.id).where(Fapiao.number == number)) is not None:
        raise Refusal(Sentence("fapiao-known", number=number), "number")
    statement = locked(session, statement_id)
    if statement.state not in FINAL:
        raise Refusal(Sentence("not-issued-yet"))
    fapiao = Fapiao(
        number=number,
        amount_micro_yuan=amount_micro_yuan,
        issued_on=issued_on,
        statement_id=statement.id,
        entered_by=by.user_id,
        entered_at=now,
    )
    session.add(fapiao)
    session.flush()
    note_event(
        session, statement, verb="fapiao", at=now, by=by,
        why=Sentence("fapiao-entered", number=number, amount=amount_micro_yuan),
    )  # fmt: skip
    return fapiao


def _whole_fen(amount: int) -> None:
    if amount <= 0 or amount % units.MICRO_PER_FEN:
        raise Refusal(Sentence("amount-in-fen"), "amount")
