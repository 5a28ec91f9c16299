"""The folder that mail goes into where no mail server is: of demos and development. One file per letter."""

from __future__ import annotations

import datetime as dt
import os
import re
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import parsedate_to_datetime
from pathlib import Path

_LINK = re.compile(r"^https?://[^/\s]+(/\S*)$", re.M)


@dataclass(frozen=True, slots=True)
class Shown:
    """A letter as the page of the demo shows it."""

    to: str
    subject: str
    at: dt.datetime
    text: str
    link: str | None  # a path of the portal


def put(folder: Path, message: EmailMessage) -> Path:
    """Whole or not at all, readable by its owner; the same letter again replaces the file."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^0-9A-Za-z.-]+", "", message["Message-ID"].partition("@")[0]) + ".eml"
    half = folder / f".{name}.{os.getpid()}"
    with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(message.as_bytes(policy=SMTP))
    return half.replace(folder / name)


def newest(folder: Path, most: int) -> list[Shown]:
    """Newest first; an empty list where no letter was written yet."""
    files = sorted(folder.glob("*.eml"), key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True)
    return [_read(file) for file in files[:most]]


def _read(file: Path) -> Shown:
    message = message_from_bytes(file.read_bytes(), policy=SMTP)
    assert isinstance(message, EmailMessage)
    body = message.get_body(("plain",))
    text = "" if body is None else str(body.get_content()).replace("\r\n", "\n")
    link = _LINK.search(text)
    return Shown(
        to=str(message["To"]),
        subject=str(message["Subject"]),
        at=parsedate_to_datetime(str(message["Date"])).astimezone(dt.UTC),
        text=_LINK.sub("", text).partition("-- \n")[0].strip(),
        link=link[1] if link else None,
    )
