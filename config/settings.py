"""Every setting, read once from the environment (PORTAL_…), checked, and refused loudly."""

from __future__ import annotations

import re
import secrets
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_SECRET = "change-me"  # noqa: S105 - the value that production refuses
DEMO_PASSWORD = "harbour-lantern-2026"  # noqa: S105 - of the demo city's people; production refuses the city


class SettingsError(SystemExit):
    """A setting is wrong; the message is one line per setting, for the person who starts the process. Exit code 2."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        super().__init__(2)

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PORTAL_", extra="ignore", frozen=True)

    env: Literal["production", "demo", "development", "test"] = "development"
    database_url: str = f"sqlite:///{ROOT / 'var' / 'portal.sqlite'}"
    secret_key: str = DEFAULT_SECRET
    public_url: str = "http://127.0.0.1:8000"
    engine: Literal["embedded"] = "embedded"
    access_hook: str = ""
    debug: bool = False
    trusted_proxies: int = Field(default=0, ge=0, le=3)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    metrics_port: int = Field(default=0, ge=0, le=65535)  # of the web process; 0: none
    scheduler_metrics_port: int = Field(default=0, ge=0, le=65535)
    policy_file: Path = ROOT / "config" / "policy.toml"
    bureau_name_zh: str = "市人工智能局"
    bureau_name_en: str = "City Bureau of Artificial Intelligence"
    service_name_zh: str = "算力公共服务平台"
    service_name_en: str = "Compute Commons"
    contact: str = ""
    smtp_url: str = ""
    mail_from: str = ""
    mail_dir: Path | None = None
    receipt_key: str = ""  # signs receipts; empty: made from the secret key

    @field_validator("public_url")
    @classmethod
    def _a_whole_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("must be scheme and host only, for example https://compute.example.gov.cn")
        return value.rstrip("/")

    @field_validator("database_url")
    @classmethod
    def _a_store_we_know(cls, value: str) -> str:
        if not value.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("must begin with sqlite:/// or postgresql://")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _a_mail_server(cls, value: str) -> str:
        if value:
            mail_server(value)
        return value

    @field_validator("mail_dir", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @field_validator("receipt_key")
    @classmethod
    def _a_key(cls, value: str) -> str:
        if value and not re.fullmatch(r"[0-9a-f]{64}", value):
            raise ValueError("must be 32 bytes as 64 hexadecimal digits: openssl rand -hex 32")
        return value

    @field_validator("mail_from")
    @classmethod
    def _an_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"[!-?A-~]+@[A-Za-z0-9.-]+", value):
            raise ValueError("must be an address only, for example compute@example.gov.cn")
        return value

    @model_validator(mode="after")
    def _mail_has_a_sender(self) -> Settings:
        if self.smtp_url and not self.mail_from:
            raise ValueError("mail_from: the address that mail comes from is needed with PORTAL_SMTP_URL")
        if self.smtp_url and self.mail_dir:
            raise ValueError("mail_dir: mail goes either to PORTAL_SMTP_URL or into this folder")
        return self

    @model_validator(mode="after")
    def _production_is_strict(self) -> Settings:
        if self.env == "production":
            if self.secret_key == DEFAULT_SECRET or len(self.secret_key) < 32:
                raise ValueError("secret_key: production needs a secret of at least 32 characters of its own")
            if self.debug:
                raise ValueError("debug: must be off in production")
            if not self.public_url.startswith("https://"):
                raise ValueError("public_url: production needs https://")
            if not self.smtp_url:
                raise ValueError("smtp_url: production needs a mail server, without one nobody can confirm an address")
        return self

    @property
    def secure(self) -> bool:
        """Cookie name, its Secure flag and HSTS follow the public address."""
        return self.public_url.startswith("https://")

    @property
    def public_host(self) -> str:
        return urlsplit(self.public_url).netloc

    @property
    def cookie_name(self) -> str:
        return "__Host-portal" if self.secure else "portal"

    @cached_property
    def access_hook_argv(self) -> list[str]:
        """The operator's grant/revoke command; empty when the bureau hands access over by hand."""
        return shlex.split(self.access_hook)

    @property
    def demo_allowed(self) -> bool:
        return self.env != "production"

    @property
    def mail_folder(self) -> Path | None:
        """Where mail is written instead of being sent: of a demo and of development only, which then show it."""
        if self.env == "production" or self.smtp_url:
            return None
        if self.mail_dir is None and self.env in ("demo", "development"):
            return ROOT / "var" / "mail"
        return self.mail_dir

    @property
    def sender(self) -> str:
        """The address that mail comes from."""
        return self.mail_from or f"portal@{urlsplit(self.public_url).hostname}"


@dataclass(frozen=True, slots=True)
class MailServer:
    """What PORTAL_SMTP_URL says: smtp://host, smtp://user:password@host:587?starttls, smtps://user:password@host."""

    host: str
    port: int
    user: str | None
    password: str | None
    tls: Literal["none", "starttls", "implicit"]


def mail_server(url: str) -> MailServer:
    """Raises ValueError with what is wrong; never shows the password."""
    parts = urlsplit(url)
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.path.strip("/"):
        raise ValueError("must be like smtp://host:25, smtp://user:password@host:587?starttls or smtps://host")
    if parts.query not in ("", "starttls") or (parts.query and parts.scheme == "smtps"):
        raise ValueError("may end in ?starttls after smtp://, and in nothing else")
    if bool(parts.username) != bool(parts.password):
        raise ValueError("needs a user and a password, or neither; special characters are written as %40 and so on")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("its port must be a number from 1 to 65535") from None
    return MailServer(
        host=parts.hostname,
        port=port or {"smtps": 465}.get(parts.scheme, 587 if parts.query else 25),
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls="implicit" if parts.scheme == "smtps" else "starttls" if parts.query else "none",
    )


def load_settings(**overrides: object) -> Settings:
    """Read and check the environment. Raises SettingsError with one readable line per wrong setting."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = "PORTAL_" + str(problem["loc"][0]).upper() if problem["loc"] else "PORTAL settings"
            lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
        raise SettingsError(lines) from None


def a_new_secret() -> str:
    return secrets.token_urlsafe(48)
