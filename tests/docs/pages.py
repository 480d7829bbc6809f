"""Reading Markdown: pages, code, tables, headings, commands."""

import re
import shlex
from typing import Dict, Iterator, List, Tuple

from tests.conftest import ROOT

FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
COMMAND = re.compile(r"^(?:[A-Z0-9_]+=\S+ )*(?:python|torchrun|d2kd|make)\b")


def pages() -> Dict[str, str]:
    """Every Markdown page but the changelog, which names what was, by its path from the root."""
    names = "README.md", "CONTRIBUTING.md", "datasets/README.md", "benchmarks/README.md"
    found = [ROOT / name for name in names]
    found += [p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts]
    return {str(p.relative_to(ROOT)): p.read_text() for p in sorted(found)}


def fences(text: str, *languages: str) -> List[str]:
    """Fenced code in one of these languages."""
    return [code for language, code in FENCE.findall(text) if language in languages]


def prose(text: str) -> str:
    """The page without fenced code."""
    return FENCE.sub("", text)


def spans(text: str) -> List[str]:
    """Inline code, each on one line."""
    return [" ".join(span.split()) for span in SPAN.findall(prose(text))]


def commands(text: str) -> List[List[str]]:
    """Words of every command line, inline or fenced, comments and assignments left out."""
    lines = [x for code in fences(text, "", "bash", "sh") for x in unfold(code)]
    found = []
    for line in [*lines, *spans(text)]:
        if COMMAND.match(line):
            words = shlex.split(line.removesuffix("..."), comments=True)
            found.append(words[next(i for i, word in enumerate(words) if "=" not in word) :])
    return [words for words in found if len(words) > 1]


def unfold(code: str) -> List[str]:
    """Lines of code, those that end with a backslash joined with the next."""
    return re.sub(r"\\\n\s*", "", code).splitlines()


def anchors(text: str) -> List[str]:
    """GitHub's anchors of the headings."""
    titles = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    titles = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next."""
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]


def table(text: str, header: str) -> Iterator[Tuple[str, ...]]:
    """Cells of the rows under every table with this header line."""
    for block in re.findall(rf"^{re.escape(header)}\n\|[-|]+\n((?:\|.*\n?)+)", text, re.MULTILINE):
        for row in block.splitlines():
            yield tuple(cell.strip() for cell in row.strip("|").split("|"))
