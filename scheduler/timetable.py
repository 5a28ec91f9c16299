"""What runs when."""
from scheduler.duties import close_months

__all__ = ["close_months"]
