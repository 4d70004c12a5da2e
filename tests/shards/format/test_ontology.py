"""Ancestors of weak labels: what an ontology adds, and ontologies that are refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import open_index
from shards.format.ontology import read_ontology, with_ancestors
from shards.pack import main as pack
from tests.conftest import MIDS, Source
from tests.learning import REPOSITORY
from tests.needs import OPTIONAL
from tests.shards.test_fuzz import fuzz, mutated

OFFICIAL = REPOSITORY.parent / "shared" / "data" / "audioset" / "ontology.json"


def write(path: Path, children: dict[str, list[str]]) -> Path:
    entries = [{"id": mid, "name": mid, "child_ids": c} for mid, c in children.items()]
    path.write_text(json.dumps(entries))
    return path


def implied(path: Path, *mids: str) -> list[list[int]]:
    matrix = read_ontology(path).implied(Classes(mids, mids))
    return [np.flatnonzero(row).tolist() for row in matrix]


def test_ancestors_are_added_through_classes_that_the_list_lacks(
    tmp_path: Path,
) -> None:
    """A Bark would be a Dog but no Animal, since Domestic animals is no class."""
    path = write(
        tmp_path / "o.json", {"a": ["b", "x"], "b": ["c"], "c": [], "x": ["c"]}
    )
    assert implied(path, "c", "a", "x") == [[0, 1, 2], [1], [1, 2]]


def test_the_shipped_table_knows_audioset() -> None:
    """Bark, Dog, Domestic animals and Animal, by AudioSet's published ontology."""
    bark, dog, domestic, animal = "/m/05tny_", "/m/0bt9lr", "/m/068hy", "/m/0jbk"
    ontology = read_ontology("audioset")
    classes = Classes((bark, dog, domestic, animal, "/m/09x0r"), tuple("bcdes"))
    assert len(ontology.parents) == 632
    assert np.flatnonzero(ontology.implied(classes)[0]).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(ontology.implied(classes)[3]).tolist() == [3]


@pytest.mark.skipif(
    not OFFICIAL.exists(), reason=f"{OPTIONAL}AudioSet's ontology.json is not here"
)
def test_the_shipped_table_has_the_edges_of_the_official_file() -> None:
    """A table that lost an edge would drop labels for everybody."""
    official = {e["id"]: e["child_ids"] for e in json.loads(OFFICIAL.read_text())}
    edges = {(child, mid) for mid, below in official.items() for child in below}
    shipped = read_ontology("audioset").parents
    assert shipped.keys() == official.keys()
    assert {(child, mid) for child, up in shipped.items() for mid in up} == edges


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a list of classes"),
        ("{}", "expected a list of classes"),
        ("[" * 100000, "not JSON"),
        ("\x00", "not JSON"),
        ('[{"id": 5, "child_ids": []}]', "entry 1 needs id"),
        ('[{"id": "a", "child_ids": "b"}]', "entry 1 needs id"),
        ('[{"id": "a", "child_ids": [3]}]', "entry 1 needs id"),
        ('[{"id": "a", "child_ids": ["b"]}]', "'a' has the child 'b', which"),
    ],
)
def test_a_file_that_is_no_ontology_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    """Else labels are propagated by half an ontology, or a traceback is printed."""
    path = tmp_path / "o.json"
    path.write_text(text)
    with pytest.raises(ShardError, match=f"o.json: {message}"):
        read_ontology(path)


def test_a_loop_in_an_ontology_is_refused_by_its_classes(tmp_path: Path) -> None:
    """Every class of the loop would imply every other."""
    path = write(tmp_path / "o.json", {"a": ["b"], "b": ["c"], "c": ["b"]})
    with pytest.raises(ShardError, match="o.json: a loop: '(b|c)' > '(b|c)' > "):
        read_ontology(path)
    path = write(tmp_path / "o.json", {"a": ["a"]})
    with pytest.raises(ShardError, match="a loop: 'a' > 'a'"):
        read_ontology(path)


def test_a_chain_of_many_classes_is_no_loop(tmp_path: Path) -> None:
    """Recursion would end in a traceback."""
    chain = {str(n): [str(n + 1)] for n in range(5000)} | {"5000": []}
    assert implied(write(tmp_path / "o.json", chain), "0", "5000") == [[0], [0, 1]]


def test_an_ontology_of_other_classes_is_refused_and_a_partial_one_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing would be added, and a user would believe in better labels."""
    path = write(tmp_path / "o.json", {"a": ["b"], "b": []})
    with pytest.raises(ShardError, match="has none of the 2 classes, such as mid 'x'"):
        implied(path, "x", "y")
    assert implied(path, "b", "a", "x") == [[0, 1], [1], [2]]
    assert "lacks 1 of the 3 classes, which get no ancestors: 'x'" in caplog.text


def test_a_name_that_is_no_file_says_what_may_be_named() -> None:
    """A tired user types Audioset."""
    with pytest.raises(ShardError, match="Audioset.*or audioset for the one"):
        read_ontology("Audioset")


def test_labels_of_a_dataset_gain_ancestors_when_read_and_when_packed(
    source: Source, dataset: Path, tmp_path: Path
) -> None:
    """The same labels either way, and what reads them knows that they changed."""
    path = write(tmp_path / "o.json", {MIDS[2]: [MIDS[0]], MIDS[0]: [], MIDS[1]: []})
    given = open_index(dataset, kind="audio")
    before = given.table.weak_targets(np.arange(len(given)), 3)
    read = with_ancestors(given, path)
    after = read.table.weak_targets(np.arange(len(given)), 3)
    expected = before.copy()
    expected[before[:, 0] == 1, 2] = 1
    assert not (before == expected).all()
    np.testing.assert_array_equal(after, expected)
    assert read.fingerprint != given.fingerprint
    assert with_ancestors(given, None) is given

    out = tmp_path / "packed"
    pack([*source.pack_arguments(out), "--ontology", str(path)])
    packed = open_index(out, kind="audio")
    np.testing.assert_array_equal(
        packed.table.weak_targets(np.arange(len(given)), 3), expected
    )


def test_a_damaged_ontology_is_refused_or_read(tmp_path: Path) -> None:
    """A file from anyone would end in a traceback."""
    whole = write(tmp_path / "o.json", {"a": ["b", "c"], "b": ["c"], "c": []})
    data = whole.read_bytes()

    def case(rng: random.Random) -> None:
        whole.write_bytes(mutated(rng, data, block=16))
        implied(whole, "a", "b", "c")

    fuzz("ontology", 500, case)
