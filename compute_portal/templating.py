"""What templates are written with: texts, numbers, addresses. Each language has a Jinja environment of its own.

Where a template says `_("…")` and nothing is put in, the text stands in the source already when the template is
compiled for a language: two of three texts of a page cost nothing when it is shown. Filters know their language too.
"""

from __future__ import annotations

import ast
import hashlib
import json
import operator
import re
from collections.abc import Callable
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import jinja2
from flask import Flask, request, url_for
from flask.templating import Environment as FlaskEnvironment
from jinja2 import StrictUndefined, nodes
from jinja2.compiler import CodeGenerator, Frame
from markupsafe import Markup, escape

from . import badges, guard, language, navigation
from .access import Role
from .addresses import address
from .forms import a_form_key
from .language import HTML_LANG, LANGUAGES, N_, Language
from .sentences import Sentence

ROLE_NAMES: dict[Role, str] = {
    Role.MEMBER: N_("member"),
    Role.MANAGER: N_("enterprise manager"),
    Role.OPERATOR: N_("operator"),
    Role.FINANCE: N_("finance"),
    Role.AUDITOR: N_("auditor"),
    Role.ADMIN: N_("administrator"),
}


def _written(value: Any) -> str:
    """`escape` for what a page is joined of: the kinds that nearly everything is take a tenth of its time."""
    kind = type(value)
    if kind is Markup or (kind is str and not _TO_ESCAPE(value)):
        return value  # type: ignore[no-any-return]
    return str(value) if kind is int else escape(value)


_TO_ESCAPE = re.compile("[&<>\"']").search


class _Generator(CodeGenerator):
    """Every `{{ … }}` goes through `_written`, what is called is called, what stands together goes on together."""

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        """Without finding out first whether it wants to be given the context: nothing that ours call does."""
        self.write("environment.called(")
        self.visit(node.node, frame)
        self.signature(node, frame, {"caller": "caller"} if forward_caller else None)
        self.write(")")

    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:
        """Not piece by piece through a generator for each template that this one extends."""
        if frame.buffer is not None or frame.require_output_check or len(node.nodes) == 1:
            super().visit_Output(node, frame)
            return
        together = frame.copy()
        self.buffer(together)
        super().visit_Output(node, together)
        self.writeline(f"yield concat({together.buffer})")

    def _output_child_pre(self, node: Any, frame: Any, finalize: Any) -> None:
        if frame.eval_ctx.autoescape and not frame.eval_ctx.volatile and finalize.src is None:
            self.write("environment.written(")
        else:
            super()._output_child_pre(node, frame, finalize)


class Environment(FlaskEnvironment):
    """Flask's environment, which answers with the template as it is compiled for the reader's language."""

    code_generator_class = _Generator
    written = staticmethod(_written)
    called: Any = staticmethod(operator.call)

    @cached_property
    def spoken(self) -> dict[Language, jinja2.Environment]:
        return {language_: self._in(language_) for language_ in LANGUAGES}

    def _in(self, language_: Language) -> jinja2.Environment:
        loader = self.loader
        assert loader is not None
        env = self.overlay(loader=_Translated(loader, language_))
        env.filters = self.filters | _filters(language_)
        env.globals = self.globals | _globals(language_)
        env.globals |= _drawing(env)
        return env

    def make_globals(self, d: Any) -> Any:
        """Jinja chains two dicts, which every page and every import then asks key by key."""
        return super().make_globals(d) if d else self.globals

    def get_template(self, name: Any, parent: Any = None, globals: Any = None) -> jinja2.Template:
        if self.overlayed:
            return super().get_template(name, parent, globals)
        return self.spoken[guard.language()].get_template(name, parent, globals)

    def from_string(self, source: Any, globals: Any = None, template_class: Any = None) -> jinja2.Template:
        if self.overlayed:
            return super().from_string(source, globals, template_class)
        return self.spoken[guard.language()].from_string(source, globals, template_class)


class _Translated(jinja2.BaseLoader):
    """A template's source with its fixed texts in one language."""

    def __init__(self, loader: jinja2.BaseLoader, language_: Language) -> None:
        self.loader = loader
        self.language = language_

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        source, filename, is_up_to_date = self.loader.get_source(environment, template)
        return in_language(source, self.language), filename, is_up_to_date


_FIXED_TEXT = re.compile(r'(?<![\w.])_\(("(?:[^"\\]|\\.)*")\)')


def in_language(source: str, language_: Language) -> str:
    """Each `_("text")` becomes its translation, marked as safe as `_` does; Jinja writes it out as plain HTML."""

    def translated(found: re.Match[str]) -> str:
        return f"({json.dumps(str(_of(language_, ast.literal_eval(found[1]))), ensure_ascii=False)}|safe)"

    return _FIXED_TEXT.sub(translated, source)


def equip(app: Flask) -> None:
    """Before the first template is asked for."""
    app.jinja_environment = Environment
    env = app.jinja_env
    env.undefined = StrictUndefined
    env.trim_blocks = env.lstrip_blocks = True
    env.globals.update(
        a_form_key=a_form_key,
        announced=guard.announced,
        badge=badges.badge,
        happened=badges.happened,
        home=guard.home,
        navigation=lambda: navigation.menu_for(guard.person()),
        now=guard.now,
        other_page=_other_page,
        person=guard.person,
        role_names=ROLE_NAMES,
        settings=app.extensions["portal"].settings,
        static=_static,
        theme=guard.theme,
        this_page=guard.this_page,
        url_for=address,
    )


def _filters(language_: Language) -> dict[str, Callable[..., Any]]:
    return {
        "amount": lambda micro: "–" if micro is None else language.amount(micro, language_),
        "clock_duration": language.clock_duration,
        "count": lambda number: language.count(number, language_),
        "day": lambda value, **options: language.day(value, language_, **options),
        "duration": lambda seconds: language.duration(seconds, language_),
        "exact": language.exact,
        "hours": lambda seconds: language.hours(seconds, language_),
        "hours_exact": lambda seconds: language.hours_exact(seconds, language_),
        "moment": lambda instant: language.moment(instant, language_, guard.now()),
        "money": lambda micro: language.money(micro, language_),
        "month_name": lambda month: language.month_name(month, language_),
        "name_of": lambda thing: name_of(thing, language_),
        "percent": language.percent,
        "say": lambda what: say(what, language_),
        "translated": lambda text: language.gettext(language_, str(text)),
    }


def _globals(language_: Language) -> dict[str, Any]:
    """`_` and `ngettext`: values are escaped; the texts are ours."""

    def text(text: str, /, **values: Any) -> Markup:
        return _filled_in(language.gettext(language_, text), values) if values else _of(language_, text)

    def number_of(one: str, many: str, n: int, /, **values: Any) -> Markup:
        return _filled_in(language.ngettext(language_, one, many, n), {"num": n, **values})

    return {"_": text, "ngettext": number_of, "language": lambda: language_, "html_lang": lambda: HTML_LANG[language_]}


# Macros that are told everything they show, by the template that they stand in.
DRAWN_ONCE = {
    "drawn_shape": "macros.html",
    "drawn_state": "macros.html",
    "side_by_side": "menu.html",
    "one_below_the_other": "menu.html",
}


def _drawing(env: jinja2.Environment) -> dict[str, Callable[..., Markup]]:
    """What looks the same on many pages or in every row of a list is drawn once for each that it can look like."""

    @lru_cache(4_096)
    def drawn(macro: str, *values: Any) -> Markup:
        return Markup(getattr(env.get_template(DRAWN_ONCE[macro]).module, macro)(*values))  # noqa: S704

    def shape(name: str, tone: str = "") -> Markup:
        return drawn("drawn_shape", name, tone)

    def state_of(kind: str, state: str, size: str = "") -> Markup:
        return drawn("drawn_state", kind, state, size)

    def state(thing: Any, size: str = "") -> Markup:
        return drawn("drawn_state", thing.LIFE.kind, thing.state, size)

    return {"drawn": drawn, "shape": shape, "state_of": state_of, "state": state}


def _filled_in(text: str, values: dict[str, Any]) -> Markup:
    """`Markup(text) % values`, a quarter of the time: every place of our texts is a `%(name)s`."""
    return Markup(text % {name: _written(value) for name, value in values.items()})  # noqa: S704


@cache
def _of(language_: Language, text: str) -> Markup:
    """Where nothing is put in, `%%` is a per cent sign all the same."""
    return _filled_in(language.gettext(language_, text), {})


def name_of(thing: Any, language_: Language) -> str:
    """A row's name in the reader's language: people, enterprises and programmes may have an English one."""
    return str((language_ == "en" and getattr(thing, "name_en", None)) or thing.name)


def say(what: Sentence | dict[str, Any] | str | None, language_: Language) -> str:
    """A Sentence, or one as it is stored in a row, in words; a text is a msgid or translated already."""
    if what is None:
        return ""
    if isinstance(what, str):
        return language.gettext(language_, what)
    sentence = Sentence.from_json(what) if isinstance(what, dict) else what
    return language.say(sentence, language_) if sentence is not None else ""


def _other_page(number: int) -> str:
    """The address of this list at another page, filters kept."""
    kept = {name: value for name, value in request.args.items() if name != "endpoint" and not name.startswith("_")}
    return url_for(request.endpoint or "", **{**kept, **(request.view_args or {}), "page": number})


def _static(filename: str) -> str:
    """The address of a static file with its content's hash: it may be kept for a year."""
    return _static_address(request.script_root, filename)


@cache
def _static_address(mounted_at: str, filename: str) -> str:
    content = (Path(__file__).parent / "static" / filename).read_bytes()
    return url_for("static", filename=filename, v=hashlib.sha256(content).hexdigest()[:12])
