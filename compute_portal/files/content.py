"""What a file is, told from its bytes. The name it came with and the type a browser claims prove nothing."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import PurePosixPath
from typing import NamedTuple


class MediaType(NamedTuple):
    """`endings`: what a name of this type may end in; the first is given where the name says something else."""

    name: str
    endings: tuple[str, ...]


PDF = MediaType("application/pdf", (".pdf",))
PNG = MediaType("image/png", (".png",))
JPEG = MediaType("image/jpeg", (".jpg", ".jpeg"))
DOCX = MediaType("application/vnd.openxmlformats-officedocument.wordprocessingml.document", (".docx",))
XLSX = MediaType("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", (".xlsx",))
ZIP = MediaType("application/zip", (".zip",))
KNOWN = (PDF, PNG, JPEG, DOCX, XLSX, ZIP)
LONGEST_NAME = 120
_BEGINNINGS = ((b"%PDF-", PDF), (b"\x89PNG\r\n\x1a\n", PNG), (b"\xff\xd8\xff", JPEG))
_ZIP_BEGINNING = b"PK\x03\x04"
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff<>:"|?*]')


def media_type_of(content: bytes) -> MediaType | None:
    """None for everything we do not take."""
    for beginning, media_type in _BEGINNINGS:
        if content.startswith(beginning):
            return media_type
    return _kind_of_zip(content) if content.startswith(_ZIP_BEGINNING) else None


def _kind_of_zip(content: bytes) -> MediaType | None:
    """Word and Excel files are zips with a known list of parts. Nothing is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError):
        return None
    if "[Content_Types].xml" in parts:
        if "word/document.xml" in parts:
            return DOCX
        if "xl/workbook.xml" in parts:
            return XLSX
    return ZIP


def safe_name(name: str, media_type: MediaType) -> str:
    """What the file is called here: no folders, no invisible letters, and the ending that its content has."""
    last = PurePosixPath(name.replace("\\", "/")).name
    plain = _NOT_IN_NAMES.sub("", last).strip(" .")
    if not plain.lower().endswith(media_type.endings):
        plain = (PurePosixPath(plain).stem or "file") + media_type.endings[0]
    ending = PurePosixPath(plain).suffix
    return plain[: LONGEST_NAME - len(ending)] + ending if len(plain) > LONGEST_NAME else plain
