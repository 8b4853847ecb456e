"""Columns of Arrow tables: of what kind they are, and their texts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def column_kinds(schema: "pa.Schema") -> dict[str, str]:
    """By name: `text`, `floats` or `integers` (lists of them), another `list`, or Arrow's type."""
    from pyarrow import types

    def kind(of: "pa.DataType") -> str:
        of = of.value_type if types.is_dictionary(of) else of
        if types.is_string(of) or types.is_large_string(of) or types.is_string_view(of):
            return "text"
        if types.is_list(of) or types.is_large_list(of) or types.is_fixed_size_list(of):
            if types.is_floating(of.value_type):
                return "floats"
            return "integers" if types.is_integer(of.value_type) else "list"
        return str(of)

    return {field.name: kind(field.type) for field in schema}


def column_texts(column: "pa.Array") -> list[str | None]:
    """The texts; None for what is called UTF-8 and is not."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if len(column) == 1:
            return [None]
        half = len(column) // 2
        return column_texts(column[:half]) + column_texts(column[half:])
