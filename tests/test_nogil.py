"""No Python API call in any generated function that is declared nogil.

The C that Cython made of each module is read: a `with gil`, a memoryview's reference count, an
exception looked for after a call or an object touched in a loop function all show there as calls
of the Python C API or of Cython's own helpers around it.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from Cython.Compiler.Main import CompilationOptions, compile_single

PACKAGE = Path(__file__).resolve().parent.parent / "emuiavf"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.pyx"))
HEADERS = sorted(PACKAGE.rglob("*.pxd"))

NOGIL = re.compile(
    r"^[ \t]*cdef[ \t]+(?!class\b|extern\b|struct\b|enum\b)"
    r"(?P<head>[^\n=(]*?)(?P<name>\w+)[ \t]*\((?P<arguments>[^()]*(?:\([^()]*\)[^()]*)*)\)"
    r"(?P<tail>[^:\n]*)",
    re.MULTILINE,
)
POINTER_NOGIL = re.compile(r"\(\s*\*\s*\w+\s*\)")
# Names Cython gives to plain C: arithmetic, casts and field access that touch no object.
HARMLESS = re.compile(r"__Pyx_(?:div|mod|pow)_\w+|__Pyx_NULL|__Pyx_RefNanny\w+")
PYTHON_CALL = re.compile(r"\b(Py[A-Z]\w*|_Py\w+|__Pyx_\w+|__pyx_fatalerror)\b")
DEFINITION = re.compile(r"^static [^;{}=#]*?\b(__pyx_f_\w+)\([^;{}]*\)[^;{}]*\{\n", re.MULTILINE)


def declared_nogil(source: str) -> dict[str, str]:
    """The cdef functions a Cython text declares nogil, with what follows their arguments."""
    found = {}
    for match in NOGIL.finditer(source):
        if re.search(r"\bnogil\b", match["tail"]) and not POINTER_NOGIL.search(match["head"]):
            found[match["name"]] = match["tail"].strip()
    return found


def generated_bodies(code: str) -> dict[str, str]:
    """The C text of each cdef function, by its mangled name, without comments."""
    plain = re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)
    bodies = {}
    for match in DEFINITION.finditer(plain):
        end = plain.index("\n}\n", match.end())
        bodies[match[1]] = plain[match.end() : end]
    return bodies


def python_calls(code: str, names: Iterable[str], inline: Iterable[str] = ()) -> list[str]:
    """`function: call` for each Python API call in the named functions of one module's C.

    Every one of `names` must be there; `inline` names those of headers, present where used.
    """
    bodies = generated_bodies(code)
    found = []
    for name in sorted({*names, *inline}):
        # __pyx_f_<lengths and words of the module's path and the class>_<name>
        mangled = [one for one in bodies if one.endswith(f"_{name}")]
        assert mangled or name in inline, f"{name}: not found in the generated C"
        for one in mangled:
            calls = set(PYTHON_CALL.findall(bodies[one]))
            found += [f"{name}: {call}" for call in sorted(calls) if not HARMLESS.fullmatch(call)]
    return found


def generate(path: Path, output: Path) -> str:
    """The C of a Cython module, made with the directives of setup.py that matter here."""
    options = CompilationOptions(
        output_file=str(output),
        include_path=[str(PACKAGE.parent)],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
        },
        emit_linenums=False,
    )
    result = compile_single(str(path), options, full_module_name=None)
    assert result.num_errors == 0, path
    return output.read_text()


def generated(path: Path, output: Path) -> str:
    """The C that the build left beside a module, or a new one where that is missing or old."""
    built = path.with_suffix(".c")
    newest = max(one.stat().st_mtime for one in (path, *HEADERS))
    if built.exists() and built.stat().st_mtime > newest:
        return built.read_text()
    return generate(path, output)


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=str)
def test_loop_functions_call_no_python(module: Path, tmp_path: Path) -> None:
    path = PACKAGE / module
    inline = set().union(*(declared_nogil(header.read_text()) for header in HEADERS))
    code = generated(path, tmp_path / "module.c")
    assert python_calls(code, declared_nogil(path.read_text()), inline) == []


@pytest.mark.parametrize(
    "path", sorted([*MODULES, *(header.relative_to(PACKAGE) for header in HEADERS)]), ids=str
)
def test_nogil_functions_are_noexcept(path: Path) -> None:
    """Without it Cython takes the GIL after each call to look for an exception."""
    tails = declared_nogil((PACKAGE / path).read_text())
    assert [name for name, tail in tails.items() if "noexcept" not in tail] == []


CLEAN = """
from libc.stdint cimport uint64_t

cdef struct Ring:
    uint64_t head

cdef class Owner:
    cdef uint64_t total

    cdef uint64_t bump(self, uint64_t by) noexcept nogil:
        self.total += by
        return self.total

cdef void may_raise() except * nogil:
    pass

cdef uint64_t loop(Owner owner, Ring *ring,
                   uint64_t count) noexcept nogil:
    cdef uint64_t i
    for i in range(count):
        ring.head = (ring.head + i) % 7
        owner.bump(i)
    return ring.head

def turn(Owner owner, uint64_t count):
    cdef Ring ring
    ring.head = 0
    with nogil:
        loop(owner, &ring, count)
    return ring.head
"""


@pytest.mark.slow
def test_a_loop_without_python_passes(tmp_path: Path) -> None:
    path = tmp_path / "clean.pyx"
    path.write_text(CLEAN)
    assert sorted(declared_nogil(CLEAN)) == ["bump", "loop", "may_raise"]
    assert python_calls(generate(path, tmp_path / "clean.c"), ["loop", "bump"]) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "planted",
    [
        "with gil: print(ring.head)",
        "with gil: owner.total = len([]) if ring.head == 99 else 0",
        "may_raise()",
    ],
    ids=["print", "branch that never runs", "exception looked for"],
)
def test_a_python_call_in_a_loop_is_found(tmp_path: Path, planted: str) -> None:
    path = tmp_path / "planted.pyx"
    path.write_text(CLEAN.replace("owner.bump(i)", planted))
    calls = python_calls(generate(path, tmp_path / "planted.c"), ["loop", "bump"])
    assert calls != []
    assert all(call.startswith("loop: ") for call in calls)
