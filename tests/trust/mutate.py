"""Mutants of a module, each tried against the checks of its notebook.

`python -m trust.mutate MODULE [COUNT SEED]` tries COUNT of them, drawn with SEED, or all, and
prints them as JSON. A mutant is the module with one small fault: another operator, another number,
a condition turned round, a call left out. Checks that let a fault pass are missing a case.

The cells run one after the other. Before an exported cell, each of its mutants goes on in a fork,
to the end or to the first check that fails. So what stands above a cell is computed once.
"""

import ast
import contextlib
import json
import os
import random
import re
import sys
from copy import copy

import torch
from helpers import ROOT

from trust.run_notebook import code_cells, steps

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
    "Children of a node, without annotations and decorators."
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
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


def survives(running, seconds):
    "Whether the cells that are left run, in a fork with a limit of processor time; their time."
    import resource  # POSIX, like fork

    number = os.fork()
    if not number:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            with contextlib.suppress(BaseException):
                for _ in running:
                    pass
                os._exit(0)
        finally:
            os._exit(1)
    _, status, used = os.wait4(number, 0)
    return status == 0, used.ru_utime + used.ru_stime


def notebook_of(module):
    "The notebook that exports a module."
    text = (ROOT / "lgermt" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    return ROOT / re.search(r"nbs/\S+\.ipynb", text)[0]


def cells_to_run(path, cells):
    "The cells that check, or all where these do not run by themselves; their time."
    for chosen in (checks_only(cells), cells):
        sound, seconds = survives(steps(path, chosen), 3600)
        if sound:
            return chosen, seconds
    raise AssertionError(f"{path.name}: its own checks fail")


def tried(path, cells, found, seconds):
    "Runs the cells with each mutant, (cell, function, line before, line after, source)."
    running = steps(path, cells)
    last = [name for name in cells if name in {mutant[0] for mutant in found}][-1]
    for name in running:
        sound = cells[name]
        for _, function, before, after, source in [one for one in found if one[0] == name]:
            cells[name] = f"#| export\n{source}"
            alive, _ = survives(running, seconds)
            yield {"function": function, "before": before, "after": after, "survives": alive}
        cells[name] = sound
        if name == last:
            assert survives(running, seconds)[0], f"{path.name}: its checks fail in a fork"


def main(module, count=0, seed=0):
    "Tries mutants; each as a dictionary."
    torch.set_num_threads(1)  # a fork has neither the threads nor the GPU of its parent
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    path = notebook_of(module)
    cells = code_cells(path)
    found = []
    for name, source in cells.items():
        if re.match(r"#\| *exports?\b", source):
            found += [(name, *mutant) for mutant in mutants(source)]
    if 0 < count < len(found):
        found = random.Random(seed).sample(found, count)
    chosen, seconds = cells_to_run(path, cells)
    results = []
    for mutant in tried(path, chosen, found, int(10 * seconds + 30)):
        results.append(mutant)
        verdict = "SURVIVES" if mutant["survives"] else "found"
        line = "{function}: {before}  ->  {after}".format(**mutant)
        print(f"{verdict}  {line}", file=sys.stderr, flush=True)
    return results


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(int, sys.argv[2:]))))
