"""A notice as mail, in its receiver's language: plain text and the same as HTML, under a Message-ID that stays."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from html import escape
from urllib.parse import urlsplit

from config.settings import Settings

from ..language import HTML_LANG, N_, Language, gettext, say
from ..sentences import Sentence


@dataclass(frozen=True, slots=True)
class Letter:
    """What is needed to write one; nothing of it needs the database any more."""

    notice_id: int
    at: dt.datetime
    address: str
    name: str | None  # None for a bare address
    language: Language
    about: Sentence
    body: tuple[Sentence, ...]
    link: str | None
    others: tuple[int, ...] = ()  # further notices that this letter tells
    items: tuple[tuple[Sentence, str | None], ...] = ()  # of a digest: what each says, and where it leads

    @property
    def notice_ids(self) -> tuple[int, ...]:
        return (self.notice_id, *self.others)


def message_id(letter: Letter, settings: Settings) -> str:
    """From the row alone: a letter that is sent again, by whichever process, is known for the same one."""
    host = urlsplit(settings.public_url).hostname
    return f"<notice-{letter.notice_id}.{letter.at:%Y%m%d%H%M%S}@{host}>"


def write(letter: Letter, settings: Settings) -> EmailMessage:
    """Raises ValueError when the address is none that mail can have."""
    zh = letter.language == "zh"
    service = settings.service_name_zh if zh else settings.service_name_en
    bureau = settings.bureau_name_zh if zh else settings.bureau_name_en
    about = _one_line(say(letter.about, letter.language))
    message = EmailMessage(policy=SMTP)
    try:
        message["From"] = Address(service, addr_spec=settings.sender)
        message["To"] = Address(_one_line(letter.name or ""), addr_spec=letter.address)
    except (IndexError, TypeError) as error:  # how the library says that it could not read an address
        raise ValueError(f"no address: {error}") from error
    message["Subject"] = about
    message["Date"] = letter.at
    message["Message-ID"] = message_id(letter, settings)
    message["Auto-Submitted"] = "auto-generated"
    greeting = gettext(letter.language, N_("Hello %(name)s,")) % {"name": letter.name} if letter.name else ""
    sentences = [about, *(say(sentence, letter.language) for sentence in letter.body)]
    items = [
        (say(each, letter.language), f"{settings.public_url}{link}" if link else "") for each, link in letter.items
    ]
    link = f"{settings.public_url}{letter.link}" if letter.link else ""
    foot = [gettext(letter.language, N_("Sent by %(service)s, %(bureau)s.")) % {"service": service, "bureau": bureau}]
    if settings.contact:
        foot.append(gettext(letter.language, N_("Questions: %(contact)s")) % {"contact": settings.contact})
    encoding = "base64" if zh else "quoted-printable"
    told = ["\n".join(filter(None, item)) for item in items]
    parts = [greeting, *sentences, *told, link, "-- \n" + "\n".join(foot)]
    message.set_content("\n\n".join(part for part in parts if part) + "\n", cte=encoding)
    message.add_alternative(
        _html(letter.language, greeting, sentences, items, link, foot), subtype="html", cte=encoding
    )
    message["Content-Language"] = HTML_LANG[letter.language]
    message.set_boundary(f"=_notice-{letter.notice_id}_=")  # sent again, it is the same to the last byte
    return message


def _html(
    language: Language, greeting: str, sentences: list[str], items: list[tuple[str, str]], link: str, foot: list[str]
) -> str:
    """No pictures, no styles, nothing that asks a server."""
    lines = [f"<p>{escape(greeting)}</p>"] if greeting else []
    lines += [f"<p>{escape(sentence)}</p>" for sentence in sentences]
    if items:
        told = [f'<a href="{escape(where)}">{escape(what)}</a>' if where else escape(what) for what, where in items]
        lines.append("<ul>" + "".join(f"<li>{each}</li>" for each in told) + "</ul>")
    if link:
        words = gettext(language, N_("Open in the portal"))
        lines.append(f'<p><a href="{escape(link)}">{escape(words)}</a></p>')
    lines.append(f"<hr><p><small>{'<br>'.join(map(escape, foot))}</small></p>")
    head = f'<!doctype html>\n<html lang="{HTML_LANG[language]}"><head><meta charset="utf-8"></head><body>'
    return head + "\n" + "\n".join(lines) + "\n</body></html>\n"


def _one_line(text: str) -> str:
    """Headers are one line; a name may hold what a form let through."""
    return " ".join(text.split())
