"""The bureau's list of enterprises, an enterprise's members, and one enterprise as a whole."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from compute_portal.access import Role
from compute_portal.enterprises import membership, service
from compute_portal.enterprises.models import Enterprise, Invitation
from compute_portal.enterprises.queries import standing_of
from compute_portal.enterprises.states import SizeClass
from compute_portal.files.models import File
from compute_portal.notices.models import Notice
from compute_portal.policy import Policy
from compute_portal.signin import service as signin
from tests.cast import NOW, Cast
from tests.compute_portal.enterprises.test_service import GOOD_CODE, ODD_CODE, PDF, newcomer, register
from tests.web import Queries, make_app, post, rows_in, set_now, sign_in, words


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def test_the_bureau_finds_enterprises_by_name_and_credit_code(app: Flask, cast: Cast) -> None:
    for name in ("zhou", "he", "xu", "an"):
        client = sign_in(app, cast.users[name], language="en")
        assert "2 enterprises are registered" in words(client.get("/enterprises"))
        for part, found in [("屿声", "Yusheng Voice"), ("LUYU", "Luyu Vision"), ("8461136t", "Yusheng Voice")]:
            page = words(client.get("/enterprises", query_string={"find": part}))
            assert "One enterprise fits" in page
            assert found in page


@pytest.mark.parametrize("part", ["%", "_", "\\", "' OR 1=1 --", "\0", "x" * 5000, "<b>"])
def test_a_strange_search_finds_nothing_and_breaks_nothing(app: Flask, cast: Cast, part: str) -> None:
    answer = sign_in(app, cast.users["zhou"], language="en").get("/enterprises", query_string={"find": part})
    assert answer.status_code == 200
    assert ("No enterprise fits" in words(answer)) == (part != "\0")


def test_a_member_is_led_to_the_own_enterprise(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["chen"], language="en")
    assert client.get("/enterprises").location == f"/enterprises/{cast.yusheng}"
    page = words(client.get(f"/enterprises/{cast.yusheng}"))
    assert "Yusheng Voice" in page
    assert "20,000.00" in page
    assert client.get(f"/enterprises/{cast.luyu}").status_code == 404
    assert client.get("/enterprises/999").status_code == 404


def test_the_page_of_an_enterprise_shows_allocations_members_limits_and_use(app: Flask, cast: Cast) -> None:
    cast.limit(cast.yusheng, 24)
    page = words(sign_in(app, cast.users["zhou"], language="en").get(f"/enterprises/{cast.yusheng}"))
    assert "Credit code 91440300708461136T · Small" in page
    assert "Lin Xiaohe enterprise manager" in page
    assert "Cards at once H800 24 cards" in page
    assert "Used in November 2026 0" in page
    assert "lin@example.cn" not in page


def test_members_lists_the_people_of_the_own_enterprise_only(app: Flask, cast: Cast) -> None:
    page = words(sign_in(app, cast.users["chen"], language="en").get("/members"))
    assert "2 people act for Yusheng Voice" in page
    assert "Chen Yi (you) member chen@example.cn" in page
    assert "Mei Lan" not in page


def test_somebody_whose_access_was_taken_away_is_no_longer_listed(app: Flask, cast: Cast) -> None:
    cast.database.transaction(lambda s: signin.disable_person(s, cast.users["lin"], now=NOW))
    page = words(sign_in(app, cast.users["chen"], language="en").get("/members"))
    assert "One person acts for Yusheng Voice" in page
    assert "Lin Xiaohe" not in page


def test_the_bureau_has_no_members_page_of_its_own(app: Flask, cast: Cast) -> None:
    assert sign_in(app, cast.users["zhou"]).get("/members").location == "/enterprises"


# -- registration

TYPED = {
    "name": "沐风气象",
    "name_en": "Mufeng Weather",
    "credit_code": GOOD_CODE,
    "size_class": "small",
    "contact_name": "顾言",
    "contact_phone": "0592 518 2230",
    "address": "湖里区火炬路 56 号",
}


def test_a_person_registers_an_enterprise_and_acts_for_it_at_once(app: Flask, cast: Cast) -> None:
    client = sign_in(app, newcomer(cast).user_id or 0, language="en")
    answer = post(client, "/enterprises/register", TYPED)
    assert answer.status_code == 302
    page = words(client.get(answer.location))
    assert "Verification needs more" in page
    assert "Missing: Business licence" in page
    assert client.get("/start").status_code == 200


WRONG = [
    ("name", "", "This is needed."),
    ("name", "屿声科技", "An enterprise of this name is registered already."),
    ("credit_code", "9144", "A credit code has 18 characters; this one has 4."),
    ("credit_code", "9144030070846113OT", "but for I, O, S, V and Z"),
    ("credit_code", "91440300708461136T", "registered already. Ask its manager for an invitation"),
    ("credit_code", "", "for a team without one the credit code of its sponsor"),
    ("sponsor_code", "91440300708461136T", "leave one of the two empty"),
    ("size_class", "giant", "Choose one of the list."),
    ("contact_phone", " ", "This is needed."),
]


def test_what_is_wrong_is_said_at_its_field_and_nothing_typed_is_lost(app: Flask, cast: Cast) -> None:
    client = sign_in(app, newcomer(cast).user_id or 0, language="en")
    for field, typed, sentence in WRONG:
        answer = post(client, "/enterprises/register", TYPED | {field: typed})
        assert answer.status_code == 422
        assert re.search(rf'id="{field}-error".*?{re.escape(sentence)}', answer.text, re.S), (field, typed)
        assert "湖里区火炬路 56 号" in answer.text
    assert rows_in(cast.database, Enterprise) == 2


def test_a_taken_code_says_nothing_about_whose_it_is(app: Flask, cast: Cast) -> None:
    client = sign_in(app, newcomer(cast).user_id or 0, language="en")
    page = post(client, "/enterprises/register", TYPED | {"credit_code": "91440300708461136T"}).text
    assert not any(mark in page for mark in ("屿声", "Yusheng", "Lin Xiaohe", "lin@example.cn"))


def test_an_odd_code_warns_is_kept_and_is_admitted_before_the_verification(app: Flask, cast: Cast) -> None:
    client = sign_in(app, newcomer(cast).user_id or 0, language="en")
    odd = TYPED | {"credit_code": ODD_CODE}
    warned = post(client, "/enterprises/register", odd)
    assert warned.status_code == 422
    assert "does not fit the others; compare it with the licence" in words(warned)
    assert 'name="as_on_licence"' in warned.text
    record = post(client, "/enterprises/register", odd | {"as_on_licence": "y"}).location
    here = record.removesuffix("/record")
    operator = sign_in(app, cast.users["zhou"], language="en")
    page = operator.get(record).text
    assert f"{here}/admit" in page and f"{here}/verify" not in page
    assert post(operator, f"{here}/verify", {"reason": "x"}).status_code == 422
    assert post(operator, f"{here}/admit", {"reason": ""}).status_code == 422
    assert post(operator, f"{here}/admit", {"reason": "登记机关已确认"}).status_code == 302
    assert "Credit code admitted Zhou Yu’an: code 91350100M0001TGQXM: 登记机关已确认" in words(operator.get(record))


def send_licence(client: Any, record: str, content: bytes = PDF, name: str = "执照.pdf") -> Any:
    where = record.replace("/record", "/documents")
    data = {"kind": "business_licence", "document": (io.BytesIO(content), name)}
    return post(client, where, data, page=record)


def test_a_firm_sends_its_licence_and_is_verified(app: Flask, cast: Cast) -> None:
    founder = sign_in(app, newcomer(cast).user_id or 0, language="en")
    record = post(founder, "/enterprises/register", TYPED).location
    here = record.removesuffix("/record")
    bad = send_licence(founder, record, b"<html>", "licence.pdf")
    assert bad.status_code == 422 and "this file is none of them" in words(bad)
    assert send_licence(founder, record).location == f"{record}#documents"
    operator = sign_in(app, cast.users["zhou"], language="en")
    page = operator.get(record).text
    (file,) = re.findall(r"/files/\d+", page)
    download = operator.get(file)
    assert download.data == PDF and download.mimetype == "application/pdf"
    assert download.headers["Content-Disposition"].startswith("attachment")
    assert download.headers["X-Content-Type-Options"] == "nosniff"
    assert sign_in(app, cast.users["lin"]).get(file).status_code == 404
    assert post(operator, f"{here}/verify", {"reason": "名称、代码、执照一致"}).location == record
    assert "Verified Zhou Yu’an: 名称、代码、执照一致" in words(founder.get(record))


def test_a_large_licence_passes_and_one_beyond_the_rule_does_not(cast: Cast, policy: Policy) -> None:
    rules = policy.model_copy(update={"files": policy.files.model_copy(update={"largest_megabytes": 2})})
    app = make_app(cast.database, rules)
    set_now(app, NOW)
    founder = sign_in(app, newcomer(cast).user_id or 0, language="en")
    record = post(founder, "/enterprises/register", TYPED).location

    def send(size: int) -> Any:
        page = founder.get(record).text
        values = {name: re.search(rf'name="{name}" value="([^"]+)"', page)[1] for name in ("csrf_token", "form_key")}  # type: ignore[index]
        licence = FileStorage(io.BytesIO(PDF.ljust(size, b"x")), "licence.pdf")
        boundary, body = encode_multipart(values | {"kind": "other", "document": licence})
        return founder.post(
            record.replace("/record", "/documents"), data=body, content_type=f"multipart/form-data; boundary={boundary}"
        )

    assert send(2_000_000).status_code == 302
    above = send(2_000_001)
    assert above.status_code == 422 and "at most 2 MB" in words(above)
    assert send(3_100_000).status_code == 413
    assert rows_in(cast.database, File) == 1


def test_an_operator_declines_with_a_code_and_a_text_that_the_company_reads(app: Flask, cast: Cast) -> None:
    by = newcomer(cast)
    id = register(cast, by)
    operator = sign_in(app, cast.users["zhou"], language="en")
    here = f"/enterprises/{id}"
    assert "Name and licence differ" in words(operator.get(f"{here}/decline"))
    assert post(operator, f"{here}/decline", {"why": "name", "reason": ""}).status_code == 422
    assert post(operator, f"{here}/decline", {"why": "because", "reason": "x"}).status_code == 422
    assert post(operator, f"{here}/decline", {"why": "name", "reason": "少了“有限公司”"}).status_code == 302
    founder = sign_in(app, by.user_id or 0, language="en")
    page = words(founder.get(f"{here}/record"))
    assert "The application was declined reason: Name and licence differ: 少了“有限公司”" in page
    changed = post(founder, f"{here}/change", TYPED | {"name": "沐风气象有限公司"})
    assert changed.status_code == 302
    assert "Applied" in words(founder.get(f"{here}/record"))


def test_suspending_and_resuming_shows_the_reason_to_the_company(app: Flask, cast: Cast) -> None:
    operator, manager = (sign_in(app, cast.users[name], language="en") for name in ("zhou", "lin"))
    here = f"/enterprises/{cast.yusheng}"
    assert post(operator, f"{here}/suspend", {"reason": "年报未交"}).status_code == 302
    assert "No new requests and bookings; what runs goes on 年报未交" in words(manager.get(f"{here}/record"))
    assert post(operator, f"{here}/suspend", {"reason": "再来"}).status_code == 422, "it is suspended already"
    assert post(operator, f"{here}/resume", {"reason": "已补交"}).status_code == 302
    assert "Change the data" in words(manager.get(f"{here}/record"))


def test_finance_cannot_verify_and_an_operator_cannot_do_the_work_of_finance(app: Flask, cast: Cast) -> None:
    id = register(cast, newcomer(cast))
    finance = sign_in(app, cast.users["he"])
    for verb in ("verify", "decline", "suspend"):
        assert finance.get(f"/enterprises/{id}/{verb}").status_code == 403
        assert post(finance, f"/enterprises/{id}/{verb}", {"reason": "x"}, page="/account").status_code == 403
    operator = sign_in(app, cast.users["zhou"])
    for address in ("/statements", f"/pools/{cast.pool}/tariffs/set", f"/programmes/{cast.programme}/fund"):
        assert operator.get(address).status_code in (403, 404, 405)
    assert post(operator, f"/programmes/{cast.programme}/fund", {"hours": "1"}).status_code == 403


def test_breach_size_and_relation_are_entered_and_shown(app: Flask, cast: Cast) -> None:
    operator = sign_in(app, cast.users["zhou"], language="en")
    here = f"/enterprises/{cast.yusheng}"
    breach = {"happened_on": "2026-06-01", "evidence": "信用中国 第 77 号"}
    assert post(operator, f"{here}/breach", breach | {"happened_on": "2027-01-01"}).status_code == 422
    assert post(operator, f"{here}/breach", breach).status_code == 302
    related = {"credit_code": GOOD_CODE, "name": "云屿智造", "relation": "persons", "from_on": "2026-09-01"}
    assert post(operator, f"{here}/relate", related).status_code == 422, "without evidence"
    assert post(operator, f"{here}/relate", related | {"evidence": "公示 2026-09-02"}).status_code == 302
    size = {"size_class": "medium", "from_on": "2026-11-18", "reason": "2025 年报"}
    assert post(operator, f"{here}/classify", size).status_code == 302
    page = words(sign_in(app, cast.users["lin"], language="en").get(f"{here}/record"))
    assert "1 June 2026 信用中国 第 77 号 until 1 June 2029" in page
    assert "云屿智造 914403001922038216 the same people lead both 公示 2026-09-02 since 1 September 2026" in page
    assert "Size Medium" in page
    record = operator.get(f"{here}/record").text
    (lift,) = re.findall(r"/credit-breaches/\d+/lift", record)
    (end,) = re.findall(r"/related-parties/\d+/end", record)
    assert post(operator, lift, {"reason": "信用已修复"}).status_code == 302
    assert post(operator, end, {"until_on": "2026-11-18", "reason": "已转让"}).status_code == 302
    page = words(operator.get(f"{here}/record"))
    assert "lifted on 18 November 2026" in page and "1 September 2026 until 18 November 2026" in page


def test_the_list_is_filtered_by_state_and_the_longest_waiting_stands_first(app: Flask, cast: Cast) -> None:
    register(cast, newcomer(cast))
    register(cast, newcomer(cast, "qi"), service.Particulars("后来者", ODD_CODE, SizeClass.SMALL, as_on_licence=True))
    operator = sign_in(app, cast.users["zhou"], language="en")
    page = words(operator.get("/enterprises?state=applied"))
    assert "2 enterprises wait for verification" in page
    assert page.index("沐风气象") < page.index("后来者")
    assert "Yusheng Voice" not in page
    assert "4 enterprises are registered" in words(operator.get("/enterprises?state=nonsense"))


def test_a_sponsor_confirms_its_team_on_its_record(app: Flask, cast: Cast) -> None:
    founder = sign_in(app, newcomer(cast).user_id or 0, language="en")
    typed = TYPED | {"name": "方言小队", "credit_code": "", "sponsor_code": "91440300708461136T"}
    team = post(founder, "/enterprises/register", typed).location
    assert "The sponsor has not confirmed yet" in words(founder.get(team))
    manager = sign_in(app, cast.users["lin"], language="en")
    record = f"/enterprises/{cast.yusheng}/record"
    assert "One team under this enterprise" in words(manager.get(record))
    id = int(team.split("/")[2])
    assert post(manager, f"/teams/{id}/confirm", page=record).status_code == 302
    assert "receives the statements" in words(founder.get(team))
    assert post(sign_in(app, cast.users["mei"]), f"/teams/{id}/refuse").status_code == 404


def test_the_record_takes_at_most_ten_queries(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["zhou"])
    with Queries(cast.database) as queries:
        assert client.get(f"/enterprises/{cast.yusheng}/record").status_code == 200
    assert len(queries) <= 10


# -- invitations and members


def invited(app: Flask, cast: Cast, address: str, role: str = "member") -> str:
    """A manager invites; the address of the link that goes out by mail."""
    manager = sign_in(app, cast.users["lin"], language="en")
    answer = post(manager, "/members/invite", {"address": address, "role": role, "language": "en"})
    assert answer.status_code == 302, words(answer)
    with cast.database.read_only() as session:
        link = session.scalars(
            sa.select(Notice.link).where(Notice.address == address.lower()).order_by(Notice.id)
        ).all()[-1]
    assert link is not None
    return link


def test_an_invited_person_opens_the_link_signs_in_and_belongs_to_the_enterprise(app: Flask, cast: Cast) -> None:
    gu = newcomer(cast)
    link = invited(app, cast, "Gu@example.cn")
    guest = app.test_client()
    shown = guest.get(link, headers={"Accept-Language": "en"})
    assert "Yusheng Voice invites you as member" in words(shown)
    assert "/sign-in?next=/invitation?token%3D" in shown.text
    client = sign_in(app, gu.user_id or 0, language="en")
    token = link.partition("token=")[2]
    assert client.get(link).status_code == 200, "looking uses nothing up"
    assert post(client, "/invitation", {"token": token}, page=link).location == "/start"
    assert "3 people act for Yusheng Voice" in words(client.get("/members"))
    assert client.get(link).status_code == 410, "it works once"
    assert "This invitation is over" in words(client.get(link))


def test_the_invitation_waits_on_the_first_page_of_somebody_who_has_just_signed_up(app: Flask, cast: Cast) -> None:
    invited(app, cast, "gu@example.cn", "manager")
    client = sign_in(app, newcomer(cast).user_id or 0, language="en")
    page = client.get("/no-role")
    assert "Yusheng Voice invites you as enterprise manager" in words(page)
    (number,) = re.findall(r'name="invitation_id" value="(\d+)"', page.text)
    stranger = sign_in(app, newcomer(cast, "qi").user_id or 0, language="en")
    refused = post(stranger, "/invitation", {"invitation_id": number}, page="/account")
    assert refused.status_code == 410
    assert post(client, "/invitation", {"invitation_id": number}, page="/no-role").status_code == 302
    assert client.get("/members/invite").status_code == 200, "as a manager"


def test_an_invitation_is_for_the_invited_address_only(app: Flask, cast: Cast) -> None:
    link = invited(app, cast, "gu@example.cn")
    other = sign_in(app, newcomer(cast, "qi").user_id or 0, language="en")
    assert "The invitation is for another address" in words(other.get(link))
    answer = post(other, "/invitation", {"token": link.partition("token=")[2]}, page="/account")
    assert answer.status_code == 422
    assert "This invitation is for another address" in words(answer)


def test_somebody_of_the_bureau_cannot_accept(app: Flask, cast: Cast) -> None:
    link = invited(app, cast, "zhou@example.cn")
    operator = sign_in(app, cast.users["zhou"], language="en")
    page = operator.get(link)
    assert "You are with the bureau" in words(page) and "/invitation&#34;" not in page.text
    token = link.partition("token=")[2]
    assert post(operator, "/invitation", {"token": token}, page="/account").status_code == 403
    with cast.database.read_only() as session:
        assert standing_of(session, cast.users["zhou"]).places == ()


WRONG_INVITATIONS: list[tuple[dict[str, str], str]] = [
    ({"address": ""}, "This is needed."),
    ({"address": "gu at example"}, "Enter an e-mail address"),
    ({"address": "CHEN@example.cn"}, "belongs to the enterprise already"),
    ({"role": "admin"}, "Choose one of the list."),
    ({"language": "fr"}, "Choose one of the list."),
]


def test_a_wrong_invitation_is_refused_at_its_field(app: Flask, cast: Cast) -> None:
    manager = sign_in(app, cast.users["lin"], language="en")
    for typed, sentence in WRONG_INVITATIONS:
        values = {"address": "gu@example.cn", "role": "member", "language": "en"} | typed
        answer = post(manager, "/members/invite", values)
        assert answer.status_code == 422 and sentence in words(answer)
    assert rows_in(cast.database, Invitation) == 0


def test_invitations_are_listed_sent_again_and_revoked_by_managers_only(app: Flask, cast: Cast) -> None:
    first = invited(app, cast, "gu@example.cn")
    manager, member = (sign_in(app, cast.users[name], language="en") for name in ("lin", "chen"))
    page = manager.get("/members")
    assert "One invitation is not answered yet" in words(page)
    assert "gu@example.cn" not in words(member.get("/members"))
    (id,) = re.findall(r"/invitations/(\d+)/resend", page.text)
    assert post(member, f"/invitations/{id}/resend").status_code == 403
    assert post(sign_in(app, cast.users["mei"]), f"/invitations/{id}/revoke").status_code == 404
    assert post(manager, f"/invitations/{id}/resend", page="/members").status_code == 302
    assert app.test_client().get(first).status_code == 410, "the older link ends with the newer one"
    assert post(manager, f"/invitations/{id}/revoke", page="/members").status_code == 302
    assert "gu@example.cn" not in words(manager.get("/members"))
    with cast.database.read_only() as session:
        assert session.get_one(Invitation, int(id)).address == ""


def test_a_role_taken_away_works_on_the_next_request(app: Flask, cast: Cast) -> None:
    cast.database.transaction(
        lambda s: membership.change_role(s, cast.users["chen"], role=Role.MANAGER, by=cast.manager, now=NOW).role
    )
    lin, chen = (sign_in(app, cast.users[name], language="en") for name in ("lin", "chen"))
    assert chen.get("/members/invite").status_code == 200
    assert post(lin, f"/members/{cast.users['chen']}/role", {"role": "member"}, page="/members").status_code == 302
    assert chen.get("/members/invite").status_code == 403
    assert chen.get("/bookings").status_code == 200
    assert "Remove Chen Yi?" in words(lin.get(f"/members/{cast.users['chen']}/remove"))
    assert post(lin, f"/members/{cast.users['chen']}/remove").status_code == 302
    assert chen.get("/bookings").status_code == 403
    assert chen.get("/home").location == "/no-role"


def test_the_last_manager_stays(app: Flask, cast: Cast) -> None:
    lin = sign_in(app, cast.users["lin"], language="en")
    for verb, data in (("role", {"role": "member"}), ("remove", {})):
        answer = post(lin, f"/members/{cast.users['lin']}/{verb}", data, page="/members")
        assert answer.status_code == 409 and "An enterprise needs a manager" in words(answer)
    assert post(lin, f"/members/{cast.users['chen']}/role", {"role": "admin"}, page="/members").status_code == 400
    assert post(lin, f"/members/{cast.users['mei']}/remove", page="/members").status_code == 404


def test_who_is_nobody_yet_may_register_and_nothing_else(app: Flask, cast: Cast) -> None:
    client = sign_in(app, newcomer(cast).user_id or 0)
    assert client.get("/enterprises/register").status_code == 200
    for address in ("/start", "/enterprises", "/members", f"/enterprises/{cast.yusheng}/record", "/members/invite"):
        assert client.get(address).status_code == 403
    assert sign_in(app, cast.users["zhou"]).get("/enterprises/register").status_code == 403
