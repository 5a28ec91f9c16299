"""The ways out for mail: a server that speaks SMTP, or a folder where a demo shows what would have been sent."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from compute_portal.notices import folder
from config.settings import MailServer, Settings, mail_server

TIMEOUT_SECONDS = 20
BROKEN = (OSError, smtplib.SMTPException)


class Refused(Exception):
    """The server will not take this letter, now or later."""


class NotNow(Exception):
    """The server could not take this letter this time."""


class Broken(NotNow):
    """The same, and the line is gone with it: what follows needs a new one."""


class Away(Exception):
    """No letter can be handed over at all: nobody answers, or our own sign-in or sender is refused."""


class Line(Protocol):
    """An open way out."""

    def send(self, message: EmailMessage) -> None:
        """Raises Refused, NotNow or Away."""


class Post(Protocol):
    """How mail leaves: by a server, or into a folder. `settings` say whose mail it is."""

    settings: Settings

    def open(self) -> AbstractContextManager[Line]:
        """Raises Away."""


def post_of(settings: Settings) -> Post | None:
    """None where neither is set: notices wait, and are still listed in the portal."""
    if settings.smtp_url:
        return SmtpPost(settings, mail_server(settings.smtp_url))
    return None if settings.mail_folder is None else FolderPost(settings, settings.mail_folder)


class FolderPost:
    def __init__(self, settings: Settings, where: Path) -> None:
        self.settings = settings
        self._where = where

    @contextmanager
    def open(self) -> Iterator[Line]:
        yield self

    def send(self, message: EmailMessage) -> None:
        try:
            folder.put(self._where, message)
        except OSError as error:
            raise Away(f"{self._where}: {error.strerror}") from error


class SmtpPost:
    def __init__(self, settings: Settings, server: MailServer) -> None:
        self.settings = settings
        self._server = server
        self._helo = urlsplit(settings.public_url).hostname or ""

    @contextmanager
    def open(self) -> Iterator[Line]:
        server = self._server
        try:
            connection = self._connect()
        except BROKEN as error:
            raise Away(f"{server.host}:{server.port}: {error}") from error
        try:
            yield _SmtpLine(connection, self.settings.sender)
        finally:
            try:
                connection.quit()
            except BROKEN:
                connection.close()  # everything that was accepted is marked already

    def _connect(self) -> smtplib.SMTP:
        server, trust = self._server, ssl.create_default_context()
        if server.tls == "implicit":
            connection: smtplib.SMTP = smtplib.SMTP_SSL(
                server.host, server.port, local_hostname=self._helo, timeout=TIMEOUT_SECONDS, context=trust
            )
        else:
            connection = smtplib.SMTP(server.host, server.port, local_hostname=self._helo, timeout=TIMEOUT_SECONDS)
        try:
            if server.tls == "starttls":
                connection.starttls(context=trust)
            if server.user is not None:
                connection.login(server.user, server.password or "")
        except BaseException:
            connection.close()
            raise
        return connection


class _SmtpLine:
    def __init__(self, connection: smtplib.SMTP, sender: str) -> None:
        self._connection = connection
        self._sender = sender

    def send(self, message: EmailMessage) -> None:
        try:
            self._connection.send_message(message, from_addr=self._sender)
        except smtplib.SMTPRecipientsRefused as error:
            ((code, text),) = error.recipients.values()
            raise _judged(code, text) from error
        except smtplib.SMTPSenderRefused as error:
            raise Away(_said(error.smtp_code, error.smtp_error)) from error
        except smtplib.SMTPResponseException as error:
            raise _judged(error.smtp_code, error.smtp_error) from error
        except BROKEN as error:
            # It counts as tried, for the letter may be what broke the line.
            raise Broken(f"{type(error).__name__}: {error}") from error


def _judged(code: int, text: bytes | str) -> Refused | NotNow:
    kind = Refused if 500 <= code < 600 else Broken if code == 421 else NotNow  # 421: the server hangs up
    return kind(_said(code, text))


def _said(code: int, text: bytes | str) -> str:
    return f"{code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"
