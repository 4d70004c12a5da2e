"""Lists of true events as other programs and people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from psl.evaluation.event_lists import Line, read_lines
from shards.errors import ShardError
from shards.format.classes import Classes

CLASSES = Classes(("/m/a", "/m/b", "/m/c", "/m/d"), ("Dog", "Rain", "Bell", "Bell"))
HEADER = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
PLAIN = HEADER + "x_0\t0.5\t1\t/m/a\ny_0\t0\t2\t/m/b\n"
EVENTS = [("x_0", 0.5, 1.0, "/m/a"), ("y_0", 0.0, 2.0, "/m/b")]
DESED = "filename\tonset\toffset\tevent_label\n"


def read(folder: Path, content: bytes | str) -> list[Line]:
    """The lines of a file with this content."""
    path = folder / "strong.tsv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_lines(path, CLASSES)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip(),
        PLAIN + "\n\t\t\t\n   \n",
        PLAIN.replace("\t", ","),
        PLAIN.replace("\t", ", "),
        '"' + PLAIN.replace("\t", '"\t"').replace("\n", '"\n"').removesuffix('"'),
        '"' + PLAIN.replace("\t", '","').replace("\n", '"\n"').removesuffix('"'),
        PLAIN.replace("/m/a", "Dog").replace("/m/b", "Rain"),
        "\n".join(f"7\t{line}" for line in PLAIN.splitlines()) + "\n",
    ],
)
def test_what_spreadsheets_and_tables_write_is_the_same_list(
    tmp_path: Path, content: str
) -> None:
    """A list saved by Excel, R or pandas would be refused, or read as another."""
    events = [line for line in read(tmp_path, content) if line.mid is not None]
    assert [(line.segment, *line[3:]) for line in events] == EVENTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLAIN.replace("\t", ";"), "commas; it has semicolons"),
        (PLAIN.encode("utf-16"), "cannot read events: .*save it as text in UTF-8"),
        (HEADER.encode() + b"\xe9_0\t0\t1\t/m/a\n", "save it as text in UTF-8"),
        (HEADER + "\t0\t1\t/m/a\n", "line 2: found .*with a clip"),
        (HEADER + "x_0\t0\t1\t\n", "line 2: found .*and a class"),
        (HEADER + "x_0\t\t1\t/m/a\n", "line 2: found"),
        (HEADER + "x_0\t0,5\t1\t/m/a\n", "line 2: found"),
        (HEADER + "\nx_0\t1\t0\t/m/a\n", "line 3: found"),
        (HEADER + 'x_0\t0\t1\t"/m/a\ny_0\t0\t1\t/m/a\n', "line 2: found"),
        (PLAIN.replace("label", "label\tlabel"), "column 'label' twice"),
        (HEADER.strip() + "\t" + DESED, "columns of both forms"),
        ("filename\tonset\tevent_label\n", "no column offset in"),
        ("filename\tevent_labels\nx.wav\tDog\n", "no column onset, offset, event_l"),
        (DESED + "x.wav\t0.5\t\tDog\n", "line 2: found"),
        (DESED + "x.wav\t\t\tDog\n", "line 2: found"),
    ],
)
def test_a_list_that_may_mean_something_else_is_refused_by_its_line(
    tmp_path: Path, content: bytes | str, message: str
) -> None:
    """Half a list, or the wrong column, would be taken for the truth."""
    with pytest.raises(ShardError, match=f"strong.tsv: .*{message}"):
        read(tmp_path, content)


def test_a_label_is_a_mid_or_the_name_of_one_class(tmp_path: Path) -> None:
    """Bells of two classes would be given to either."""
    labels = ("/m/d", "Dog", "Bell", "dog")
    content = HEADER + "".join(f"x_0\t0\t1\t{label}\n" for label in labels)
    mids = [line.mid for line in read(tmp_path, content)]
    assert mids == ["/m/d", "/m/a", "Bell", "dog"]


def test_where_a_name_is_also_a_mid_the_form_decides(tmp_path: Path) -> None:
    """DESED's lists have names, AudioSet's mids."""
    classes = Classes(("Rain", "b"), ("Dog", "Rain"))
    for header, mid in ((HEADER, "Rain"), (DESED, "b")):
        path = tmp_path / "strong.tsv"
        path.write_text(f"{header}x\t0\t1\tRain\n")
        assert [line.mid for line in read_lines(path, classes)] == [mid]


def test_lines_without_an_event_name_a_clip(tmp_path: Path) -> None:
    """A clip in which nothing sounds would not count at all."""
    [line] = read(tmp_path, f"{HEADER}x_0\t\t\t\n")
    assert line == Line(2, "x_0", ("x_0",), 0.0, 0.0, None)
    [line] = read(tmp_path, f"{DESED}sub/x.wav\t\t\t\n")
    assert line == Line(2, "sub/x.wav", ("sub=2Fx_0", "x_0", "x"), 0.0, 0.0, None)
