"""The cookies of one long-polling session: a load balancer may find the session's server by one (RFC 6265).

There are no domains and paths, because all requests of a session go to one address. And the core has no calendar: what
has expired is told by the date of the answer that sets the cookie.
"""

import re
from typing import Final

#: Cookies of one session; more are ignored. So are those of more bytes, name, value and `=` included (RFC 6265 §6.1).
_MOST_COOKIES: Final = 50
_LARGEST_COOKIE: Final = 4096

#: An attribute of a cookie that says how long it is valid; one that is over removes the cookie, as an empty value does.
_MAX_AGE: Final = re.compile(r";\s*max-age\s*=\s*(-?)(\d+)", re.IGNORECASE)
_EXPIRES: Final = re.compile(r";\s*expires\s*=([^;]*)", re.IGNORECASE)

#: A date of HTTP, in any of the forms that servers use; the time zone is always GMT.
_DATE: Final = re.compile(r"(\d\d?)[ -]([a-z]{3})[a-z]*[ -](\d{4}|\d\d) +(\d\d):(\d\d):(\d\d)", re.IGNORECASE)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

#: Past in any case: when this was written.
_PAST: Final = (2026,)


def keep_cookies(cookies: dict[str, str], lines: str, date: str) -> None:
    """Add the cookies that an answer sets, and remove those that it ends.

    Args:
        cookies: The session's, by name.
        lines: The answer's `set-cookie` headers, one a line.
        date: The answer's `date` header; empty without one.
    """
    today = _date_in(date) or _PAST
    for line in lines.split("\n"):
        name, _, value = (part.strip() for part in line.partition(";")[0].partition("="))
        if not (name and value) or _is_over(line, today):
            cookies.pop(name, None)
        elif len(name) + len(value) >= _LARGEST_COOKIE:
            continue
        elif name in cookies or len(cookies) < _MOST_COOKIES:
            cookies[name] = value


def _is_over(cookie: str, today: tuple[int, ...]) -> bool:
    """Whether a cookie is no longer valid as it comes: `Max-Age` counts before `Expires` (RFC 6265 §4.1.2.2)."""
    if max_age := _MAX_AGE.search(cookie):
        return max_age[1] == "-" or not max_age[2].strip("0")
    expires = _EXPIRES.search(cookie)
    date = _date_in(expires[1]) if expires else None
    return date is not None and date <= today


def _date_in(text: str) -> tuple[int, ...] | None:
    """Year, month, day, hour, minute and second; `None` if there is no date of HTTP in the text."""
    found = _DATE.search(text)
    if found is None or found[2].lower() not in _MONTHS:
        return None
    year = int(found[3])
    if len(found[3]) == 2:
        year += 1900 if year >= 70 else 2000  # RFC 6265 §5.1.1
    return (year, _MONTHS.index(found[2].lower()), int(found[1]), *map(int, found.groups()[3:]))
