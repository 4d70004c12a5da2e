"""A label means one class, or is refused with the option that decides."""

from __future__ import annotations

import pytest

from shards.errors import ShardError
from shards.format.classes import Classes, parse_classes, read_classes
from shards.format.weak_labels import LabelError, LabelReader

AB = Classes(("/m/a", "/m/b", "/m/c"), ("Dog", "Café", "Cat"))
SORTED_AS_TEXT = Classes(("0", "1", "10", "11", "2"), ("a", "b", "c", "d", "e"))


def parse(classes: Classes, value: object, labels_are: str | None = None) -> object:
    reader = LabelReader(classes, labels_are)  # type: ignore[arg-type]
    return reader.parse(value, where="here")


@pytest.mark.parametrize(
    ("classes", "value"),
    [
        (SORTED_AS_TEXT, "2"),  # class 4 by its id, class 2 by its index
        (SORTED_AS_TEXT, 2),
        (SORTED_AS_TEXT, ["0", "3"]),  # no id 3, but an index
        (Classes(("a", "b"), ("1", "0")), 1),  # names are numbers
        (Classes(("007", "008", "009"), ("x", "y", "z")), "2"),
        (Classes(("cat", "dog"), ("dog", "cat")), "cat"),  # id of one, name of another
        (AB, [0, 1, 0]),
        (AB, ["1", "0", "1"]),
        (AB, "0;0;1"),
        (AB, [0, 0, 1, 0, 1]),  # a vector of another class list
        (Classes(("x", "y"), ("x", "y")), [1, 0]),
    ],
)
def test_a_label_with_two_readings_is_refused_with_the_option_that_decides(
    classes: Classes, value: object
) -> None:
    """Else every clip of a data set is trained on the classes of others."""
    with pytest.raises(LabelError, match=r"^here: label.* may be .*--labels-are "):
        parse(classes, value)


@pytest.mark.parametrize(
    ("classes", "value", "labels_are", "expected"),
    [
        (SORTED_AS_TEXT, "2", "mids", (4,)),
        (SORTED_AS_TEXT, 2, "mids", (4,)),
        (SORTED_AS_TEXT, "2", "indices", (2,)),
        (SORTED_AS_TEXT, "10;0", "mids", (0, 2)),
        (Classes(("cat", "dog"), ("dog", "cat")), "cat", "mids", (0,)),
        (Classes(("cat", "dog"), ("dog", "cat")), "cat", "names", (1,)),
        (AB, [0, 1, 0], "indices", (0, 1)),
        (AB, [0, 1, 0], "multi-hot", (1,)),
        (AB, [True, False, True], "multi-hot", (0, 2)),
        (AB, [0.0, 0.0, 1.0], "multi-hot", (2,)),
        (AB, "0;0;1", "multi-hot", (2,)),
        (AB, [0, 0, 0], "multi-hot", ()),
        (AB, None, "multi-hot", ()),
    ],
)
def test_the_option_decides_how_labels_are_read(
    classes: Classes, value: object, labels_are: str, expected: tuple[int, ...]
) -> None:
    """Else who is asked to say what labels are cannot answer."""
    assert parse(classes, value, labels_are) == expected


@pytest.mark.parametrize(
    ("classes", "value", "expected"),
    [
        (SORTED_AS_TEXT, "1", (1,)),  # id and index agree
        (SORTED_AS_TEXT, "11", (3,)),  # there is no class of index 11
        (AB, "1;0", (0, 1)),  # too short for a 0/1 vector
        (AB, [2, 1, 0], (0, 1, 2)),
        (AB, "Cafe\u0301", (1,)),  # the same name, as macOS writes it
        (Classes(("000", "001", "002"), ("x", "y", "z")), "1", (1,)),
    ],
)
def test_a_label_with_one_reading_needs_no_option(
    classes: Classes, value: object, expected: tuple[int, ...]
) -> None:
    """Else plain data sets are refused for what does not concern them."""
    assert parse(classes, value) == expected


@pytest.mark.parametrize(
    "value", [[0, 1], [0, 1, 2], [0, 1, 0.5], ["x", "y", "z"], "1", 1, [None, 0, 1], {}]
)
def test_what_is_not_a_vector_of_the_class_list_is_refused(value: object) -> None:
    """Else a vector of another class list puts labels on other classes."""
    with pytest.raises(LabelError, match="expected 3 values of 0 or 1"):
        parse(AB, value, "multi-hot")


@pytest.mark.parametrize("value", [[True, False, False], [0.0, 1.0, 0.0]])
def test_a_vector_of_booleans_or_floats_says_which_option_reads_it(
    value: object,
) -> None:
    """Else whoever has such vectors does not find out that they can be read."""
    with pytest.raises(LabelError, match="--labels-are multi-hot"):
        parse(AB, value)


def test_a_malformed_label_is_not_taken_for_a_wrong_class_list() -> None:
    """Else one NaN among two million clips refuses them all, whatever is allowed."""
    with pytest.raises(ShardError, match="here: label nan") as caught:
        parse(AB, float("nan"))
    assert not isinstance(caught.value, LabelError)


def test_a_name_of_several_classes_is_refused_as_such() -> None:
    """Else the message says that a name is absent which is there twice."""
    classes = Classes(("a", "b"), ("Bell", "Bell"))
    with pytest.raises(LabelError, match=r"name of 2 classes \(0, 1\)"):
        parse(classes, "Bell")


@pytest.mark.parametrize(
    "text",
    [
        "index,mid,display_name\n0, /m/a, A\n1, /m/b, B\n",
        'index, mid, display_name\n0, /m/a, "A"\n1, /m/b ,B \n',
        "\ufeffindex,mid,display_name\r\n0,/m/a,A\r\n1,/m/b,B\r\n",
        "Index,MID,Display Name\n0,/m/a,A\n1,/m/b,B\n\n",
        "display_name,index,mid,count\nA,0,/m/a,7\nB,1,/m/b,9\n",
    ],
)
def test_a_class_list_is_read_as_people_write_it(text: str, tmp_path: object) -> None:
    """Else a blank after a comma makes every label of a data set unknown."""
    path = f"{tmp_path}/classes.csv"
    with open(path, "w", newline="", encoding="utf-8") as stream:
        stream.write(text)
    assert read_classes(path) == Classes(("/m/a", "/m/b"), ("A", "B"))


def test_a_quoted_name_after_a_blank_keeps_its_comma(tmp_path: object) -> None:
    """Else the message asks to quote a name that is quoted."""
    path = f"{tmp_path}/classes.csv"
    with open(path, "w") as stream:
        stream.write('index, mid, display_name\n0, /m/a, "Music, loud"\n')
    assert read_classes(path).names == ("Music, loud",)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_class_list_with_other_separators_says_what_is_expected(
    separator: str, tmp_path: object
) -> None:
    """Else whoever exports from a spreadsheet does not learn what is wrong."""
    path = f"{tmp_path}/classes.csv"
    with open(path, "w") as stream:
        stream.write("index,mid,display_name\n0,/m/a,A\n".replace(",", separator))
    with pytest.raises(ShardError, match="expected index,mid,display_name, separated"):
        read_classes(path)


def test_the_class_list_of_a_data_set_is_read_as_it_was_written() -> None:
    """Else the hash of a packed data set's own class list no longer fits."""
    classes = Classes((" a", "b"), ("A ", " B"))
    assert parse_classes(classes.to_csv().encode(), "classes.csv") == classes
