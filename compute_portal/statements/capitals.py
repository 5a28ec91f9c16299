"""Amounts in Chinese capitals, as tax documents and contracts write them: 肆万伍仟柒佰壹拾伍元贰角捌分."""

from __future__ import annotations

from .. import units

DIGITS = "零壹贰叁肆伍陆柒捌玖"
PLACES = ("", "拾", "佰", "仟")
GROUPS = ("", "万", "亿", "万亿")


def in_words(micro_yuan: int) -> str:
    """With the currency before it: 人民币肆万伍仟柒佰壹拾伍元贰角捌分."""
    return "人民币" + capitals(micro_yuan)


def capitals(micro_yuan: int) -> str:
    """Whole fen; below 10**16 yuan. Raises ValueError for anything else."""
    fen, rest = divmod(abs(micro_yuan), units.MICRO_PER_FEN)
    if rest or fen >= 10**18:
        raise ValueError(f"{micro_yuan} micro-yuan cannot be written in capitals")
    yuan, cents = divmod(fen, 100)
    jiao, last = divmod(cents, 10)
    text = _whole(yuan) + "元" if yuan else ""
    if cents == 0:
        text = (text or "零元") + "整"
    else:
        if jiao:
            text += DIGITS[jiao] + "角"
        elif yuan:
            text += "零"
        if last:
            text += DIGITS[last] + "分"
        else:
            text += "整"
    return ("负" if micro_yuan < 0 else "") + text


def _whole(yuan: int) -> str:
    """Four digits at a time; one 零 wherever digits between others are missing."""
    text, gap, place = "", False, 0
    groups: list[int] = []
    while yuan:
        yuan, four = divmod(yuan, 10_000)
        groups.append(four)
    for place in range(len(groups) - 1, -1, -1):
        four = groups[place]
        if four == 0:
            gap = bool(text)
            continue
        if text and (gap or four < 1_000):
            text += "零"
        text += _four(four) + GROUPS[place]
        gap = False
    return text


def _four(number: int) -> str:
    text, gap = "", False
    for place in range(3, -1, -1):
        digit = number // 10**place % 10
        if digit == 0:
            gap = bool(text)
            continue
        text += ("零" if gap else "") + DIGITS[digit] + PLACES[place]
        gap = False
    return text
