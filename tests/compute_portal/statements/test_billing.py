"""What a page says of drafts: lines priced by the database are the lines of the statement."""

from __future__ import annotations

import itertools

import sqlalchemy as sa

from compute_portal.db import Database
from compute_portal.statements.pricing import to_fen
from compute_portal.usage.sums import fen_of

SECONDS = (0, 1, 1799, 3600, 3601, 7 * 3600 + 59, 86_400 * 512, 59_999_999 * 3600 + 3599)
RATES = (
    (1000, 16_500_000),
    (1000, 1),
    (333, 9_999_999),
    (10_000, 10**10),
    (1250, 0),
    (1, 5_000),
    (1000, 9_999_999_999),
)


def test_the_database_rounds_a_line_to_the_fen_as_a_statement_does(database: Database) -> None:
    """Tiny and enormous lines, and such that come out at half a fen."""
    cases = [*itertools.product(SECONDS, RATES), (18, (1000, 1_000_000)), (1, (1000, 18_000_000))]
    numbers = sa.bindparam("seconds", type_=sa.BigInteger), sa.bindparam("rate", type_=sa.BigInteger)
    fen = sa.select(fen_of(*(sa.cast(number, sa.BigInteger) for number in numbers)))
    with database.look() as connection:
        for seconds, (weight, price) in cases:
            found = connection.execute(fen, {"seconds": seconds, "rate": weight * price}).scalar_one()
            assert int(found) * 10_000 == to_fen(seconds, weight, price), f"{seconds} s at {weight} × {price}"
