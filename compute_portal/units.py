"""Integers with units: GPU-seconds and micro-yuan. Decimal appears only where text becomes a number and back.

Money is integer micro-yuan (1 yuan = 1,000,000); quantity is integer GPU-seconds. A price is micro-yuan per GPU-hour.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

SECONDS_PER_HOUR = 3_600
MICRO_PER_YUAN = 1_000_000
MICRO_PER_FEN = 10_000
# The largest quantity anybody may type: below 2**63 GPU-seconds with room for sums, above any city's year.
MAX_GPU_HOURS = 1_000_000_000
MAX_YUAN = 1_000_000_000


class NotANumber(ValueError):
    """The text is not a finite decimal number in range."""


def gpu_seconds(hours: int) -> int:
    return hours * SECONDS_PER_HOUR


def gpu_hours(seconds: int) -> Decimal:
    """GPU-hours as an exact-enough Decimal, two places, half up: for showing only."""
    return (Decimal(seconds) / SECONDS_PER_HOUR).quantize(Decimal("0.01"), ROUND_HALF_UP)


def parse_gpu_hours(text: str) -> int:
    """'1,234.5' GPU-hours → GPU-seconds. Raises NotANumber for anything that is not a positive whole second."""
    seconds = _decimal(text) * SECONDS_PER_HOUR
    if seconds != seconds.to_integral_value() or not 0 < seconds <= MAX_GPU_HOURS * SECONDS_PER_HOUR:
        raise NotANumber(text)
    return int(seconds)


def parse_yuan(text: str) -> int:
    """'16.50' yuan → micro-yuan, at most six decimals. Raises NotANumber when negative, too fine or too large."""
    micro = _decimal(text) * MICRO_PER_YUAN
    if micro != micro.to_integral_value() or not 0 <= micro <= MAX_YUAN * MICRO_PER_YUAN:
        raise NotANumber(text)
    return int(micro)


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text.strip().replace(",", "").replace("，", ""))
    except InvalidOperation:
        raise NotANumber(text) from None
    if not number.is_finite() or abs(number.adjusted()) > 18:
        raise NotANumber(text)
    return number


def amount_micro_yuan(seconds: int, price_micro_yuan: int) -> int:
    """Price of GPU-seconds at a price per GPU-hour, to the fen, half up.

    A statement line multiplies integers and divides once (rules: "divides by 3,600 once, to the fen").
    """
    return round_half_up(seconds * price_micro_yuan, SECONDS_PER_HOUR * MICRO_PER_FEN) * MICRO_PER_FEN


def round_half_up(numerator: int, denominator: int) -> int:
    """numerator / denominator to the nearest integer, halves away from zero; integers only, so exact."""
    sign = -1 if (numerator < 0) != (denominator < 0) else 1
    return sign * ((2 * abs(numerator) + abs(denominator)) // (2 * abs(denominator)))


def yuan(micro: int) -> Decimal:
    """Micro-yuan as yuan with two decimals, for showing; statement amounts are whole fen already."""
    return (Decimal(micro) / MICRO_PER_YUAN).quantize(Decimal("0.01"), ROUND_HALF_UP)


def tax_micro_yuan(amount: int, permille: int) -> int:
    """Tax once on a total, to the fen, half up (rules: 'tax once, on the statement's total, half up, shown apart')."""
    return round_half_up(amount * permille, 1000 * MICRO_PER_FEN) * MICRO_PER_FEN
