"""Imports every model: Alembic and the scheduler start here, so that every foreign key finds its table."""

from .allocations import models as allocations
from .bookings import models as bookings
from .db import Base
from .desk import models as desk
from .enterprises import models as enterprises
from .ledger import models as ledger
from .lifecycle import HistoryEntry
from .pools import models as pools
from .programmes import models as programmes
from .signin import models as signin
from .statements import models as statements
from .usage import models as usage

__all__ = [
    "Base", "HistoryEntry", "allocations", "bookings", "desk", "enterprises", "ledger", "pools", "programmes",
    "signin", "statements", "usage",
]  # fmt: skip
