"""What the site has in addition to its pages; MkDocs calls the functions that are called ``on_...``.

A page for each module (the API reference, by mkdocstrings) and for each source file that a document links to, with
links to the lines where names are defined; the settings of each algorithm; equations as pictures, so that a page loads
nothing from elsewhere.
"""

from __future__ import annotations

import ast
import html
import re
from functools import cache
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

import griffe
import quickjax
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from worldrl.commands.parts import list_settings
from worldrl.registry import PARTS

ROOT = Path(__file__).resolve().parents[1]
MODULES = [path.relative_to(ROOT) for path in sorted((ROOT / "worldrl").rglob("*.py")) if path.name != "__main__.py"]
OTHERS = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}  # pages that lie outside of docs/
LINK = re.compile(r"(?<!!)\[(?P<text>[^]]+)\]\((?P<path>(?!\w+:)[^)#\s]+)(?P<anchor>#[^)\s]+)?\)")
EXAMPLE = re.compile(r"^\[`([\w.]+)`\]\(examples/\1\)$", re.MULTILINE)  # a line of its own
MATH = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)


def module_page(module: Path) -> str:
    """Where the page of a module is: ``api/heads/sac.md``, and ``api/heads/index.md`` for the package."""
    return str(Path("api", *module.parts[1:]).with_suffix(".md")).replace("__init__", "index")


def reference(folder: Path) -> list[Any]:
    """The part of the navigation that has the modules of a package."""
    files = [path for path in MODULES if path.parent == folder]
    files.sort(key=lambda path: path.name != "__init__.py")
    packages = [path.parent for path in MODULES if path.name == "__init__.py" and path.parent.parent == folder]
    entries = [{path.stem: module_page(path)} if path.stem != "__init__" else module_page(path) for path in files]
    return entries + [{package.name: reference(package)} for package in packages]


def on_config(config: MkDocsConfig) -> None:
    """The API reference comes before the last entry of the navigation."""
    assert config.nav is not None
    config.nav.insert(-1, {"API": reference(Path("worldrl"))})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Pages of modules, of what lies outside of ``docs/``, and of the source files that all of them link to."""

    def add(page: str, text: str) -> None:
        files.append(File.generated(config, page, content=text))

    for module in MODULES:
        name = ".".join(module.with_suffix("").parts).removesuffix(".__init__")
        add(module_page(module), f"::: {name}\n\n[Source](repo:{module})\n")
    for path, page in OTHERS.items():
        add(page, (ROOT / path).read_text(encoding="utf-8"))
    for target in sorted({str(module) for module in MODULES} | linked(files)):
        if is_source(target):
            add(f"source/{target}.md", source_page(target))


def linked(files: Files) -> set[str]:
    """What the pages link to, as paths in the repository."""
    pages = [(place_of(file), file.content_string) for file in files.documentation_pages()]
    return {normpath(f"{place.parent}/{link['path']}") for place, text in pages for link in LINK.finditer(text)}


def source_page(target: str) -> str:
    head = f"---\nsearch: {{exclude: true}}\nhide: [toc]\ntitle: {target}\n---\n\n# {target}\n\n"
    code = (ROOT / target).read_text(encoding="utf-8")
    return f'{head}~~~~~{Path(target).suffix[1:]} linenums="1"\n{code}~~~~~\n'


def place_of(file: File) -> Path:
    """Where the text of a page lies in the repository."""
    return Path({page: path for path, page in OTHERS.items()}.get(file.src_uri, f"docs/{file.src_uri}"))


def is_source(target: str) -> bool:
    return not target.startswith(("docs/", "..")) and target not in OTHERS and (ROOT / target).is_file()


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Examples are shown; links out of ``docs/`` lead to the pages that were made for their targets."""
    place = place_of(page.file)

    def link(match: re.Match[str]) -> str:
        target = normpath(f"{place.parent}/{match['path']}")
        if is_source(target):
            return f"[{match['text']}](repo:{target}{line_of(target, match['text'].strip('`'))})"
        uri = OTHERS.get(target, target.removeprefix("docs/"))
        return f"[{match['text']}]({relpath(uri, Path(page.file.src_uri).parent)}{match['anchor'] or ''})"

    return LINK.sub(link, EXAMPLE.sub(example, markdown)) + settings(page.file.src_uri)


def settings(page: str) -> str:
    """The settings of the part that a page describes, from its class; nothing for another page."""
    folder, _, name = page.removesuffix(".md").rpartition("/")
    kinds = [kind for kind, names in PARTS.items() if name in names] if folder == "algorithms" else []
    tables = [(kind, list_settings(kind, name)) for kind in kinds]
    told = "Defaults are those of the class; `worldrl train agent=NAME --cfg job` prints what a preset makes of them."
    shown = [f"\n\n`{kind}={name}`:\n\n{table}" for kind, table in tables if table.count("\n") > 1]
    return f"\n\n## Settings\n\n{told}{''.join(shown)}\n" if shown else ""


def example(match: re.Match[str]) -> str:
    code = (ROOT / "docs" / "examples" / match[1]).read_text(encoding="utf-8")
    return f'```python title="{match[1]}"\n{code}```'


@cache
def lines(target: str) -> dict[str, int]:
    """Where the functions and classes of a file begin, by names such as ``SAC.update``."""
    found: dict[str, int] = {}
    if target.endswith(".py"):
        for node in ast.parse((ROOT / target).read_text(encoding="utf-8")).body:
            for inner in (node, *getattr(node, "body", ())):
                if name := getattr(inner, "name", ""):
                    found[name if inner is node else f"{getattr(node, 'name', '')}.{name}"] = inner.lineno
    return found


def line_of(target: str, name: str) -> str:
    return f"#__span-0-{lines(target)[name]}" if name in lines(target) else ""


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to source files, names that may break, equations."""

    def href(match: re.Match[str]) -> str:
        made = files.get_file_from_path(f"source/{match[1]}.md")
        assert made is not None
        return f'href="{made.url_relative_to(page.file)}'

    content = re.sub(r"<code>[^<\n]{12,}</code>", breakable, content)
    return MATH.sub(picture, re.sub(r'href="repo:([^"#]+)', href, content))


def breakable(match: re.Match[str]) -> str:
    """A long name in backticks may break after a dot, an underscore or a slash."""
    return re.sub(r"(?<=[\w)])([._/=]+)(?=\w)", r"\1<wbr>", match[0])


def picture(match: re.Match[str]) -> str:
    kind, latex = match[1], html.unescape(match[2])
    return f'<{kind} class="math">{quickjax.render(latex, display=kind == "div")}</{kind}>'


class Fields(griffe.Extension):
    """A setting without a docstring has the comment next to its default; a NamedTuple has its fields as a signature."""

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        if attr.docstring is None and attr.lineno and isinstance(attr.filepath, Path):
            _, found, comment = source_lines(attr.filepath)[attr.lineno - 1].partition("  # ")
            if found:
                attr.docstring = griffe.Docstring(comment, parent=attr)

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        if any(str(base) == "NamedTuple" for base in cls.bases):
            kind = griffe.ParameterKind.positional_or_keyword
            parameters = griffe.Parameters(griffe.Parameter("self", kind=kind))
            for name, field in cls.attributes.items():
                if "property" not in field.labels:
                    parameters.add(griffe.Parameter(name, annotation=field.annotation, kind=kind, default=field.value))
            cls.set_member("__init__", griffe.Function("__init__", parameters=parameters, parent=cls))


@cache
def source_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
