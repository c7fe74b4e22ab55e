"""Common Voice (Scripted Speech) in its official layout: a folder of one language."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

from asr.corpora import cells
from asr.corpora.corpus import Corpus, Origin, Row, Rows, parts_of, remarks_on
from asr.corpora.manifest import read_table
from asr.folders import Walk, stored, walk

SOURCE = "https://mozilladatacollective.com"
LICENCE = (
    "CC0 1.0 (Common Voice, R. Ardila et al. 2020); the terms of access forbid identifying"
    " speakers and passing copies on"
)
COLUMNS = ("client_id", "path", "sentence")  # in every release; the other columns differ
# This table lists all clips with more votes for than against. It overlaps the tables that are
# chosen from it (https://github.com/common-voice/CorporaCreator), but not other and invalidated.
UNIONS = {"validated": {"train", "dev", "test"}}


@dataclass(frozen=True, kw_only=True)
class CommonVoice(Corpus):
    """Sentences read aloud, in almost 300 languages, validated by volunteers (CC0 1.0).

    This class downloads nothing, because a download from https://mozilladatacollective.com needs an
    account and consent to its terms. Unpack the archive and give the folder of one language. Train,
    dev and test share no speaker. Transcripts keep case and punctuation.
    The table validated contains the clips of train, dev and test, so it cannot be combined with
    any of them in another split. The speakers of other and invalidated may occur in train.

    Args:
        path: folder of one language in an unpacked archive, for instance
            cv-corpus-24.0-2025-12-05/en. Get the archive at https://mozilladatacollective.com; you
            need to accept its terms there.
        train: tables that make up the split train; an empty list leaves the split out.
        validation: tables that make up the split validation.
        test: tables that make up the split test.
    """

    path: Path
    train: list[str] = field(default_factory=lambda: ["train"])
    validation: list[str] = field(default_factory=lambda: ["dev"])
    test: list[str] = field(default_factory=lambda: ["test"])

    def splits(self) -> dict[str, Rows]:
        """Returns the splits whose lists are not empty; no clip may be in two splits."""
        parts = parts_of(self)
        if not parts:
            raise ValueError("no table of Common Voice is asked for; give for instance --train")
        for (split, names), (other, others) in combinations(parts.items(), 2):
            for name in names:
                for its in others:
                    if UNIONS.get(name, {name}) & UNIONS.get(its, {its}):
                        raise ValueError(
                            f"{name} (for {split}) and {its} (for {other}) have clips in common:"
                            " validated holds those of train, dev and test; name other tables, or"
                            f" leave a split out: --{other} '[]'"
                        )
        tables = {split: [self._table(split, n) for n in names] for split, names in parts.items()}
        return {split: Rows(partial(_read, paths)) for split, paths in tables.items()}

    def origin(self) -> Origin:
        """Names the language after the folder and the release after the parent folder."""
        folder = self.path.resolve()
        source = f"{folder.parent.name}/{folder.name} of {SOURCE}"
        remarks = remarks_on(parts_of(self))
        return Origin(f"common_voice_{folder.name}", source, LICENCE, remarks=remarks)

    def sources(self) -> Walk:
        """Returns the tables in use and all clips."""
        clips = self.path / "clips"
        found = walk(clips, {".mp3"}) if clips.is_dir() else Walk()
        named = [name for names in parts_of(self).values() for name in names]
        found.files += [self.path / f"{name}.tsv" for name in named]
        return found

    def _table(self, split: str, name: str) -> Path:
        """Returns a table; checks its first row now, before hours of reading other tables."""
        table = self.path / f"{name}.tsv"
        there = ", ".join(sorted(found.stem for found in self.path.glob("*.tsv"))) or "none"
        others = f"name other tables (there: {there}), or none: --{split} '[]'"
        if table.is_file():
            lines = (line for _, line in read_table(table))
            first = next((line for line in lines if isinstance(line, dict)), None)
            if first is None:
                raise ValueError(f"{table} has no rows, as of some small languages; {others}")
            if missing := [column for column in COLUMNS if column not in first]:
                raise ValueError(f"{table} has no column {missing[0]}; it has {', '.join(first)}")
            return table
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path}: no such folder; get Common Voice from {SOURCE}")
        remedy = f"unpack the archive again, or {others}"
        if languages := sorted(found.parent.name for found in self.path.glob("*/train.tsv")):
            remedy = f"give the folder of a language: {', '.join(languages)}"
        raise FileNotFoundError(f"{self.path} has no {name}.tsv; {remedy}")


def _read(tables: list[Path]) -> Iterator[Row]:
    """Reads all rows; those without a clip or a sentence stay, so that preflight counts them."""
    for table in tables:
        for number, line in read_table(table):
            where = f"{table.name}, line {number}"
            if isinstance(line, str):
                yield cells.unusable(where, line)
                continue
            clip = line["path"].removesuffix(".mp3")  # the releases of 2019 omit the ending
            yield cells.row(
                where,
                stored(table.parent / "clips" / f"{clip}.mp3") if clip else None,
                line["sentence"],
                id=clip,
                speaker=line["client_id"],
                language=line.get("locale") or table.resolve().parent.name,
            )
