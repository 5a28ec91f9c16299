"""Imports every model: Alembic and the scheduler start here, so that every foreign key finds its table."""

from .allocations import models as allocations
from .allocations import review_models
from .announcements import models as announcements
from .bookings import models as bookings
from .budgets import models as budgets
from .cancellations import models as cancellations
from .claims import models as claims
from .commons import models as commons
from .db import Base
from .desk import models as desk
from .enterprises import models as enterprises
from .feeds import models as feeds
from .files import models as files
from .ledger import models as ledger
from .lifecycle import HistoryEntry
from .notices import models as notices
from .policy_versions import PolicyVersion
from .pools import models as pools
from .programmes import models as programmes
from .review import models as review
from .signin import models as signin
from .statements import models as statements
from .subsidies import models as subsidies
from .usage import models as usage
from .workdays import models as workdays

__all__ = [
    "Base", "HistoryEntry", "PolicyVersion", "allocations", "announcements", "bookings", "budgets", "cancellations",
    "claims", "commons", "desk", "enterprises", "feeds", "files", "ledger", "notices", "pools", "programmes", "review",
    "review_models", "signin", "statements", "subsidies", "usage", "workdays",
]  # fmt: skip
