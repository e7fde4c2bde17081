"""Amounts as people read them."""

import math


def amount(value: float | None, currency: str, decimals: int = 0, sign: bool = False) -> str:
    """`1234.5` → `$1,234.50` or `1,234.50 EUR`: signs stand before a number, words behind it. sign: also a plus."""
    if value is None or value != value:
        return "no number"
    before = "−" if value < 0 else "+" if sign else ""
    digits = f"{abs(value):,.{decimals}f}"
    return f"{before}{digits} {currency}".rstrip() if currency.isalnum() or not currency else before + currency + digits


def digits(error: float, decimals: int) -> int:
    """Behind the point of an error of this size: those of its prices, and so many that three digits tell something."""
    return max(decimals, 2 - math.floor(math.log10(error))) if 0 < error < math.inf else decimals
