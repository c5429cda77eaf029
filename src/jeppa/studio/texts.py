"""The words of the page, in English and Russian: `texts/en.yaml` and `texts/ru.yaml`, with the same keys."""

import re
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from jeppa.errors import CheckpointError, ConfigError, DataError, JeppaError, TrainingError
from jeppa.files import read_yaml

Language = Literal["en", "ru"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
FOLDER = Path(__file__).parent / "texts"
NUMBER = re.compile(r"-?\d{1,3}(,?\d{3})*(\.\d+)?")
BROWSER = ("drop", "viewer", "live", "gallery", "brush", "refused", "line")
"""Sections that the scripts use."""


class Texts:
    """The words of one language.

    Args:
        language: en or ru.
    """

    def __init__(self, language: Language) -> None:
        self.language = language
        self._words = words(language)

    def __call__(self, key: str, **values: Any) -> str:
        """The text of that key, with `{name}` filled in; a missing key is a failure of ours."""
        if self.language == "ru":
            values = {name: _russian(value) for name, value in values.items()}
        return self._words[key].format(**values) if values else self._words[key]

    def browser(self) -> dict[str, str]:
        """The words that the scripts fill in itself."""
        return {key: text for key, text in self._words.items() if key.split(".")[0] in BROWSER}

    def error(self, error: JeppaError) -> str:
        """An error as the page tells it: its kind in the page's language, and the one line of the library."""
        kinds = {CheckpointError: "model", ConfigError: "setting", DataError: "picture", TrainingError: "training"}
        kind = next((name for known, name in kinds.items() if isinstance(error, known)), "other")
        return self(f"error.{kind}", detail=str(error))


def _russian(value: Any) -> Any:
    """A number that was written in the English way, 1,234.5, in the Russian way, 1 234,5; anything else as it is."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return value.replace(",", "\N{NARROW NO-BREAK SPACE}").replace(".", ",")
    return value


@cache
def words(language: Language) -> dict[str, str]:
    """All words of a language, by `section.key`."""
    sections = read_yaml(FOLDER / f"{language}.yaml")
    return {f"{section}.{key}": str(text) for section, found in sections.items() for key, text in found.items()}
