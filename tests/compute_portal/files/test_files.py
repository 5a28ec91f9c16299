"""Documents: told by their bytes, kept with their owner, given out to whom they concern."""

from __future__ import annotations

import io
import zipfile

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from compute_portal.access import SYSTEM, Actor
from compute_portal.files import content, queries, service
from compute_portal.files.content import DOCX, JPEG, KNOWN, PDF, PNG, XLSX, ZIP, MediaType
from compute_portal.files.models import File, FileContent
from compute_portal.policy import Policy
from compute_portal.sentences import NotFound, Refusal
from tests.cast import NOW, Cast

A_PDF = b"%PDF-1.7\nhello"


def a_zip(*parts: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for part in parts:
            archive.writestr(part, "x")
    return made.getvalue()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (A_PDF, PDF),
        (b"\x89PNG\r\n\x1a\n....", PNG),
        (b"\xff\xd8\xff\xe0....", JPEG),
        (a_zip("[Content_Types].xml", "word/document.xml"), DOCX),
        (a_zip("[Content_Types].xml", "xl/workbook.xml"), XLSX),
        (a_zip("data.csv"), ZIP),
        (b"PK\x03\x04 but no archive", None),
        (b"<html><script>", None),
        (b"MZ\x90", None),
        (b"GIF89a", None),
        (b" %PDF-1.7", None),
    ],
)
def test_the_type_is_told_by_the_bytes(sent: bytes, expected: MediaType | None) -> None:
    assert content.media_type_of(sent) == expected


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("营业执照.pdf", "营业执照.pdf"),
        ("licence.exe", "licence.pdf"),
        ("../../etc/passwd", "passwd.pdf"),
        ("C:\\Users\\lin\\a.PDF", "a.PDF"),
        ("a\x00b\r\n\u202ec.pdf", "abc.pdf"),
        ("", "file.pdf"),
        (".pdf", "pdf.pdf"),
        ("x" * 500 + ".pdf", "x" * 116 + ".pdf"),
    ],
)
def test_a_name_is_made_harmless_and_ends_as_its_content_says(name: str, kept: str) -> None:
    assert content.safe_name(name, PDF) == kept


@given(st.text(max_size=300), st.sampled_from(KNOWN))
def test_every_name_becomes_one_that_can_be_stored_and_sent(name: str, media_type: MediaType) -> None:
    kept = content.safe_name(name, media_type)
    assert 0 < len(kept) <= content.LONGEST_NAME
    assert kept.lower().endswith(media_type.endings)
    assert not set(kept) & set('/\\"<>|\r\n\0')


def keep(cast: Cast, policy: Policy, enterprise_id: int | None, by: Actor, sent: bytes = A_PDF) -> int:
    return cast.database.transaction(
        lambda s: (
            service.keep(
                s,
                name="执照.pdf",
                content=sent,
                kind="business_licence",
                owner_kind="enterprise",
                owner_id=7,
                enterprise_id=enterprise_id,
                policy=policy.files,
                by=by,
                now=NOW,
            ).id
        )
    )


def test_who_may_read_a_document(cast: Cast, policy: Policy) -> None:
    ours = keep(cast, policy, cast.yusheng, cast.manager)
    mine = keep(cast, policy, None, cast.member)
    with cast.database.read_only() as session:
        for by in (cast.manager, cast.member, cast.operator, cast.auditor, SYSTEM):
            assert queries.content_of(session, queries.get_file(session, ours, by)) == A_PDF
        for by in (cast.member, cast.operator):
            assert queries.get_file(session, mine, by).id == mine
        for id, by in ((ours, cast.stranger), (mine, cast.manager), (mine, cast.stranger), (99, SYSTEM)):
            with pytest.raises(NotFound):
                queries.get_file(session, id, by)
        assert [file.id for file in queries.list_files(session, "enterprise", 7)] == [ours, mine]
        assert queries.kinds_of(session, "enterprise", 7) == {"business_licence"}


def test_too_large_empty_unknown_and_too_many_are_refused(cast: Cast, policy: Policy) -> None:
    small = policy.model_copy(
        update={"files": policy.files.model_copy(update={"largest_megabytes": 1, "most_per_owner": 1})}
    )
    for sent, sentence in (
        (b"", "file-empty"),
        (A_PDF.ljust(1_000_001, b"x"), "file-too-large"),
        (b"#!/bin/sh", "file-unknown-type"),
    ):
        with pytest.raises(Refusal) as refused:
            keep(cast, small, cast.yusheng, cast.manager, sent)
        assert refused.value.sentence.id == sentence
    keep(cast, small, cast.yusheng, cast.manager, A_PDF.ljust(1_000_000, b"x"))
    with pytest.raises(Refusal) as refused:
        keep(cast, small, cast.yusheng, cast.manager)
    assert refused.value.sentence.id == "files-too-many"


def test_of_a_removed_document_the_bytes_are_gone_and_its_row_says_who_and_when(cast: Cast, policy: Policy) -> None:
    id = keep(cast, policy, cast.yusheng, cast.manager)

    def remove() -> None:
        cast.database.transaction(lambda s: service.remove(s, s.get_one(File, id), by=cast.manager, now=NOW))

    remove()
    with pytest.raises(NotFound):
        remove()
    with cast.database.read_only() as session:
        with pytest.raises(NotFound):
            queries.get_file(session, id, cast.operator)
        assert session.scalar(sa.select(sa.func.count()).select_from(FileContent)) == 0
        assert session.get_one(File, id).removed_by == cast.users["lin"]
        assert queries.list_files(session, "enterprise", 7) == []
