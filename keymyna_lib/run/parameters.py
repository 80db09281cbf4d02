"""The `parameters` cell of a notebook: plain literals with a comment each, and nothing that runs."""

from __future__ import annotations

import ast
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keymyna_lib.base.errors import KeyMynaError

TAG = "parameters"
WORDS = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}
SHARED = "shared"  # the table of a profile for all notebooks
Value = bool | int | float | str | list


@dataclass(frozen=True)
class Parameter:
    """One declared parameter: its name, default (which fixes the type) and the comment on its line."""

    name: str
    default: Value
    comment: str

    @property
    def type_name(self) -> str:
        """How the type is called in messages."""
        return "list" if isinstance(self.default, list) else type(self.default).__name__

    def check(self, value: Any) -> Value:
        """Return `value` in this parameter's type (an int passes for a float), or raise TypeError."""
        if isinstance(self.default, list):
            if not isinstance(value, list):
                raise TypeError
            return [_as_kind(_kind(self.default or value), item) for item in value]
        return _as_kind(_kind([self.default]), value)

    def parse(self, text: str) -> Value:
        """Read a value as typed on the command line; TypeError if it is not of this parameter's type.

        A list is written `[1, 2]` or `1,2`; quotes around strings may be left out where they have no comma in them. A
        bool is one of WORDS, in any case.
        """
        if isinstance(self.default, list):
            kind = _kind(self.default) if self.default else str
            return [_parse_scalar(kind, item) for item in _items(text)]
        return _parse_scalar(type(self.default), text) if not isinstance(self.default, str) else text

    def read(self, value: Any) -> Value:
        """Read a value as a cell may hold it: of the type, as typed text, or a single one for a list of one.

        Papermill's -p makes of `48` an int and of `0,1` a string, whatever the parameter is. TypeError as `parse`.
        """
        if isinstance(value, str) and not isinstance(self.default, str):
            return self.parse(value)
        if not isinstance(self.default, list):
            return self.check(value)
        kind = _kind(self.default) if self.default else str
        values = value if isinstance(value, list | tuple) else [value]
        return [_parse_scalar(kind, v) if isinstance(v, str) and kind is not str else _as_kind(kind, v) for v in values]


def _items(text: str) -> list[str]:
    """What the text of a list holds, each item as text."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1].strip()
    if inner[:1] in ("'", '"'):  # quoted items may have commas in them
        try:
            return [str(item) for item in ast.literal_eval(f"[{inner}]")]
        except (ValueError, SyntaxError):
            pass
    return inner.rstrip(",").split(",") if inner else []


def _kind(values: list) -> type:
    """The scalar type that a list of literals stands for; int and float together are float."""
    kinds = {type(value) for value in values}
    if kinds == {int, float}:
        return float
    if len(kinds) != 1 or not kinds <= {bool, int, float, str}:
        raise TypeError
    return kinds.pop()


def _as_kind(kind: type, value: Any) -> Value:
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise TypeError from None
    if kind is bool and type(value) is int and value in (0, 1):
        return bool(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise TypeError
    return value


def _parse_scalar(kind: type, text: str) -> Value:
    text = text.strip()
    if kind is str:
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    if kind is bool:
        if text.lower() not in WORDS:
            raise TypeError
        return WORDS[text.lower()]
    try:
        return _as_kind(kind, kind(text))
    except ValueError:
        raise TypeError from None


def read_cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook file, each source as one string; a KeyMynaError when it cannot be read."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [{**cell, "source": "".join(cell["source"])} for cell in cells]
    except OSError as error:
        raise KeyMynaError(f"{path} cannot be read ({error.strerror}).") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise KeyMynaError(f"{path} is not a notebook ({type(error).__name__}: {error}).") from None


def declared(path: Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares, by name, in order.

    The cell tagged `parameters` may hold only lines `name = literal  # unit or meaning`, the literal being a
    bool, int, float, str or a list of one of these.

    Raises
    ------
    KeyMynaError
        When there is not exactly one such cell, when it holds anything else, or when it lacks `profile`.
    """
    sources = [cell["source"] for cell in read_cells(path) if TAG in cell.get("metadata", {}).get("tags", [])]
    if len(sources) != 1:
        raise KeyMynaError(f"{path} must have exactly one cell tagged '{TAG}', not {len(sources)}.")
    try:
        statements, lines = ast.parse(sources[0]).body, sources[0].splitlines()
    except SyntaxError as error:
        raise KeyMynaError(f"the parameters cell of {path} is not valid Python: {error}.") from None
    found = {}
    for statement in statements:
        try:
            (target,) = statement.targets
            name, value = target.id, ast.literal_eval(statement.value)
            if value != []:
                _kind(value if isinstance(value, list) else [value])
        except (AttributeError, ValueError, TypeError):  # no assignment, or not one of a literal to a single name
            raise KeyMynaError(
                f"the parameters cell of {path}, line {statement.lineno}: only "
                "`name = literal` with a bool, int, float, str or a list of these."
            ) from None
        end = statement.value  # without the parentheses that a formatter puts around a long line
        rest = lines[end.end_lineno - 1].encode()[end.end_col_offset :].decode()
        found[name] = Parameter(name, value, rest.partition("#")[2].strip())
    if not isinstance(getattr(found.get("profile"), "default", None), str):
        raise KeyMynaError(f"the parameters cell of {path} must declare `profile`, a string.")
    return found


def resolve(
    declarations: dict[str, dict[str, Parameter]],
    profile: str,
    profile_values: dict[str, dict[str, Any]],
    overrides: list[tuple[str, str]],
) -> dict[str, dict[str, Value]]:
    """Every parameter of every notebook: its default, then what the profile says, then what the command line says.

    A profile's value is that of its shared table, unless the notebook's own table has another.

    Parameters
    ----------
    declarations : notebook -> name -> Parameter.
    profile_values : notebook -> name -> value, the profile's tables of `profiles.toml`. That of SHARED is for every
        notebook that declares the name.
    overrides : (name, value as typed), each handed to every notebook that declares the name.

    Raises
    ------
    KeyMynaError
        For a notebook or a name that is not declared (a shared one: by no notebook), or a value of another type.
        Nothing has run by then.
    """
    values = {
        notebook: {name: parameter.default for name, parameter in parameters.items()}
        for notebook, parameters in declarations.items()
    }

    def owners_of(name: str) -> list[str]:
        return [notebook for notebook, parameters in declarations.items() if name in parameters]

    for table in sorted(profile_values, key=lambda name: name != SHARED):  # what comes last wins
        for name, value in profile_values[table].items():
            place = f"profiles.toml, [{profile}.{table}], {name}"
            owners = [notebook for notebook in owners_of(name) if table in (SHARED, notebook)]
            if not owners or name == "profile":
                whose = "no notebook declares" if table == SHARED else "the notebook does not declare"
                raise KeyMynaError(f"{place}: {whose} such a parameter.")
            for notebook in owners:
                parameter = declarations[notebook][name]
                try:
                    values[notebook][name] = parameter.check(value)
                except TypeError:
                    raise KeyMynaError(
                        f"{place}: {value!r} is not of type {parameter.type_name}, which {notebook} declares."
                    ) from None
    for name, text in overrides:
        if name == "profile":
            raise KeyMynaError("choose the profile by --profile, not by -p profile.")
        owners = owners_of(name)
        if not owners:
            raise KeyMynaError(
                f"no notebook declares a parameter {name!r}. Declared are:\n" + describe_names(declarations)
            )
        for notebook in owners:
            parameter = declarations[notebook][name]
            try:
                values[notebook][name] = parameter.parse(text)
            except TypeError:
                raise KeyMynaError(
                    f"{name} = {text!r} is not of type {parameter.type_name}, which "
                    f"{notebook} declares (default {parameter.default!r}). Declared are:\n"
                    + describe_names(declarations)
                ) from None
    for table in values.values():
        table["profile"] = profile
    return values


def local_paths(values: dict[str, Value], root: Path) -> dict[str, Path]:
    """Those values that name a file or folder of this machine, absolute or below `root`; a path has a slash in it."""
    return {
        name: root / value
        for name, value in values.items()
        if isinstance(value, str) and "/" in value and (root / value).exists()
    }


def describe_names(declarations: dict[str, dict[str, Parameter]]) -> str:
    """The declared parameters, one line per notebook."""
    return "\n".join(
        f"  {notebook}: " + ", ".join(f"{p.name} ({p.type_name})" for p in parameters.values() if p.name != "profile")
        for notebook, parameters in declarations.items()
    )
