"""Another look: in time, by another person, counted and published; and the letter that says what was decided."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io

import pypdf
import pytest
import sqlalchemy as sa

from compute_portal import units, verify
from compute_portal.access import Actor
from compute_portal.allocations.states import AllocationState
from compute_portal.enterprises.models import Enterprise
from compute_portal.ledger.queries import balance
from compute_portal.policy import Policy
from compute_portal.policy_versions import PolicyVersion
from compute_portal.review import appeals, letters, queries
from compute_portal.review.letters import Bureau, MissingGlyphs
from compute_portal.review.models import Appeal, Letter
from compute_portal.review.states import AppealState
from compute_portal.sentences import NotFound, Refusal
from tests.cast import NOW, Cast
from tests.compute_portal.review.house import allocation, approve, ask, at, decision, decline

BUREAU = Bureau("云屿市人工智能局", "Yunyu Bureau of Artificial Intelligence", "算力公共服务平台", "Compute Commons")
LAST = at(2026, 12, 2, 18, 0)  # ten working days after Wednesday 18 November


def file(cast: Cast, id: int, policy: Policy, *, now: dt.datetime = NOW, by: Actor | None = None) -> int:
    return cast.database.transaction(
        lambda s: appeals.file(s, id, text="漏看了附件", policy=policy.review, by=by or cast.manager, now=now).id
    )


def uphold(
    cast: Cast, appeal: int, policy: Policy, hours: int = 9_000, by: str = "wu", reason: str = "补充成立"
) -> None:
    cast.database.transaction(
        lambda s: appeals.uphold(
            s, appeal, awarded_gpu_seconds=units.gpu_seconds(hours), reason=reason, policy=policy, by=cast.actor(by),
            now=NOW,
        ).id
    )  # fmt: skip


def get(cast: Cast, appeal: int) -> Appeal:
    with cast.database.read_only() as session:
        return session.get_one(Appeal, appeal)


def test_an_appeal_is_taken_until_the_last_second_of_the_tenth_working_day(cast: Cast, policy: Policy) -> None:
    in_time, late = ask(cast), ask(cast)
    for id in (in_time, late):
        decline(cast, id, policy)
    appeal = get(cast, file(cast, in_time, policy, now=LAST))
    assert appeal.due_at == at(2026, 12, 16, 18, 0)
    with pytest.raises(Refusal) as refused:
        file(cast, late, policy, now=LAST + dt.timedelta(seconds=1))
    assert refused.value.sentence.id == "appeal-too-late" and refused.value.sentence["until"] == LAST
    with pytest.raises(Refusal) as refused:
        file(cast, in_time, policy, now=LAST)
    assert refused.value.sentence.id == "appeal-only-once"


def test_only_the_own_manager_appeals_and_only_against_less_than_was_asked(cast: Cast, policy: Policy) -> None:
    whole, waiting, refused_one = ask(cast), ask(cast), ask(cast)
    approve(cast, whole, policy)
    decline(cast, refused_one, policy)
    for id in (whole, waiting):
        with pytest.raises(Refusal) as refused:
            file(cast, id, policy)
        assert refused.value.sentence.id == "appeal-nothing-to"
    with pytest.raises(NotFound):
        file(cast, refused_one, policy, by=cast.stranger)
    with pytest.raises(Refusal):
        file(cast, refused_one, policy, by=cast.member)


def test_who_decided_cannot_decide_the_appeal_and_another_person_can(cast: Cast, policy: Policy) -> None:
    id = ask(cast)
    decline(cast, id, policy)
    appeal = file(cast, id, policy)
    with pytest.raises(Refusal) as refused:
        uphold(cast, appeal, policy, by="zhou")
    assert refused.value.sentence.id == "appeal-other-person"
    for hours, reason, field in ((9_001, "x", "awarded_hours"), (9_000, " ", "reason")):
        with pytest.raises(Refusal) as refused:
            uphold(cast, appeal, policy, hours, reason=reason)
        assert refused.value.field == field
    uphold(cast, appeal, policy)
    assert allocation(cast, id).state is AllocationState.ACTIVE
    assert get(cast, appeal).state is AppealState.UPHELD
    assert decision(cast, id).approved is False and decision(cast, id, on_appeal=True).approved is True
    with cast.database.read_only() as session:
        assert balance(session, id).awarded == units.gpu_seconds(9_000)
        assert verify.run(session) == []
    with pytest.raises(Refusal):
        uphold(cast, appeal, policy, by="an")


def test_an_upheld_appeal_against_a_cut_adds_what_was_missing(cast: Cast, policy: Policy) -> None:
    id = ask(cast)
    approve(cast, id, policy, hours=5_000, reason_code="size", reason="按规模")
    appeal = file(cast, id, policy)
    with pytest.raises(Refusal) as refused:
        uphold(cast, appeal, policy, 5_000)
    assert refused.value.field == "awarded_hours"
    uphold(cast, appeal, policy, 8_000)
    with cast.database.read_only() as session:
        assert balance(session, id).available == units.gpu_seconds(8_000) == allocation(cast, id).awarded_gpu_seconds
        assert verify.run(session) == []


def test_a_dismissed_appeal_leaves_the_decision_and_all_outcomes_are_counted(cast: Cast, policy: Policy) -> None:
    ids = [ask(cast) for _ in range(3)]
    for id in ids:
        decline(cast, id, policy)
    first, second, _open = (file(cast, id, policy) for id in ids)
    uphold(cast, first, policy)
    too_late = at(2026, 12, 3, 9, 0)
    cast.database.transaction(
        lambda s: appeals.dismiss(s, second, reason="依据充分", policy=policy, by=cast.actor("wu"), now=too_late).id
    )
    assert allocation(cast, ids[1]).state is AllocationState.DECLINED
    with cast.database.read_only() as session:
        found = queries.appeal_numbers(session, since=NOW - dt.timedelta(days=1))
        assert appeals.list_late(session, too_late) == [_open]
    assert dataclasses.astuple(found) == (3, 1, 1, 1, 1)


# -- the letter


def letter_of(cast: Cast, policy: Policy, id: int, *, on_appeal: bool = False) -> tuple[Letter, str]:
    """Made as the scheduler makes it; with the text that a reader's program finds in it."""
    of = decision(cast, id, on_appeal=on_appeal).id
    with cast.database.read_only() as session:
        inputs = letters.gather(session, of, BUREAU, policy.review)
    content = letters.make_pdf(inputs, NOW)
    assert content == letters.make_pdf(inputs, NOW), "the same inputs give the same bytes"
    kept = cast.database.transaction(lambda s: letters.keep(s, of, inputs, content, now=NOW).id)
    assert cast.database.transaction(lambda s: letters.keep(s, of, inputs, b"other", now=NOW).id) == kept
    with cast.database.read_only() as session:
        letter = letters.get_letter(session, kept, cast.manager)
    pages = pypdf.PdfReader(io.BytesIO(letter.content)).pages
    assert len(pages) == 2
    return letter, " ".join(" ".join(page.extract_text().split()) for page in pages)


def test_the_letter_says_in_both_languages_what_was_decided_and_quotes_the_rules_versions(
    cast: Cast, policy: Policy
) -> None:
    id = ask(cast)
    approve(cast, id, policy, hours=5_000, reason_code="size", reason="按 *规模* #核算 $x$ 与 <b>")
    letter, text = letter_of(cast, policy, id)
    kept = decision(cast, id)
    with cast.database.read_only() as session:
        version = session.get_one(PolicyVersion, kept.policy_version_id)
    assert letter.number == f"2026-{id:06}-1"
    for said in (
        "Yusheng Voice", "5,000", "9,000", "version 1", f"version {version.id} of 18 November 2026",
        version.sha256[:16], "Estimated from the size of model and data", "2 December 2026", "10 working days",
    ):  # fmt: skip
        assert said in text, said
    joined = text.replace(" ", "")
    for said in ("屿声科技", "按模型和数据规模核算", "按*规模*#核算$x$与<b>", "2026年12月2日", "第1版"):
        assert said in joined, said


def test_a_letter_is_for_its_company_and_the_bureau_and_stays_as_it_was_issued(cast: Cast, policy: Policy) -> None:
    id = ask(cast)
    decline(cast, id, policy)
    letter, text = letter_of(cast, policy, id)
    assert "do not approve" in text
    with cast.database.read_only() as session:
        assert letters.get_letter(session, letter.id, cast.auditor).sha256 == letter.sha256
        with pytest.raises(NotFound):
            letters.get_letter(session, letter.id, cast.stranger)
    with pytest.raises(sa.exc.DBAPIError):
        cast.database.transaction(lambda s: s.execute(sa.update(Letter).values(content=b"x")))
    appeal = file(cast, id, policy)
    uphold(cast, appeal, policy)
    again, text = letter_of(cast, policy, id, on_appeal=True)
    assert again.number.endswith("-2") and "On your appeal" in text


def test_a_character_that_the_font_cannot_show_is_named_instead_of_left_out(cast: Cast, policy: Policy) -> None:
    id = ask(cast)
    approve(cast, id, policy)
    cast.database.transaction(
        lambda s: s.execute(sa.update(Enterprise).where(Enterprise.id == cast.yusheng).values(name="𬭎声科技"))
    )
    with cast.database.read_only() as session:
        inputs = letters.gather(session, decision(cast, id).id, BUREAU, policy.review)
    with pytest.raises(MissingGlyphs, match=r"U\+2CB4E"):
        letters.make_pdf(inputs, NOW)
    assert {ord(letter) for letter in "镕喆堃㙍·“”—¥−"} - letters.coverage() == {ord("㙍")}
