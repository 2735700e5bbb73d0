from pathlib import Path

import pytest
import torch

from imac_torch.datasets.csvfile import line_of_row, read_csv
from imac_torch.errors import DataError


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"1,-1,0.5\n2,3,1e-3\n",
        b"1,-1,0.5\r\n2,3,1e-3\r\n",  # as IMAC-Sim's own files end their lines
        b"1, -1, 0.5\n\n2 ,3,.001",
        b"\xef\xbb\xbf1,-1,0.5\n2,3,0.001\n\n",
    ],
)
def test_reads_what_other_programs_write(tmp_path: Path, content: bytes) -> None:
    table = read_csv(write(tmp_path, content))
    expected = torch.tensor([[1, -1, 0.5], [2, 3, 1e-3]], dtype=torch.float64)
    assert torch.equal(table, expected)


def test_one_column_and_one_line_keep_their_shape(tmp_path: Path) -> None:
    assert read_csv(write(tmp_path, b"1\n2\n3\n")).shape == (3, 1)
    assert read_csv(write(tmp_path, b"1,2,3\n")).shape == (1, 3)


def test_doubles_read_back_exactly(tmp_path: Path, generator: torch.Generator) -> None:
    values = torch.randn(50, 7, dtype=torch.float64, generator=generator)
    text = "\n".join(",".join(repr(float(v)) for v in row) for row in values)
    assert torch.equal(read_csv(write(tmp_path, text.encode())), values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1,2\n3,4\n5\n", r"table.csv, line 3: 1 entries.*have 2; is the file truncated"),
        (b"1,2\n\n3,4,5\n", r"line 3: 3 entries"),
        (b"1,2\n3,4e\n", r"line 2: column 2: '4e' is not a number"),
        (b"a,b\n1,2\n", r"line 1: column 1: 'a' is not a number"),
        (b"1,2,\n3,4,\n", r"line 1: column 3: is empty"),
        (b"1,2\n3,nan\n", r"line 2: column 2 is nan"),
        (b"1,2\n\n-inf,2\n", r"line 3: column 1 is -inf"),
        (b"1;2\n", r"line 1: column 1: '1;2'"),
        (b"# comment\n1,2\n", r"line 1: column 1: '# comment'"),
        (b"", r"no numbers"),
        (b"\n\n", r"no numbers"),
        (b"\x80\x04\x95\xff", r"not a text file"),
    ],
)
def test_says_which_line_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_csv(write(tmp_path, content))


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.csv: there is no such file"):
        read_csv(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(tmp_path)


def test_lines_count_blank_ones(tmp_path: Path) -> None:
    path = write(tmp_path, b"\n1\n\n\n2\n3\n")
    assert [line_of_row(path, row) for row in range(3)] == [2, 5, 6]
