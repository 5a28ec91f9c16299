"""Each figure as a query over its public CSVs, for whoever wants to reckon it again. Shown on the page, run by a test.

A file `time-to-permit.csv` is read into a table `time_to_permit`. SQLite and PostgreSQL both understand these.
"""

from __future__ import annotations

import datetime as dt


def time_to_permit(percent: int = 50) -> str:
    """Working days that at least `percent` of all decisions do not exceed."""
    return (
        "SELECT working_days FROM (SELECT working_days, ROW_NUMBER() OVER (ORDER BY working_days) AS place, "  # noqa: S608
        f"COUNT(*) OVER () AS n FROM time_to_permit) AS t WHERE place = (n * {percent:d} + 99) / 100"
    )


def in_time() -> str:
    return "SELECT 1.0 * SUM(CASE WHEN in_time = 'yes' THEN 1 ELSE 0 END) / COUNT(*) FROM time_to_permit"


def gpu_hours(month: str) -> str:
    """Available in a month, 'YYYY-MM'."""
    return f"SELECT SUM(available_gpu_seconds) / 3600 FROM pool_days WHERE day LIKE '{month}-%'"  # noqa: S608


def utilisation(first_on: dt.date, last_on: dt.date) -> str:
    """Given to bookings ÷ in service, both days included."""
    return (
        "SELECT 1.0 * SUM(allocated_gpu_seconds) / SUM(available_gpu_seconds) FROM pool_days "  # noqa: S608
        f"WHERE day BETWEEN '{first_on.isoformat()}' AND '{last_on.isoformat()}'"
    )


def power() -> str:
    return "SELECT SUM(megawatts) FROM power WHERE stage = 'committed'"


def transitions(after_on: dt.date) -> str:
    return f"SELECT COUNT(*) FROM transitions WHERE day > '{after_on.isoformat()}'"  # noqa: S608


def wait(percent: int) -> str:
    """Minutes that at least `percent` of all bookings did not exceed."""
    return (
        "SELECT MIN(wait_minutes) FROM (SELECT wait_minutes, SUM(bookings) OVER (ORDER BY wait_minutes) AS so_far, "  # noqa: S608
        f"SUM(bookings) OVER () AS n FROM waits WHERE dimension = 'all') AS t WHERE so_far * 100 >= n * {percent:d}"
    )


def allocation_rate() -> str:
    return "SELECT programme, 1.0 * used_gpu_seconds / awarded_gpu_seconds FROM allocation_rate"


def fairness() -> str:
    return (
        "SELECT SUM(used_to_entitled) * SUM(used_to_entitled) "
        "/ (COUNT(*) * SUM(used_to_entitled * used_to_entitled)) FROM fairness_ratios"
    )
