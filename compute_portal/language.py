"""Words for people: gettext texts, Sentences, and numbers, money and times as each language writes them.

English is written in the code, Chinese in `translations/zh_Hans/<feature>.po`, read at start: nothing to compile and
nothing to forget. Plain Babel, without Flask, because the scheduler, the mailer and the command line speak too.
"""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Callable
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from babel import Locale
from babel.dates import format_date
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations

from . import clock, units
from .sentences import Sentence, Value
from .texts import CATALOGUE

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")
LANGUAGE_NAMES: dict[Language, str] = {"zh": "简体中文", "en": "English"}  # each as its readers call it
HTML_LANG: dict[Language, str] = {"zh": "zh-Hans", "en": "en"}
_LOCALES: dict[Language, Locale] = {"zh": Locale("zh", "CN", "Hans"), "en": Locale("en", "GB")}
_TRANSLATIONS = Path(__file__).parent / "translations" / "zh_Hans"
MINUS = "\N{MINUS SIGN}"


@cache
def translations(language: Language) -> NullTranslations:
    if language == "en":
        return NullTranslations()
    whole = Catalog(locale=_LOCALES["zh"])
    for path in sorted(_TRANSLATIONS.glob("*.po")):
        with path.open("rb") as file:
            for message in read_po(file, locale=_LOCALES["zh"]):
                if message.id:
                    whole.add(message.id, message.string, context=message.context)
    compiled = io.BytesIO()
    write_mo(compiled, whole)
    compiled.seek(0)
    return Translations(compiled)


def gettext(language: Language, text: str) -> str:
    return str(translations(language).ugettext(text))


def ngettext(language: Language, singular: str, plural: str, n: int) -> str:
    return str(translations(language).ungettext(singular, plural, n))


def N_(text: str) -> str:
    """Mark a text for translation where it is defined; it is translated where it is shown."""
    return text


_PLACEHOLDER = re.compile(r"\{(\w+)(?::(\w+))?\}")


def say(sentence: Sentence, language: Language) -> str:
    """The sentence in the reader's language. An id that is not in the catalogue raises KeyError: a test finds it."""
    entry = CATALOGUE[sentence.id]
    if isinstance(entry, tuple):
        number = sentence["n"]
        template = ngettext(language, entry[0], entry[1], number if isinstance(number, int) else 0)
    else:
        template = gettext(language, entry)
    values = dict(sentence.values)
    return _PLACEHOLDER.sub(lambda m: _show(values[m[1]], m[2], language), template)


def _show(value: Value, kind: str | None, language: Language) -> str:
    if kind is None:
        return str(value)
    if kind == "word":
        return gettext(language, WORDS.get(str(value), str(value)))
    if kind == "words":
        return gettext(language, ", ").join(_show(each, "word", language) for each in str(value).split(","))
    return _FORMATS[kind](value, language)


# Words that appear inside sentences as values: kinds of things and states.
WORDS: dict[str, str] = {
    "announcement": N_("announcement"),
    "booking": N_("booking"),
    "allocation": N_("allocation"),
    "statement": N_("statement"),
    "dispute": N_("dispute"),
    "node": N_("node"),
    "maintenance": N_("maintenance window"),
    "pool": N_("pool"),
    "power_cap": N_("power cap"),
    "waiter": N_("place on the wait-list"),
    "enterprise": N_("enterprise"),
    "person": N_("person"),
    "role-operator": N_("operator"),
    "role-finance": N_("finance"),
    "role-auditor": N_("auditor"),
    "role-admin": N_("administrator"),
    "role-member": N_("member"),
    "role-manager": N_("enterprise manager"),
    "appeal": N_("appeal"),
    "size-micro": N_("Micro"),
    "size-small": N_("Small"),
    "size-medium": N_("Medium"),
    "size-large": N_("Large"),
    "decline-name": N_("Name and licence differ"),
    "decline-licence": N_("The licence cannot be read or is out of date"),
    "decline-code": N_("The credit code is not this enterprise’s"),
    "decline-not_here": N_("Not registered in this city"),
    "decline-not_entitled": N_("Who applied may not act for it"),
    "decline-other": N_("Another reason"),
    "business_licence": N_("Business licence"),
    "sponsor_agreement": N_("Agreement with the sponsor"),
    "authorisation": N_("Letter of authorisation"),
    "other": N_("Other document"),
    "change": N_("change of an allocation"),
    "report": N_("report"),
    # tracks, states, sizes and documents that rules speak of
    "S": N_("S"),
    "M": N_("M"),
    "L": N_("L"),
    "applied": N_("Applied"),
    "verified": N_("Verified"),
    "suspended": N_("Suspended"),
    "declined": N_("Declined"),
    "micro": N_("Micro"),
    "small": N_("Small"),
    "medium": N_("Medium"),
    "large": N_("Large"),
    "contract": N_("Contract or purchase order"),
    "plan": N_("Work plan"),
    "benchmark": N_("Benchmark of an earlier run"),
    # claims and what their evidence lacks
    "claim": N_("claim"),
    "dataset": N_("dataset"),
    "site": N_("site"),
    "transition": N_("transition"),
    "tier-open": N_("Open to everybody"),
    "tier-conditional": N_("Open on conditions"),
    "tier-not_open": N_("Not open"),
    "pack-contract": N_("contract"),
    "pack-usage": N_("usage records"),
    "pack-statement": N_("statement"),
    "pack-fapiao": N_("fapiao"),
    "pack-payment": N_("proof of payment"),
}


# Digits are grouped the same way in both languages, so plain formatting will do: a page shows hundreds of numbers.


def count(number: int | Decimal, language: Language) -> str:
    """1,234 in both languages; the sign is a minus, not a hyphen."""
    return _signed(f"{abs(number):,}", number)


def hours(gpu_seconds: int, language: Language) -> str:
    """GPU-seconds as GPU-hours, at most two decimals, none when whole."""
    return hours_exact(gpu_seconds, language).rstrip("0").rstrip(".")


def hours_exact(gpu_seconds: int, language: Language) -> str:
    """GPU-hours with always two decimals, half up, for tables of equal decimals."""
    return _hundredths((abs(int(gpu_seconds)) * 100 + _HALF_AN_HOUR) // units.SECONDS_PER_HOUR, gpu_seconds)


def money(micro_yuan: int, language: Language) -> str:
    """¥45,715.28 in both languages."""
    return _signed("¥" + amount(abs(micro_yuan), language), micro_yuan)


def amount(micro_yuan: int, language: Language) -> str:
    """45,715.28 without the sign of the currency, for table cells."""
    return _hundredths((abs(int(micro_yuan)) + units.MICRO_PER_FEN // 2) // units.MICRO_PER_FEN, micro_yuan)


_HALF_AN_HOUR = units.SECONDS_PER_HOUR // 2


def _hundredths(number: int, signed_as: int) -> str:
    """In integers, because a page shows hundreds of them and Decimal takes four times as long."""
    whole, part = divmod(number, 100)
    return _signed(f"{whole:,}.{part:02}", signed_as)


def percent(part: int, whole: int) -> str:
    return f"{units.round_half_up(100 * part, whole)}%" if whole else "–"


@lru_cache(4_096)
def day(value: dt.date, language: Language, *, year: bool = True, weekday: bool = False) -> str:
    """Kept, because Babel takes longer to format one day than a page to read a row."""
    if language == "zh":
        text = f"{value.year}年{value.month}月{value.day}日" if year else f"{value.month}月{value.day}日"
        return f"{text} {format_date(value, 'EEE', locale=_LOCALES['zh'])}" if weekday else text
    pattern = "d MMMM y" if year else "d MMM"
    return str(format_date(value, f"EEE {pattern}" if weekday else pattern, locale=_LOCALES["en"]))


def moment(instant: dt.datetime, language: Language, now: dt.datetime | None = None) -> str:
    """'today 18:00', 'Fri 20 Nov 20:00': Beijing time, with the weekday because people plan by it."""
    return _moment(instant, language, None if now is None else clock.day_of(now))


@lru_cache(4_096)
def _moment(instant: dt.datetime, language: Language, today: dt.date | None) -> str:
    local = instant.astimezone(clock.SHANGHAI)
    on, time = local.date(), f"{local.hour:02}:{local.minute:02}"
    if today is None:
        return f"{day(on, language, year=False, weekday=True)} {time}"
    near = _NEAR.get((on - today).days)
    if near:
        return f"{gettext(language, near)} {time}"
    return f"{day(on, language, year=on.year != today.year, weekday=True)} {time}"


_NEAR = {-1: N_("yesterday"), 0: N_("today"), 1: N_("tomorrow")}


def exact(instant: dt.datetime) -> str:
    """2026-11-20 20:00:00, Beijing time: histories and derivations, the same in both languages."""
    return instant.astimezone(clock.SHANGHAI).strftime("%Y-%m-%d %H:%M:%S")


def typed(instant: dt.datetime) -> str:
    """2026-11-20 20:00, as people type it into forms."""
    return instant.astimezone(clock.SHANGHAI).strftime("%Y-%m-%d %H:%M")


@lru_cache(1_024)
def month_name(month: str, language: Language) -> str:
    year, number = month.split("-")
    if language == "zh":
        return f"{year}年{int(number)}月"
    return str(format_date(dt.date(int(year), int(number), 1), "MMMM y", locale=_LOCALES["en"]))


def duration(seconds: int, language: Language) -> str:
    """7 h 36 min / 7 小时 36 分; below an hour minutes, below a minute seconds."""
    days, rest = divmod(seconds, 86_400)
    whole_hours, rest = divmod(rest, 3_600)
    minutes, secs = divmod(rest, 60)
    names = {"zh": ("天", "小时", "分", "秒"), "en": ("d", "h", "min", "s")}[language]
    parts = [(days, names[0]), (whole_hours, names[1]), (minutes, names[2])]
    if seconds < 60:
        parts = [(secs, names[3])]
    shown = [f"{number} {name}" for number, name in parts if number]
    return " ".join(shown[:2]) or f"0 {names[3]}"


def clock_duration(seconds: int) -> str:
    """35:58:12, for tables."""
    return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"


def _signed(text: str, number: int | Decimal) -> str:
    return MINUS + text if number < 0 else text


_FORMATS: dict[str, Callable[[Value, Language], str]] = {
    "count": lambda v, lang: count(v, lang),  # type: ignore[arg-type]
    "hours": lambda v, lang: hours(v, lang),  # type: ignore[arg-type]
    "money": lambda v, lang: money(v, lang),  # type: ignore[arg-type]
    "day": lambda v, lang: day(v, lang),
    "time": lambda v, lang: moment(v, lang),  # type: ignore[arg-type]
    "duration": lambda v, lang: duration(v, lang),  # type: ignore[arg-type]
    "month": lambda v, lang: month_name(v, lang),
}
