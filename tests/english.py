"""List phrases in our prose that docs/english.md advises against: `make english`.

Prose is what a person reads: comments, docstrings and other strings of Python files, test names, templates, the
English texts in the translation catalogs, Markdown files, and the comments of configuration files. Code is left out:
whatever is in backticks or in a fenced block of Markdown.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polib

from tests.follow_readme import ROOT

PHRASES: dict[str, str] = {
    r"blanks": "spaces, space-separated",
    r"anew": "again",
    r"once more": "again",
    r"(?<!there )(?:is|are|was|were) no (?!longer|more than|less than|such|other)\w+": "is not a, must not be",
    r"there are no two": "must be different",
    r"came twice": "was sent twice",
    r"stands? for": "means",
    r"reckon\w*": "allow for, expect",
    r"at hand": "available",
    r"by itself": "automatically, alone",
    r"t(?:akes?|ook|aking) the place of": "replace",
    r"beside": "in addition to, next to",
    r"whoever": "anyone who",
    r"whatever": "regardless of, any",
    r"e-mails?": "email",
    # Mail servers and mail scanners are fine.
    r"(?:unwanted )?mails?(?!\s+(?:server|scanner)|\.\w)": "email, spam folder",
    r"log-ins?|log-outs?": "login (noun), log in (verb)",
    r"(?:is|are) over(?! \d)": "has ended, has expired",
    r"(?:is|are) not known here": "is unknown, is invalid",
    r"ways? in(?:to the account)?": "sign-in method",
    r"its word for": "trusts its",
    r"withdr(?:aw|ew|awn|aws|awing)": "revoke",
    r"br(?:eaks?|oke|oken|eaking) off": "is interrupted, fails",
}
"""What we don't write, as regular expressions for whole words, and what we write instead."""

ALLOWED: dict[tuple[str, str], str] = {
    ("docs/english.md", r".*"): "the page that lists the phrases",
    ("tests/english.py", r".*"): "the phrases themselves",
    ("tests/test_english.py", r".*"): "planted phrases",
    ("tests/mail/test_delivery.py", r"mail"): "a line of Python in a string",
}
"""Findings that are intended: regular expressions for file and phrase, with the reason."""

_PATTERNS = {
    # A phrase may go on in the next line.
    re.compile(rf"(?<![\w.-])(?:{phrase})(?![\w-])".replace(" ", "[ \n]"), re.IGNORECASE): instead
    for phrase, instead in PHRASES.items()
}
_CODE = re.compile(r"```.*?```|``[^`]+``|`[^`\n]+`|https?://\S+|\S+@\S+|[\w./-]+/[\w./-]*", re.DOTALL)


class Finding(NamedTuple):
    path: str
    line: int
    phrase: str
    instead: str

    def __str__(self) -> str:
        return f'{self.path}:{self.line}: "{self.phrase}" (instead: {self.instead})'


def findings(root: Path = ROOT) -> Iterator[Finding]:
    """Yield the findings in the tracked files of a repository, except those that are allowed."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in names:
        for begins, text in _prose(name, root / name):
            for offset, phrase, instead in search(text):
                if not _is_allowed(name, phrase):
                    yield Finding(name, begins + offset, phrase, instead)


def _is_allowed(name: str, phrase: str) -> bool:
    return any(
        re.fullmatch(path, name) and re.fullmatch(allowed, phrase, re.IGNORECASE) for path, allowed in ALLOWED
    )


def search(text: str) -> list[tuple[int, str, str]]:
    """Return each phrase in a text, with the number of lines before it and what to write instead."""
    # Code is replaced by as many lines, so that the line numbers of findings stay right.
    words = re.sub("\n +", "\n", _CODE.sub(lambda code: "\n" * code[0].count("\n") + "_", text))
    return [
        (words.count("\n", 0, match.start()), match[0], instead)
        for pattern, instead in _PATTERNS.items()
        for match in pattern.finditer(words)
    ]


def _prose(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts that a person reads, each with its first line number."""
    if path.suffix == ".py":
        yield from _prose_of_python(path.read_text())
    elif path.suffix == ".po":
        for entry in polib.pofile(str(path)):
            yield entry.linenum, entry.msgid + "\n" + entry.msgid_plural
    elif path.suffix in (".html", ".txt", ".md") and not name.startswith("requirements/"):
        yield 1, path.read_text()
    elif path.suffix in (".toml", ".ini", ".yaml", ".sh", ".js", ".mjs") or path.name in ("Makefile", "run"):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if (comment := re.search(r"(?:#|//|echo|summary)\s(.*)", line)) is not None:
                yield number, comment[1]


def _prose_of_python(source: str) -> Iterator[tuple[int, str]]:
    comment: list[str] = []
    begins = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        # The lines of a comment are one text.
        if kind == "COMMENT":
            if not comment:
                begins = token.start[0]
            comment.append(token.string.lstrip("# "))
        elif kind != "NL" or not token.line.lstrip().startswith("#"):
            if comment:
                yield begins, "\n".join(comment)
            comment = []
        # A string without a space is a name, a key or a path.
        if kind in ("STRING", "FSTRING_MIDDLE") and " " in token.string:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield node.lineno, re.sub(r"(?<=[a-z])(?=[A-Z])", " ", node.name)


def main() -> int:
    found = list(findings())
    for finding in found:
        print(finding)
    print(f"{len(found)} left")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
