"""JSON and TOML with a type: a value of that type or one error in words, whatever the file holds."""

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from viewmill.files.opening import Unusable
from viewmill.files.typed import Misfit, check_settings, fitted, of_json, of_toml, read_json, read_toml
from viewmill.settings import Train


class Inside(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    share: Annotated[float, Meta(gt=0, le=1)]
    names: dict[str, int] = {}


class Open(msgspec.Struct, frozen=True):
    count: int = 0


@dataclass(frozen=True)
class Outside:
    inside: tuple[Inside, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    kind: Literal["this", "that"] = "this"
    rate: Annotated[float, Meta(ge=0, le=1000)] | None = None
    least: Annotated[int, Meta(ge=2)] = 2
    decay: Annotated[float, Meta(ge=0)] = 0.0
    title: Annotated[str, Meta(min_length=1)] = "x"
    seeds: Annotated[tuple[int, ...], Meta(min_length=1)] = (0,)
    bits: str | tuple[str, ...] = ""
    here: Path | None = None
    sure: bool = False
    open: Open | None = None

    def __post_init__(self) -> None:
        if self.pair[0] > self.pair[1]:
            raise ValueError(f"pair must rise, got {self.pair}")


KINDS = [Outside, Inside, Open, dict[str, Any], dict[str, int], list[Inside], tuple[float, float], int | str, Train]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rate": float("nan")}, "f: rate must lie in 0 to 1000, got nan"),
        ({"rate": 1e38}, "f: rate must lie in 0 to 1000, got 1e+38"),
        ({"rate": "1"}, "f: rate must be a number in 0 to 1000, got '1'"),
        ({"decay": float("inf")}, "f: decay must be a finite number of 0 or more, got inf"),
        ({"decay": -1}, "f: decay must be 0 or more, got -1"),
        ({"decay": True}, "f: decay must be a number of 0 or more, got true"),
        ({"least": 1}, "f: least must be 2 or more, got 1"),
        ({"least": 2.0}, "f: least must be a whole number of 2 or more, got 2.0"),
        ({"least": 10**30}, "f: least has more than 64 bits, which no number here has: 1000000000000000000000000000000"),
        (
            {"least": 16**9000},
            "f: least has more than 64 bits, which no number here has: a number of more than 4,300 digits",
        ),
        ({"sure": 1}, "f: sure must be true or false, got 1"),
        ({"kind": "thiz"}, "f: kind must be one of this, that, got 'thiz'"),
        ({"pair": [1.0]}, "f: pair must be a list of 2 numbers, got [1.0]"),
        ({"pair": [0, "b"]}, "f: pair[1] must be a number, got 'b'"),
        ({"pair": [2, 1]}, "f: pair must rise, got (2.0, 1.0)"),
        ({"seeds": []}, "f: seeds must be a list of 1 or more whole numbers, got []"),
        ({"title": ""}, "f: title must be a text that is not empty, got ''"),
        ({"bits": 3}, "f: bits must be a text or a list of texts, got 3"),
        ({"here": 3}, "f: here must be a path, got 3"),
        ({"inside": [{}]}, "f: inside[0].share is missing: it must be a number above 0 and at most 1"),
        ({"inside": [{"share": 0}]}, "f: inside[0].share must be above 0 and at most 1, got 0"),
        ({"inside": [{"share": 1, "names": {"a": 1, "b": []}}]}, "f: inside[0].names.b must be a whole number, got []"),
        ({"inside": [{"share": 1, "namez": {}}]}, "f: inside[0] has no setting 'namez': did you mean names?"),
        ({"inside": [7]}, "f: inside[0] must be a table, got 7"),
        (
            {"open": {"count": 1, "later": {"deep": [float("nan")]}}},
            "f: open.later.deep[0] must be a finite number, got nan",
        ),
        ({"qqq": 1}, "f: it has no setting 'qqq': there are inside, pair, kind, rate,"),
        ([], "f: it must be a table, got []"),
        (None, "f: it must be a table, got nothing"),
    ],
)
def test_the_message_has_file_key_value_and_what_is_right(content, message):
    with pytest.raises(Misfit) as caught:
        fitted(content, Outside, where="f")
    assert str(caught.value).startswith(message)


def test_a_value_that_fits_is_one_of_its_type():
    found = fitted({"rate": 1, "pair": [0, 1], "inside": [{"share": 1}], "here": "x", "open": {"later": 1}}, Outside)
    assert found == Outside(rate=1.0, inside=(Inside(1.0),), here=Path("x"), open=Open(0))
    assert type(found.rate) is float
    assert type(found.pair) is tuple


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no JSON: it is empty"),
        (b" \n", "is no JSON: it is empty"),
        (b"{", "is no JSON: Expecting property name"),
        (b"{}\0", "is no JSON: Extra data"),
        (b"\xff\xfe{\0}\0", "is no JSON: it is no UTF-8 text (byte 0 is 0xff)"),
        (b"[" * 100_000, "is nested more than 64 levels deep"),
        (b"[" * 70 + b"]" * 70, "is nested more than 64 levels deep"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "is nested more than 64 levels deep"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        (b"9" * 5000, "a number of more than 4,300 digits"),
        (b'{"a": NaN}', "a must be a finite number, got nan"),
        (b'{"a": [1, 1e999]}', "a[1] must be a finite number, got inf"),
        (b"[1]", "it must be a table, got [1]"),
    ],
)
def test_what_is_no_json_of_ours_is_one_error(data, message, tmp_path):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(Misfit) as caught:
        read_json(tmp_path / "x.json", dict[str, Any])
    assert message in str(caught.value)
    assert str(tmp_path / "x.json") in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = 1\na = 2", "is no TOML: Cannot overwrite"),
        (b"a = [" + b"[" * 100_000, "nested more than 64 levels"),
        (b".".join([b"a"] * 4000) + b" = 1", "nested more than 64 levels"),
        (b"least = 0x" + b"f" * 9000, "least has more than 64 bits"),
        (b"least = " + b"9" * 9000, "a number of more than 4,300 digits"),
        (b"least = nan", "least must be a whole number of 2 or more, got nan"),
        (b"decay = 1979-05-27", "decay must be a number of 0 or more, got"),
        (b"\xff", "is no UTF-8 text"),
        (b"title = 'a\0b'", "is no TOML"),
    ],
)
def test_what_is_no_toml_of_ours_is_one_error(data, message, tmp_path):
    (tmp_path / "x.toml").write_bytes(data)
    with pytest.raises(Misfit) as caught:
        read_toml(tmp_path / "x.toml", Outside)
    assert message in str(caught.value)


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_marks_and_ends_of_lines_of_any_editor_are_read(mark, ends, tmp_path):
    (tmp_path / "x.toml").write_bytes(mark + ends.join([b"# first", b"rate = 2", b"pair = [0,", b"1]", b""]))
    assert read_toml(tmp_path / "x.toml", Outside) == Outside(rate=2.0)
    (tmp_path / "x.json").write_bytes(mark + ends.join([b"{", b'"rate": 2}', b""]))
    assert read_json(tmp_path / "x.json", Outside) == Outside(rate=2.0)


@pytest.mark.timeout(20)
def test_only_a_regular_file_of_a_reasonable_size_is_read(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(Unusable):
        read_json(tmp_path / "x.json", Any)
    (tmp_path / "y.json").write_bytes(b" " * 100)
    with pytest.raises(Unusable, match="more than 10 bytes"):
        read_json(tmp_path / "y.json", Any, limit=10)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "z.json", Any)


ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
NAMES = st.sampled_from([*Outside.__dataclass_fields__, "share", "names", "count"]) | st.text(max_size=4)
JSON = st.recursive(ATOMS, lambda part: st.lists(part, max_size=4) | st.dictionaries(NAMES, part, max_size=6), max_leaves=12)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=JSON)
def test_any_json_is_a_value_or_that_error(kind, content):
    data = json.dumps(content).encode()
    try:
        found = of_json(data, kind, where="f")
    except Misfit as error:
        assert str(error).startswith("f")
        assert "must" in str(error) or "has no setting" in str(error) or "64 bits" in str(error)
    else:
        assert found == fitted(json.loads(data), kind)


@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=60) | st.text(alphabet="abc.=[]{}\"'\n#0123456789-+:TZxe_,tfn \\u", max_size=60).map(str.encode)
)
def test_any_bytes_are_a_value_or_that_error(data):
    for read in (of_json, of_toml):
        try:
            read(data, dict[str, Any], where="f")
        except Misfit as error:
            assert str(error).startswith("f")


@settings(max_examples=100, deadline=None)
@given(content=JSON)
def test_what_fits_is_written_and_read_as_it_was(content):
    try:
        found = fitted(content, Outside)
    except Misfit:
        return
    assert of_json(msgspec.json.encode(found, enc_hook=str), Outside, where="f") == found


def test_flags_are_named_as_flags():
    @dataclass(frozen=True)
    class Flags:
        learning_rate: Annotated[float, Meta(ge=0, le=1000)] | None = None
        k: tuple[Annotated[int, Meta(ge=1)], ...] = (200,)

    check_settings(Flags(learning_rate=0.1))
    for flags, message in (
        (Flags(learning_rate=float("nan")), "--learning-rate must lie in 0 to 1000, got nan"),
        (Flags(k=(1, 0)), "--k must be 1 or more, got 0"),
    ):
        with pytest.raises(Misfit) as caught:
            check_settings(flags)
        assert str(caught.value) == message


def test_toml_is_read_as_tomllib_reads_it():
    text = 'a = 1\nb = [1.5, "x"]\n[c]\nd = 2024-01-01\n'
    assert of_toml(text.encode(), dict[str, Any], where="f") == tomllib.loads(text)
