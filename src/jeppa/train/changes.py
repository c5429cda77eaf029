"""What may differ between a run and its continuation, and how the difference is told."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from jeppa.config import RunConfig, parse_run
from jeppa.errors import ConfigError

Change = Literal["settings", "data"]
"""What a person can agree to be different: settings (but never what makes the model), the images."""

FREE = frozenset({
    "data.workers", "data.cache_megabytes", "optim.gradient_checkpointing", "optim.micro_batch", "optim.log_every",
    "optim.sample_every", "optim.save_every", "optim.keep",
})  # fmt: skip
"""Settings without influence on what is learned, but for rounding; they may always differ."""

FIXED = (
    "kind", "seed", "preset", "model", "likelihood", "prediction", "variance", "denoiser", "classes",
)  # fmt: skip
"""Settings that make another model or another run; they may never differ."""

Flat = dict[str, Any]


def refuse_settings(run: Path, saved: Flat, wanted: RunConfig, allow: Collection[Change]) -> list[str]:
    """Compare settings; returns the allowed differences, one line each, for a person.

    Args:
        run: the run folder, for the message.
        saved: the settings that the checkpoint was made with, as `model_dump` gives them.
        wanted: those to go on with.
        allow: what may differ.

    Raises:
        ConfigError: a difference that is not allowed; names key, old and new value.
    """
    before = parse_run(saved, str(run)).model_dump(mode="json")
    found = {key: line for key, line in _differences(before, wanted.model_dump(mode="json")).items() if key not in FREE}
    fixed = [line for key, line in found.items() if key.split(".")[0] in FIXED]
    if fixed:
        raise ConfigError(
            f"{run}: {'; '.join(fixed)}: that would be another model, which cannot resume this run; use another --out"
        )
    if found and "settings" not in allow:
        raise ConfigError(
            f"{run}: cannot resume with other settings: {'; '.join(found.values())}; leave them as they were, add "
            "--allow-change settings, or use another --out"
        )
    return list(found.values())


def refuse_data(run: Path, saved: Flat | None, wanted: Flat, allow: Collection[Change]) -> list[str]:
    """Compare what `Objective.inputs` said then and says now; `saved` is None where a checkpoint did not keep it.

    Raises:
        ConfigError: they differ, and that is not allowed.
    """
    found = [] if saved is None else list(_differences(saved, wanted).values())
    if found and "data" not in allow:
        raise ConfigError(
            f"{run}: the training data has changed: {'; '.join(found)}; restore it, add --allow-change data, or use "
            "another --out"
        )
    return found


def told_environment(saved: Flat | None, now: Flat) -> list[str]:
    """Differences of machine and versions, with which the weights are not bitwise those of an unbroken run."""
    found = [] if saved is None else list(_differences(saved, now).values())
    return [f"not bitwise the unbroken run: {'; '.join(found)}"] if found else []


def hash_of(settings: Flat) -> str:
    """SHA-256 of settings, in hexadecimal."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _differences(before: Flat, after: Flat) -> dict[str, str]:
    old, new = _flat(before), _flat(after)
    return {
        key: f"{key} was {_shown(old.get(key))} and is {_shown(new.get(key))}"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    }


def _shown(value: Any) -> str:
    """A hash is told apart by its beginning."""
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else repr(value)


def _flat(values: Flat, prefix: str = "") -> Flat:
    flat: Flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
