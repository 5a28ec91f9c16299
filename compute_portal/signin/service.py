"""What happens at the door: sessions begin and end, wrong passwords are counted, people and keys come and go.

Hashing is slow on purpose and happens outside: verbs take a `password_hash`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import ipaddress
import secrets
from typing import cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from ..access import BUREAU_ROLES, SYSTEM, Actor, Permission, Role, require
from ..lifecycle import begin, move_to
from ..policy import SignInPolicy
from ..sentences import NotFound, Refusal, Sentence
from .keys import parse_public_key
from .models import AccessLogEntry, BureauRole, FormKey, SignInTry, SshKey, User, UserSession
from .queries import find_by_email, hash_token
from .states import PersonState

ADDRESS_FACTOR = 10  # many people share one address of a company
KEYS_MOST = 20


# -- sessions


def start_session(
    session: Session,
    user_id: int,
    *,
    enterprise_id: int | None,
    policy: SignInPolicy,
    now: dt.datetime,
    instead_of: int | None = None,
) -> str:
    """A new session; the one it replaces (`instead_of`) ends. Returns the token for the cookie, kept nowhere."""
    if instead_of is not None:
        end_session(session, instead_of, now=now)
    token = secrets.token_urlsafe(32)
    session.add(
        UserSession(
            token_hash=hash_token(token),
            user_id=user_id,
            enterprise_id=enterprise_id,
            created_at=now,
            seen_at=now,
            expires_at=now + dt.timedelta(hours=policy.absolute_hours),
        )
    )
    return token


def end_session(session: Session, session_id: int, *, now: dt.datetime) -> None:
    session.execute(
        sa.update(UserSession).where(UserSession.id == session_id, UserSession.ended_at.is_(None)).values(ended_at=now)
    )


def end_all_sessions(session: Session, user_id: int, *, now: dt.datetime) -> None:
    session.execute(
        sa.update(UserSession)
        .where(UserSession.user_id == user_id, UserSession.ended_at.is_(None))
        .values(ended_at=now)
    )


def touch(session: Session, session_id: int, *, now: dt.datetime) -> None:
    """The person was here: the idle time starts again."""
    session.execute(
        sa.update(UserSession).where(UserSession.id == session_id, UserSession.ended_at.is_(None)).values(seen_at=now)
    )


def act_for(session: Session, session_id: int, enterprise_id: int) -> None:
    """From now on this browser acts for another of the person's enterprises (the caller has checked the membership)."""
    session.execute(sa.update(UserSession).where(UserSession.id == session_id).values(enterprise_id=enterprise_id))


# -- wrong passwords


def who_tries(secret: str, *, email: str, address: str, what: str = "") -> tuple[str, str]:
    """Keyed hashes of the person and the address, so that the table of tries holds neither.

    An IPv6 customer has a whole /64, so that counts as one address. `what` counts apart from signing in.
    """
    try:
        parsed = ipaddress.ip_address(address)
        if parsed.version == 6:
            address = str(ipaddress.ip_network((parsed, 64), strict=False))
    except ValueError:
        address = "unknown"
    return _keyed(secret, f"{what}person:{email}"), _keyed(secret, f"{what}address:{address}")


def _keyed(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def count_try(
    session: Session,
    who: tuple[str, str],
    *,
    policy: SignInPolicy,
    now: dt.datetime,
    refusal: str = "sign-in-paused",
) -> list[int]:
    """Count one try before its password is looked at, so that a burst cannot pass; success takes it back.

    Raises Refusal(`refusal`) when the person or the address has used up its tries within the pause.
    """
    since = now - dt.timedelta(minutes=policy.pause_minutes)
    _one_at_a_time(session, who)
    session.execute(sa.delete(SignInTry).where(SignInTry.at <= since))
    for key, most in zip(who, (policy.tries, policy.tries * ADDRESS_FACTOR), strict=True):
        tries = session.scalar(sa.select(sa.func.count()).where(SignInTry.who == key)) or 0
        if tries >= most:
            raise Refusal(Sentence(refusal, tries=policy.tries, minutes=policy.pause_minutes))
    rows = [SignInTry(who=key, at=now) for key in who]
    session.add_all(rows)
    session.flush()
    return [row.id for row in rows]


def _one_at_a_time(session: Session, who: tuple[str, str]) -> None:
    """Two tries of the same person are counted one after the other. SQLite does that for every transaction."""
    if session.get_bind().dialect.name == "postgresql":
        for number in sorted(int(key[:15], 16) for key in who):
            session.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def forgive_tries(session: Session, who: tuple[str, str], tries: list[int]) -> None:
    """The password was right: the person's count starts again, the address loses this one try."""
    session.execute(sa.delete(SignInTry).where(sa.or_(SignInTry.who == who[0], SignInTry.id.in_(tries))))


# -- people


def create_person(
    session: Session,
    *,
    email: str,
    name: str,
    password_hash: str | None,
    now: dt.datetime,
    name_en: str | None = None,
    roles: frozenset[Role] = frozenset(),
    language: str = "zh",
    confirmed: bool = True,
    by: Actor | None = SYSTEM,
) -> User:
    """A new person, with bureau roles or, for members of enterprises, without: memberships are given by the enterprise.

    `confirmed` says that the address is known to be the person's own. `by` is None for people who sign up themselves.
    Raises Refusal("email-taken") at the field `email`, Refusal("role-not-bureau") for a member's role.
    """
    if not roles <= BUREAU_ROLES:
        raise Refusal(Sentence("role-not-bureau"), "roles")
    if find_by_email(session, email) is not None:
        raise Refusal(Sentence("email-taken"), "email")
    user = User(
        email=email.strip().lower(),
        name=name.strip(),
        name_en=name_en,
        password_hash=password_hash,
        language=language,
        created_at=now,
        confirmed_at=now if confirmed else None,
        state=PersonState.ACTIVE,
    )
    session.add(user)
    session.flush()
    session.add_all(BureauRole(user_id=user.id, role=role, given_at=now) for role in sorted(roles))
    begin(session, user, verb="register", at=now, by=Actor(user.id) if by is None else by)
    return user


def disable_person(
    session: Session, user_id: int, *, now: dt.datetime, by: Actor = SYSTEM, note: str | None = None
) -> None:
    """The person can no longer sign in, and every open session ends with this transaction."""
    user = locked_user(session, user_id)
    if user.state is PersonState.ACTIVE:
        user.disabled_at = now
        move_to(session, user, PersonState.DISABLED, verb="disable", at=now, by=by, note=note)
    end_all_sessions(session, user_id, now=now)


def set_password(session: Session, user_id: int, password_hash: str, *, now: dt.datetime) -> None:
    """Every session ends; the caller starts a new one for the browser that asked."""
    locked_user(session, user_id).password_hash = password_hash
    end_all_sessions(session, user_id, now=now)


def check_unchanged(session: Session, user_id: int, *, password_hash: str | None) -> None:
    """The password was checked outside this transaction: raises Refusal if it or the person changed meanwhile."""
    user = locked_user(session, user_id)
    if user.disabled_at is not None or user.password_hash != password_hash:
        raise Refusal(Sentence("sign-in-wrong"))


def renew_hash(session: Session, user_id: int, *, before: str, after: str) -> None:
    """Same password, today's parameters; nothing when the password was changed meanwhile."""
    session.execute(sa.update(User).where(User.id == user_id, User.password_hash == before).values(password_hash=after))


def choose_language(session: Session, user_id: int, language: str) -> None:
    session.execute(sa.update(User).where(User.id == user_id).values(language=language))


def choose_theme(session: Session, user_id: int, theme: str | None) -> None:
    session.execute(sa.update(User).where(User.id == user_id).values(theme=theme))


def locked_user(session: Session, user_id: int) -> User:
    user = session.get(User, user_id, with_for_update=True, populate_existing=True)
    if user is None:
        raise NotFound
    return user


# -- SSH keys


def add_key(session: Session, *, name: str, public_key: str, by: Actor, now: dt.datetime) -> SshKey:
    """Raises Refusal at `public_key` when the text is no acceptable key, or is on the list already."""
    require(by, Permission.KEY_ADD)
    key = parse_public_key(public_key)
    if by.user_id is None:
        raise NotFound
    locked_user(session, by.user_id)
    own = session.scalars(sa.select(SshKey).where(SshKey.user_id == by.user_id)).all()
    same = next((row for row in own if row.fingerprint == key.fingerprint), None)
    if same is not None and same.removed_at is None:
        raise Refusal(Sentence("key-already-there", name=same.name), "public_key")
    if sum(row.removed_at is None for row in own) >= KEYS_MOST:
        raise Refusal(Sentence("key-too-many", most=KEYS_MOST), "public_key")
    if same is None:
        same = SshKey(user_id=by.user_id, public_key=key.text, fingerprint=key.fingerprint)
        session.add(same)
    same.name, same.added_at, same.removed_at = name, now, None
    session.flush()
    return same


def remove_key(session: Session, key_id: int, *, by: Actor, now: dt.datetime) -> SshKey:
    """Raises NotFound for another person's key. Access that is already given stays until the booking ends."""
    require(by, Permission.KEY_REMOVE)
    key = session.get(SshKey, key_id, with_for_update=True, populate_existing=True)
    if key is None or key.user_id != by.user_id or key.removed_at is not None:
        raise NotFound
    key.removed_at = now
    return key


# -- form keys and the access log


_KEYS = cast(sa.Table, FormKey.__table__)
# RETURNING, because psycopg does not tell how many rows an INSERT … ON CONFLICT wrote. Every form asks: made once.
_TAKE: dict[str, sa.Insert] = {
    "postgresql": postgresql.insert(_KEYS).on_conflict_do_nothing().returning(_KEYS.c.key),
    "sqlite": sqlite.insert(_KEYS).on_conflict_do_nothing().returning(_KEYS.c.key),
}
_RESULT = sa.select(_KEYS.c.result).where(_KEYS.c.key == sa.bindparam("this"))
_KEEP = sa.update(_KEYS).where(_KEYS.c.key == sa.bindparam("this")).values(result=sa.bindparam("address"))


def take_form_key(session: Session, key: str, *, user_id: int | None, now: dt.datetime) -> str | None:
    """Take a one-time form key; None when it is ours now, else the address its first use led to.

    Whoever comes second waits on the key's row until the first has committed or rolled back.
    """
    connection = session.connection()
    taken = connection.scalar(_TAKE[connection.dialect.name], {"key": key, "user_id": user_id, "result": "", "at": now})
    return None if taken is not None else connection.scalar(_RESULT, {"this": key})


def keep_form_result(session: Session, key: str, address: str) -> None:
    session.connection().execute(_KEEP, {"this": key, "address": address})


def forget_form_keys(session: Session, *, before: dt.datetime) -> int:
    """Delete keys of forms sent before an instant: nobody sends those again. Returns how many."""
    return session.execute(sa.delete(FormKey).where(FormKey.at < before)).rowcount  # type: ignore[attr-defined]


def log_access(
    session: Session,
    kind: str,
    *,
    user_id: int | None,
    address: str,
    path: str,
    now: dt.datetime,
    detail: str | None = None,
) -> None:
    session.execute(
        sa.insert(AccessLogEntry).values(at=now, kind=kind, user_id=user_id, address=address, path=path, detail=detail)
    )
