"""What a figure shows, in words, for readers who do not see it."""

import re

PLOTLY, PNG = "application/vnd.plotly.v1+json", "image/png"


def plain(
    text: str | None,  # Markdown or plotly's HTML
) -> str:
    "Text without marks."
    text = re.sub(r"<br>", ", ", text or "")
    text = re.sub(r"<[^>]+>|[*`$#]", "", text)
    text = re.sub(r"\]\([^)]*\)|[\[\]]", "", text)
    return " ".join(text.split())


def heading_of(
    text: str,  # of a Markdown cell
) -> str:  # empty where there is none
    "The last heading of a cell."
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return plain(headings[-1]) if headings else ""


def words_of(part: dict | str | None) -> str:
    "The text of a title, which plotly stores as text or as an object."
    return plain(part.get("text") if isinstance(part, dict) else part)


def listed(names: list) -> str:  # at most eight
    "Names without repetition, separated by commas."
    names = [name for name in dict.fromkeys(names) if name]
    more = ["and more"] if len(names) > 8 else []
    return ", ".join(names[:8] + more)


def describe(
    figure: dict,  # of plotly: data and layout
    heading: str = "",  # of the section it stands in
) -> str:
    "Title, panels, axes and what is drawn."
    layout, data = figure.get("layout", {}), figure.get("data", [])
    title = words_of(layout.get("title")) or heading
    panels = listed([plain(note.get("text")) for note in layout.get("annotations", [])])
    axes = [layout[name] for name in sorted(layout) if re.fullmatch(r"[xy]axis\d*", name)]
    titles = listed([words_of(axis.get("title")) for axis in axes])
    drawn = listed([plain(str(trace["name"])) for trace in data if trace.get("name")])
    parts = [
        f"Figure: {title}" if title else "Figure",
        f"Labels: {panels}" if panels else "",
        f"Axes: {titles}" if titles else "",
        f"Shown: {drawn}" if drawn else "",
    ]
    return ". ".join(part for part in parts if part) + "."
