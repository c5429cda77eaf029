"""Gathers what the site shows: the pages of docs/, and the Markdown files that lie elsewhere in the repository.

So every figure has one home, and every link is written as it holds in the repository: `../results/compare.md` in a page
of docs/ becomes `results/compare.md` here, and back. A hook of MkDocs, see mkdocs.yml; `make docs` builds the site.
"""

import posixpath
import re
import shutil
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).parent.parent
STAGE = ROOT / "build" / "docs"
PAGES = (
    "README*.md", "docs/*.md", "CHANGELOG.md", "CONTRIBUTING.md", "recipes/*.md", "results/*.md", "results/*/*.md",
    "src/jeppa/shipped/*/README.md",
)  # fmt: skip
OTHERS = ("docs/*.png", "docs/*.jpg", "docs/*.svg", "docs/*.css", "results/*/*.png", "LICENSE")
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#]+)")
# The site has a menu of languages instead.
OTHER_LANGUAGE = re.compile(r"^\[(?:По-русски|In English)\]\([^)]*\)(?: · )?", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Copy pages, pictures and the licence to `STAGE`, and let MkDocs read them there."""
    shutil.rmtree(STAGE, ignore_errors=True)
    for pattern in PAGES + OTHERS:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            target = STAGE / _place(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md":
                target.write_text(_moved(path.read_text(encoding="utf-8"), name), encoding="utf-8")
            else:
                shutil.copy(path, target)
    config.docs_dir = str(STAGE)
    return config


def _place(name: str) -> str:
    """Where a file of the repository stands in the site, whose first page is the README."""
    return re.sub(r"^README", "index", name.removeprefix("docs/"))


def _moved(text: str, name: str) -> str:
    """The page `name` with its relative links moved from the repository's folders to the site's."""
    here = posixpath.dirname(_place(name)) or "."

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link[2]))
        # In the site, a link from a Russian page finds the Russian one by the name of the English one.
        return link[1] + posixpath.relpath(_place(target).replace(".ru.md", ".md"), here)

    return LINK.sub(moved, OTHER_LANGUAGE.sub("", text))
