"""WordNet's nouns, read from its own files: names to synsets, and what is above them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from kinfolk.data.relations.taxonomy import Taxonomy

# How a regular plural becomes a singular; noun.exc lists the others.
_ENDINGS = (("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
            ("s", ""))  # fmt: skip


class WordNet:
    """Noun synsets of WordNet 3.0, named by their offset as in ``"n02084071"``.

    Args:
        folder: with ``data.noun``, ``index.noun`` and, for irregular plurals, ``noun.exc``, as ``kinfolk data prepare
            wordnet`` writes them.

    Raises:
        FileNotFoundError: when a file is missing.

    Reference: Miller (1995), WordNet: a lexical database for English.
    """

    def __init__(self, folder: str | Path) -> None:
        paths = [Path(folder) / name for name in ("data.noun", "index.noun")]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(
                    f"no {path}; fetch WordNet with `kinfolk data prepare wordnet --out {folder}`, or name its folder"
                )
        self._data, self._index = (path.read_bytes() for path in paths)
        irregular = Path(folder) / "noun.exc"
        lines = irregular.read_text(encoding="utf-8").splitlines() if irregular.is_file() else []
        self._irregular = {line.split()[0]: line.split()[1] for line in lines if len(line.split()) > 1}
        self._folder = folder

    def synsets(self, lemma: str) -> list[str]:
        """Return a word's noun synsets, the most frequent sense first; none for an unknown word."""
        word = "_".join(lemma.lower().split())
        start = self._index.find(f"\n{word} n ".encode()) + 1 if word else 0
        if start == 0:
            return []
        fields = self._index[start : self._index.index(b"\n", start)].split()
        return ["n" + offset.decode() for offset in fields[-int(fields[2]) :]]

    def find(self, name: str) -> str | None:
        """Return the synset that a class name means, or None.

        Args:
            name: a synset (``"n02084071"`` or ``"dog.n.01"``), or words in the most frequent sense, the first known of
                those that commas and slashes separate (``"tench, Tinca tinca"``); plurals are tried as singulars.
        """
        if re.fullmatch(r"n\d{8}", name):
            return name if self._line(name) is not None else None
        if sense := re.fullmatch(r"(.+)\.n\.(\d+)", name):
            found = self.synsets(sense[1])
            return found[int(sense[2]) - 1] if 0 < int(sense[2]) <= len(found) else None
        for word in re.split(r"[,/]", name.replace("_", " ")):
            for form in self._forms("_".join(word.lower().split())):
                if found := self.synsets(form):
                    return found[0]
        return None

    def broader(self, synset: str) -> tuple[str, ...]:
        """Return the synsets right above: hypernyms, and the classes of instances.

        Raises:
            ValueError: for a synset that the files do not have.
        """
        line = self._line(synset)
        if line is None:
            raise ValueError(f"{self._folder} has no synset {synset!r}; WordNet 3.0 is expected")
        fields = line.split(b" | ")[0].decode().split()
        pointers = 4 + 2 * int(fields[3], 16)
        count = int(fields[pointers])
        targets = (fields[pointers + 1 + 4 * i : pointers + 4 + 4 * i] for i in range(count))
        return tuple("n" + offset for symbol, offset, part in targets if symbol in ("@", "@i") and part == "n")

    def taxonomy(self, synsets: Iterable[str]) -> Taxonomy:
        """Return these synsets with everything above them."""
        broader: dict[str, tuple[str, ...]] = {}
        waiting = list(synsets)
        while waiting:
            synset = waiting.pop()
            if synset not in broader:
                broader[synset] = self.broader(synset)
                waiting.extend(broader[synset])
        return Taxonomy(broader)

    def find_all(self, names: Sequence[str]) -> list[str]:
        """Return the synset of every name.

        Raises:
            ValueError: naming those that mean none.
        """
        found = [self.find(name) for name in names]
        unknown = [name for name, synset in zip(names, found, strict=True) if synset is None]
        if unknown:
            raise ValueError(
                f"WordNet has no noun for {len(unknown)} of {len(names)} classes: {unknown[:8]}. Give their synsets,"
                " for example synsets=((name, 'boot.n.01'),)"
            )
        return [synset for synset in found if synset is not None]

    def _forms(self, word: str) -> list[str]:
        singulars = [word[: -len(ending)] + singular for ending, singular in _ENDINGS if word.endswith(ending)]
        return [word, self._irregular.get(word, ""), *singulars]

    def _line(self, synset: str) -> bytes | None:
        """A synset's line begins at the offset that names it, with that offset."""
        offset = int(synset[1:])
        line = self._data[offset : offset + 9]
        if line != f"{synset[1:]} ".encode():
            return None
        return self._data[offset : self._data.index(b"\n", offset)]
