"""Commands for whoever runs the portal: `flask --app wsgi <command>`.

What a person got wrong is one line and exit code 2; what a check found is exit code 1. Nothing here speaks to the
cluster: see `python -m scheduler` for that.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from alembic.util.exc import CommandError
from flask import Flask, current_app
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from config.settings import DEMO_PASSWORD, SettingsError, load_settings

from . import backup, clock, moving, retention, schema, verify
from .access import SYSTEM, Role
from .db import Database
from .enterprises.models import Membership
from .guard import Portal
from .language import say
from .pools import queries as pool_queries
from .pools import service as pool_service
from .pools.availability import gpus_for
from .pools.models import Pool, PowerCap
from .sentences import Refusal
from .signin import passwords
from .signin import service as signin
from .signin.models import BureauRole, User
from .tables import Base

LONGEST_EMAIL = 254
LONGEST_NAME = 80


class Failure(click.ClickException):
    """One line on standard error and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(" ".join(self.format_message().split()), err=True)


class OneLineCommand(click.Command):
    """Bad usage is one line, like every other mistake."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise Failure(f"{error.format_message()} Try `flask --app wsgi {self.name} --help`.") from None

    def invoke(self, ctx: click.Context) -> Any:
        logging.getLogger("alembic").setLevel(logging.WARNING)  # what it does is said by the command itself
        return super().invoke(ctx)


def register_cli(app: Flask) -> None:
    commands = (
        migrate, check_models, create_admin, verify_command, back_up,
        restore, copy_to, demo_sign_ins, retention_command, power_cap,
    )  # fmt: skip
    for command in commands:
        app.cli.add_command(command)


def _portal() -> Portal:
    portal: Portal = current_app.extensions["portal"]
    return portal


def _revision(database: Database) -> str | None:
    """Where the database stands, None when it is empty. Failure when nobody answers there."""
    if database.url.get_backend_name() == "sqlite" and not Path(database.url.database or "").exists():
        return None  # asking would create an empty file
    try:
        with database.engine.connect() as connection:
            return schema.current(connection)
    except sa.exc.DBAPIError as error:
        raise Failure(_out_of_reach(database, error)) from None


def _out_of_reach(database: Database, error: sa.exc.DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines() or ["no reason given"]
    return (
        f"The database {_address(database)} cannot be reached ({lines[0].rstrip('.:')}): "
        "check PORTAL_DATABASE_URL and that its server runs."
    )


def _address(database: Database) -> str:
    return database.url.render_as_string(hide_password=True)


def _migrated_database() -> Database:
    """The portal's database, if it has this code's tables."""
    database = _portal().database
    found = _revision(database)
    if found != schema.newest():
        raise Failure(
            f"The database {_address(database)} is at revision {found or 'none'} and this code needs "
            f"{schema.newest()}: run `flask --app wsgi migrate` first."
        )
    return database


# -- migrate, check-models --------------------------------------------------------------------------------------------


@click.command("migrate", cls=OneLineCommand)
@with_appcontext
def migrate() -> None:
    """Bring the database to this code's revision; may be run at any time and by several at once."""
    database = _portal().database
    _revision(database)
    try:
        schema.upgrade(database)
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}; choose another PORTAL_DATABASE_URL.") from None
    except CommandError as error:
        raise Failure(f"The database {_address(database)} is not one of this code's: {error}") from None
    except sa.exc.OperationalError as error:
        raise Failure(_out_of_reach(database, error)) from None
    click.echo(f"The database {_address(database)} is at revision {_revision(database)}.")


@click.command("check-models", cls=OneLineCommand)
def check_models() -> None:
    """Compare the models with what the migrations make, on a throw-away SQLite database."""
    problems = model_differences()
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)
    click.echo(f"Models equal migrations, newest is {schema.newest()}.")


def model_differences(head_file: Path = schema.SCRIPTS / "HEAD") -> list[str]:
    """One line per difference. `migrations/HEAD` names the newest revision, so that two branches meet in git."""
    try:
        newest = schema.newest()
    except CommandError as error:
        return [f"The migrations have more than one end: {error}"]
    problems = []
    named = head_file.read_text().strip() if head_file.exists() else "nothing"
    if named != newest:
        problems.append(f"{head_file.name} names {named}, the newest migration is {newest}: write that into the file.")
    with tempfile.TemporaryDirectory(prefix="portal-models-") as folder:
        migrated, modelled = (Database(f"sqlite:///{folder}/{name}.sqlite") for name in ("migrated", "modelled"))
        try:
            schema.upgrade(migrated)
            Base.metadata.create_all(modelled.engine)
            problems += [f"Not in the migrations: {difference}" for difference in schema.differences(migrated)]
            problems += _other_definitions(migrated, modelled)
        finally:
            migrated.dispose()
            modelled.dispose()
    return problems


def _other_definitions(migrated: Database, modelled: Database) -> list[str]:
    """What Alembic does not compare: checks, partial indexes, defaults. The stored definitions are compared as text."""
    by_models, by_migrations = _definitions(modelled), _definitions(migrated)
    problems = []
    for name in sorted(by_models.keys() & by_migrations.keys()):
        only_models, only_migrations = by_models[name] - by_migrations[name], by_migrations[name] - by_models[name]
        problems += [f"{name}: only in the models: {part}" for part in sorted(only_models)]
        problems += [f"{name}: only in the migrations: {part}" for part in sorted(only_migrations)]
    return problems


def _definitions(database: Database) -> dict[str, frozenset[str]]:
    """By table or index: the parts of its definition, without layout and order: a column added later comes last."""
    with database.engine.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL")
        )
        # A table that a migration copied has its name in quotes.
        return {name: frozenset(_parts(sql.replace(f'TABLE "{name}"', f"TABLE {name}"))) for name, sql in rows}


def _parts(definition: str) -> Iterator[str]:
    """What stands between the commas of the outermost brackets, and what stands around these."""
    depth, part = 0, ""
    for letter in definition:
        before = depth
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if (letter == "," and depth == 1) or {before, depth} == {0, 1}:
            yield " ".join(part.split())
            part = ""
        else:
            part += letter
    yield " ".join(part.split())


# -- people -----------------------------------------------------------------------------------------------------------


@click.command("create-admin", cls=OneLineCommand)
@click.option("--email", help="The address to sign in with.")
@click.option("--name", help="The person's name, as colleagues see it.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking.")
@with_appcontext
def create_admin(email: str | None, name: str | None, password_stdin: bool) -> None:
    """Create a person with the admin role of the bureau. Asks for what is not given."""
    database = _migrated_database()
    if password_stdin and not (email and name):
        raise Failure("--password-stdin needs --email and --name too, since nothing can be asked.")
    email = _checked_email(email if email is not None else click.prompt("E-mail"))
    name = _checked_name(name if name is not None else click.prompt("Name"))
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt="Once more")
    try:
        passwords.check_password_rules(password, email=email, name=name)
        password_hash = passwords.hash_password(password)
        now = clock.now()

        def work(session: Session) -> None:
            signin.create_person(
                session,
                email=email,
                name=name,
                password_hash=password_hash,
                roles=frozenset({Role.ADMIN}),
                now=now,
            )

        database.transaction(work)
    except Refusal as refusal:
        raise Failure(say(refusal.sentence, "en")) from None
    click.echo(f"{email} may sign in as an admin of the bureau.")


def _checked_email(email: str) -> str:
    email = email.strip().lower()
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email) or len(email) > LONGEST_EMAIL:
        raise Failure(f"{email!r} is no e-mail address: give one like an@bureau.example.cn.")
    return email


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise Failure(f"A name has 1 to {LONGEST_NAME} characters on one line.")
    return name


# -- power ------------------------------------------------------------------------------------------------------------


@click.command("power-cap", cls=OneLineCommand)
@click.argument("pool")
@click.option("--megawatts", type=click.FloatRange(min=0), help="The most the pool may draw, cooling included.")
@click.option(
    "--from", "begin", type=click.DateTime(["%Y-%m-%d %H:%M"]), help="First hour, for example 2026-12-01 18:00."
)
@click.option(
    "--until", "end", type=click.DateTime(["%Y-%m-%d %H:%M"]), help="When it is over; both in Shanghai's time."
)
@click.option("--reason", help="Why; everybody reads it on the pool's page.")
@click.option("--lift", type=int, metavar="NUMBER", help="End the cap with this number now.")
@with_appcontext
def power_cap(
    pool: str,
    megawatts: float | None,
    begin: dt.datetime | None,
    end: dt.datetime | None,
    reason: str | None,
    lift: int | None,
) -> None:
    """Let a pool draw less power in some hours, lift such a cap, and list those that hold or will."""
    database, now = _migrated_database(), clock.now()
    pue = _portal().policy.audit.pue_permille
    given = (megawatts, begin, end)
    if any(value is not None for value in given) and not all(value is not None for value in given):
        raise Failure("A cap needs --megawatts, --from and --until.")

    def work(session: Session) -> list[str]:
        found = session.scalar(sa.select(Pool).where(Pool.name == pool))
        if found is None:
            raise Failure(f"There is no pool {pool!r}.")
        if lift is not None:
            if lift not in {cap.id for cap in pool_queries.list_power_caps(session, found.id, now)}:
                raise Failure(f"The pool {pool!r} has no cap with the number {lift}.")
            pool_service.lift_power_cap(session, lift, by=SYSTEM, now=now)
        if megawatts is not None and begin is not None and end is not None:
            pool_service.cap_power(
                session, found.id, watts=round(megawatts * 1_000_000), pue_permille=pue,
                starts_at=begin.replace(tzinfo=clock.SHANGHAI), ends_at=end.replace(tzinfo=clock.SHANGHAI), by=SYSTEM,
                now=now, reason=reason,
            )  # fmt: skip
        return [_said(cap, found) for cap in pool_queries.list_power_caps(session, found.id, now)]

    try:
        lines = database.transaction(work)
    except Refusal as refusal:
        raise Failure(say(refusal.sentence, "en")) from None
    for line in lines or [f"No cap holds for {pool}."]:
        click.echo(line)


def _said(cap: PowerCap, pool: Pool) -> str:
    begin, end = (instant.astimezone(clock.SHANGHAI) for instant in (cap.starts_at, cap.ends_at))
    gpus = gpus_for(cap.watts, pool.watts, cap.pue_permille)
    return f"{cap.id}: {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, {cap.watts / 1_000_000:g} MW, {gpus:,} GPUs"


# -- verify -----------------------------------------------------------------------------------------------------------


@click.command("verify", cls=OneLineCommand)
@with_appcontext
def verify_command() -> None:
    """Recount every invariant from the rows alone; exit code 1 when one does not hold."""
    _verify(_migrated_database())


def _verify(database: Database) -> None:
    """Print a line per invariant; ends the command with exit code 1 when one does not hold."""
    with database.read_only() as session:
        problems = verify.run(session)
    with Session(database.engine) as session:  # nothing is committed
        problems += verify.try_to_change(session)
    found: dict[int, list[verify.Problem]] = defaultdict(list)
    for problem in problems:
        found[problem.invariant].append(problem)
    for number, sentence in verify.INVARIANTS.items():
        click.echo(f"{number}  {'ok' if number not in found else 'BROKEN':6}  {sentence}")
        for problem in found.get(number, ()):
            click.echo(f"   {problem.check}: {problem.line}")
    if problems:
        sys.exit(1)


# -- backups, and moving to another store -----------------------------------------------------------------------------


@click.command("backup", cls=OneLineCommand)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--keep", type=click.IntRange(min=1), help="Afterwards remove all but so many of the newest backups.")
@with_appcontext
def back_up(folder: Path, keep: int | None) -> None:
    """Write the whole database into one file in FOLDER, while everything goes on."""
    database = _portal().database
    if _revision(database) is None:
        raise Failure(f"The database {_address(database)} is empty: there is nothing to back up.")
    try:
        file, manifest = backup.make(database, folder, clock.now())
    except backup.BackupError as error:
        raise Failure(str(error)) from None
    rows = sum(manifest.counts.values())
    click.echo(f"{file}: {file.stat().st_size:,} bytes, {rows:,} rows, revision {manifest.revision}.")
    for old in backup.remove_old(folder, keep) if keep else ():
        click.echo(f"{old} was removed.")


@click.command("restore", cls=OneLineCommand)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Lose what the database holds now.")
@with_appcontext
def restore(file: Path, replace: bool) -> None:
    """Put the backup FILE in place of the database, upgrade it to this code, and verify it."""
    database = _portal().database
    _revision(database)
    try:
        manifest = backup.restore(database, file, replace=replace, now=clock.now())
    except backup.BackupError as error:
        raise Failure(str(error)) from None
    click.echo(
        f"Restored the state of {manifest.made:%Y-%m-%d %H:%M:%S} UTC, {sum(manifest.counts.values()):,} rows; "
        f"revision {manifest.revision}, now {schema.newest()}. Everybody has to sign in again."
    )
    _verify(database)


@click.command("copy-to", cls=OneLineCommand)
@click.argument("url")
@with_appcontext
def copy_to(url: str) -> None:
    """Copy every row into the empty database at URL, such as from SQLite to PostgreSQL, and verify it there."""
    source = _migrated_database()
    try:
        target = Database(load_settings(database_url=url).database_url)
    except SettingsError:
        raise Failure("URL must begin with sqlite:/// or postgresql://.") from None
    try:
        _revision(target)
        counts = moving.copy(source, target, clock.now())
        click.echo(f"Copied {sum(counts.values()):,} rows of {len(counts)} tables to {_address(target)}.")
        _verify(target)
    except backup.BackupError as error:
        raise Failure(str(error)) from None
    except sa.exc.OperationalError as error:
        raise Failure(_out_of_reach(target, error)) from None
    finally:
        target.dispose()


# -- retention --------------------------------------------------------------------------------------------------------


@click.command("retention", cls=OneLineCommand)
@click.option("--dry-run", is_flag=True, help="List what would go, and remove nothing.")
@with_appcontext
def retention_command(dry_run: bool) -> None:
    """Remove rows whose time is over by the policy, as the timetable does every night."""
    database, policy, now = _migrated_database(), _portal().policy.retention, clock.now()
    with database.read_only() as session:
        found = list(retention.due(session, policy, now=now))
    if not dry_run:
        retention.remove(database.transaction, policy, now=now)
    for due in found:
        days = due.record.days(policy)
        oldest = f", the oldest of {due.oldest_at:%Y-%m-%d}" if due.oldest_at is not None else ""
        verb = "would go" if dry_run else "removed"
        click.echo(f"{due.record.name:16}{days:6,} days  {due.rows:9,} {verb}{oldest}")


# -- the demo ---------------------------------------------------------------------------------------------------------


@click.command("demo-sign-ins", cls=OneLineCommand)
@with_appcontext
def demo_sign_ins() -> None:
    """One sign-in per role of the demo city. Production has none."""
    if not _portal().settings.demo_allowed:
        raise Failure("There are no demo people in production.")
    with _migrated_database().read_only() as session:
        people = _one_per_role(session)
    if not people:
        raise Failure("This database holds no demo city; `make demo` makes one.")
    width = max(len(email) for _role, email in people)
    for role, email in people:
        click.echo(f"{role.value:9}{email:{width}}  {DEMO_PASSWORD}")


def _one_per_role(session: Session) -> list[tuple[Role, str]]:
    """The first person of each role who signs in with the demo's password."""
    rows = sa.union_all(
        sa.select(Membership.role.label("role"), User.id, User.email, User.password_hash)
        .join(User, User.id == Membership.user_id)
        .where(User.disabled_at.is_(None)),
        sa.select(BureauRole.role, User.id, User.email, User.password_hash)
        .join(User, User.id == BureauRole.user_id)
        .where(User.disabled_at.is_(None)),
    ).subquery()
    first: dict[str, tuple[str, str | None]] = {}
    for role, email, password_hash in session.execute(
        sa.select(rows.c.role, rows.c.email, rows.c.password_hash).order_by(rows.c.id)
    ):
        first.setdefault(role, (email, password_hash))
    return [
        (role, first[role][0]) for role in Role if role in first and passwords.verify(first[role][1], DEMO_PASSWORD)
    ]
