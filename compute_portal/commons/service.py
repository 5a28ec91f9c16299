"""Datasets of the catalogue, sites with electric power, and research that became a product: the bureau's entries."""

from __future__ import annotations

import calendar
import datetime as dt
from dataclasses import asdict, dataclass
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, Permission, require
from ..allocations.models import Allocation
from ..allocations.states import AllocationState
from ..lifecycle import begin, move_to, note_event
from ..policy import CommonsPolicy
from ..sentences import NotFound, Refusal, Sentence
from .models import Dataset, PowerSite, Transition
from .states import DatasetState, SiteState, Tier, TransitionState

Kept = TypeVar("Kept", Dataset, PowerSite, Transition)
GRANTED = (AllocationState.ACTIVE, AllocationState.SUSPENDED, AllocationState.CLOSED)


@dataclass(frozen=True, slots=True)
class DatasetText:
    """What the catalogue says of a dataset."""

    name: str
    name_en: str
    steward: str
    steward_en: str
    tier: Tier
    how_to_ask: str
    how_to_ask_en: str


def list_dataset(session: Session, text: DatasetText, *, by: Actor, now: dt.datetime) -> Dataset:
    """Raises Refusal("name-is-taken") at `name`."""
    require(by, Permission.DATASET_LIST)
    _must_be_new(session, Dataset, text.name)
    dataset = Dataset(state=DatasetState.LISTED, changed_at=now, **asdict(text))
    session.add(dataset)
    begin(session, dataset, verb="list", at=now, by=by)
    return dataset


def edit_dataset(
    session: Session, dataset_id: int, text: DatasetText, *, why: str, by: Actor, now: dt.datetime
) -> Dataset:
    """What it said before goes into its history. Raises Refusal at `name`, or when nothing differs."""
    require(by, Permission.DATASET_EDIT)
    dataset = _locked(session, Dataset, dataset_id)
    values = asdict(text)
    if all(getattr(dataset, name) == value for name, value in values.items()):
        raise Refusal(Sentence("nothing-changed"))
    if dataset.name != text.name:
        _must_be_new(session, Dataset, text.name)
    before = Sentence(
        "dataset-said", name=dataset.name, name_en=dataset.name_en, steward=dataset.steward,
        tier=f"tier-{dataset.tier}", ask=dataset.how_to_ask,
    )  # fmt: skip
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.changed_at = now
    session.flush()
    note_event(session, dataset, verb="edit", at=now, by=by, why=before, note=why)
    return dataset


def retire_dataset(session: Session, dataset_id: int, *, why: str, by: Actor, now: dt.datetime) -> Dataset:
    """It leaves the public catalogue; the bureau still finds it."""
    require(by, Permission.DATASET_RETIRE)
    dataset = _locked(session, Dataset, dataset_id)
    dataset.changed_at = now
    move_to(session, dataset, DatasetState.RETIRED, verb="retire", at=now, by=by, note=why)
    return dataset


def relist_dataset(session: Session, dataset_id: int, *, why: str, by: Actor, now: dt.datetime) -> Dataset:
    require(by, Permission.DATASET_LIST)
    dataset = _locked(session, Dataset, dataset_id)
    dataset.changed_at = now
    move_to(session, dataset, DatasetState.LISTED, verb="relist", at=now, by=by, note=why)
    return dataset


# -- electric power ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SiteStage:
    """Where a site's power stands, since which day, and what shows it."""

    state: SiteState
    kilowatts: int
    since_on: dt.date
    evidence: str
    link: str | None


def enter_site(
    session: Session, name: str, name_en: str, stage: SiteStage, *, by: Actor, now: dt.datetime
) -> PowerSite:
    """Raises Refusal at `name` or `since_on`."""
    require(by, Permission.FIGURE_ENTER)
    _must_be_new(session, PowerSite, name)
    _not_to_come(stage.since_on, "since_on", now)
    site = PowerSite(name=name, name_en=name_en, changed_at=now, **asdict(stage))
    session.add(site)
    begin(session, site, verb="enter", at=now, by=by)
    return site


def move_site(session: Session, site_id: int, stage: SiteStage, *, by: Actor, now: dt.datetime) -> PowerSite:
    """To another stage, or to other numbers or evidence of the same. What it said before goes into its history."""
    require(by, Permission.FIGURE_ENTER)
    site = _locked(session, PowerSite, site_id)
    _not_to_come(stage.since_on, "since_on", now)
    before = Sentence("site-said", n=site.kilowatts, day=site.since_on, evidence=site.evidence)
    same = site.state is stage.state
    if same and (site.kilowatts, site.since_on, site.evidence, site.link) == (
        stage.kilowatts, stage.since_on, stage.evidence, stage.link,
    ):  # fmt: skip
        raise Refusal(Sentence("nothing-changed"))
    if not same and not PowerSite.LIFE.allows(site.state, stage.state):
        raise Refusal(Sentence("site-cannot-go-there"), "state")
    site.kilowatts, site.since_on = stage.kilowatts, stage.since_on
    site.evidence, site.link, site.changed_at = stage.evidence, stage.link, now
    if same:
        session.flush()
        note_event(session, site, verb="edit", at=now, by=by, why=before)
    else:
        move_to(session, site, stage.state, verb="move", at=now, by=by, why=before)
    return site


# -- research that became a product -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewTransition:
    allocation_id: int
    happened_on: dt.date
    name: str
    name_en: str
    evidence: str
    link: str | None


def record_transition(
    session: Session, asked: NewTransition, *, policy: CommonsPolicy, by: Actor, now: dt.datetime
) -> Transition:
    """A dated event with evidence, while the allocation ran or within the months after it; once for each allocation.

    Raises Refusal at `allocation_id` or `happened_on`.
    """
    require(by, Permission.FIGURE_ENTER)
    allocation = session.get(Allocation, asked.allocation_id)
    if allocation is None or allocation.state not in GRANTED:
        raise Refusal(Sentence("no-such-award"), "allocation_id")
    _not_to_come(asked.happened_on, "happened_on", now)
    last = months_later(allocation.ends_on, policy.transition_within_months)
    if not allocation.starts_on <= asked.happened_on <= last:
        raise Refusal(Sentence("transition-outside", first=allocation.starts_on, last=last), "happened_on")
    known = session.scalar(
        sa.select(Transition.id).where(
            Transition.allocation_id == asked.allocation_id, Transition.state == TransitionState.RECORDED
        )
    )
    if known is not None:
        raise Refusal(Sentence("transition-counts-once"), "allocation_id")
    transition = Transition(state=TransitionState.RECORDED, changed_at=now, **asdict(asked))
    session.add(transition)
    begin(session, transition, verb="record", at=now, by=by)
    return transition


def withdraw_transition(session: Session, transition_id: int, *, why: str, by: Actor, now: dt.datetime) -> Transition:
    require(by, Permission.FIGURE_ENTER)
    transition = _locked(session, Transition, transition_id)
    transition.changed_at = now
    move_to(session, transition, TransitionState.WITHDRAWN, verb="withdraw", at=now, by=by, note=why)
    return transition


def months_later(day: dt.date, months: int) -> dt.date:
    """The same day so many months later, or earlier; the month's last day where it has no such day."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return dt.date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def _not_to_come(day: dt.date, field: str, now: dt.datetime) -> None:
    if day > clock.day_of(now):
        raise Refusal(Sentence("day-is-to-come"), field)


def _must_be_new(session: Session, kind: type[Dataset] | type[PowerSite], name: str) -> None:
    if session.scalar(sa.select(kind.id).where(kind.name == name)) is not None:
        raise Refusal(Sentence("name-is-taken"), "name")


def _locked(session: Session, kind: type[Kept], id: int) -> Kept:
    found = session.get(kind, id, with_for_update=True, populate_existing=True)
    if found is None:
        raise NotFound
    return found
