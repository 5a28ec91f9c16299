"""One-time links: good once however many come at the same moment, and no sign of who is registered."""

from __future__ import annotations

import time
from typing import Any

import pytest
import sqlalchemy as sa

from compute_portal.policy import Policy
from compute_portal.sentences import Refusal
from compute_portal.signin import accounts, links
from compute_portal.signin.models import OneTimeLink
from tests.cast import NOW, Cast
from tests.together import at_once


def test_of_two_who_take_a_link_at_once_one_gets_it(cast: Cast) -> None:
    token = cast.database.transaction(
        lambda s: links.make(s, accounts.RESET, cast.users["lin"], "lin@example.cn", 1_800, NOW)
    )

    def take() -> Any:
        def work(session: Any) -> int:
            link = links.take(session, token, accounts.RESET, NOW)
            time.sleep(0.1)
            return link.id

        return cast.database.transaction(work)

    results = at_once(take, take)
    assert [result.sentence.id for result in results if isinstance(result, Refusal)] == ["link-over"]
    assert sum(isinstance(result, int) for result in results) == 1


def test_asking_for_a_new_password_writes_for_everybody(cast: Cast, policy: Policy) -> None:
    """A transaction that writes nothing is over measurably sooner than one that does."""
    for email in ("nobody@example.cn", "lin@example.cn"):
        before = _links(cast)
        cast.database.transaction(
            lambda s, email=email: accounts.ask_reset(s, email, policy=policy.sign_in, now=NOW)  # type: ignore[misc]
        )
        assert _links(cast) == before + 1, email
    with cast.database.read_only() as session:
        dead = session.scalars(sa.select(OneTimeLink).where(OneTimeLink.subject_id.is_(None))).one()
    assert dead.address == "", "and keeps nobody's address"


def _links(cast: Cast) -> int:
    with cast.database.read_only() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(OneTimeLink)) or 0


@pytest.mark.parametrize("token", ["", "x", "' OR 1=1 --", "A" * 5_000, "\u4e2d\u6587"])
def test_a_token_that_nobody_got_opens_nothing(cast: Cast, token: str) -> None:
    for work in (links.look, links.take):
        with pytest.raises(Refusal) as refused:
            cast.database.transaction(lambda s, work=work: work(s, token, accounts.RESET, NOW))  # type: ignore[misc]
        assert refused.value.sentence.id == "link-over"
