"""Ids and flags of a COCO file as tools write them, as text or with a point: of one meaning each, or refused."""

from typing import Any

from .cleaning import Notes, note

Row = dict[str, Any]
AS_NUMBERS = "ids or sizes that are text or have a point, taken as what they say"
NUMBERS = (  # by list and name, and whether text says one: the one class that it may mean is known, the one image is not
    ("images", "id", False),
    ("images", "height", False),
    ("images", "width", False),
    ("categories", "id", True),
    ("annotations", "id", False),
    ("annotations", "image_id", False),
    ("annotations", "category_id", True),
)
TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no", "", "none")


def cleaned_(content: Row, path: Any, notes: Notes) -> None:
    """Numbers in place of what stands for them, in the lists of a COCO file; raises ValueError for a flag that is none."""
    for key, name, of_text in NUMBERS:
        for row in content[key]:
            whole = _whole(row[name], of_text=of_text) if name in row else None
            if whole is not None and type(row[name]) is not int:
                row[name] = whole
                note(notes, AS_NUMBERS, f"{name} of {key}")
    for place, row in enumerate(content["annotations"]):
        where = f"annotation {row.get('id', f'at place {place}')}"
        if "iscrowd" in row:
            row["iscrowd"] = _flag(row["iscrowd"], where, path)


def one_each(rows: list[Row], annotations: list[Row], path: Any, notes: Notes) -> list[Row]:
    """The categories without twins by name that no object has; raises ValueError where several of a name have objects."""
    used = {row["category_id"] for row in annotations if isinstance(row.get("category_id"), int)}
    names: dict[str, list[Row]] = {}
    for row in rows:
        names.setdefault(row["name"], []).append(row)
    left_out = set[int]()
    for name, twins in names.items():
        with_objects = [row for row in twins if row["id"] in used]
        if len(twins) > 1 and len(with_objects) != 1:
            numbers = " and ".join(str(row["id"]) for row in twins)
            raise ValueError(
                f"{path} has two categories of one name: rename one, since classes are known by their names, and {numbers} "
                f"are {name!r}"
            )
        for row in twins if len(twins) > 1 else ():
            if row is not with_objects[0]:
                left_out.add(row["id"])
                note(notes, "categories without objects left out since another one has their name", f"id {row['id']}")
    return [row for row in rows if row["id"] not in left_out]


def _whole(value: Any, *, of_text: bool) -> int | None:
    """A whole number that stands there as itself or as 7.0, and `of_text` as "7" or "7.0"; None for anything else."""
    if isinstance(value, str) and of_text:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, int | float) and type(value) is not bool and abs(value) < 2**53 and value == int(value):
        return int(value)
    return None


def _flag(value: Any, where: str, path: Any) -> int:
    """0 or 1; the text "0" is no 1."""
    text = ("" if value is None else str(value)).strip().lower()
    text = text.removesuffix(".0")
    if text not in (*TRUE, *FALSE):
        raise ValueError(f"{where} of {path} has iscrowd {value!r}: it must be 0 or 1")
    return int(text in TRUE)
