"""Mutants of a module, each tried against the checks of its notebook.

`python -m trust.mutate MODULE [COUNT SEED]` tries COUNT of them, drawn with SEED, or all, and
prints them as JSON. A mutant is the module with one small fault: another operator, another number,
a condition turned round, a call left out. Checks that let a fault pass are missing a case.
"""

import ast
import contextlib
import json
import os
import random
import re
import sys
from copy import copy

from helpers import ROOT

from trust.run_notebook import code_cells, module_file, run

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.USub: ast.UAdd,
}
CHECKS = r"assert|raises|test_|ExceptionExpected|^import|^from|^#\| *exports?\b"
WITHOUT_FAULTS = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)  # texts are not tested


def negated(condition):
    "`not condition`."
    return ast.UnaryOp(ast.Not(), condition)


def faults(node):
    "Faults of one node of the syntax tree: (name of a field, its other value)."
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            other = COMPARISONS[type(operator)]()
            yield "ops", [*node.ops[:i], other, *node.ops[i + 1 :]]
    if type(getattr(node, "op", None)) in OPERATORS:
        yield "op", OPERATORS[type(node.op)]()
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "value", node.value + 1
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "value", not node.value
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield "test", negated(node.test)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "value", ast.Constant(None)


def parts(node):
    "Children of a node, without annotations."
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, WITHOUT_FAULTS):
                    yield child


def places(node, function="", statement=None):
    "Every node with the name of its function and its statement."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        function = f"{function}.{node.name}".strip(".")
    statement = node if isinstance(node, ast.stmt) else statement
    yield node, function, statement
    for child in parts(node):
        yield from places(child, function, statement)


def line_of(statement):
    "A statement as one line; of a compound one its head."
    if hasattr(statement, "body"):
        statement = copy(statement)
        statement.body, statement.orelse, statement.decorator_list = [ast.Pass()], [], []
        if isinstance(statement, ast.Try):
            return "try:"
    return re.sub(r"\s+", " ", ast.unparse(statement)).removesuffix(" pass")


def mutants(source):
    "Of a cell: (function, line before, line after, source)."
    tree = ast.parse(source)
    for node, function, statement in places(tree):
        for field, other in faults(node):
            before, value = line_of(statement), getattr(node, field)
            setattr(node, field, other)
            yield function, before, line_of(statement), ast.unparse(ast.fix_missing_locations(tree))
            setattr(node, field, value)


def names_of(source):
    "Names that a cell binds, and names that it reads."
    bound, read = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
    return bound, read


def checks_only(cells):
    "The cells that check, export or import, and those that bind what these read."
    kept, needed = {}, set()
    for name, source in reversed(cells.items()):
        bound, read = names_of(source)
        if re.search(CHECKS, source, re.MULTILINE) or bound & needed:
            needed |= read
            kept[name] = source
    return dict(reversed(kept.items()))


def survives(path, cells, seconds):
    "Whether all checks pass, in a fork with a limit of processor time; and the time they took."
    import resource  # POSIX, like fork

    number = os.fork()
    if not number:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            with contextlib.suppress(BaseException):
                run(path, cells)
                os._exit(0)
        finally:
            os._exit(1)
    _, status, used = os.wait4(number, 0)
    return status == 0, used.ru_utime + used.ru_stime


def preload(cells):
    "Imports what the cells import, so that the forks need not do it again and again."
    for source in cells.values():
        for statement in ast.parse(source).body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                with contextlib.suppress(ImportError):
                    exec(ast.unparse(statement), {})


def notebook_of(module):
    "The notebook that exports a module."
    text = (ROOT / "lgermt" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    return ROOT / re.search(r"nbs/\S+\.ipynb", text)[0]


def main(module, count=0, seed=0):
    "Tries mutants; each as a dictionary."
    path = notebook_of(module)
    cells = code_cells(path)
    assert module_file(cells) is not None
    found = []
    for name, source in cells.items():
        if re.match(r"#\| *exports?\b", source):
            found += [(name, *mutant) for mutant in mutants(source)]
    if 0 < count < len(found):
        found = random.Random(seed).sample(found, count)
    chosen = checks_only(cells)
    preload(chosen)
    sound, seconds = survives(path, chosen, 3600)
    if not sound:  # a cell that was left out is needed
        chosen = cells
        sound, seconds = survives(path, chosen, 3600)
    assert sound, f"{path.name}: its own checks fail"
    tried = []
    for name, function, before, after, source in found:
        alive, _ = survives(path, chosen | {name: f"#| export\n{source}"}, int(10 * seconds + 30))
        mutant = {"function": function, "before": before, "after": after, "survives": alive}
        tried.append(mutant)
        verdict = "SURVIVES" if alive else "found"
        print(f"{verdict}  {function}: {before}  ->  {after}", file=sys.stderr, flush=True)
    return tried


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(int, sys.argv[2:]))))
