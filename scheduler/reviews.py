"""Reviews by the clock: late steps are told of and given to somebody else, letters are made. Nothing is ever refused.

Each piece is done once, also after a restart: its row says that it was.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from functools import cache

from sqlalchemy.orm import Session

from compute_portal import policy_versions
from compute_portal.review import appeals, letters, service
from compute_portal.review.letters import Bureau, MissingGlyphs
from config.settings import load_settings
from scheduler.context import Context, PassFailed, in_batches
from scheduler.phases import phase

log = logging.getLogger(__name__)
LETTERS_AT_ONCE = 50


def run(context: Context, now: dt.datetime) -> int:
    """Returns how much was done. Raises PassFailed naming what could not be."""
    problems: list[str] = []
    done = 0
    _keep_policy(context, now)
    for duty in (watch, issue_letters):
        try:
            with phase(duty.__name__.replace("_", "-")):
                done += duty(context, now)
        except PassFailed as failure:
            problems.append(str(failure))
    if problems:
        raise PassFailed("; ".join(problems))
    return done


def _keep_policy(context: Context, now: dt.datetime) -> None:
    """The policy this process works with has its row from its first minute on."""
    with context.database.read_only() as session:
        known = policy_versions.newest(session)
    if known is None or known.sha256 != policy_versions.fingerprint(context.policy):
        context.transact(lambda session: policy_versions.keep(session, context.policy, now=now).id)


def watch(context: Context, now: dt.datetime) -> int:
    """Steps and appeals that are late are escalated; steps that are far too late get another reviewer."""
    percent = context.policy.review.delegate_percent
    duties: tuple[tuple[str, Callable[[Session], list[int]], Callable[[Session, int], object]], ...] = (
        ("escalate", lambda s: service.list_late(s, now), lambda s, id: service.escalate(s, id, now=now)),
        (
            "delegate",
            lambda s: service.list_very_late(s, now, percent),
            lambda s, id: service.delegate(s, id, now=now),
        ),
        ("escalate appeal", lambda s: appeals.list_late(s, now), lambda s, id: appeals.escalate(s, id, now=now)),
    )
    failed: list[str] = []
    done = 0
    for name, find, act in duties:
        with context.database.read_only() as session:
            ids = find(session)
        problems: list[str] = []

        def work(session: Session, some: Sequence[int], act: Callable[[Session, int], object] = act) -> None:
            for id in some:
                act(session, id)

        def bad(id: int, error: Exception, name: str = name, problems: list[str] = problems) -> None:
            problems.append(f"{name} {id}: {error}")

        in_batches(context, ids, work, bad, size=1)
        done += len(ids) - len(problems)
        failed += problems
    if failed:
        raise PassFailed("; ".join(failed))
    return done


@cache
def _bureau() -> Bureau:
    settings = load_settings()
    return Bureau(settings.bureau_name_zh, settings.bureau_name_en, settings.service_name_zh, settings.service_name_en)


def issue_letters(context: Context, now: dt.datetime) -> int:
    """Read, set the letter outside of any transaction, keep it. One that cannot be set stops no other."""
    failed: list[str] = []
    done = 0
    with context.database.read_only() as session:
        waiting = letters.list_without_letter(session, LETTERS_AT_ONCE)
    for decision_id in waiting:
        context.alive()
        with context.database.read_only() as session:
            inputs = letters.gather(session, decision_id, _bureau(), context.policy.review)
        try:
            content = letters.make_pdf(inputs, now)
        except MissingGlyphs as missing:
            failed.append(f"letter of decision {decision_id}: {missing}")
            continue

        def work(
            session: Session, id: int = decision_id, inputs: dict[str, object] = inputs, content: bytes = content
        ) -> int:
            return letters.keep(session, id, inputs, content, now=now).id

        context.transact(work)
        done += 1
    if failed:
        raise PassFailed("; ".join(failed))
    return done
