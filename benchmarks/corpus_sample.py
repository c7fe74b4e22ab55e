"""A prepared corpus with fewer rows in some splits, drawn at random and said so in corpus.json.

python -m benchmarks.corpus_sample data/mini_librispeech runs/sample train=100 test=20
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asr.corpora.prepare import GROUP_BYTES
from asr.data import read_corpus


def sample(corpus: Path, output: Path, rows: Mapping[str, int], seed: int) -> list[str]:
    """Writes the corpus into the new folder ``output``; what was left out, a line each.

    Splits that ``rows`` does not name are copied byte by byte. A sampled split keeps the order of
    its rows, and gets a checksum of its own: its results are not those of the whole split.

    Raises:
        ValueError: no prepared corpus, or it has no such split or fewer rows in it.
    """
    about = read_corpus(corpus)
    for split, number in rows.items():
        present = {name: facts["utterances"] for name, facts in about["splits"].items()}
        if number > present.get(split, 0):
            raise ValueError(f"rows {split}={number}: {corpus} has {present}; take fewer of one")
    partial = output.with_name(f".{output.name}.partial")  # a kill leaves no half corpus
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    remarks = []
    for split, facts in about["splits"].items():
        shards = sorted(corpus.glob(f"{split}-*-of-*.parquet"))
        if split in rows:
            remark = f"{split}: {rows[split]} of {facts['utterances']} rows, drawn with seed {seed}"
            about["splits"][split] = _sampled(shards, partial, split, rows[split], seed, facts)
            remarks.append(remark)
        else:
            for shard in shards:
                shutil.copyfile(shard, partial / shard.name)
    shutil.copyfile(corpus / "preflight.json", partial / "preflight.json")
    about["remarks"] = [*about["remarks"], *remarks]
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    (partial / "corpus.json").write_text(text, encoding="utf-8")
    partial.rename(output)
    return remarks


def counts(words: Sequence[str]) -> dict[str, int]:
    """``["test=500"]`` -> ``{"test": 500}``.

    Raises:
        ValueError: one is not SPLIT=NUMBER.
    """
    found = {}
    for word in words:
        split, _, number = word.partition("=")
        if not (split and number.isdigit() and int(number)):
            raise ValueError(f"rows {word}: expects SPLIT=NUMBER, as test=500")
        found[split] = int(number)
    return found


def _sampled(
    shards: list[Path], output: Path, split: str, number: int, seed: int, facts: dict[str, Any]
) -> dict[str, Any]:
    """Writes one shard with the rows drawn; the split's entry in corpus.json."""
    whole = pa.concat_tables([pq.read_table(shard) for shard in shards])
    drawn = np.sort(np.random.default_rng(seed).choice(len(whole), number, replace=False))
    table = whole.take(pa.array(drawn))
    group = max(1, GROUP_BYTES * number // max(1, table["audio"].nbytes))
    pq.write_table(
        table,
        output / f"{split}-00000-of-00001.parquet",
        row_group_size=group,
        use_dictionary=False,
        compression="none",
        write_statistics=False,
    )
    ids, speakers = table["id"].to_pylist(), set(table["speaker_id"].to_pylist())
    checked = "\n".join([facts["rows_sha256"], *ids])
    return {
        "utterances": number,
        "hours": sum(table["duration"].to_pylist()) / 3600,
        "speakers": len(speakers - {"", None}),
        "words": sum(len(text.split()) for text in table["text"].to_pylist()),
        "rows_sha256": hashlib.sha256(checked.encode()).hexdigest(),
    }


if __name__ == "__main__":
    print("\n".join(sample(Path(sys.argv[1]), Path(sys.argv[2]), counts(sys.argv[3:]), seed=1)))
