"""One module writes to the residual stream: every other function that is registered as a hook only looks."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import caa_interp as caa

PACKAGE = Path(caa.__file__).parent
WRITERS = {
    # Its ``hooking`` is called by itself, for what only reads, and by tree/edits.py.
    "models/access.py",
    # The self-test steers once more by hooks of its own, to hold all else against them.
    "doctor/subject.py",
    # Sets back what one component adds to the stream, to see what of an effect goes away.
    "analysis/attribution.py",
}
# Which argument is the hook.
REGISTERING = {"register_forward_hook": 0, "register_forward_pre_hook": 0, "add_hook": 1, "add_perma_hook": 1}


def registered(module: ast.Module) -> Iterator[ast.expr]:
    """What a module hands to PyTorch and TransformerLens as hooks: functions, or lists of names and functions."""
    for call in ast.walk(module):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if name in REGISTERING:
            yield given.get(
                "hook", call.args[-1] if len(call.args) <= REGISTERING[name] else call.args[REGISTERING[name]]
            )
        elif "fwd_hooks" in given:
            yield given["fwd_hooks"]
        elif name == "run_with_hooks" or (name == "hooks" and (call.args or given)):
            yield call


def functions(given: ast.AST, module: ast.Module) -> Iterator[ast.AST]:
    """The functions that an expression stands for; whatever cannot be followed is given as it is."""
    match given:
        case ast.List(elts=several):
            for one in several:
                yield from functions(one, module)
        case ast.ListComp(elt=one) | ast.Tuple(elts=[_, one]):
            yield from functions(one, module)
        case ast.IfExp(body=one, orelse=other):
            yield from functions(one, module)
            yield from functions(other, module)
        case ast.Call(func=factory):
            for made_by in functions(factory, module):
                annotation = getattr(made_by, "returns", None)
                if annotation is None or ast.unparse(annotation) != "Callable[..., None]":
                    yield made_by
                    continue
                for node in ast.walk(made_by):
                    if isinstance(node, ast.Return) and node.value is not None:
                        yield from functions(node.value, module)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            found = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef) and node.name == name]
            values = [
                node.value
                for node in ast.walk(module)
                if isinstance(node, ast.Assign)
                and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
            ]
            yield from found
            for value in values:
                yield from functions(value, module)
            if not found and not values:
                yield given
        case _:
            yield given


def only_looks(function: ast.AST) -> bool:
    """Whether a function returns nothing, by its annotation too, and changes nothing that it is given in place."""
    if isinstance(function, ast.FunctionDef):
        returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
        if not (isinstance(function.returns, ast.Constant) and function.returns.value is None) or any(returned):
            return False
    elif not isinstance(function, ast.Lambda):  # one that a function makes which says that it returns nothing
        return False
    parameters = {one.arg for one in function.args.args} - {"self"}

    def is_given(node: ast.AST) -> bool:
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        return isinstance(node, ast.Name) and node.id in parameters

    for node in ast.walk(function):
        targets = [node.target] if isinstance(node, ast.AugAssign) else getattr(node, "targets", [])
        if any(is_given(target) for target in targets):
            return False
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr.endswith("_") and is_given(called):
            return False
    return True


def bare_lambdas(source: str) -> bool:
    """Whether a lambda is registered as it stands, so that no annotation says what it returns."""
    given = [node for one in registered(ast.parse(source)) for node in ast.walk(one)]
    return any(isinstance(node, ast.Lambda) for node in given)


def writes(source: str) -> bool:
    """Whether a module registers a hook that may replace or change an activation."""
    module = ast.parse(source)
    hooks = [function for one in registered(module) for function in functions(one, module)]
    return bare_lambdas(source) or not all(map(only_looks, hooks))


def test_one_module_writes_to_the_residual_stream():
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    hooking = {name for name, source in sources.items() if any(True for _ in registered(ast.parse(source)))}
    assert hooking >= {"models/blocks.py", "models/access.py", "steering/context.py"}
    assert {name for name in hooking if writes(sources[name])} == WRITERS
    assert {name for name, source in sources.items() if "hooking(" in source} == {"models/access.py", "tree/edits.py"}


@pytest.mark.parametrize(
    "source",
    [
        "model.hooks(fwd_hooks=[(name, lambda x, hook: x + 1)])",
        "model.hooks([(name, look)])",
        "block.register_forward_hook(lambda *_: None)",
        "def add(x, hook):\n    return x + 1\nmodel.add_hook(name, add)",
        "def add(x, hook) -> None:\n    x[:, 1:] += 1\nmodel.add_hook(name, add)",
        "def add(x, hook) -> None:\n    x[0].add_(1)\nmodel.run_with_hooks(t, fwd_hooks=[(name, add)])",
        "def add(x, hook) -> None:\n    x.data = x.data + 1\nmodel.add_hook(name, hook=add)",
        "def made():\n    return lambda x, hook: x + 1\nmodel.hooks(fwd_hooks=[(n, made()) for n in names])",
        "from elsewhere import add\nblock.register_forward_pre_hook(add)",
        "hooks = [(name, made(1))] if m else []\nwith model.hooks(fwd_hooks=hooks):\n    pass",
        "class A:\n def add(self, x, hook):\n  return x\n def go(self):\n  model.add_hook(name, self.add)",
    ],
)
def test_a_hook_that_writes_is_found(source):
    assert writes(source)


@pytest.mark.parametrize(
    "source",
    [
        "def look(x, hook) -> None:\n    seen.append(x.clone())\nmodel.add_hook(name, look)",
        "def made(n) -> Callable[..., None]:\n return lambda x, hook: look(n, x)\n"
        "m.hooks(fwd_hooks=[(n, made(n)) for n in s])",
        "class A:\n def see(self, x, hook) -> None:\n  self.n = x.shape\n"
        " def go(self):\n  p.register_forward_pre_hook(self.see)",
        "with context.hooks():\n    pass",
    ],
)
def test_a_hook_that_looks_is_none(source):
    assert not writes(source)
