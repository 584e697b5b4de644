"""The house rules that a machine can check: imports run one way, and what is written once is written once."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import segattn_triton
from segattn_triton import functional, reference
from segattn_triton.catalog import BY_NAME, ROWS

pytestmark = pytest.mark.cheap
ROOT = Path(__file__).parents[1]
FOLDERS = {"segattn_triton": ROOT / "segattn_triton"}
FOLDERS |= {f"segattn_triton.{name}": ROOT / name for name in ("reference", "perf")}


def sources() -> dict[str, Path]:
    """module name -> file, of the package as it is installed."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join([package, *parts])] = path
    return found


SOURCES = sources()


def imported(module: str) -> set[str]:
    """The modules that a module imports, anywhere in it."""
    path = SOURCES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                names.add(full if full in SOURCES else base)
    return names


def layer(module: str) -> str:
    """The part of the house that a module is: a file or a folder of the package, of perf, of how a call runs."""
    parts = module.split(".")[1:]
    if parts and parts[0] in ("perf", "runtime"):
        return ".".join(parts[:2])
    return parts[0] if parts else "__init__"


ARROWS = {  # layer -> the layers it may import
    "__init__": {
        "acceleration",
        "functional",
        "layers",
        "modules",
        "reference",
        "runtime.counting",
        "runtime.dispatch",
        "runtime.known",
        "tuning",
    },
    "acceleration": {"acceleration", "functional", "modules", "reference", "runtime.checks"},
    "modules": {"modules", "functional", "runtime.attention_checks", "runtime.checks", "reference"},
    "functional": {
        "functional",
        "reference",
        "runtime.attention_checks",
        "runtime.checks",
        "runtime.dispatch",
        "runtime.gate_checks",
    },
    "compat": {"compat", "functional", "runtime.attention_checks", "runtime.checks"},
    "layers": {"acceleration", "functional"},
    "distributed": {"distributed", "functional", "reference", "runtime.dispatch"},
    "catalog": {"catalog", "functional", "modules", "reference", "flops"},
    "testing": {"catalog", "reference"},
    "compiled": {"compiled", "catalog", "runtime.operator", "runtime.plan", "runtime.schema", "tuning"},
    "reference": {"reference"},
    "ops": {
        "ops",
        "kernels",
        "tuning",
        "runtime.maps",
        "runtime.operator",
        "runtime.plan",
        "runtime.run",
        "runtime.schemas",
    },
    "kernels": {"kernels", "tuning", "runtime.plan", "runtime.maps"},
    "tuning": {"tuning", "draft"},
    "draft": set(),
    "flops": set(),
    "viz": set(),
    "runtime.dispatch": {"reference", "runtime.checks", "ops", "runtime.plan", "runtime.call"},
    "runtime.call": {
        "runtime.operator",
        "runtime.autograd",
        "runtime.description",
        "runtime.known",
        "runtime.program",
    },
    "runtime.autograd": {"runtime.description"},
    "runtime.operator": {
        "kernels",
        "runtime.autograd",
        "runtime.schema",
        "runtime.description",
        "runtime.run",
        "runtime.maps",
    },
    "runtime.run": {"runtime.known", "runtime.program", "runtime.plan", "runtime.maps", "tuning"},
    "runtime.description": {"runtime.known", "runtime.plan", "tuning"},
    "runtime.graph": {"runtime.operator", "runtime.plan", "runtime.program", "runtime.run", "tuning"},
    "runtime.program": {"runtime.plan"},
    "runtime.known": set(),
    "runtime.plan": {"tuning"},
    "runtime.maps": set(),
    "runtime.checks": {"reference"},
    "runtime.attention_checks": {"runtime.checks"},
    "runtime.gate_checks": {"runtime.checks"},
    "runtime.counting": {"runtime.schema", "runtime.schemas"},
    "runtime.schema": set(),
    "runtime.schemas": {"flops", "runtime.schema"},
    "perf": set(),
    "perf.__main__": {"perf.absent", "perf.commands"},
    "perf.commands": {
        "__init__",
        "perf.absent",
        "perf.compiler",
        "perf.measure",
        "perf.models",
        "perf.options",
        "perf.report",
        "perf.tune",
    },
    "perf.portrait": {"__init__", "perf.measure", "perf.models", "perf.terminal"},
    "perf.models": {
        "__init__",
        "draft",
        "perf.estimate",
        "perf.log",
        "perf.measure",
        "perf.options",
        "perf.records",
        "perf.report",
        "perf.terminal",
        "perf.torchvision_cpu",
        "viz",
        "perf.store",
    },
    "perf.prepared": {
        "catalog",
        "compiled",
        "draft",
        "perf.account",
        "perf.folder",
        "perf.measure",
        "perf.models",
        "perf.options",
        "perf.records",
        "perf.report",
        "perf.tune",
        "tuning",
        "perf.store",
    },
    "perf.report": {
        "catalog",
        "draft",
        "perf.compiler",
        "perf.folder",
        "perf.log",
        "perf.measure",
        "perf.options",
        "perf.records",
        "perf.terminal",
        "perf.tune",
        "runtime.checks",
        "tuning",
        "perf.store",
    },
    "perf.account": {"compiled", "tuning"},
    "perf.compiler": {
        "catalog",
        "compiled",
        "draft",
        "perf.account",
        "perf.measure",
        "perf.options",
        "perf.records",
        "perf.terminal",
        "tuning",
    },
    "perf.tune": {
        "acceleration",
        "catalog",
        "compiled",
        "perf.measure",
        "perf.options",
        "perf.records",
        "runtime.maps",
        "runtime.operator",
        "tuning",
        "perf.store",
    },
    "perf.measure": {
        "catalog",
        "compiled",
        "perf.absent",
        "perf.options",
        "perf.records",
        "perf.terminal",
        "runtime.dispatch",
        "runtime.plan",
        "testing",
        "tuning",
    },
    "perf.log": {"draft", "perf.folder", "perf.options", "perf.records", "perf.store"},
    "perf.folder": {"draft", "perf.options", "perf.records", "perf.store"},
    "perf.records": {"perf.store"},
    "perf.options": {"catalog"},
    "perf.store": set(),
    "perf.absent": set(),
    "perf.terminal": {"perf.estimate"},
    "perf.estimate": set(),
    "perf.torchvision_cpu": set(),
}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_one_way(module):
    """Perf may read the package's version, from `__init__`."""
    for name in imported(module):
        if name.split(".")[0] == "segattn_triton" and layer(name) != layer(module):
            assert layer(name) in ARROWS[layer(module)], f"{module} imports {name}"


@pytest.mark.parametrize("module", SOURCES)
def test_imports_inside_the_package_are_relative(module):
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level or node.module.split(".")[0] != "segattn_triton", f"{module}: {ast.unparse(node)}"


def test_no_circle():
    """No file imports another that imports it, by whatever way."""
    below = {module: imported(module) & SOURCES.keys() - {module} for module in SOURCES}
    while below:
        leaves = {module for module, names in below.items() if not names & below.keys()}
        assert leaves, f"a circle among {sorted(below)}"
        below = {module: names for module, names in below.items() if module not in leaves}


def test_arrows_have_no_cycle():
    below = {name: set(arrows) - {name} for name, arrows in ARROWS.items()}
    while below:
        leaves = {name for name, arrows in below.items() if not arrows & below.keys()}
        assert leaves, f"a cycle among {sorted(below)}"
        below = {name: arrows for name, arrows in below.items() if name not in leaves}


@pytest.mark.parametrize("module", [m for m in SOURCES if layer(m) in ("ops", "kernels")])
def test_ops_and_families_stand_alone(module):
    """An op imports no other op, a kernel family no other family: what two need sinks into kernels/common."""
    if module == "segattn_triton.ops":
        return
    family = module.split(".")[:3]
    for name in imported(module):
        if layer(name) == layer(module) and name != "segattn_triton.kernels":
            assert name.split(".")[:3] == family or ".common." in name, f"{module} imports {name}"


def test_tests_and_perf_never_meet():
    for module in SOURCES:
        if layer(module).startswith("perf"):
            assert not {name for name in imported(module) if name.split(".")[0] in ("tests", "support", "conftest")}


@pytest.mark.parametrize(
    "path",
    sorted(p for f in (*FOLDERS.values(), ROOT / "tests") for p in f.rglob("*.py")),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_no_second_copy(path):
    """`import reference` or `import perf` works from the repository's root and is another copy of the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not {name for name in modules if name.split(".")[0] in ("reference", "perf")}


def test_packages_are_the_folders():
    """What pyproject.toml ships is what there is, with its data."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    setuptools = project["tool"]["setuptools"]
    folders = {m for m, path in SOURCES.items() if path.name == "__init__.py"}
    assert set(setuptools["packages"]) == folders
    for package, folder in setuptools["package-dir"].items():
        assert (ROOT / folder / "__init__.py").exists(), package
    assert (ROOT / "segattn_triton" / "py.typed").exists()
    assert project["project"]["version"] == segattn_triton.__version__


IMPORT = """
import sys, torch
before = set(sys.modules)
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
import segattn_triton
loaded = set(sys.modules) - before
assert not {m for m in sys.modules if m.split(".")[0] == "triton"}, "triton"
assert not {m for m in loaded if m.startswith(("segattn_triton.perf", "segattn_triton.catalog", "segattn_triton.ops",
    "segattn_triton.kernels", "segattn_triton.testing", "segattn_triton.compiled", "torch._dynamo"))}, loaded
files = [f for f in opened if isinstance(f, str) and not f.endswith((".py", ".pyc")) and "__pycache__" not in f]
assert not files, files
assert not torch.cuda.is_initialized()
"""


def test_import_is_light():
    """No Triton, no perf, no catalog, no CUDA context, no file but the sources."""
    subprocess.run([sys.executable, "-B", "-c", IMPORT], check=True, cwd=ROOT.anchor)


NAMED_TWICE = {  # a class -> why two of this name may be
    **dict.fromkeys(
        ("SpatialAttention", "LocalAttention", "NeighborhoodAttention2D"),
        "a layer of the Kernel Hub is named as the class that it stands for",
    ),
    "Window": "a constexpr of two families: what is compiled is known by the name, too",
}


def test_a_class_has_its_name_alone():
    """Nobody asks which `Settings`: a name of a class, private ones too, is defined in one file."""
    places: dict[str, list[str]] = {}
    for module, path in SOURCES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name.lstrip("_"), []).append(module)
    twice = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert twice.keys() == NAMED_TWICE.keys(), twice


def constants(module: str) -> set[str]:
    """The names in capitals that a module defines, private ones too."""
    found = set()
    for node in ast.parse(SOURCES[module].read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            for name in getattr(target, "elts", [target]):
                if isinstance(name, ast.Name) and name.id.isupper():
                    found.add(name.id)
    return found


def read_elsewhere(module: str) -> set[tuple[str, str]]:
    """(module, name) of what a module reads of others, imported by itself or with its module."""
    path, found, modules = SOURCES[module], set(), {}
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                found.add((base, alias.name))
                modules[alias.asname or alias.name] = f"{base}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            found.add((modules[node.value.id], node.attr))
    return found


# what is compiled, and what was predicted of it, is known by the text of kernels and of the account
FROZEN = "read in kernels or in the account, whose text is part of what a record is known by"
ONE_MEANING = {  # a name that leaves its file and stands in others, too -> why it may
    "ARCH": "the architecture that is compiled for without a GPU",
    "BLOCK": "the elements of one program, as in every kernel",
    "FUNCTIONS": FROZEN,
    "KINDS": "of maps, a name in a module that is public; of accesses: " + FROZEN,
    "MOST": "a bound of the one file, as the line beside it says",
    "RESERVE": "seconds of a budget that the page needs",
    "RIVALS": "those of a family, and of all",
    "ROWS": "the table of a family of the catalog; of a kernel: " + FROZEN,
    "SIZES": FROZEN,
    "SMS": "the multiprocessors of an H100: the account assumes its own",
    "SPACE": "the configs of the kernel in the file",
    "TILES": "the tiles of the kernel in the file",
    "WHOLE": FROZEN,
}


def test_a_constant_that_leaves_its_file_means_one_thing():
    """A name in capitals that another file reads is defined in one: elsewhere it would be read as this one."""
    places: dict[str, list[str]] = {}
    for module in SOURCES:
        for name in constants(module):
            places.setdefault(name, []).append(module)
    read = set().union(*map(read_elsewhere, SOURCES))
    shared = {name: found for name, found in places.items() if any((module, name) in read for module in found)}
    twice = {name: found for name, found in shared.items() if len(found) > 1}
    assert twice.keys() == ONE_MEANING.keys(), {n: twice.get(n) for n in twice.keys() ^ ONE_MEANING.keys()}


def test_no_file_is_seen_half_written():
    """What a kill leaves is the file that was: it is written as a draft, or grows by a line."""
    whole = {"segattn_triton.draft", "segattn_triton.perf.store"}
    whole |= {"segattn_triton.perf.compiler.inductor"}  # a module for this process, in a folder that is thrown away
    for module in SOURCES.keys() - whole:
        for node in ast.walk(ast.parse(SOURCES[module].read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("write_text", "write_bytes"):
                assert ast.unparse(node.value) == "draft", f"{module}: {ast.unparse(node)}"


FORBIDDEN = {
    "make_block_ptr": "removed from newer versions of Triton",
    "atomic": "results would differ from run to run",
    "warp_specialize": "not in every supported version",
    "autotune": "never while a user's forward runs",
    "do_bench": "never while a user's forward runs",
    "debug_barrier": "between launches only",
    "device_print": "left over",
    "HAS_": "an optional operand is a None pointer",
}


@pytest.mark.parametrize("word", FORBIDDEN)
def test_forbidden_in_kernels(word):
    for module, path in SOURCES.items():
        if layer(module) in ("kernels", "ops"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            names = {getattr(node, field, "") for node in nodes for field in ("id", "attr", "arg", "name")}
            assert not [n for n in names if isinstance(n, str) and word in n], f"{module}: {FORBIDDEN[word]}"


@pytest.mark.parametrize("module", [m for m in SOURCES if layer(m) == "kernels"])
def test_heights_and_widths_are_no_constants(module):
    """A compile-time H or W would compile a kernel for every resolution."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
            constants = {a.arg for a in node.args.args if a.annotation and "constexpr" in ast.unparse(a.annotation)}
            assert not constants & {"H", "W", "P", "N", "S", "pixels", "tiles", "rows"}, f"{node.name}: {constants}"


MOST_LINES = 300  # of a file: with more it holds two ideas


@pytest.mark.parametrize("module", SOURCES)
def test_every_file_is_short_and_says_what_it_is(module):
    text = SOURCES[module].read_text()
    assert len(text.splitlines()) < MOST_LINES, "one idea a file: the other one goes into its own"
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{module} has no docstring"
    assert "TODO" not in text
    assert "FIXME" not in text


PUBLIC = {
    name: f for name, f in vars(functional).items() if inspect.isfunction(f) and f.__module__ == functional.__name__
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions(name):
    """A docstring with equation and shapes; a reference of the same name and signature, less `backend`."""
    text = inspect.getdoc(PUBLIC[name])
    assert " = " in text.partition("\n")[0], "the equation comes first"
    assert re.search(r"\(N, ", text), "shapes"
    ours = dict(inspect.signature(PUBLIC[name]).parameters)
    assert ours.pop("backend").default is None
    theirs = dict(inspect.signature(getattr(reference, name)).parameters)
    assert list(ours) == list(theirs)
    for key in ours:
        assert (ours[key].default, ours[key].kind) == (theirs[key].default, theirs[key].kind), key


def test_every_public_function_has_a_row():
    assert {row.op for row in ROWS} <= set(PUBLIC.values())
    for row in BY_NAME.values():
        op, definition = (getattr(f, "func", f) for f in (row.op, row.reference))  # of a window: a partial function
        assert op in PUBLIC.values() and getattr(reference, op.__name__) is definition
        parameters = inspect.signature(row.op).parameters
        assert [n.removesuffix("?") for n in row.inputs] == list(parameters)[: len(row.inputs)]
        for option, values in row.options.items():
            assert parameters[option].default == values[0], f"{row.name}: the default of {option}"


def test_public_names():
    for name in segattn_triton.__all__:
        assert getattr(segattn_triton, name).__doc__


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page):
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text()):
        assert (ROOT / file).exists(), file
        assert not name or f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"


def test_files_that_the_guide_names_exist():
    """Every path in CONTRIBUTING.md and the walk of a call; <family> and its like stand for any."""
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._")
    for page in ("CONTRIBUTING.md", "docs/path-of-a-call.md", "docs/kernel-file.md"):
        for name in re.findall(rf"`((?:{folders})/[\w./<>-]*)`", (ROOT / page).read_text()):
            assert list(ROOT.glob(re.sub("<.*?>", "*", name))), f"{page}: {name}"


def test_lines_of_the_changelog():
    assert not [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if len(line) > 120]
