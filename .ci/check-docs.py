"""What the documents say of the sources holds: each test that they name is there, and so is each file. And no line of
prose is longer than 120 columns (tables and code may be).

    python3 .ci/check-docs.py
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
NAME = re.compile(r"`([a-z0-9]+(?:_[a-z0-9]+){3,})`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
WIDTH = 120


def functions():
    names = set()
    for source in ROOT.rglob("*.rs"):
        if "target" not in source.parts:
            names.update(re.findall(r"\bfn ([a-z0-9_]+)", source.read_text()))
    return names


def problems(document, known):
    is_code = False
    for number, line in enumerate(document.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        where = f"{document.relative_to(ROOT)}:{number}"
        if len(line) > WIDTH and not is_code and not line.startswith("|"):
            yield f"{where}: {len(line)} columns"
        for name in NAME.findall(line):
            if name not in known:
                yield f"{where}: there is no function {name}"
        for link in LINK.findall(line):
            if not (document.parent / link).exists():
                yield f"{where}: there is no file {link}"


def main():
    known = functions()
    found = [text for document in DOCUMENTS for text in problems(document, known)]
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(DOCUMENTS)} documents, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
