"""Recounts the invariants of the house from the rows alone: `flask --app wsgi verify`.

Each check is one statement of its own SQL, written without the services' code, so that an error there cannot hide
itself here. All of it is set-based and streams: memory stays constant, and the database does the sorting. Run it in a
reading session, which is one snapshot; a busy portal then looks as consistent as it is.

What is not asked here: whether a fixed booking started in its first minute (a scheduler that was away is history, not
damage), and whether a person wrote a name into the free text of a note, which no query can know. Addresses can be
looked for, and are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy.orm import Session

from migrations.triggers import ADDED_APPEND_ONLY, APPEND_ONLY

from .allocations.states import CHANGE_LIFE, REPORT_LIFE
from .allocations.states import LIFE as ALLOCATION
from .announcements.states import LIFE as ANNOUNCEMENT
from .bookings.states import LIFE as BOOKING
from .bookings.states import WAITER_LIFE as WAITER
from .claims.states import LIFE as CLAIM
from .commons.states import DATASET_LIFE, SITE_LIFE, TRANSITION_LIFE
from .enterprises.states import LIFE as ENTERPRISE
from .lifecycle import Lifecycle
from .pools.states import LIFE as NODE
from .pools.states import MAINTENANCE_LIFE as MAINTENANCE
from .pools.states import POOL_LIFE as POOL
from .pools.states import POWER_CAP_LIFE as POWER_CAP
from .review.states import APPEAL_LIFE as APPEAL
from .signin.states import PERSON_LIFE as PERSON
from .statements.states import DISPUTE_LIFE as DISPUTE
from .statements.states import LIFE as STATEMENT

INVARIANTS = {
    1: "Per node, no GPU is given twice and none that is not there; fixed bookings have their whole window",
    2: "Ledger entries balance, accounts equal their entries, buckets add up, protected tables refuse changes",
    3: "Every accepted GPU-second is charged exactly once, in exactly one billing month",
    4: "Closed statements say what their charges say",
    5: "Every change of state has one history row",
    6: "No row of one enterprise hangs on another's",
    7: "History, ledger and logs name people by id only",
}
NAMED = 20  # rows named per check; the rest is counted
LIFECYCLES = (
    BOOKING,
    ALLOCATION,
    ENTERPRISE,
    NODE,
    STATEMENT,
    DISPUTE,
    MAINTENANCE,
    POOL,
    POWER_CAP,
    CHANGE_LIFE,
    REPORT_LIFE,
    PERSON,
    APPEAL,
    ANNOUNCEMENT,
    CLAIM,
    WAITER,
    DATASET_LIFE,
    SITE_LIFE,
    TRANSITION_LIFE,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken invariant: its number in design, the check that saw it, and a line that names the rows."""

    invariant: int
    check: str
    line: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.check}: {self.line}"


@dataclass(frozen=True, slots=True)
class Check:
    """Every row that `sql` finds is a problem, told by `line`."""

    invariant: int
    name: str
    line: str
    sql: str


def run(session: Session) -> list[Problem]:
    """Every problem that the rows show; empty when all invariants hold. Reads only."""
    problems: list[Problem] = []
    for check in CHECKS:
        lines = (check.line.format_map(row) for row in _rows(session, check.sql))
        problems += _name_some(check.invariant, check.name, lines)
    problems += _name_some(2, "protection", _missing_triggers(session))
    problems += _name_some(4, "content", _changed_contents(session))
    problems += _name_some(5, "moves", _moves_not_in_the_tables(session))
    return sorted(problems, key=lambda problem: problem.invariant)


CHECKED_IN_PYTHON = ("protection", "moves", "content")


def try_to_change(session: Session) -> list[Problem]:
    """Try to change and to delete a row of each protected table, and take it back: the database must say no.

    Needs a writing session, keeps nothing. A table without rows has nothing to try on.
    """
    problems = []
    connection = session.connection()
    for table in APPEND_ONLY + ADDED_APPEND_ONLY:
        rows = sa.table(table, sa.column("id"))
        newest = connection.scalar(sa.select(sa.func.max(rows.c.id)))
        if newest is None:
            continue
        change = sa.update(rows).where(rows.c.id == newest).values(id=newest)
        delete = sa.delete(rows).where(rows.c.id == newest)
        for verb, statement in (("UPDATE", change), ("DELETE", delete)):
            savepoint = connection.begin_nested()
            try:
                connection.execute(statement)
            except sa.exc.DBAPIError as refused:
                # A foreign key may refuse a DELETE too; that is not the protection that is asked for.
                if "append-only" not in str(refused.orig):
                    problems.append(Problem(2, "protection", f"{table} refuses {verb} for another reason only."))
            else:
                problems.append(Problem(2, "protection", f"{table} lets a row be changed: {verb} of row {newest}."))
            finally:
                savepoint.rollback()
    return problems


# -- running a statement ----------------------------------------------------------------------------------------------

# What the two stores say differently, written once. `GIVEN` yields one row per attempt a, node n and GPU g.
_WORDS = {
    "sqlite": (
        (r"SECONDS\(([\w.]+)\)", r"CAST(strftime('%s', \1) AS INTEGER)"),
        (r"MONTH\(([\w.]+)\)", r"strftime('%Y-%m', \1, '+8 hours')"),
        (r"DAY\(([\w.]+)\)", r"date(\1, '+8 hours')"),
        (r"\bHOUR\(([\w.]+)\)", r"CAST(strftime('%H', \1, '+8 hours') AS INTEGER)"),
        (r"\bGIVEN\b", "attempts a, json_each(a.nodes) n, json_each(n.value, '$.gpus') g"),
        (r"\bGIVEN_NODE\b", "json_extract(n.value, '$.node')"),
        (r"\bGIVEN_GPU\b", "g.value"),
    ),
    "postgresql": (
        (r"SECONDS\(([\w.]+)\)", r"CAST(EXTRACT(EPOCH FROM \1) AS bigint)"),
        (r"MONTH\(([\w.]+)\)", r"to_char(\1 AT TIME ZONE 'Asia/Shanghai', 'YYYY-MM')"),
        (r"DAY\(([\w.]+)\)", r"CAST(\1 AT TIME ZONE 'Asia/Shanghai' AS date)"),
        (r"\bHOUR\(([\w.]+)\)", r"CAST(EXTRACT(HOUR FROM \1 AT TIME ZONE 'Asia/Shanghai') AS integer)"),
        (
            r"\bGIVEN\b",
            "attempts a CROSS JOIN LATERAL json_array_elements(a.nodes) n(value) "
            "CROSS JOIN LATERAL json_array_elements_text(n.value -> 'gpus') g(value)",
        ),
        (r"\bGIVEN_NODE\b", "(n.value ->> 'node')"),
        (r"\bGIVEN_GPU\b", "CAST(g.value AS integer)"),
    ),
}


def _rows(session: Session, sql: str) -> Iterator[sa.RowMapping]:
    for pattern, said in _WORDS[session.get_bind().dialect.name]:
        sql = re.sub(pattern, lambda found, said=said: found.expand(said), sql)  # type: ignore[misc]
    # A colon inside a text is a colon, not a parameter.
    statement = sa.text(sql.replace(":", r"\:")).execution_options(yield_per=500)
    yield from session.execute(statement).mappings()


def _name_some(invariant: int, check: str, lines: Iterable[str]) -> Iterator[Problem]:
    rest = iter(lines)
    for line in islice(rest, NAMED):
        yield Problem(invariant, check, line)
    more = sum(1 for _ in rest)
    if more:
        yield Problem(invariant, check, f"… and {more:,} more of this kind.")


# -- checks that are not one statement --------------------------------------------------------------------------------


_REFUSES = {
    "occupancies_no_overlap": "overbooked",
    "discounts_no_overlap": "discounts overlap",
    "tariffs_no_overlap": "prices overlap",
    "statements_issued_no": "never changes",
    "statements_issued_no_delete": "never changes",
}


def _changed_contents(session: Session) -> Iterator[str]:
    """No database we use knows both SHA-256 and Ed25519: of each issued content hash, signature and sums are taken."""
    rows = session.execute(
        sa.text(
            "SELECT s.number, c.content, c.sha256, c.signature, k.public_key, c.previous_sha256, c.sequence, "
            "s.amount_micro_yuan + s.tax_micro_yuan FROM statement_contents c "
            "JOIN statements s ON s.id = c.statement_id JOIN receipt_keys k ON k.id = c.key_id "
            "ORDER BY c.enterprise_id, c.sequence"
        ).execution_options(yield_per=100)
    )
    for number, content, sha256, signature, public_key, previous, sequence, payable in rows:
        text = content.encode()
        if hashlib.sha256(text).hexdigest() != sha256:
            yield f"Statement {number}: its content is not what was issued."
            continue
        said = json.loads(text)
        if said["number"] != number or said["totals"]["payable"] != payable:
            yield f"Statement {number}: its content names another number or amount."
        if said["chain"] != {"previous_sha256": previous, "sequence": sequence}:
            yield f"Statement {number}: its content names another place in the chain."
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), text)
        except InvalidSignature:
            yield f"Statement {number}: its signature is not of its content."


def _missing_triggers(session: Session) -> Iterator[str]:
    """The catalogue must hold every protecting trigger, switched on and with a body that refuses."""
    for table, trigger in _expected_triggers(session):
        body = _trigger_body(session, table, trigger)
        refuses = _REFUSES.get(trigger.removesuffix("_insert").removesuffix("_update"), "append-only")
        if body is None:
            yield f"Table {table} has lost its trigger {trigger}."
        elif refuses not in body or "RAISE" not in body:
            yield f"Trigger {trigger} of table {table} no longer refuses anything."


def _expected_triggers(session: Session) -> Iterator[tuple[str, str]]:
    postgresql = session.get_bind().dialect.name == "postgresql"
    verbs = ("update", "delete", "truncate") if postgresql else ("update", "delete")
    for table in APPEND_ONLY + ADDED_APPEND_ONLY:
        yield from ((table, f"{table}_no_{verb}") for verb in verbs)
    for end in ("",) if postgresql else ("_insert", "_update"):
        yield "occupancies", f"occupancies_no_overlap{end}"
        yield "discounts", f"discounts_no_overlap{end}"
    yield "tariffs", "tariffs_no_overlap"
    yield "statements", "statements_issued_no_update"
    yield "statements", "statements_issued_no_delete"


def _trigger_body(session: Session, table: str, trigger: str) -> str | None:
    if session.get_bind().dialect.name == "postgresql":
        found = session.scalar(
            sa.text(
                "SELECT p.prosrc FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
                "WHERE t.tgrelid = to_regclass(:table) AND t.tgname = :trigger AND t.tgenabled IN ('O', 'A')"
            ),
            {"table": table, "trigger": trigger},
        )
    else:
        found = session.scalar(
            sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :table AND name = :trigger"),
            {"table": table, "trigger": trigger},
        )
    return None if found is None else str(found)


def _moves_not_in_the_tables(session: Session) -> Iterator[str]:
    """Kinds of moves are few, so they are compared with the printable tables here. An event moves nothing."""
    lives: dict[str, Lifecycle] = {life.kind: life for life in LIFECYCLES}
    for row in _rows(session, _MOVES):
        life = lives.get(row["kind"])
        if life is None:
            yield f"History speaks of a {row['kind']}, which has no lifecycle (first: row {row['id']})."
        elif row["before"] not in {str(state) for state in life.states} or not life.allows(row["before"], row["after"]):
            yield (
                f"{row['kind']} {row['subject_id']}: {row['before']} → {row['after']} is no move of its table "
                f"(history row {row['id']}, {row['n']} such)."
            )


_MOVES = """
SELECT h.kind, h.before, h.after, MIN(h.id) AS id, MIN(h.subject_id) AS subject_id, COUNT(*) AS n
FROM history_entries h WHERE h.before IS NOT NULL AND h.before <> h.after GROUP BY h.kind, h.before, h.after
"""

CHECKS = (
    # -- 1: capacity --
    Check(
        1,
        "booked-twice",
        "Node {node}, GPU {gpu}: booking {booking_id} begins at {starts_at} on top of booking {other_id}.",
        """
WITH RECURSIVE bits(bit) AS (
  SELECT 0 UNION ALL SELECT bit + 1 FROM bits WHERE bit + 1 < (SELECT MAX(gpus) FROM nodes)
), taken AS (
  SELECT o.node_id, b.bit, o.booking_id, o.starts_at,
    MAX(o.ends_at) OVER earlier AS busy_until, LAG(o.booking_id) OVER in_order AS other_id
  FROM occupancies o JOIN bits b ON ((o.gpu_mask >> b.bit) & 1) = 1
  WHERE o.ends_at > o.starts_at
  WINDOW in_order AS (PARTITION BY o.node_id, b.bit ORDER BY o.starts_at, o.id),
    earlier AS (PARTITION BY o.node_id, b.bit ORDER BY o.starts_at, o.id
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT n.name AS node, t.bit AS gpu, t.booking_id, t.other_id, t.starts_at
FROM taken t JOIN nodes n ON n.id = t.node_id WHERE t.busy_until > t.starts_at
""",
    ),
    # Access really given, until it was taken back. A booking's next attempt may begin before its last was cleared away.
    Check(
        1,
        "given-twice",
        "Node {node}, GPU {gpu}: booking {booking_id} was let in at {granted_at} before booking {other_id} was out.",
        """
WITH access AS (
  SELECT a.id, a.booking_id, a.granted_at, COALESCE(a.revoked_at, '9999-12-31 00:00:00.000000') AS revoked_at,
    LEAD(a.granted_at) OVER (PARTITION BY a.booking_id ORDER BY a.number) AS again_at
  FROM attempts a WHERE a.granted_at IS NOT NULL
), given AS (
  SELECT GIVEN_NODE AS node, GIVEN_GPU AS gpu, c.booking_id, c.granted_at,
    CASE WHEN c.again_at < c.revoked_at THEN c.again_at ELSE c.revoked_at END AS until_at
  FROM GIVEN JOIN access c ON c.id = a.id
), in_turn AS (
  SELECT v.node, v.gpu, v.booking_id, v.granted_at,
    MAX(v.until_at) OVER earlier AS busy_until, LAG(v.booking_id) OVER in_order AS other_id
  FROM given v WHERE v.until_at > v.granted_at
  WINDOW in_order AS (PARTITION BY v.node, v.gpu ORDER BY v.granted_at, v.booking_id),
    earlier AS (PARTITION BY v.node, v.gpu ORDER BY v.granted_at, v.booking_id
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT * FROM in_turn WHERE busy_until > granted_at
""",
    ),
    Check(
        1,
        "not-there",
        "Occupancy {id} of booking {booking_id} claims GPUs that {node} does not have, or not of its pool.",
        """
WITH RECURSIVE bits(bit) AS (
  SELECT 0 UNION ALL SELECT bit + 1 FROM bits WHERE bit < 61
), masks AS (
  SELECT d.gpu_mask, SUM((d.gpu_mask >> b.bit) & 1) AS gpus
  FROM (SELECT DISTINCT gpu_mask FROM occupancies) d CROSS JOIN bits b GROUP BY d.gpu_mask
)
SELECT o.id, o.booking_id, n.name AS node
FROM occupancies o
JOIN nodes n ON n.id = o.node_id JOIN bookings b ON b.id = o.booking_id JOIN masks m ON m.gpu_mask = o.gpu_mask
WHERE (o.gpu_mask >> n.gpus) <> 0 OR m.gpus <> o.gpus OR o.pool_id <> n.pool_id OR o.pool_id <> b.pool_id
""",
    ),
    # CROSS JOIN keeps SQLite at the booking's few rows; by the node it would walk all that ever stood there.
    Check(
        1,
        "without-a-place",
        "Attempt {attempt_id} of booking {booking_id} got GPU {gpu} of {node}, which was not occupied for it.",
        """
SELECT a.id AS attempt_id, a.booking_id, MIN(GIVEN_NODE) AS node, MIN(GIVEN_GPU) AS gpu
FROM GIVEN
WHERE a.placed_at IS NOT NULL AND NOT EXISTS (
  SELECT 1 FROM occupancies o CROSS JOIN nodes k
  WHERE o.booking_id = a.booking_id AND k.id = o.node_id AND k.name = GIVEN_NODE AND ((o.gpu_mask >> GIVEN_GPU) & 1) = 1
    AND o.starts_at <= COALESCE(a.granted_at, a.placed_at)
    AND (o.released_at IS NULL OR o.ends_at >= a.ended_at OR o.released_at >= a.ended_at)
)
GROUP BY a.id, a.booking_id
""",
    ),
    Check(
        1,
        "not-whole",
        "Attempt {attempt_id} of booking {booking_id} got {got} of {asked} GPUs.",
        """
WITH given AS (SELECT a.id, COUNT(*) AS gpus FROM GIVEN WHERE a.placed_at IS NOT NULL GROUP BY a.id)
SELECT a.id AS attempt_id, b.id AS booking_id, b.gpus AS asked, COALESCE(v.gpus, 0) AS got
FROM attempts a JOIN bookings b ON b.id = a.booking_id LEFT JOIN given v ON v.id = a.id
WHERE a.placed_at IS NOT NULL AND b.gpus <> COALESCE(v.gpus, 0)
""",
    ),
    Check(
        1,
        "lease-without-a-place",
        "Lease {key} of booking {booking_id} is placed on GPUs that are not occupied for it.",
        """
SELECT l.key, l.booking_id FROM leases l
WHERE l.state = 'placed' AND l.gpus > COALESCE(
  (SELECT SUM(o.gpus) FROM occupancies o WHERE o.booking_id = l.booking_id AND o.released_at IS NULL), 0)
""",
    ),
    Check(
        1,
        "on-a-dead-node",
        "Attempt {attempt_id} of booking {booking_id} was placed on {node} while that was {state}.",
        """
SELECT DISTINCT a.id AS attempt_id, a.booking_id, k.name AS node, i.state
FROM GIVEN
JOIN nodes k ON k.name = GIVEN_NODE
JOIN node_intervals i ON i.node_id = k.id AND i.state IN ('down', 'out_of_service')
WHERE i.starts_at < a.placed_at AND (i.ends_at IS NULL OR i.ends_at > a.placed_at)
""",
    ),
    # After a first attempt failed, the booking waits for the rest of its window only.
    Check(
        1,
        "fixed-not-whole",
        "Fixed booking {booking_id} does not have its {asked} GPUs throughout its window.",
        """
SELECT b.id AS booking_id, b.gpus AS asked FROM bookings b
WHERE b.kind = 'fixed' AND b.state IN ('submitted', 'confirmed') AND b.gpus > COALESCE((
  SELECT SUM(o.gpus) FROM occupancies o
  WHERE o.booking_id = b.id AND o.released_at IS NULL AND o.ends_at >= b.ends_at AND (
    o.starts_at <= b.starts_at
    OR EXISTS (SELECT 1 FROM attempts a WHERE a.booking_id = b.id AND a.placed_at IS NOT NULL))), 0)
""",
    ),
    # What is kept for the wait-list is nobody else's meanwhile.
    Check(
        1,
        "kept-twice",
        "Node {node}: the option of waiter {waiter_id} shares GPUs with {other} {other_id}.",
        """
SELECT n.name AS node, p.waiter_id, 'booking' AS other, o.booking_id AS other_id
FROM option_places p JOIN nodes n ON n.id = p.node_id
JOIN occupancies o ON o.node_id = p.node_id AND o.starts_at < p.ends_at AND o.ends_at > p.starts_at
  AND o.starts_at < o.ends_at AND (o.gpu_mask & p.gpu_mask) <> 0
UNION ALL
SELECT n.name, p.waiter_id, 'waiter', q.waiter_id
FROM option_places p JOIN nodes n ON n.id = p.node_id
JOIN option_places q ON q.id > p.id AND q.node_id = p.node_id AND q.starts_at < p.ends_at AND q.ends_at > p.starts_at
  AND (q.gpu_mask & p.gpu_mask) <> 0
""",
    ),
    Check(
        1,
        "option",
        "Waiter {waiter_id} is {state} and has {places} places kept.",
        """
WITH kept AS (SELECT waiter_id, COUNT(*) AS places FROM option_places GROUP BY waiter_id)
SELECT w.id AS waiter_id, w.state, COALESCE(k.places, 0) AS places
FROM waiters w LEFT JOIN kept k ON k.waiter_id = w.id WHERE (w.state = 'offered') <> (k.places IS NOT NULL)
""",
    ),
    Check(
        1,
        "attempts-under-way",
        "Booking {booking_id} is {state} and has {n} attempts under way.",
        """
WITH under_way AS (SELECT a.booking_id, COUNT(*) AS n FROM attempts a WHERE a.outcome IS NULL GROUP BY a.booking_id)
SELECT b.id AS booking_id, b.state, COALESCE(w.n, 0) AS n
FROM bookings b LEFT JOIN under_way w ON w.booking_id = b.id
WHERE w.n > 1 OR (b.state IN ('starting', 'running', 'stopping') AND w.n IS NULL)
  OR b.under_way <> (w.n IS NOT NULL)
""",
    ),
    # -- 2: the ledger --
    Check(
        2,
        "entry-not-allowed",
        "Ledger entry {entry_id} ({verb}, {reference}) moves hours between accounts it may not.",
        """
WITH verbs(verb, source, target) AS (VALUES
  ('fund', 'source', 'pool'), ('fund', 'source', 'overdraft'),
  ('commit', 'pool', 'held'), ('commit', 'overdraft', 'held'), ('spend', 'held', 'used'),
  ('release', 'held', 'pool'), ('refund', 'used', 'pool'), ('refund', 'used', 'overdraft'),
  ('award', 'pool', 'available'), ('award', 'pool', 'withheld'), ('award', 'pool', 'overdraft'),
  ('stage', 'withheld', 'available'),
  ('hold', 'available', 'held'),
  ('charge', 'held', 'used'), ('charge', 'available', 'used'), ('charge', 'overdraft', 'used'),
  ('hold', 'overdraft', 'held'), ('release', 'held', 'overdraft'),
  ('release', 'held', 'available'), ('release', 'held', 'expired'),
  ('expire', 'available', 'expired'), ('expire', 'available', 'pool'),
  ('correct', 'used', 'available'), ('correct', 'available', 'used'), ('correct', 'used', 'expired'),
  ('correct', 'used', 'overdraft')
)
SELECT e.id AS entry_id, e.verb, e.reference
FROM ledger_entries e
LEFT JOIN ledger_accounts f ON f.id = e.from_account_id
LEFT JOIN ledger_accounts t ON t.id = e.to_account_id
LEFT JOIN verbs v ON v.verb = e.verb AND v.source = f.bucket AND v.target = t.bucket
WHERE f.id IS NULL OR t.id IS NULL OR v.verb IS NULL OR e.amount <= 0 OR e.unit <> f.unit OR e.unit <> t.unit
  OR (e.verb IN ('commit', 'spend', 'refund')) AND e.unit <> 'micro_yuan'
  OR CASE
    WHEN e.unit = 'micro_yuan' AND e.verb = 'fund'
      THEN f.owner <> 'bureau' OR (t.owner NOT LIKE 'programme:%' AND t.owner NOT LIKE 'scheme:%')
    WHEN e.unit = 'micro_yuan' THEN f.owner <> t.owner
    WHEN e.verb = 'fund' THEN f.owner <> 'bureau' OR t.owner NOT LIKE 'programme:%'
    WHEN e.verb = 'award' THEN NOT EXISTS (SELECT 1 FROM allocations l
      WHERE t.owner = 'allocation:' || l.id AND f.owner = 'programme:' || l.programme_id)
    WHEN t.bucket = 'pool' THEN NOT EXISTS (SELECT 1 FROM allocations l
      WHERE f.owner = 'allocation:' || l.id AND t.owner = 'programme:' || l.programme_id)
    ELSE f.owner <> t.owner
  END
""",
    ),
    Check(
        2,
        "balance",
        "Account {account_id} ({owner} {bucket}) says {balance}; its entries say {total}.",
        """
WITH moved(id, amount) AS (
  SELECT to_account_id, amount FROM ledger_entries UNION ALL SELECT from_account_id, -amount FROM ledger_entries
), sums AS (SELECT id, SUM(amount) AS total FROM moved GROUP BY id)
SELECT a.id AS account_id, a.owner, a.bucket, a.balance, COALESCE(s.total, 0) AS total
FROM ledger_accounts a LEFT JOIN sums s ON s.id = a.id WHERE a.balance <> COALESCE(s.total, 0)
""",
    ),
    Check(
        2,
        "below-zero",
        "Account {account_id} ({owner} {bucket}) stands at {balance}.",
        """
SELECT a.id AS account_id, a.owner, a.bucket, a.balance FROM ledger_accounts a
WHERE CASE WHEN a.bucket IN ('source', 'overdraft') THEN a.balance > 0 ELSE a.balance < 0 END
""",
    ),
    # The overdraft's account is negative, so that the sum of all buckets is what was awarded and not taken back.
    Check(
        2,
        "buckets",
        "Allocation {allocation_id} was awarded {awarded} GPU-seconds; its buckets add up to {found}.",
        """
WITH back AS (
  SELECT f.owner, SUM(e.amount) AS amount FROM ledger_entries e
  JOIN ledger_accounts f ON f.id = e.from_account_id JOIN ledger_accounts t ON t.id = e.to_account_id
  WHERE e.verb = 'expire' AND t.bucket = 'pool' GROUP BY f.owner
), sums AS (SELECT owner, SUM(balance) AS amount FROM ledger_accounts WHERE unit = 'gpu_seconds' GROUP BY owner)
SELECT l.id AS allocation_id, COALESCE(l.awarded_gpu_seconds, 0) AS awarded, COALESCE(s.amount, 0) AS found
FROM allocations l
LEFT JOIN sums s ON s.owner = 'allocation:' || l.id
LEFT JOIN back r ON r.owner = 'allocation:' || l.id
WHERE COALESCE(s.amount, 0) <> COALESCE(l.awarded_gpu_seconds, 0) - COALESCE(r.amount, 0)
""",
    ),
    Check(
        2,
        "held-by-bookings",
        "Allocation {allocation_id}: its bookings hold {bookings} GPU-seconds, its account {account}.",
        """
WITH held AS (SELECT allocation_id, SUM(held_gpu_seconds) AS amount FROM bookings GROUP BY allocation_id)
SELECT l.id AS allocation_id, COALESCE(h.amount, 0) AS bookings, COALESCE(a.balance, 0) AS account
FROM allocations l
LEFT JOIN held h ON h.allocation_id = l.id
LEFT JOIN ledger_accounts a ON a.owner = 'allocation:' || l.id AND a.bucket = 'held' AND a.unit = 'gpu_seconds'
WHERE COALESCE(h.amount, 0) <> COALESCE(a.balance, 0)
""",
    ),
    Check(
        2,
        "held-cache",
        "Booking {booking_id} says it holds {cached} GPU-seconds; the ledger says {counted}.",
        """
WITH from_hold AS (
  SELECT c.booking_id, SUM(e.amount) AS amount
  FROM charges c
  JOIN ledger_entries e ON e.reference = c.reference AND e.verb = 'charge'
  JOIN ledger_accounts f ON f.id = e.from_account_id AND f.bucket = 'held'
  GROUP BY c.booking_id
), counted AS (
  SELECT b.id AS booking_id, b.held_gpu_seconds AS cached,
    COALESCE((SELECT SUM(e.amount) FROM ledger_entries e WHERE e.reference = 'booking:' || b.id || ':hold'), 0)
    + COALESCE((SELECT SUM(e.amount) FROM extensions x
      JOIN ledger_entries e ON e.reference = 'booking:' || b.id || ':hold:' || x.number WHERE x.booking_id = b.id), 0)
    - COALESCE((SELECT SUM(e.amount) FROM ledger_entries e WHERE e.reference = 'booking:' || b.id || ':release'), 0)
    - COALESCE(h.amount, 0) AS counted
  FROM bookings b LEFT JOIN from_hold h ON h.booking_id = b.id
)
SELECT * FROM counted WHERE cached <> counted
""",
    ),
    # What stands of all takes is what is promised and paid; what is left is the rest of the budget.
    Check(
        2,
        "budget",
        "{owner}: statements and claims took {taken} micro-yuan, its budget has promised and paid {moved}.",
        """
WITH took AS (
  SELECT CASE WHEN s.programme_id IS NULL THEN 'scheme:' || s.id ELSE 'programme:' || s.programme_id END AS owner,
    SUM(u.amount_micro_yuan) AS amount
  FROM schemes s JOIN subsidy_uses u ON u.scheme_id = s.id GROUP BY s.id, s.programme_id
), moved AS (
  SELECT owner, SUM(balance) AS amount FROM ledger_accounts
  WHERE unit = 'micro_yuan' AND bucket IN ('held', 'used') GROUP BY owner
)
SELECT m.owner, COALESCE(t.amount, 0) AS taken, m.amount AS moved
FROM moved m LEFT JOIN took t ON t.owner = m.owner WHERE COALESCE(t.amount, 0) <> m.amount
""",
    ),
    Check(
        2,
        "claim",
        "Claim {number} is {state} over {amount} micro-yuan; its uses come to {taken}.",
        """
WITH took AS (
  SELECT c.id, SUM(u.amount_micro_yuan) AS amount FROM claims c
  JOIN subsidy_uses u ON u.statement_id = c.statement_id AND u.reference LIKE 'claim:' || c.id || ':%'
  GROUP BY c.id
)
SELECT c.number, c.state, c.amount_micro_yuan AS amount, COALESCE(t.amount, 0) AS taken
FROM claims c LEFT JOIN took t ON t.id = c.id
WHERE COALESCE(t.amount, 0) <> CASE WHEN c.state IN ('declined', 'withdrawn') THEN 0 ELSE c.amount_micro_yuan END
""",
    ),
    # -- 3: usage and charges --
    Check(
        3,
        "charged-once",
        "Usage record {record_id}: {records} record, {charges} charges, or not the same GPU-seconds.",
        """
SELECT x.id AS record_id, SUM(x.records) AS records, SUM(x.charges) AS charges FROM (
  SELECT u.id, 1 AS records, 0 AS charges, u.gpu_seconds AS used, 0 AS charged FROM usage_records u
  UNION ALL SELECT c.usage_record_id, 0, 1, 0, c.gpu_seconds FROM charges c WHERE c.kind = 'usage') x
GROUP BY x.id HAVING SUM(x.records) <> 1 OR SUM(x.charges) <> 1 OR SUM(x.used) <> SUM(x.charged)
""",
    ),
    Check(
        3,
        "posted-once",
        "{reference}: charged or given back {charged} GPU-seconds, the ledger moved {posted}.",
        """
SELECT x.reference, SUM(x.charged) AS charged, SUM(x.posted) AS posted FROM (
  SELECT CASE WHEN c.kind = 'usage' THEN 'usage:' || c.usage_record_id ELSE c.reference END AS reference,
    c.gpu_seconds AS charged, 0 AS posted FROM charges c WHERE c.kind <> 'rerate'
  UNION ALL SELECT e.reference, 0, CASE e.verb WHEN 'charge' THEN e.amount ELSE -e.amount END
  FROM ledger_entries e WHERE e.verb IN ('charge', 'correct')) x
GROUP BY x.reference HAVING SUM(x.charged) <> SUM(x.posted)
""",
    ),
    Check(
        3,
        "given-back",
        "Of charge {charge_id} ({charged} GPU-seconds) {back} were given back.",
        """
WITH taken AS (SELECT corrects_id, SUM(gpu_seconds) AS amount FROM charges WHERE gpu_seconds < 0 GROUP BY corrects_id)
SELECT o.id AS charge_id, o.gpu_seconds AS charged, -t.amount AS back
FROM taken t LEFT JOIN charges o ON o.id = t.corrects_id
WHERE o.id IS NULL OR o.gpu_seconds <= 0 OR o.gpu_seconds + t.amount < 0
""",
    ),
    # What is given back is given back at its price; a new rate takes back as much as it charges.
    Check(
        3,
        "corrects",
        "Charge {charge_id} corrects charge {corrects_id}, and is of another booking, record or price.",
        """
SELECT c.id AS charge_id, c.corrects_id FROM charges c JOIN charges o ON o.id = c.corrects_id
WHERE c.booking_id <> o.booking_id OR COALESCE(c.usage_record_id, 0) <> COALESCE(o.usage_record_id, 0)
  OR (c.gpu_seconds < 0 AND (c.tariff_id <> o.tariff_id OR c.weight_milli <> o.weight_milli
    OR COALESCE(c.discount_id, 0) <> COALESCE(o.discount_id, 0)))
UNION ALL
SELECT MIN(c.id), c.corrects_id FROM charges c WHERE c.kind = 'rerate'
GROUP BY c.corrects_id HAVING SUM(c.gpu_seconds) <> 0
""",
    ),
    Check(
        3,
        "record",
        "Usage record {record_id} of booking {booking_id}: its GPUs, share, time, hour or day do not fit together.",
        """
SELECT u.id AS record_id, u.booking_id FROM usage_records u
JOIN bookings b ON b.id = u.booking_id JOIN attempts a ON a.id = u.attempt_id
WHERE u.gpus <> b.gpus
  OR u.gpu_seconds <> (u.share_milli * (SECONDS(u.ends_at) - SECONDS(u.starts_at)) + 999) / 1000
  OR (u.slice IS NULL AND u.share_milli < u.gpus * 1000)
  OR (u.share_milli <> u.gpus * 1000 AND a.cpus IS NULL AND a.memory_gib IS NULL AND a.slice IS NULL)
  OR u.day_on <> DAY(u.starts_at) OR SECONDS(u.starts_at) / 3600 <> (SECONDS(u.ends_at) - 1) / 3600
""",
    ),
    Check(
        3,
        "records-in-a-row",
        "Usage record {record_id} of attempt {attempt_id} {how} the one before it.",
        """
WITH in_order AS (
  SELECT u.id, u.attempt_id, u.starts_at,
    LAG(u.ends_at) OVER (PARTITION BY u.attempt_id ORDER BY u.starts_at, u.id) AS before_at
  FROM usage_records u
)
SELECT id AS record_id, attempt_id, CASE WHEN starts_at < before_at THEN 'overlaps' ELSE 'leaves a gap after' END AS how
FROM in_order WHERE starts_at <> before_at
""",
    ),
    # A fixed booking is charged for its window; an attempt that failed may be charged for less than it stood.
    Check(
        3,
        "metered",
        "Attempt {attempt_id} of booking {booking_id} is not metered from its start to its end.",
        """
WITH used AS (
  SELECT u.attempt_id, MIN(u.starts_at) AS first_at, MAX(u.ends_at) AS last_at
  FROM usage_records u GROUP BY u.attempt_id
)
SELECT a.id AS attempt_id, a.booking_id
FROM attempts a JOIN bookings b ON b.id = a.booking_id LEFT JOIN used u ON u.attempt_id = a.id
WHERE (u.attempt_id IS NOT NULL AND a.granted_at IS NULL)
  OR u.first_at <> a.granted_at
  OR COALESCE(u.last_at, a.granted_at) <> a.metered_until_at
  OR (a.granted_at IS NOT NULL AND a.metered_until_at IS NULL)
  OR (u.last_at > a.ended_at AND (b.kind <> 'fixed' OR u.last_at > b.ends_at))
  OR (a.metered_whole AND a.outcome IS NULL)
  OR (a.metered_whole AND a.outcome = 'ended' AND a.metered_until_at < a.ended_at)
""",
    ),
    Check(
        3,
        "tariff",
        "Charge {charge_id} stands at tariff {tariff_id}, which was not its price.",
        """
SELECT c.id AS charge_id, c.tariff_id
FROM charges c
JOIN bookings b ON b.id = c.booking_id
JOIN tariffs t ON t.id = c.tariff_id
LEFT JOIN discounts d ON d.id = c.discount_id
LEFT JOIN usage_records u ON u.id = c.usage_record_id AND c.kind = 'usage' AND b.kind <> 'fixed'
WHERE t.pool_id <> b.pool_id OR d.pool_id <> b.pool_id
  OR u.day_on < t.from_on OR u.day_on > t.until_on
  OR CASE WHEN t.from_hour < t.until_hour THEN HOUR(u.starts_at) < t.from_hour OR HOUR(u.starts_at) >= t.until_hour
    ELSE HOUR(u.starts_at) < t.from_hour AND HOUR(u.starts_at) >= t.until_hour END
  OR (t.from_hour IS NULL AND EXISTS (SELECT 1 FROM tariffs x
    WHERE x.pool_id = u.pool_id AND x.from_hour IS NOT NULL AND x.from_on <= u.day_on
      AND (x.until_on IS NULL OR x.until_on >= u.day_on)
      AND CASE WHEN x.from_hour < x.until_hour
        THEN HOUR(u.starts_at) >= x.from_hour AND HOUR(u.starts_at) < x.until_hour
        ELSE HOUR(u.starts_at) >= x.from_hour OR HOUR(u.starts_at) < x.until_hour END))
""",
    ),
    # The size class may be another one by now; what a programme agreed is not.
    Check(
        3,
        "discount",
        "Charge {charge_id} has a discount or a weight that was not its own, or lacks its programme's.",
        """
SELECT c.id AS charge_id
FROM charges c
JOIN bookings b ON b.id = c.booking_id AND b.kind <> 'fixed'
JOIN allocations l ON l.id = b.allocation_id
JOIN usage_records u ON u.id = c.usage_record_id
LEFT JOIN discounts d ON d.id = c.discount_id
WHERE c.kind = 'usage' AND (
  u.day_on < d.from_on OR u.day_on > d.until_on OR d.programme_id <> l.programme_id
  OR (d.programme_id IS NULL AND EXISTS (SELECT 1 FROM discounts x
    WHERE x.pool_id = u.pool_id AND x.programme_id = l.programme_id AND x.size_class IS NULL
      AND x.from_on <= u.day_on AND x.until_on >= u.day_on))
  OR c.weight_milli <> COALESCE((SELECT w.weight_milli FROM pool_weights w
    WHERE w.pool_id = u.pool_id AND w.slice = '' AND w.from_on <= u.day_on ORDER BY w.from_on DESC LIMIT 1), 1000))
""",
    ),
    # A fixed booking pays what was frozen when it was confirmed, for use and for what it was not used for.
    Check(
        3,
        "frozen-price",
        "Charge {charge_id} of fixed booking {booking_id} is not at a price that was frozen for it.",
        """
SELECT c.id AS charge_id, c.booking_id
FROM charges c
JOIN bookings b ON b.id = c.booking_id AND b.kind = 'fixed'
LEFT JOIN usage_records u ON u.id = c.usage_record_id
WHERE c.corrects_id IS NULL AND NOT EXISTS (SELECT 1 FROM booking_prices p
  WHERE p.booking_id = c.booking_id AND p.tariff_id = c.tariff_id AND p.weight_milli = c.weight_milli
    AND COALESCE(p.discount_id, 0) = COALESCE(c.discount_id, 0)
    AND (u.id IS NULL OR p.starts_at = (SELECT MAX(q.starts_at) FROM booking_prices q
      WHERE q.booking_id = c.booking_id AND q.starts_at <= u.starts_at)))
""",
    ),
    Check(
        3,
        "frozen-whole",
        "The frozen prices of fixed booking {booking_id} leave a part of its window without one, or give it two.",
        """
WITH in_order AS (
  SELECT p.booking_id, p.starts_at, p.ends_at,
    LAG(p.ends_at) OVER (PARTITION BY p.booking_id ORDER BY p.starts_at) AS before_at
  FROM booking_prices p
), whole AS (
  SELECT booking_id, MIN(starts_at) AS first_at, MAX(ends_at) AS last_at,
    SUM(CASE WHEN starts_at <> before_at THEN 1 ELSE 0 END) AS breaks
  FROM in_order GROUP BY booking_id
)
SELECT b.id AS booking_id FROM bookings b LEFT JOIN whole w ON w.booking_id = b.id
WHERE b.kind = 'fixed' AND b.tariff_id IS NOT NULL
  AND (w.booking_id IS NULL OR w.first_at > b.starts_at OR w.last_at < b.ends_at OR w.breaks > 0)
""",
    ),
    Check(
        3,
        "two-prices",
        "Tariffs {tariff_id} and {other_id} hold in the same hours.",
        """
SELECT t.id AS tariff_id, o.id AS other_id FROM tariffs t JOIN tariffs o ON o.pool_id = t.pool_id AND o.id > t.id
WHERE COALESCE(t.until_on, '9999-12-31') >= o.from_on AND t.from_on <= COALESCE(o.until_on, '9999-12-31')
  AND ((t.from_hour IS NULL AND o.from_hour IS NULL) OR (t.from_hour IS NOT NULL AND o.from_hour IS NOT NULL
    AND (CASE WHEN o.from_hour < o.until_hour THEN t.from_hour >= o.from_hour AND t.from_hour < o.until_hour
      ELSE t.from_hour >= o.from_hour OR t.from_hour < o.until_hour END
    OR CASE WHEN t.from_hour < t.until_hour THEN o.from_hour >= t.from_hour AND o.from_hour < t.until_hour
      ELSE o.from_hour >= t.from_hour OR o.from_hour < t.until_hour END)))
""",
    ),
    Check(
        3,
        "month",
        "Charge {charge_id} of use in {used_in} is billed in {billed_in}.",
        """
WITH dated AS (
  SELECT c.id, c.billed_in, c.adjustment, COALESCE(u.starts_at, o.charged_at, c.charged_at) AS used_at
  FROM charges c
  LEFT JOIN usage_records u ON u.id = c.usage_record_id
  LEFT JOIN charges o ON o.id = c.corrects_id
)
SELECT d.id AS charge_id, d.billed_in, MONTH(d.used_at) AS used_in FROM dated d
WHERE d.billed_in < MONTH(d.used_at) OR d.adjustment <> (d.billed_in <> MONTH(d.used_at))
""",
    ),
    Check(
        3,
        "charged-cache",
        "Booking {booking_id} says {cached} GPU-seconds were charged; its charges say {counted}.",
        """
WITH charged AS (SELECT booking_id, SUM(gpu_seconds) AS amount FROM charges GROUP BY booking_id)
SELECT b.id AS booking_id, b.charged_gpu_seconds AS cached, COALESCE(c.amount, 0) AS counted
FROM bookings b LEFT JOIN charged c ON c.booking_id = b.id WHERE b.charged_gpu_seconds <> COALESCE(c.amount, 0)
""",
    ),
    # A change of mind costs what was quoted for it, once.
    Check(
        3,
        "quoted",
        "Booking {booking_id}: its quotes that were used promise {quoted} GPU-seconds, {charged} were charged.",
        """
SELECT x.booking_id, SUM(x.quoted) AS quoted, SUM(x.charged) AS charged FROM (
  SELECT q.booking_id, q.gpu_seconds AS quoted, 0 AS charged FROM cancellation_quotes q WHERE q.used_at IS NOT NULL
  UNION ALL SELECT c.booking_id, 0, c.gpu_seconds FROM charges c
  WHERE c.kind = 'cancellation' AND c.corrects_id IS NULL) x
GROUP BY x.booking_id HAVING SUM(x.quoted) <> SUM(x.charged)
UNION ALL
SELECT q.booking_id, q.gpu_seconds, -1 FROM cancellation_quotes q WHERE q.used_at >= q.expires_at
""",
    ),
    Check(
        3,
        "returned",
        "Booking {booking_id}: {credited} GPU-seconds are said to be credited for what others used; charges: {back}.",
        """
SELECT x.booking_id, SUM(x.credited) AS credited, SUM(x.back) AS back FROM (
  SELECT r.booking_id, r.credited_gpu_seconds AS credited, 0 AS back FROM returned_hours r
  WHERE r.settled_at IS NOT NULL
  UNION ALL SELECT c.booking_id, 0, -c.gpu_seconds FROM charges c WHERE c.kind = 'returned') x
GROUP BY x.booking_id HAVING SUM(x.credited) <> SUM(x.back)
UNION ALL
SELECT r.booking_id, r.credited_gpu_seconds, -1 FROM returned_hours r WHERE r.settled_at < r.ends_at
""",
    ),
    # Every GPU-second is recounted on its own: who had that card in that time.
    Check(
        3,
        "rebooked",
        "Returned hours {returned_id} of booking {booking_id}: others used {counted} GPU-seconds, {said} are written.",
        """
WITH RECURSIVE bits(bit) AS (SELECT 0 UNION ALL SELECT bit + 1 FROM bits WHERE bit < 61),
met AS (
  SELECT r.id, p.gpu_mask & o.gpu_mask AS common,
    CASE WHEN o.starts_at > r.starts_at THEN o.starts_at ELSE r.starts_at END AS first_at,
    CASE WHEN o.ends_at < r.ends_at THEN o.ends_at ELSE r.ends_at END AS last_at
  FROM returned_hours r JOIN returned_places p ON p.returned_id = r.id
  JOIN occupancies o ON o.node_id = p.node_id AND o.starts_at < r.ends_at AND o.ends_at > r.starts_at
    AND o.starts_at < o.ends_at AND (o.gpu_mask & p.gpu_mask) <> 0
  JOIN bookings b ON b.id = o.booking_id AND b.enterprise_id <> r.enterprise_id
  WHERE r.settled_at IS NOT NULL
), shared AS (
  SELECT m.id, SUM(((m.common >> t.bit) & 1) * (SECONDS(m.last_at) - SECONDS(m.first_at))) AS counted
  FROM met m CROSS JOIN bits t GROUP BY m.id
)
SELECT r.id AS returned_id, r.booking_id, r.rebooked_gpu_seconds AS said, COALESCE(s.counted, 0) AS counted
FROM returned_hours r LEFT JOIN shared s ON s.id = r.id
WHERE r.settled_at IS NOT NULL AND r.rebooked_gpu_seconds <> COALESCE(s.counted, 0)
""",
    ),
    Check(
        3,
        "no-show",
        "Booking {booking_id} is {state}; it has {strikes} strikes.",
        """
WITH counted AS (SELECT booking_id, COUNT(*) AS n FROM strikes GROUP BY booking_id)
SELECT b.id AS booking_id, b.state, COALESCE(s.n, 0) AS strikes
FROM bookings b LEFT JOIN counted s ON s.booking_id = b.id
WHERE (b.state = 'no_show') <> (s.n IS NOT NULL) OR (b.state = 'no_show' AND b.claimed_at IS NOT NULL)
""",
    ),
    # The city's fault costs nothing: a lost run that was credited has nothing left of its charges.
    Check(
        3,
        "lost-run",
        "Attempt {attempt_id} was credited as lost and is still charged {rest} GPU-seconds.",
        """
SELECT a.id AS attempt_id, SUM(c.gpu_seconds) AS rest
FROM attempts a JOIN usage_records u ON u.attempt_id = a.id JOIN charges c ON c.usage_record_id = u.id
WHERE a.credited_at IS NOT NULL AND c.kind <> 'rerate' AND EXISTS (
  SELECT 1 FROM charges o JOIN usage_records k ON k.id = o.usage_record_id
  WHERE k.attempt_id = a.id AND o.kind = 'outage')
GROUP BY a.id HAVING SUM(c.gpu_seconds) <> 0
""",
    ),
    Check(
        3,
        "over-and-done",
        "Booking {booking_id} is {state} and still holds hours or is not metered whole.",
        """
SELECT b.id AS booking_id, b.state FROM bookings b
WHERE (b.state IN ('declined', 'cancelled', 'lapsed', 'settled') AND b.held_gpu_seconds <> 0)
  OR (b.state = 'settled' AND EXISTS (
    SELECT 1 FROM attempts a WHERE a.booking_id = b.id AND (NOT a.metered_whole OR a.outcome IS NULL)))
""",
    ),
    # -- 4: statements --
    # Half up to the fen, away from zero: (2 a + b) / 2 b in integers, as the rules say; tax once on the total.
    Check(
        4,
        "statement-totals",
        "Statement {number}: its totals are not those of its lines, or its tax is wrong.",
        """
WITH sums AS (
  SELECT l.statement_id, SUM(l.gpu_seconds) AS gpu_seconds, SUM(l.amount_micro_yuan) AS amount,
    SUM(l.list_micro_yuan) AS list, SUM(l.discount_micro_yuan) AS discount, SUM(l.subsidy_micro_yuan) AS subsidy,
    SUM(l.voucher_micro_yuan) AS voucher
  FROM statement_lines l JOIN statements s ON s.id = l.statement_id AND s.closing = l.closing
  WHERE s.state NOT IN ('draft', 'returned') GROUP BY l.statement_id
), counted AS (
  SELECT s.*, COALESCE(l.gpu_seconds, 0) AS line_seconds, COALESCE(l.amount, 0) AS line_amount,
    COALESCE(l.list, 0) AS line_list, COALESCE(l.discount, 0) AS line_discount,
    COALESCE(l.subsidy, 0) AS line_subsidy, COALESCE(l.voucher, 0) AS line_voucher,
    CASE WHEN s.amount_micro_yuan < 0 THEN -1 ELSE 1 END
      * ((2 * ABS(s.amount_micro_yuan) * s.tax_permille + 10000000) / 20000000 * 10000) AS tax
  FROM statements s LEFT JOIN sums l ON l.statement_id = s.id
)
SELECT number FROM counted
WHERE gpu_seconds <> line_seconds OR amount_micro_yuan <> line_amount OR list_micro_yuan <> line_list
  OR discount_micro_yuan <> line_discount OR subsidy_micro_yuan <> line_subsidy OR voucher_micro_yuan <> line_voucher
  OR tax_micro_yuan <> CASE WHEN state IN ('draft', 'returned') THEN 0 ELSE tax END
""",
    ),
    Check(
        4,
        "lines",
        "Statement {number}, booking {booking_id}: billed {billed} GPU-seconds, charged {charged}.",
        """
WITH found AS (
  SELECT s.id AS statement_id, c.booking_id, c.kind, c.tariff_id, c.discount_id, c.weight_milli, c.adjustment,
    SUM(c.gpu_seconds) AS charged, 0 AS billed
  FROM charges c JOIN statements s ON s.enterprise_id = c.enterprise_id AND s.month = c.billed_in
    AND s.state NOT IN ('draft', 'returned')
  GROUP BY s.id, c.booking_id, c.kind, c.tariff_id, c.discount_id, c.weight_milli, c.adjustment
  UNION ALL
  SELECT l.statement_id, l.booking_id, l.kind, l.tariff_id, l.discount_id, l.weight_milli, l.adjustment, 0,
    l.gpu_seconds
  FROM statement_lines l JOIN statements s ON s.id = l.statement_id AND s.closing = l.closing
    AND s.state NOT IN ('draft', 'returned')
)
SELECT s.number, f.booking_id, SUM(f.charged) AS charged, SUM(f.billed) AS billed
FROM found f JOIN statements s ON s.id = f.statement_id
GROUP BY s.number, f.booking_id, f.kind, f.tariff_id, f.discount_id, f.weight_milli, f.adjustment
HAVING SUM(f.charged) <> SUM(f.billed)
""",
    ),
    # GPU-seconds × weight × price ÷ 3.6 million is micro-yuan; whole hours first, so that nothing overflows.
    Check(
        4,
        "line-amount",
        "Statement {number}, line {line_id}: price or amount is not that of its tariff and discount.",
        """
WITH priced AS (
  SELECT l.id, l.statement_id, l.price_micro_yuan, l.contract_price_micro_yuan, l.list_micro_yuan,
    l.list_micro_yuan - l.discount_micro_yuan AS contract, t.price_micro_yuan AS tariff,
    CASE WHEN d.id IS NULL THEN t.price_micro_yuan
      WHEN d.percent IS NOT NULL THEN t.price_micro_yuan * (100 - d.percent) / 100
      WHEN d.price_micro_yuan < t.price_micro_yuan THEN d.price_micro_yuan ELSE t.price_micro_yuan
    END AS contract_price,
    CASE WHEN l.gpu_seconds < 0 THEN -1 ELSE 1 END AS sign, ABS(l.gpu_seconds) * l.weight_milli AS weighted
  FROM statement_lines l JOIN tariffs t ON t.id = l.tariff_id LEFT JOIN discounts d ON d.id = l.discount_id
), rounded AS (
  SELECT p.*,
    p.sign * (weighted / 3600000 * tariff / 10000 + (2 * (weighted / 3600000 * tariff % 10000 * 3600000
      + weighted % 3600000 * tariff) + 36000000000) / 72000000000) * 10000 AS list_counted,
    p.sign * (weighted / 3600000 * contract_price / 10000 + (2 * (weighted / 3600000 * contract_price % 10000 * 3600000
      + weighted % 3600000 * contract_price) + 36000000000) / 72000000000) * 10000 AS contract_counted
  FROM priced p
)
SELECT r.id AS line_id, s.number FROM rounded r JOIN statements s ON s.id = r.statement_id
WHERE r.price_micro_yuan <> r.tariff OR r.contract_price_micro_yuan <> r.contract_price
  OR r.list_micro_yuan <> r.list_counted OR r.contract <> r.contract_counted
""",
    ),
    Check(
        4,
        "issued",
        "Statement {number} is {state} and its content is missing, or was written for one that is not issued.",
        """
SELECT s.number, s.state FROM statements s LEFT JOIN statement_contents c ON c.statement_id = s.id
WHERE (s.state IN ('issued', 'settled')) <> (c.id IS NOT NULL)
""",
    ),
    Check(
        4,
        "chain-of-contents",
        "Statement {number}: it does not follow the one issued before it.",
        """
WITH in_order AS (
  SELECT c.statement_id, c.sequence, c.previous_sha256,
    LAG(c.sha256) OVER (PARTITION BY c.enterprise_id ORDER BY c.sequence) AS expected,
    ROW_NUMBER() OVER (PARTITION BY c.enterprise_id ORDER BY c.sequence) AS place
  FROM statement_contents c
)
SELECT s.number FROM in_order i JOIN statements s ON s.id = i.statement_id
WHERE i.sequence <> i.place OR COALESCE(i.previous_sha256, '') <> COALESCE(i.expected, '')
""",
    ),
    Check(
        4,
        "settled",
        "Statement {number} is settled, and {paid} micro-yuan of {payable} are paid.",
        """
SELECT s.number, s.amount_micro_yuan + s.tax_micro_yuan AS payable, COALESCE(p.paid, 0) AS paid
FROM statements s LEFT JOIN (
  SELECT statement_id, SUM(amount_micro_yuan) AS paid FROM payments GROUP BY statement_id
) p ON p.statement_id = s.id
WHERE s.state = 'settled' AND COALESCE(p.paid, 0)
  < CASE WHEN s.amount_micro_yuan + s.tax_micro_yuan > 0 THEN s.amount_micro_yuan + s.tax_micro_yuan ELSE 0 END
""",
    ),
    Check(
        4,
        "month-and-statement",
        "Enterprise {enterprise_id}, {month}: the month is {month_state}, its statement {statement_state}.",
        """
SELECT m.enterprise_id, m.month, m.state AS month_state, COALESCE(s.state, 'missing') AS statement_state
FROM billing_months m LEFT JOIN statements s ON s.enterprise_id = m.enterprise_id AND s.month = m.month
WHERE (m.state = 'closed') <> (COALESCE(s.state, 'missing') IN ('in_review', 'approved', 'issued', 'settled'))
UNION ALL
SELECT s.enterprise_id, s.month, 'missing', s.state
FROM statements s LEFT JOIN billing_months m ON s.enterprise_id = m.enterprise_id AND s.month = m.month
WHERE m.month IS NULL
""",
    ),
    # -- 5: history --
    Check(
        5,
        "last-state",
        "The {kind} {id} is {state}; its history ends with {told}.",
        """
WITH things(kind, id, state) AS (
  SELECT 'booking', id, state FROM bookings UNION ALL SELECT 'allocation', id, state FROM allocations
  UNION ALL SELECT 'enterprise', id, state FROM enterprises UNION ALL SELECT 'node', id, state FROM nodes
  UNION ALL SELECT 'statement', id, state FROM statements UNION ALL SELECT 'dispute', id, state FROM disputes
  UNION ALL SELECT 'maintenance', id, state FROM maintenance_windows
  UNION ALL SELECT 'power_cap', id, CASE WHEN lifted_at IS NULL THEN 'set' ELSE 'lifted' END FROM power_caps
  UNION ALL SELECT 'person', id, state FROM users
  UNION ALL SELECT 'change', id, state FROM allocation_changes UNION ALL SELECT 'report', id, state FROM reports
  UNION ALL SELECT 'claim', id, state FROM claims
  UNION ALL SELECT 'appeal', id, state FROM appeals UNION ALL SELECT 'announcement', id, state FROM announcements
  UNION ALL SELECT 'waiter', id, state FROM waiters UNION ALL SELECT 'dataset', id, state FROM datasets
  UNION ALL SELECT 'site', id, state FROM power_sites UNION ALL SELECT 'transition', id, state FROM transitions
), latest AS (SELECT kind, subject_id, MAX(id) AS id FROM history_entries GROUP BY kind, subject_id),
told AS (SELECT h.kind, h.subject_id, h.after FROM latest l JOIN history_entries h ON h.id = l.id)
SELECT t.kind, t.id, t.state, COALESCE(h.after, 'nothing') AS told
FROM things t LEFT JOIN told h ON h.kind = t.kind AND h.subject_id = t.id WHERE COALESCE(h.after, '') <> t.state
""",
    ),
    Check(
        5,
        "chain",
        "History row {history_id} of {kind} {subject_id} begins with {before}, the one before ended with {expected}.",
        """
WITH in_order AS (
  SELECT h.id, h.kind, h.subject_id, h.before,
    LAG(h.after) OVER (PARTITION BY h.kind, h.subject_id ORDER BY h.id) AS expected
  FROM history_entries h
)
SELECT id AS history_id, kind, subject_id, COALESCE(before, 'nothing') AS before,
  COALESCE(expected, 'nothing') AS expected
FROM in_order WHERE COALESCE(before, '') <> COALESCE(expected, '')
""",
    ),
    Check(
        5,
        "node-intervals",
        "Node {node} {what}.",
        """
WITH in_order AS (
  SELECT i.id, i.node_id, i.starts_at, i.ends_at,
    LAG(i.id) OVER by_node AS before_id, LAG(i.ends_at) OVER by_node AS before_at
  FROM node_intervals i WINDOW by_node AS (PARTITION BY i.node_id ORDER BY i.starts_at, i.id)
), open_ones AS (
  SELECT node_id, COUNT(*) AS n, MIN(state) AS state FROM node_intervals WHERE ends_at IS NULL GROUP BY node_id
)
SELECT n.name AS node, 'has no open state interval, or several, or another state than its own' AS what
FROM nodes n LEFT JOIN open_ones o ON o.node_id = n.id WHERE COALESCE(o.n, 0) <> 1 OR o.state <> n.state
UNION ALL
SELECT n.name, 'has state intervals that overlap, run backwards or leave a gap'
FROM in_order i JOIN nodes n ON n.id = i.node_id
WHERE i.ends_at < i.starts_at
  OR (i.before_id IS NOT NULL AND (i.before_at IS NULL OR i.before_at <> i.starts_at))
""",
    ),
    # -- 6: enterprises --
    Check(
        6,
        "tenants",
        "{what} {id} belongs to another enterprise, allocation or pool than what it hangs on.",
        """
SELECT 'Booking' AS what, b.id FROM bookings b JOIN allocations l ON l.id = b.allocation_id
WHERE b.enterprise_id <> l.enterprise_id OR b.pool_id <> l.pool_id
UNION ALL
SELECT 'Usage record', u.id FROM usage_records u
JOIN bookings b ON b.id = u.booking_id JOIN attempts a ON a.id = u.attempt_id
WHERE u.enterprise_id <> b.enterprise_id OR u.allocation_id <> b.allocation_id OR u.pool_id <> b.pool_id
  OR a.booking_id <> b.id
UNION ALL
SELECT 'Charge', c.id FROM charges c
JOIN bookings b ON b.id = c.booking_id LEFT JOIN usage_records u ON u.id = c.usage_record_id
WHERE c.enterprise_id <> b.enterprise_id OR c.booking_id <> u.booking_id
UNION ALL
SELECT 'Frozen price', p.id FROM booking_prices p JOIN bookings b ON b.id = p.booking_id
JOIN tariffs t ON t.id = p.tariff_id LEFT JOIN discounts d ON d.id = p.discount_id
WHERE t.pool_id <> b.pool_id OR d.pool_id <> b.pool_id
UNION ALL
SELECT 'Statement line', l.id FROM statement_lines l
JOIN statements s ON s.id = l.statement_id JOIN bookings b ON b.id = l.booking_id
WHERE s.enterprise_id <> b.enterprise_id
UNION ALL
SELECT 'Waiter', w.id FROM waiters w JOIN allocations l ON l.id = w.allocation_id
LEFT JOIN bookings b ON b.id = w.booking_id
WHERE w.enterprise_id <> l.enterprise_id OR w.pool_id <> l.pool_id OR b.enterprise_id <> w.enterprise_id
UNION ALL
SELECT 'Strike', s.id FROM strikes s JOIN bookings b ON b.id = s.booking_id WHERE s.enterprise_id <> b.enterprise_id
UNION ALL
SELECT 'Returned hours', r.id FROM returned_hours r
JOIN bookings b ON b.id = r.booking_id JOIN cancellation_quotes q ON q.id = r.quote_id
WHERE r.enterprise_id <> b.enterprise_id OR q.booking_id <> r.booking_id
UNION ALL
SELECT 'Dispute', d.id FROM disputes d
JOIN statements s ON s.id = d.statement_id JOIN statement_lines l ON l.id = d.line_id
WHERE d.enterprise_id <> s.enterprise_id OR l.statement_id <> s.id
UNION ALL
SELECT 'Lease of booking', b.id FROM leases l JOIN bookings b ON b.id = l.booking_id
WHERE l.enterprise_id <> b.enterprise_id OR l.allocation_id <> b.allocation_id OR l.pool_id <> b.pool_id
""",
    ),
    Check(
        6,
        "others-hours",
        "Ledger entry {entry_id} ({reference}) moved the hours of another allocation.",
        """
SELECT e.id AS entry_id, e.reference FROM charges c
JOIN bookings b ON b.id = c.booking_id
JOIN ledger_entries e ON e.reference = c.reference
JOIN ledger_accounts t ON t.id = e.to_account_id WHERE t.owner <> 'allocation:' || b.allocation_id
UNION ALL
SELECT e.id, e.reference FROM bookings b
JOIN ledger_entries e ON e.reference = 'booking:' || b.id || ':hold'
JOIN ledger_accounts t ON t.id = e.to_account_id WHERE t.owner <> 'allocation:' || b.allocation_id
UNION ALL
SELECT e.id, e.reference FROM bookings b
JOIN ledger_entries e ON e.reference = 'booking:' || b.id || ':release'
JOIN ledger_accounts f ON f.id = e.from_account_id WHERE f.owner <> 'allocation:' || b.allocation_id
""",
    ),
    Check(
        6,
        "both-sides",
        "Person {user_id} is a member of an enterprise and of the bureau.",
        """
SELECT DISTINCT m.user_id FROM memberships m JOIN bureau_roles r ON r.user_id = m.user_id
""",
    ),
    # -- 7: names --
    Check(
        7,
        "erased",
        "Person {id} is {state} and {what}.",
        """
SELECT u.id, u.state, 'the row says who it was, or somebody could sign in' AS what FROM users u
WHERE u.state = 'erased'
  AND (u.name <> '' OR u.name_en IS NOT NULL OR u.email LIKE '%@%' OR u.password_hash IS NOT NULL)
UNION ALL
SELECT u.id, u.state, 'still has keys, roles, memberships, sessions or notices' FROM users u
WHERE u.state = 'erased' AND (
  EXISTS (SELECT 1 FROM ssh_keys k WHERE k.user_id = u.id)
  OR EXISTS (SELECT 1 FROM bureau_roles r WHERE r.user_id = u.id)
  OR EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = u.id)
  OR EXISTS (SELECT 1 FROM user_sessions s WHERE s.user_id = u.id)
  OR EXISTS (SELECT 1 FROM notices n WHERE n.user_id = u.id))
UNION ALL
SELECT u.id, u.state, 'the time of it does not fit' FROM users u
WHERE (u.state = 'active') <> (u.disabled_at IS NULL)
""",
    ),
    # Texts with an @ are rare, so only those are held against the addresses of all people.
    Check(
        7,
        "addresses",
        "Row {id} of {place} holds the e-mail address of person {user_id}.",
        """
WITH texts(place, id, text) AS (
  SELECT 'history_entries', id, LOWER(COALESCE(note, '') || ' ' || COALESCE(CAST(why AS text), ''))
  FROM history_entries WHERE note LIKE '%@%' OR CAST(why AS text) LIKE '%@%'
  UNION ALL SELECT 'ledger_entries', id, LOWER(CAST(why AS text)) FROM ledger_entries WHERE CAST(why AS text) LIKE '%@%'
  UNION ALL SELECT 'access_log', id, LOWER(path || ' ' || COALESCE(detail, ''))
  FROM access_log WHERE path LIKE '%@%' OR detail LIKE '%@%'
)
SELECT t.place, t.id, u.id AS user_id FROM texts t JOIN users u ON t.text LIKE '%' || LOWER(u.email) || '%'
WHERE u.email LIKE '%@%'
""",
    ),
)
