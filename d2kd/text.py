"""Text that came from data, a file name or a config, made fit for where it goes."""

import re
import unicodedata

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def plain(text: object, limit: int = 200) -> str:
    r"""One line for a terminal, a log or a page.

    Control characters, those that turn the direction of writing, and lone surrogates are shown as
    escapes, such as ``\x1b``.

    Args:
        text: any object; its `str` is taken.
        limit: characters; the rest is "...".
    """
    shown = _CONTROLS.sub(_escape, str(text))
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def for_plot(text: object, limit: int = 60) -> str:
    """A label for matplotlib, which would take ``$`` as the start of a formula."""
    return plain(text, limit).replace("$", r"\$")


def file_name(text: object) -> str:
    """One component of a path, of letters, digits and ``._-``: never empty, hidden or ``..``."""
    folded = unicodedata.normalize("NFKC", str(text))
    return re.sub(r"[^\w.\-]+", "_", folded).strip("._")[:100] or "_"


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")
