"""The language of a text, by fastText."""

from pathlib import Path

from sft.lib.errors import Failure


class Language:
    """A fastText model that names the language of a text: English is what it puts first, whatever the probability.

    model_filters.py:74-96. Raises Failure when the file is not fastText's.
    """

    def __init__(self, path: Path):
        import fasttext

        fasttext.FastText.eprint = lambda *_, **__: None  # load_model prints a warning of an interface it once had
        try:
            self.model = fasttext.load_model(str(path))
        except (ValueError, MemoryError, RuntimeError) as error:
            raise Failure(
                f"{path}: fastText cannot load it ({str(error)[-80:]}); set LANG_MODEL to a language model"
            ) from None
        if "__label__en" not in self.model.get_labels():
            raise Failure(f"{path} knows no label __label__en; set LANG_MODEL to a language model")

    def english(self, texts: list[str]) -> list[bool]:
        """For each text whether it is English; line breaks are blanks. Raises ValueError for what is not text."""
        labels, _ = self.model.predict([t.replace("\n", " ").strip() for t in texts])
        return [bool(found) and found[0] == "__label__en" for found in labels]
