"""What the commands share: flags made from settings, opening a model, and printing.

Each field of a settings class in `jeppa.config` becomes one flag, with its description as help. A flag that the user
leaves out stays None, so that the configuration file, the run that is resumed or the default of the field decides.
cyclopts could take the settings classes themselves as parameters. But then a field without a default must be a flag
even if the configuration file has it, and a wrong value is reported in several lines that pydantic wrote.
"""

import dataclasses
import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import Parameter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console

from jeppa.config import S, Settings, parse

if TYPE_CHECKING:
    from jeppa.data import ImageSource
    from jeppa.pipeline import Model

Values = dict[str, Any]


def flags_of(name: str, model: type[Settings], leave_out: frozenset[str] = frozenset()) -> Any:
    """A dataclass with one optional field for each plain field of `model` and of the settings inside it.

    Args:
        name: name of the dataclass.
        model: the settings class; settings inside it are flattened.
        leave_out: fields of `model` that become no flags.
    """
    fields: list[tuple[str, Any, Any]] = []
    for key, info in model.model_fields.items():
        if key in leave_out:
            continue
        inner = _inner_settings(info)
        if inner is None:
            fields.append((key, _optional(info, info.get_default(call_default_factory=False)), None))
            continue
        defaults = info.get_default()
        fields += [(k, _optional(i, getattr(defaults, k)), None) for k, i in inner.model_fields.items()]
    flags = dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)
    flags.__module__ = __name__  # The default, "types", makes cyclopts take it for a built-in without fields.
    return flags


def nest_flags(flags: Any, model: type[Settings]) -> Values:
    """The flags that the user set, nested as the fields of `model` are."""
    values = {} if flags is None else {k: v for k, v in vars(flags).items() if v is not None}
    nested: Values = {}
    for key, info in model.model_fields.items():
        inner = _inner_settings(info)
        if inner is None and key in values:
            nested[key] = values[key]
        elif inner is not None:
            part = {k: values[k] for k in inner.model_fields if k in values}
            nested |= {key: part} if part else {}
    return nested


def parse_flags(flags: Any, model: type[S]) -> S:
    """The settings that the flags of a command without a configuration file spell.

    Raises:
        ConfigError: a value is out of range, or two contradict each other.
    """
    return parse(model, nest_flags(flags, model), "flags")


def merge(base: Values, overrides: Values) -> Values:
    """A copy of `base` in which the entries of `overrides` replace those of the same name, mapping by mapping."""
    result = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if both else value
    return result


def _inner_settings(info: FieldInfo) -> type[Settings] | None:
    annotation = info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None


def _optional(info: FieldInfo, default: Any) -> Any:
    shown = "" if default in (None, PydanticUndefined) else f" [default: {default}]"
    kinds = get_args(info.annotation) if get_origin(info.annotation) in (Union, types.UnionType) else ()
    kind = Union[tuple({*kinds, type(None)})] if kinds else Union[info.annotation, None]  # noqa: UP007
    return Annotated[kind, Parameter(help=f"{info.description}{shown}")]


console = Console()


def say(line: str) -> None:
    """Print one line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def say_skipped(source: "ImageSource") -> None:
    """Print how many files of a source are not used, and the reason for each."""
    if source.skipped:
        say(f"skipped {len(source.skipped)} files beside {len(source)} images:")
    for skipped in source.skipped:
        say(f"  {skipped.name}: {skipped.reason}")


def complain(error: BaseException, code: int) -> int:
    """Print an error as one line on standard error; returns `code`."""
    line = f"jeppa: {' '.join(str(error).split())}"
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
    return code


Speed = Literal["auto", "exact"]


def open_model(path: Path, precision: Speed) -> "Model":
    """Load the model of a folder or shipped name, on the GPU if there is one, and print how its nets run.

    Args:
        path: run folder, exported folder or name of a shipped model.
        precision: auto for the number format that is fastest on this machine, exact for float32.
    """
    import torch

    from jeppa.pipeline import load_model

    model = load_model(path, precision, "cuda" if torch.cuda.is_available() else "cpu")
    for note in model.notes:
        say(note)
    return model
