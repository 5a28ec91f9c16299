"""The numbers of `config/policy.toml`, typed and checked. Handed to services as an argument, like the time."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QueuePolicy(_Section):
    half_life_days: float = Field(gt=0)
    cycle_seconds: int = Field(gt=0, le=300)
    standings_seconds: int = Field(gt=0)
    tries_before_set_aside: int = Field(gt=0)


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


class MeteringPolicy(_Section):
    pass_seconds: int = Field(gt=0)
    close_month_after_hours: int = Field(ge=0)


class StatementPolicy(_Section):
    tax_permille: int = Field(ge=0, le=1000)
    rule_version: str


class SignInPolicy(_Section):
    idle_minutes: int = Field(gt=0)
    absolute_hours: int = Field(gt=0)
    tries: int = Field(gt=0)
    pause_minutes: int = Field(gt=0)


class Policy(_Section):
    queue: QueuePolicy
    bookings: BookingPolicy
    metering: MeteringPolicy
    statements: StatementPolicy
    sign_in: SignInPolicy


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
