"""Numbers as people write prices, read in one way or not at all.

    price    = [sign] [currency] [sign] number [dash] [currency], or all of it in parentheses, which is a negative one
    number   = whole [fraction] | fraction
    whole    = digits | digits in groups of three: 1,234,567 · 1.234.567 · 1'234'567 · 1 234 567 (also no-break and thin
               spaces) | lakh and crore: 12,34,567
    fraction = a point or a comma that separates no groups, and digits
    dash     = ,- or .– behind a whole number, as for "no cents"
    currency = a sign such as $ € £ ¥ ₹ (also US$, C$), three capital letters (EUR), kr, Fr., Rs., zł, Kč, Ft, lei, or
               what `price.currency` says
    digits are 0 to 9; in data also 1.2e+03, as tables are exported

`1,234` and `1.234` are a thousand in one country and one and a bit in another. In data they are refused unless
`price.decimal` says which mark stands before cents; in an answer, which was learnt from texts with a known number of
`decimals`, three digits behind the mark are cents only where there are three of them.
"""

import re

SIGNS = "$¢£¤¥֏؋৳฿₠-⃀﷼﹩＄￠￡￥￦"
SPACES = str.maketrans(dict.fromkeys("\u00a0\u202f\u2009", " "))  # no-break, narrow no-break and thin
WORDS = r"[A-Z]{3}|[Kk]r\.?|Fr\.?|Rs\.?|zł|Kč|Ft|lei"
GROUPED = r"[1-9][0-9]{0,2}(?P<mark>[,.'’ ])[0-9]{3}(?:(?P=mark)[0-9]{3})*"
LAKH = r"[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}"
NUMBER = rf"(?P<whole>{LAKH}|{GROUPED}|[0-9]+)?(?P<fraction>[.,][0-9]+)?"
DASH = r"(?:[.,][-–—]+)?"
MINUS = "[-−–+]?"
CUT = "…"  # stands at the end of an answer that was stopped before the model ended it
EXPORTED = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?[eE][-+]?[0-9]+")


def of_data(text: str, currency: str, decimal: str | None) -> float:
    """The number that a cell of a table holds; negative ones too, which the caller refuses.

    `decimal` is the mark before cents, "." or ",", None where the data must say it by itself. Raises ValueError, whose
    text says what is wrong with it.
    """
    text = text.translate(SPACES).strip()
    if EXPORTED.fullmatch(text):
        return float(text)
    inside = text[1:-1].strip() if text.startswith("(") and text.endswith(")") else text
    found = re.fullmatch(_price(currency), inside)
    if found is None or not (found["whole"] or found["fraction"]):
        raise ValueError(f"{_shown(text)} is no number")
    for sign in re.findall(f"[{SIGNS}]", inside):
        if re.search(f"[{SIGNS}]", currency) and sign not in currency:
            raise ValueError(f"{_shown(text)} is in {sign}, and price.currency is {currency}")
    either = _may_be_cents(found)
    if either and decimal is None:
        thousand, cents = re.sub("[^0-9]", "", found["whole"]), re.sub("[^0-9]", ".", found["whole"])
        raise ValueError(
            f"{_shown(text)} may be {thousand} or {cents}; say in price.decimal which of . and , stands before cents"
        )
    value = _value(found, cents=either and decimal == found["mark"])
    fraction = found["fraction"]
    if value is not None and decimal is not None:
        clash = fraction[0] != decimal if fraction else decimal in (found["whole"] or "") and not either
        if clash:
            raise ValueError(f"{_shown(text)} is no number with {decimal!r} before its cents, as price.decimal says")
    if value is None:
        raise ValueError(f"{_shown(text)} is no number")
    return -value if inside is not text or _negative(found) else value


def in_answer(text: str, currency: str, decimals: int) -> float | None:
    """The number at the beginning of `text`, which a model wrote; None where there is none.

    What follows the number is of no matter, but a digit, a letter, a further group that fits none of the forms above,
    or CUT: `12.5.3` and `12b` are no numbers, and of `99999…` nobody knows how many digits were still to come.
    """
    found = re.match(rf"\s*{_price(currency)}(?![0-9A-Za-z{CUT}]|[.,'’][0-9])", text.translate(SPACES))
    if found is None or not (found["whole"] or found["fraction"]):
        return None
    value = _value(found, cents=_may_be_cents(found) and decimals == 3)
    return -value if value is not None and _negative(found) else value


def _price(currency: str) -> str:
    """The expression of a price, with what stands before the digits in the group `before`."""
    own = f"|{re.escape(currency)}" if currency.strip() else ""
    money = rf"(?:(?:[A-Za-z]{{0,3}}\.?[{SIGNS}]|(?:{WORDS})(?![A-Za-z]){own}) ?)?"
    return rf"(?P<before>{MINUS} ?{money}{MINUS}){NUMBER}{DASH} ?{money}"


def _may_be_cents(found: re.Match) -> bool:
    """Whether the one group of three digits may as well stand behind a point or comma: 1,234."""
    return (
        bool(found["mark"] and found["mark"] in ".," and found["whole"].count(found["mark"]) == 1)
        and not found["fraction"]
    )


def _negative(found: re.Match) -> bool:
    return any(minus in found["before"] for minus in "-−–")


def _value(found: re.Match, cents: bool) -> float | None:
    """What the digits mean, None where one mark has two meanings (1,234,56). cents: its one group is cents."""
    whole, fraction = found["whole"] or "", found["fraction"] or ""
    if fraction and fraction[0] in whole:
        return None
    digits = re.sub("[^0-9]", "", whole)
    if cents:
        digits, fraction = digits[:-3], digits[-3:]
    return float(f"{digits or '0'}.{fraction.lstrip('.,') or '0'}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:38]} …")
