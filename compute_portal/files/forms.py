"""A field that takes one document, with its size and type checked before anything else is done."""

from __future__ import annotations

from typing import NamedTuple

from flask_wtf import FlaskForm
from wtforms import Field, FileField, ValidationError
from wtforms.validators import StopValidation

from ..forms import Message
from ..guard import portal
from ..sentences import Refusal, Sentence
from . import service
from .content import KNOWN

ACCEPT = ",".join(ending for media_type in KNOWN for ending in media_type.endings)


class Upload(NamedTuple):
    """What was sent; plain values, so that it can go into a transaction."""

    name: str
    content: bytes


class UploadField(FileField):
    """`data` is an Upload, or None when no file was chosen.

    The form must be opened with `form_start(form, multipart=true)` and its POST route carry `@takes_files`. A browser
    does not send a file again by itself: after a refusal it has to be chosen once more.
    """

    def __init__(self, label: str, validators=(), **options):
        options.setdefault("render_kw", {"accept": ACCEPT})
        super().__init__(label, [*validators, _well_formed], **options)

    def process_formdata(self, valuelist):
        sent = valuelist[0] if valuelist else None
        self.data = None
        if sent:  # a FileStorage without a name is what browsers send for "nothing chosen"
            most = portal().policy.files.largest_megabytes * service.BYTES_PER_MEGABYTE
            self.data = Upload(sent.filename or "", sent.stream.read(most + 1))


def _well_formed(form: FlaskForm, field: Field) -> None:
    if field.data is None:
        return
    try:
        service.check(field.data.content, portal().policy.files)
    except Refusal as refusal:
        raise ValidationError(refusal.sentence) from None


class Chosen:
    """A file must be chosen."""

    def __init__(self, message: Message | None = None) -> None:
        self.message = message or Sentence("file-missing")
        self.field_flags = {"required": True}

    def __call__(self, form: FlaskForm, field: Field) -> None:
        if field.data is None:
            raise StopValidation(self.message)
