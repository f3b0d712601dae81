"""Every link of a built site: files that are missing, anchors that are missing."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote


class Page(HTMLParser):
    "Links and anchors of a page."

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value)


def read_page(path: Path) -> Page:
    "A page's links and anchors."
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def dead_links(site: Path) -> tuple[list[str], int]:
    "What links of a site lead nowhere, as `page: link`, and how many links lead into the site."
    pages = {path.resolve(): read_page(path) for path in sorted(site.rglob("*.html"))}
    dead, count = [], 0
    for path, page in pages.items():
        for link in page.links:
            address, _, anchor = link.partition("#")
            if ":" in address.split("/")[0] or link.startswith("//"):
                continue  # another site, data:, mailto:, javascript:
            count += 1
            address = unquote(address.partition("?")[0])
            target = (path.parent / address).resolve() if address else path
            if target.is_dir():
                target = target / "index.html"
            exists = target.is_file()
            if exists and anchor and target in pages:
                exists = unquote(anchor) in pages[target].anchors or anchor in ("", "top")
            if not exists:
                dead.append(f"{path.relative_to(site.resolve())}: {link}")
    return dead, count
