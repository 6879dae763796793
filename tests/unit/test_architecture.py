"""The shape of the code: who may import whom, cycles, full folders, who may load torch, long files and functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "chexmix_cli"
FILES = sorted(PACKAGE.rglob("*.py"))

#: Parts from the outside in; a file imports from its own rank's part or from a later rank. Parts of one rank do not
#: know each other, but for what ``WITHIN_RANK`` names.
RANKS = [
    {"app", "__main__"},
    {"commands"},
    {"serve"},
    {"library"},
    {"plan"},
    {"train"},
    {"evals"},
    {"infer", "present"},
    {"models", "data", "text", "weights"},
    {"kernels"},
    {"vocab", "settings", "errors", "files", "rates", "runtime"},
]
#: Weights builds models and checks text tokenizers; data splits reports into their sections.
WITHIN_RANK = {("weights", "models"), ("weights", "text"), ("data", "text"), ("app", "__main__"), ("__main__", "app")}
#: The last rank is ordered too: errors know nothing, settings know the vocabulary.
LEAVES = {
    "errors": set(),
    "files": {"errors"},
    "rates": set(),
    "vocab": {"errors"},
    "settings": {"errors", "vocab"},
    "runtime": {"errors", "settings"},
}
#: What may hold torch while it is only imported.
TORCH_PARTS = {"kernels", "models", "weights", "infer", "train", "evals", "plan", "present", "rates"}
#: More than this in one folder and a reader no longer sees which file is for what.
MOST_ENTRIES = 16


def part_of(module: str) -> str | None:
    """Return the part a module of ours belongs to."""
    names = module.split(".")
    if names[0] != "chexmix_cli" or names[1:] in ([], ["__init__"]):
        return None
    if names[1] == "core":
        return names[2] if len(names) > 2 else None
    return names[1]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


def top_level_imports(tree: ast.Module) -> list[str]:
    return imports(ast.Module(body=[node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]))


def import_graph() -> dict[str, set[str]]:
    """Return every module of the package with the modules of the package that it imports, wherever in the file."""
    modules = {module_name(path).removesuffix(".__init__"): path for path in FILES}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                targets |= {name if name in modules else node.module for name in names}
            elif isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
        graph[module] = {target for target in targets if target in modules} - {module}
    # The face of the package names its parts for type checkers; it loads them when they are asked for.
    graph["chexmix_cli"] = set()
    return graph


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes of one cycle, or nothing: what is left once nodes that point at no other are taken away."""
    left = {node: set(targets) & set(graph) for node, targets in graph.items()}
    while ends := [node for node, targets in left.items() if not targets]:
        for node in ends:
            del left[node]
        for targets in left.values():
            targets.difference_update(ends)
    return sorted(left)


def test_the_search_for_cycles_finds_them():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_no_file_needs_itself_through_others():
    assert cycle(import_graph()) == []


def test_no_folder_needs_itself_through_its_neighbours():
    graph = import_graph()
    for parent in sorted({module.rpartition(".")[0] for module in graph} - {""}):
        neighbours: dict[str, set[str]] = {}
        for module, targets in graph.items():
            if module.startswith(f"{parent}."):
                own = module.removeprefix(f"{parent}.").partition(".")[0]
                inside = (target.removeprefix(f"{parent}.") for target in targets if target.startswith(f"{parent}."))
                neighbours.setdefault(own, set()).update({name.partition(".")[0] for name in inside} - {own})
        assert cycle(neighbours) == [], parent


def test_no_folder_is_too_full():
    for folder in {path.parent for path in FILES}:
        entries = [entry.name for entry in folder.iterdir() if not entry.name.startswith(("_", "."))]
        assert len(entries) <= MOST_ENTRIES, f"{folder.relative_to(PACKAGE)} has {len(entries)} entries"


def rank_of(part: str) -> int:
    return next(rank for rank, parts in enumerate(RANKS) if part in parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path):
    tree = ast.parse(path.read_text())
    own = part_of(module_name(path))
    for module in imports(tree):
        other = part_of(module)
        if own is None or other is None or other == own:
            continue
        if own in LEAVES:
            assert other in LEAVES[own], f"{own} imports {module}"
        elif (own, other) not in WITHIN_RANK:
            assert rank_of(other) > rank_of(own), f"{own} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_is_loaded_late(path: Path):
    if part_of(module_name(path)) in TORCH_PARTS:
        return
    heavy = {module.split(".")[0] for module in top_level_imports(ast.parse(path.read_text()))}
    assert not heavy & {"torch", "transformers", "sklearn", "matplotlib"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{node.name} has {lines} lines of code"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_core_neither_prints_nor_exits_nor_raises_what_nobody_can_catch(path: Path):
    is_core = "core" in path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and is_core:
            assert node.func.id not in ("print", "exit", "quit", "breakpoint"), f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr == "exit" and is_core:
            assert not (isinstance(node.value, ast.Name) and node.value.id == "sys"), f"line {node.lineno}"
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            assert node.exc.func.id not in ("Exception", "BaseException", "RuntimeError"), f"line {node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_data_are_split_at_line_ends_alone(path: Path):
    """``str.splitlines`` also splits at U+2028, U+0085 and form feeds, which stand inside texts."""
    if part_of(module_name(path)) not in {"commands", "library", "data", "evals", "train", "present"}:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Attribute) and node.attr == "splitlines"), f"line {node.lineno}"


def test_no_two_test_files_have_one_name():
    """Test folders are no packages: pytest refuses the second of a name, but only where both are collected."""
    names = [path.name for path in Path(__file__).parents[1].rglob("test_*.py")]
    assert {name for name in names if names.count(name) > 1} == set()
