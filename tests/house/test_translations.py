"""Every text for people exists in both languages, says the same things, and no translation is left over."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.catalog import Message
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po

from compute_portal.language import WORDS, gettext, ngettext, say
from compute_portal.sentences import Sentence
from compute_portal.texts import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
PO_FILES = sorted((ROOT / "compute_portal" / "translations" / "zh_Hans").glob("*.po"))
TEMPLATES = sorted(ROOT.glob("compute_portal/**/templates/**/*.html"))
CODE = [path for folder in ("compute_portal", "scheduler") for path in sorted((ROOT / folder).rglob("*.py"))]
HAN = re.compile(r"[\u4e00-\u9fff]")
PERCENT = re.compile(r"%\((\w+)\)s")
BRACES = re.compile(r"\{(\w+(?::\w+)?)\}")
MsgId = str | tuple[str, str]
# Words that the city does not use (a firm is 企业, a booking 预约, to sign in 登录), and empty politeness.
NOT_OURS = (
    "租户",
    "登陆",
    "登出",
    "GPU小时",
    "GPU 小时",
    "计算力",
    "您",
    "抱歉",
    "请稍后再试",
    "操作成功",
    "订单",
    "！",
)


def from_templates() -> Iterator[tuple[MsgId, str]]:
    for path in TEMPLATES:
        options = {"trimmed": "true", "newstyle_gettext": "true"}
        for _line, message, _notes, _context in extract_from_file(
            "jinja2.ext:babel_extract", str(path), {"_": None, "gettext": None, "ngettext": (1, 2)}, options=options
        ):
            yield as_id(message), path.name


def from_code() -> Iterator[tuple[MsgId, str]]:
    for path in CODE:
        keywords = {"N_": None, "_": None, "n_": (1, 2)}
        for _line, message, _notes, _context in extract_from_file("python", str(path), keywords):
            yield as_id(message), path.name


def as_id(message: object) -> MsgId:
    if isinstance(message, (tuple, list)):
        singular, plural = message[0], message[1]
        return str(singular), str(plural)
    return str(message)


def used() -> dict[MsgId, str]:
    """Every msgid that the program may ask for, and one place that does."""
    found: dict[MsgId, str] = {}
    for message, place in [*from_templates(), *from_code()]:
        found.setdefault(message, place)
    for id, entry in CATALOGUE.items():
        found.setdefault(entry, f"sentence {id}")
    for word in WORDS.values():
        found.setdefault(word, "language.WORDS")
    return found


def written() -> list[tuple[Message, str]]:
    entries = []
    for path in PO_FILES:
        with path.open("rb") as file:
            entries += [(message, path.name) for message in read_po(file) if message.id]
    return entries


USED = used()
WRITTEN = written()


def placeholders(text: str) -> set[str]:
    return set(PERCENT.findall(text)) | set(BRACES.findall(text))


def chinese(message: MsgId) -> str:
    return ngettext("zh", *message, 2) if isinstance(message, tuple) else gettext("zh", message)


def test_the_extractors_see_templates_code_and_sentences() -> None:
    places = set(USED.values())
    assert "Skip to content" in USED
    assert "Awaiting approval" in USED
    assert "E-mail and password do not fit together." in USED
    assert {"base.html", "badges.py"} <= places
    assert len(USED) > 200


# By the file that says them: three thousand tests of a text each took longer to hand out than to run.
PLACES: dict[str, list[MsgId]] = {}
for _message, _place in USED.items():
    PLACES.setdefault("the catalogue of sentences" if _place.startswith("sentence ") else _place, []).append(_message)


@pytest.mark.parametrize("place", sorted(PLACES))
def test_every_text_has_a_chinese_one_that_says_the_same_things(place: str) -> None:
    assert [problem for message in PLACES[place] for problem in problems(message)] == []


def problems(message: MsgId) -> Iterator[str]:
    english = message if isinstance(message, str) else message[1]
    text = chinese(message)
    if re.search(r"[A-Za-z]", re.sub(r"%\(\w+\)s|\{[\w:]+\}", "", english)) and not HAN.search(text):
        yield f"no Chinese for {message!r}"
    if text == english:
        yield f"{message!r} is not translated"
    if placeholders(text) != placeholders(english):
        yield f"other placeholders in {text!r}"
    if isinstance(message, tuple):
        # The singular may say "one" instead of the number.
        number = {"num", "n", "n:count"}
        if placeholders(message[0]) - number != placeholders(message[1]) - number:
            yield f"other placeholders in {message!r}"


def test_no_translation_is_left_over() -> None:
    asked = {message if isinstance(message, str) else message[0] for message in USED}
    for message, file in WRITTEN:
        id = message.id if isinstance(message.id, str) else message.id[0]
        assert id in asked, f"{file}: nobody asks for {message.id!r}"


def test_a_text_is_translated_once_or_the_same_way() -> None:
    seen: dict[object, tuple[object, str]] = {}
    for message, file in WRITTEN:
        key = message.id if isinstance(message.id, str) else tuple(message.id)
        string = message.string if isinstance(message.string, str) else tuple(message.string)
        before = seen.setdefault(key, (string, file))
        assert before[0] == string, f"{message.id!r}: {before[0]!r} in {before[1]}, {string!r} in {file}"


def test_no_translation_is_fuzzy_and_none_uses_a_word_that_is_not_ours() -> None:
    assert WRITTEN
    for message, file in WRITTEN:
        assert not message.fuzzy, (file, message.id)
        strings = [message.string] if isinstance(message.string, str) else list(message.string)
        for string in strings:
            for word in NOT_OURS:
                assert word not in string, (file, string, word)


def test_chinese_has_spaces_between_han_and_latin_and_full_width_marks() -> None:
    for message, file in WRITTEN:
        strings = [message.string] if isinstance(message.string, str) else list(message.string)
        for string in strings:
            bare = re.sub(r"%\(\w+\)s|\{[\w:]+\}", "", string)
            assert not re.search(r"[\u4e00-\u9fff][A-Za-z]|[A-Za-z][\u4e00-\u9fff]", bare), (file, string)
            assert not re.search(r"[\u4e00-\u9fff][,;:?!]|[\u4e00-\u9fff]\.(?!\w)", string), (file, string)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_templates_hold_no_text_outside_gettext(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    text = re.sub(r"\{#.*?#\}|<!--.*?-->|<!doctype[^>]*>", "", text, flags=re.S | re.I)
    text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "", text, flags=re.S)
    for said in re.findall(r"""\s(?:aria-label|title|placeholder|alt|data-label)=["']([^"']*)["']""", text):
        assert not re.search(r"[A-Za-z\u4e00-\u9fff]{2}", said), (template, said)
    shown = re.sub(r"<[^>]*>", "\n", text)
    words = re.findall(r"[A-Za-z\u4e00-\u9fff]{2,}.*", shown)
    assert not words, (template, words)


def test_python_holds_no_chinese_but_names_and_formats() -> None:
    """Chinese text belongs into translations; the exceptions are how numbers and dates are written."""
    allowed = {"language.py", "units.py", "forms.py", "simulate.py", "cli.py", "demo.py", "demo_office.py",
               "demo_money.py", "demo_commons.py", "names.py",
               "capitals.py"}  # fmt: skip
    for path in CODE:
        if path.name in allowed:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                assert not HAN.search(node.value), (path, node.value)


def test_the_plural_forms_of_every_file_are_those_of_chinese() -> None:
    for path in PO_FILES:
        with path.open("rb") as file:
            catalog = read_po(file)
        assert catalog.num_plurals == 1, path.name
        assert path.read_text(encoding="utf-8").isascii() is False, path.name


def test_a_sentence_is_said_in_both_languages_with_its_numbers() -> None:
    paused = Sentence("sign-in-paused", tries=5, minutes=1500)
    assert say(paused, "en") == "Too many wrong passwords. Sign-in is paused for 1,500 minutes."
    assert say(paused, "zh") == "密码错得太多，登录暂停 1,500 分钟。"
