"""Text that came from data, a file name or a config, made fit for where it goes."""

import hashlib
import locale
import logging
import re
import shlex
import sys
import unicodedata

_UNSAFE = "\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_CONTROLS = re.compile(f"[\x00-\x1f{_UNSAFE}\ud800-\udfff]")
_CONTROLS_OF_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_UNSAFE}\ud800-\udfff]")
_COLOURS = re.compile("\x1b\\[[0-9;]*m")
_MARKUP = re.compile(r"[\\|`*\[\]~$]|(?<!\w)_|_(?!\w)")
_LONGEST_NAME = 150  # bytes of a file's name, which others make longer


def plain(text: object, limit: int = 200) -> str:
    r"""One line for a terminal, a log or a page.

    Control characters, those that turn the direction of writing or are not seen, and lone
    surrogates are shown as escapes, such as ``\x1b``.

    Args:
        text: any object; its `str` is taken.
        limit: characters; the rest is "...".
    """
    shown = _CONTROLS.sub(_escape, str(text))
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def plain_lines(text: object) -> str:
    """`plain` of any length, with the line feeds and tabs of our own tables and yaml."""
    return _CONTROLS_OF_LINES.sub(_escape, str(text))


def for_plot(text: object, limit: int = 60) -> str:
    """A label for matplotlib: no formula between ``$``, and no ``_`` that hides it in legends."""
    shown = plain(text, limit).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def for_markdown(text: object, limit: int = 200) -> str:
    """A cell of a table, a heading or a phrase: no markup, no HTML, no end of the cell."""
    shown = plain(text, limit).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKUP.sub(r"\\\g<0>", shown)


def markdown_code(text: object) -> str:
    """A command or a key in a markdown text, in as many backticks as it takes."""
    shown = plain(text, 10_000)
    longest = max(map(len, re.findall("`+", shown)), default=0)
    space = "" if shown and not longest else " "
    return f"{'`' * (longest + 1)}{space}{shown}{space}{'`' * (longest + 1)}"


def shell(*words: object) -> str:
    """A command as one types it; quotes are double ones where they do."""
    return " ".join(map(_quoted, map(str, words)))


def _quoted(word: str) -> str:
    quoted = shlex.quote(word)
    return quoted if quoted == word or set(word) & set('"$`\\!') else f'"{word}"'


def file_name(text: object) -> str:
    """One component of a path: `text` itself where it is one that any program takes.

    Otherwise its letters, digits and ``._-`` and a checksum, so that two texts never give one name.
    """
    name = str(text)
    simple = _CONTROLS.sub("_", re.sub(r"[/\\]", "_", name)).strip(" .")
    if simple == name and len(os_name := name.encode()) <= _LONGEST_NAME and os_name:
        return name
    folded = re.sub(r"[^\w.\-]+", "_", unicodedata.normalize("NFKC", simple)).strip("._")
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{folded[:30]}-{digits}".lstrip("-")


def make_output_plain() -> None:
    """Let what is printed and logged from now on be fit for terminals and files of any encoding.

    Log records are `plain_lines` without colours, and what an encoding lacks is shown as an escape
    in place of an error.
    """
    logging.setLogRecordFactory(_PlainRecord)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _PlainRecord(logging.LogRecord):
    """A record whose message has no control characters, and none that a log file cannot take."""

    def getMessage(self) -> str:
        encoding = locale.getpreferredencoding(False)
        text = plain_lines(
            _COLOURS.sub("", super().getMessage())
        )  # of Detectron2's configs, tables
        return text.encode(encoding, "backslashreplace").decode(encoding)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")
