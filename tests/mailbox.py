"""A real mail server on loopback that keeps what it is given, refuses what it is told to, and can go away."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as Server
from aiosmtpd.smtp import Envelope, Session

from config.settings import Settings


class Mailbox:
    """`refused` maps an address to what the server answers for it; at `hang_up_on` it closes the connection."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or _free_port()
        self.received: list[EmailMessage] = []
        self.refused: dict[str, str] = {}
        self.hang_up_on: set[str] = set()

    async def handle_RCPT(
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.hang_up_on:
            server.transport.close()
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=SMTP)
        assert isinstance(message, EmailMessage)
        self.received.append(message)
        return "250 OK"

    @contextmanager
    def open(self, **options: Any) -> Iterator[Mailbox]:
        controller = Controller(self, hostname="127.0.0.1", port=self.port, **options)
        controller.start()
        try:
            yield self
        finally:
            controller.stop()

    def settings(self, **values: Any) -> Settings:
        """Of a portal that sends through this server."""
        given = {
            "env": "test", "secret_key": "s" * 40, "public_url": "http://portal.test",
            "mail_from": "portal@portal.test", "smtp_url": f"smtp://127.0.0.1:{self.port}",
        }  # fmt: skip
        return Settings(**(given | values))


def text_of(message: EmailMessage, kind: str = "plain") -> str:
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
