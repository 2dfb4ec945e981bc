"""The ladder of imports: a module reaches only modules below its own rung, and never itself.

Python is read with `ast` and Cython with a pattern, so that an import inside a function, a branch
or a `cimport` counts as much as one at the top of a file.
"""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = "emuiavf"
ROOT = Path(__file__).resolve().parent.parent

# Bottom first.  Modules of one rung (a package) may import each other, but in no circle.
LADDER = (
    ("errors",),
    ("layout",),
    ("policy",),
    ("emudev.info",),
    ("loop",),
    ("_atomic", "_bits", "_eventfd"),
    ("_rxdid",),
    ("_phc",),
    ("_pattern",),
    ("_dma_extents",),
    ("_dma_pages",),
    ("_dma",),
    ("stats",),
    ("vfio_user",),
    ("pci",),
    ("emudev",),
    ("virtchnl",),
    ("datapath",),
    ("_ring_watch",),
    ("_ring_state",),
    ("_ring_tail",),
    ("_ring_irq",),
    ("_ring_back",),
    ("_rxplain", "_txplain"),
    ("_ring_plain",),
    ("_ring_tx", "_ring_rx"),
    ("_ring_probe",),
    ("_ring_put",),
    ("_ring_rate", "_ring_spoil"),
    ("_ring_base",),
    ("_ring_vectors",),
    ("_ring_tables",),
    ("_ring_host",),
    ("_ring",),
    ("ports",),
    ("iavf",),
    ("guest",),
    ("control",),
    ("app",),
    ("demo",),
    ("shim",),
    ("cli",),
    ("__main__", ""),
)

# What a rung must not know although it lies below; `only` lists all that it may know.
ONLY = {
    "vfio_user": ("errors", "layout", "emudev.info", "loop", "policy"),
    "pci": ("errors", "layout", "emudev.info"),
    "_dma_extents": (),
    "_dma_pages": ("_dma_extents", "errors"),
    "_dma": ("_atomic", "_dma_extents", "_dma_pages", "errors", "emudev.info"),
    "_ring_tx": (
        "_atomic",
        "_bits",
        "_dma",
        "_ring_state",
        "_ring_tail",
        "_ring_irq",
        "_txplain",
        "datapath",
    ),
    "_ring_back": ("_ring_state", "datapath"),
    "_rxplain": ("_dma", "datapath"),
    "_txplain": ("_dma", "datapath"),
    "_ring_plain": (
        "_atomic",
        "_bits",
        "_dma",
        "_ring_state",
        "_ring_tail",
        "_ring_back",
        "_rxplain",
        "datapath",
    ),
    "_ring_rx": (
        "_atomic",
        "_bits",
        "_dma",
        "_phc",
        "_ring_state",
        "_ring_tail",
        "_ring_back",
        "_ring_plain",
        "datapath",
    ),
    "_ring_probe": ("_dma", "_rxplain", "_txplain", "datapath"),
    "_ring_put": (
        "_atomic",
        "_bits",
        "_ring_state",
        "_ring_irq",
        "_ring_plain",
        "_ring_rx",
        "datapath",
    ),
    "_ring_rate": ("_atomic", "_ring_state", "_ring_tx", "datapath"),
    "_ring_spoil": ("_atomic", "_bits", "_ring_state", "_ring_put", "datapath"),
    "_ring_base": (
        "_atomic",
        "_dma",
        "_ring_state",
        "_ring_watch",
        "_ring_irq",
        "_ring_tx",
        "_ring_put",
        "datapath",
    ),
    "_ring_vectors": ("_atomic", "_eventfd", "_ring_state", "_ring_irq", "_ring_base"),
    "_ring_tables": (
        "_atomic",
        "_ring_state",
        "_ring_rate",
        "_ring_vectors",
        "datapath",
        "emudev.info",
    ),
    "_ring_host": (
        "_atomic",
        "_eventfd",
        "_ring_state",
        "_ring_put",
        "_ring_rate",
        "_ring_spoil",
        "_ring_base",
        "_ring_tables",
        "emudev.info",
    ),
    "_ring": (
        "_atomic",
        "_rxdid",
        "_dma",
        "_ring_state",
        "_ring_base",
        "_ring_host",
        "datapath",
        "errors",
    ),
    "guest": (
        "errors",
        "layout",
        "_atomic",
        "_bits",
        "_rxdid",
        "_pattern",
        "vfio_user.client",
        "virtchnl.messages",
        "virtchnl.ops",
        "iavf.regs",
    ),
}
NEVER = {
    "virtchnl": ("vfio_user", "pci", "emudev.device", "_dma", "loop"),
    "datapath": ("vfio_user", "pci", "virtchnl"),
}

CYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<origin>[\w.]+)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n#]+)"
    r"|c?import[ \t]+(?P<plain>[^\n#]+))",
    re.MULTILINE,
)


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(root: Path) -> dict[str, list[Path]]:
    """Every module of the package, as it is named below it, with its files (.py, .pyx, .pxd)."""
    found: dict[str, list[Path]] = {}
    for path in sorted((root / PACKAGE).rglob("*")):
        if path.suffix in (".py", ".pyx", ".pxd"):
            found.setdefault(module_name(path, root), []).append(path)
    return found


def absolute(origin: str, level: int, path: Path, root: Path) -> str:
    """A relative import's origin in full."""
    if not level:
        return origin
    parts = [PACKAGE, *path.relative_to(root / PACKAGE).parts[:-1]]
    return ".".join([*parts[: len(parts) - level + 1], *filter(None, [origin])])


def imported_names(path: Path, root: Path) -> list[tuple[str, str]]:
    """(origin, name) of every import of a file; name is empty for `import origin`."""
    text = path.read_text()
    found = []
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text, str(path))):
            if isinstance(node, ast.Import):
                found += [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                origin = absolute(node.module or "", node.level, path, root)
                found += [(origin, alias.name) for alias in node.names]
        return found
    for match in CYTHON_IMPORT.finditer(text):
        words = re.sub(r"[()\\]|#[^\n]*", " ", match["names"] or match["plain"]).split(",")
        names = [word.split()[0] for word in words if word.split()]
        if match["origin"]:
            bare = match["origin"].lstrip(".")
            origin = absolute(bare, len(match["origin"]) - len(bare), path, root)
            found += [(origin, name) for name in names]
        else:
            found += [(name, "") for name in names]
    return found


def graph(root: Path) -> dict[str, set[str]]:
    """For each module the modules of ours that it imports."""
    modules = sources(root)
    edges: dict[str, set[str]] = {}
    for module, paths in modules.items():
        targets = edges.setdefault(module, set())
        for path in paths:
            for origin, name in imported_names(path, root):
                full = f"{origin}.{name}" if name else origin
                if origin != PACKAGE and not origin.startswith(PACKAGE + "."):
                    continue
                inner = full.removeprefix(PACKAGE).lstrip(".")
                while inner and inner not in modules:
                    inner = inner.rpartition(".")[0]
                if inner != module:
                    targets.add(inner)
    return edges


def within(module: str, rung: str) -> bool:
    return module == rung or (rung != "" and module.startswith(rung + "."))


def rung_of(module: str) -> tuple[int, str]:
    """The number and the word of a module's rung; the longest word wins (emudev.info)."""
    fits = [
        (len(word), number, word)
        for number, words in enumerate(LADDER)
        for word in words
        if within(module, word)
    ]
    if not fits:
        raise AssertionError(f"{module}: no rung of the ladder; add it to LADDER")
    _, number, word = max(fits)
    return number, word


def violations(root: Path) -> list[str]:
    """Every import that goes up, sideways or where its rung must not look."""
    found = []
    for module, targets in graph(root).items():
        number, word = rung_of(module)
        for target in sorted(targets):
            other, other_word = rung_of(target)
            only, never = ONLY.get(word), NEVER.get(word, ())
            outside = other_word != word and not within(target, word)
            if other > number or (other == number and outside and word not in ("__main__", "")):
                found.append(f"{module} imports {target}, which is not below it")
            elif outside and only is not None and not any(within(target, one) for one in only):
                found.append(f"{module} imports {target}; {word} may know only {', '.join(only)}")
            elif any(within(target, one) for one in never):
                found.append(f"{module} imports {target}, of which {word} knows nothing")
    return found


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one circle of imports, or none."""
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges.get(module, ())):
            if found := walk(target, [*trail, module]):
                return found
        done.add(module)
        return []

    for module in sorted(edges):
        if found := walk(module, []):
            return found
    return []


def test_every_import_goes_down_the_ladder() -> None:
    assert violations(ROOT) == []


def test_no_circle_of_imports() -> None:
    assert circle(graph(ROOT)) == []


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (
            {
                "errors.py": "def late():\n    from emuiavf.layout import wire\n",
                "layout.py": "",
            },
            "errors imports layout, which is not below it",
        ),
        (
            {"_dma.pyx": "from emuiavf._ring cimport (\n    Vf,  # a ring\n)\n", "_ring.pyx": ""},
            "_dma imports _ring, which is not below it",
        ),
        (
            {"vfio_user/server.py": "from ..pci import regs\n", "pci/regs.py": ""},
            "vfio_user.server imports pci.regs, which is not below it",
        ),
        (
            {"pci/regs.py": "import emuiavf.vfio_user.wire\n", "vfio_user/wire.py": ""},
            "pci.regs imports vfio_user.wire; pci may know only errors, layout, emudev.info",
        ),
        (
            {"virtchnl/session.py": "from emuiavf.pci import regs\n", "pci/regs.py": ""},
            "virtchnl.session imports pci.regs, of which virtchnl knows nothing",
        ),
    ],
)
def test_a_wrong_import_is_reported(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    plant(tmp_path, files)
    assert violations(tmp_path) == [complaint]


def test_a_module_without_a_rung_is_reported(tmp_path: Path) -> None:
    plant(tmp_path, {"helpers.py": ""})
    with pytest.raises(AssertionError, match="helpers: no rung"):
        violations(tmp_path)


def test_a_circle_inside_a_package_is_reported(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "iavf/reset.py": "from emuiavf.iavf.device import IavfDevice\n",
            "iavf/device.py": "from emuiavf.iavf import reset\n",
        },
    )
    assert circle(graph(tmp_path)) == ["iavf.device", "iavf.reset", "iavf.device"]
