"""The part of docs/control.md that is made from the table of methods.

python -m emuiavf.control.reference docs/control.md     writes it anew between its marks
"""

import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, UnsetType

from emuiavf.control.methods import METHODS, FdbEntry, Method, SwitchState, VfState

BEGIN = "<!-- made by emuiavf.control.reference -->"
END = "<!-- end -->"
ANSWERS: dict[str, type[msgspec.Struct]] = {
    "The state of a VF": VfState,
    "A switch": SwitchState,
    "An address that a switch knows": FdbEntry,
}


def reference() -> str:
    """A section for each method, and one for each thing that they answer."""
    sections = [_method(method) for method in METHODS.values()]
    for title, struct in ANSWERS.items():
        sections += [f"### {title}\n", _table(struct, ("type", "about"))]
    return "\n".join(sections)


def written_anew(text: str) -> str:
    """A page with what is between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def _method(method: Method) -> str:
    text = f"### `{method.name}`\n\n{method.summary[0].upper()}{method.summary[1:]}."
    if method.effect:
        text += f" {method.effect}"
    if not method.params.__struct_fields__:
        return f"{text}\n"
    return f"{text}\n\n{_table(method.params, ('type', 'default', 'about'))}"


def _table(struct: type[msgspec.Struct], columns: tuple[str, ...]) -> str:
    head = "| name | " + " | ".join(columns) + " |\n"
    lines = [head + "|---" * (len(columns) + 1) + "|"]
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        metas = _metas(hints[field.name])
        cells = {
            "type": _type(hints[field.name], metas),
            "default": _default(field.default),
            "about": next((m.description for m in reversed(metas) if m.description), ""),
        }
        row = [f"`{field.encode_name}`", *(cells[column] or "" for column in columns)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _type(hint: Any, metas: list[Meta]) -> str:
    (base,) = [kind for kind in _plain(hint) if kind is not UnsetType]
    if get_origin(base) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(base))
    if get_origin(base) is list:
        return "array of strings"
    if get_origin(base) is dict:
        return "object of integers"
    name = {str: "string", int: "integer", float: "number", bool: "boolean"}[base]
    for meta in metas:
        if meta.pattern is not None:
            return f"{name}, `aa:bb:cc:dd:ee:ff`"
        if meta.le is not None:
            low = f"{meta.ge:g}" if meta.ge is not None else f"more than {meta.gt:g}"
            return f"{name}, {low} to {meta.le:d}"
    return name


def _default(value: Any) -> str:
    if value is NODEFAULT:
        return "required"
    return "" if value is UNSET else f"{value:g}"


def _plain(hint: Any) -> list[Any]:
    if hasattr(hint, "__metadata__"):
        return _plain(hint.__origin__)
    if get_origin(hint) in (Literal, list, dict) or not get_args(hint):
        return [hint]
    return [kind for part in get_args(hint) for kind in _plain(part)]


def _metas(hint: Any) -> list[Meta]:
    own = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]
    parts = (hint.__origin__,) if own else get_args(hint)
    if get_origin(hint) in (Literal, list, dict):
        parts = ()
    return [meta for part in parts for meta in _metas(part)] + own


def main() -> None:
    page = Path(sys.argv[1])
    page.write_text(written_anew(page.read_text()))


if __name__ == "__main__":
    main()
