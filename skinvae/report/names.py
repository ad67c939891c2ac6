"""What the report calls images, archives and places: by their names, or by numbers of that report alone."""

from __future__ import annotations


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
    """Numbers in the order in which names are asked for; what stands for what is kept nowhere."""

    is_hidden = True

    def __init__(self) -> None:
        self._images: dict[str, str] = {}
        self._archives: dict[str, str] = {}

    def image(self, image_id: str) -> str:
        return self._images.setdefault(image_id, f"image-{len(self._images) + 1:04}")

    def archive(self, uri: str) -> str:
        return self._archives.setdefault(uri, f"archive-{len(self._archives) + 1:02}")

    def member(self, name: str) -> str | None:
        return None

    def place(self, uri: str) -> str:
        return "not shown"

    def reason(self, text: str, *, general: str) -> str:
        return general
