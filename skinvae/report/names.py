"""What the report calls images, archives and places: by their names, or by random codes of that report alone."""

from __future__ import annotations

import secrets

_NUM_BYTES = 3


class Names:
    """Everything by its own name."""

    is_hidden = False

    def image(self, image_id: str) -> str:
        return image_id

    def archive(self, uri: str) -> str:
        return uri

    def member(self, name: str) -> str | None:
        return name

    def place(self, uri: str) -> str:
        """Of a table, a model, labels."""
        return uri

    def reason(self, text: str, *, general: str) -> str:
        """A message that may name files; `general` says the same of no file in particular."""
        return text


class Pseudonyms(Names):
    """Random codes, so that those of two reports have nothing in common; what stands for what is kept nowhere."""

    is_hidden = True

    def __init__(self) -> None:
        self._images, self._archives = _Codes("image"), _Codes("archive")

    def image(self, image_id: str) -> str:
        return self._images.of(image_id)

    def archive(self, uri: str) -> str:
        return self._archives.of(uri)

    def member(self, name: str) -> str | None:
        return None

    def place(self, uri: str) -> str:
        return "not shown"

    def reason(self, text: str, *, general: str) -> str:
        return general


class _Codes:
    """One for each name of a kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._by_name: dict[str, str] = {}
        self._taken: set[str] = set()

    def of(self, name: str) -> str:
        if name not in self._by_name:
            while (code := secrets.token_hex(_NUM_BYTES)) in self._taken:
                pass
            self._taken.add(code)
            self._by_name[name] = f"{self._kind}-{code}"
        return self._by_name[name]
