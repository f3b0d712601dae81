"""Which controls a cell of a lesson leaves on the page; the site and the browser tests ask."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def makers_of_controls() -> set:
    "Names of the library's functions that return controls with their figure."
    makers = set()
    for path in ROOT.glob("lgermt/viz/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            returns = isinstance(node, ast.FunctionDef) and node.returns
            if returns and ast.unparse(returns) == "VBox":
                makers.add(node.name)
    return makers - {"exercise_widget", "markdown_widget", "guess_controls"}


def shown_maker(text: str, makers: set) -> str | None:
    "The maker of the controls that a cell shows: it ends with the call, or with the call's name."
    try:
        statements = ast.parse(text).body
    except SyntaxError:  # a magic command
        return None
    if not statements or not isinstance(statements[-1], ast.Expr):
        return None
    last = statements[-1].value
    made = {
        ast.unparse(statement.targets[0]): statement.value
        for statement in statements
        if isinstance(statement, ast.Assign)
    }
    call = made.get(ast.unparse(last), last)
    name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
    return name if name in makers else None
