"""The numbers of `config/policy.toml`, typed and checked. Handed to services as an argument, like the time."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Order = Literal["fifo", "sjf", "saf", "fair-tree", "small-first"]
Backfill = Literal["none", "easy"]


class PoolQueuePolicy(_Section):
    """What one pool does otherwise; None: as the others."""

    order: Order | None = None
    backfill: Backfill | None = None
    half_life_days: float | None = Field(default=None, gt=0, le=3_650)
    overuse_half_life_days: float | None = Field(default=None, gt=0, le=3_650)


class QueuePolicy(_Section):
    order: Order
    backfill: Backfill
    half_life_days: float = Field(gt=0, le=3_650)
    overuse_half_life_days: float = Field(gt=0, le=3_650)
    overuse_power: float = Field(ge=0, le=10)
    overuse_least: float = Field(gt=0, le=1)
    fair_heads: int = Field(ge=0, le=100)
    fair_below: float = Field(ge=0)
    promise_hours: float = Field(gt=0)
    promise_share: float = Field(ge=0, le=1)
    promise_reservations: int = Field(ge=0, le=100)
    cycle_seconds: int = Field(gt=0, le=300)
    standings_seconds: int = Field(gt=0)
    forecast_seconds: int = Field(ge=30)
    tries_before_set_aside: int = Field(gt=0)
    pools: dict[str, PoolQueuePolicy] = Field(default_factory=dict)  # by the pool's name

    @property
    def usage_half_life_days(self) -> float:
        """What the order in force decays usage with."""
        return self.overuse_half_life_days if self.order == "small-first" else self.half_life_days

    def of_pool(self, name: str) -> QueuePolicy:
        own = self.pools.get(name)
        return self if own is None else self.model_copy(update=own.model_dump(exclude_none=True))


class CancelStep(_Section):
    """Called off at least so many hours before the start, a fixed booking costs so much of its window."""

    hours_before: int = Field(ge=0)
    percent: int = Field(ge=0, le=100)


class BookingPolicy(_Section):
    fixed_longest_days: int = Field(gt=0)
    fixed_horizon_weeks: int = Field(gt=0)
    fixed_open_most: int = Field(gt=0)
    fixed_share_percent: int = Field(gt=0, le=100)
    flexible_shortest_minutes: int = Field(gt=0)
    flexible_longest_hours: int = Field(gt=0)
    undecided_lapses_hours_before: int = Field(ge=0)
    undecided_lapses_working_days: int = Field(gt=0)
    access_hook_seconds: int = Field(gt=0)
    cancel_steps: tuple[CancelStep, ...]
    quote_minutes: int = Field(gt=0)
    extend_within_hours: int = Field(gt=0)
    extend_until_minutes: int = Field(ge=1)
    claim_minutes: int = Field(gt=0)
    no_show_percent: int = Field(ge=0, le=100)
    no_show_most_hours: int = Field(ge=0)
    strikes_most: int = Field(gt=0)
    strikes_days: int = Field(gt=0)
    strikes_pause_days: int = Field(gt=0)
    option_minutes: int = Field(gt=0)
    waiting_most: int = Field(gt=0)
    offer_minutes: int = Field(gt=0)
    offers_most: int = Field(gt=0, le=20)
    offers_apart_hours: int = Field(gt=0)
    late_start_minutes: int = Field(gt=0)
    warn_before_end_minutes: tuple[int, ...]

    @model_validator(mode="after")
    def _falls(self) -> BookingPolicy:
        hours = [step.hours_before for step in self.cancel_steps]
        if not hours or hours[-1] != 0 or hours != sorted(set(hours), reverse=True):
            raise ValueError("cancel_steps begin with the most hours before the start and end with 0")
        return self


class MeteringPolicy(_Section):
    pass_seconds: int = Field(gt=0)
    close_month_after_hours: int = Field(ge=0)


class StatementPolicy(_Section):
    tax_permille: int = Field(ge=0, le=1000)
    rule_version: str
    payment_due_days: int = Field(gt=0)
    dispute_file_working_days: int = Field(gt=0)
    dispute_answer_working_days: int = Field(gt=0)
    metering_gap_hours: int = Field(gt=0)


class SignInPolicy(_Section):
    idle_minutes: int = Field(gt=0)
    absolute_hours: int = Field(gt=0)
    tries: int = Field(gt=0)
    pause_minutes: int = Field(gt=0)
    confirm_hours: int = Field(gt=0)
    reset_minutes: int = Field(gt=0, le=24 * 60)


class RetentionPolicy(_Section):
    """How long rows are kept that only matter for a while; the least is what an investigation may still need."""

    form_keys_days: int = Field(ge=1)
    sign_in_tries_days: int = Field(ge=1)
    one_time_links_days: int = Field(ge=1)
    invitations_days: int = Field(ge=1)
    sessions_days: int = Field(ge=1)
    timetable_runs_days: int = Field(ge=1)
    notices_days: int = Field(ge=30)
    estimates_days: int = Field(ge=90)  # ranges are learnt from them, and their coverage is shown
    access_log_days: int = Field(ge=180)  # network logs: at least six months, Cybersecurity Law art. 23


DocumentKind = Literal["business_licence", "sponsor_agreement", "authorisation", "other"]


class EnterprisesPolicy(_Section):
    documents_required: tuple[DocumentKind, ...]
    team_documents_required: tuple[DocumentKind, ...]
    breach_months: int = Field(gt=0)
    invitation_days: int = Field(gt=0)
    invitations_open_most: int = Field(gt=0)


class FilesPolicy(_Section):
    largest_megabytes: int = Field(gt=0, le=100)
    most_per_owner: int = Field(gt=0)


class ReviewPolicy(_Section):
    delegate_percent: int = Field(gt=100, le=400)
    appeal_file_working_days: int = Field(gt=0)
    appeal_decide_working_days: int = Field(gt=0)
    warn_ends_within_days: int = Field(ge=0)
    times_of_days: int = Field(gt=0)


class DeskPolicy(_Section):
    enterprise_days: int = Field(gt=0)
    report_days: int = Field(gt=0)
    failed_days: int = Field(gt=0)


class AuditPolicy(_Section):
    """How an audit of subsidies holds metered hours against electricity."""

    pue_permille: int = Field(ge=1000, le=3000)
    power_least_percent: int = Field(ge=0, le=100)
    sample_most: int = Field(gt=0, le=500)


class NoticesPolicy(_Section):
    digest_hour: int = Field(ge=0, le=23)


class CommonsPolicy(_Section):
    """What the public figures look back on, and how many must stand behind a number."""

    least: int = Field(ge=2)
    times_of_days: int = Field(gt=0)
    waits_of_days: int = Field(gt=0)
    transitions_of_months: int = Field(gt=0)
    transition_within_months: int = Field(gt=0)
    again_days: int = Field(gt=0)
    farthest_days: int = Field(ge=31)


class Policy(_Section):
    queue: QueuePolicy
    bookings: BookingPolicy
    metering: MeteringPolicy
    statements: StatementPolicy
    sign_in: SignInPolicy
    retention: RetentionPolicy
    enterprises: EnterprisesPolicy
    files: FilesPolicy
    review: ReviewPolicy
    desk: DeskPolicy
    audit: AuditPolicy
    commons: CommonsPolicy
    notices: NoticesPolicy


class PolicyError(SystemExit):
    """The policy file is missing or wrong; the text says where. Exit code 2."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(2)

    def __str__(self) -> str:
        return self.text


def load_policy(path: Path) -> Policy:
    try:
        return Policy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise PolicyError(f"{path}: there is no such policy file") from None
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{path}: {error}") from None
    except ValidationError as error:
        where = [f"{path}: {'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()]
        raise PolicyError("\n".join(where)) from None
