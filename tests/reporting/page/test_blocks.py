"""The blocks of a page: packed values come out as they went in, and stand in the page once."""

import base64
import gzip
import json
import re

from rkd.reporting.page.blocks import Blocks


def unpacked(blocks: Blocks, name: str) -> object:
    return json.loads(gzip.decompress(base64.b64decode(blocks.packed[name])))


def test_a_value_is_read_back():
    blocks = Blocks()
    value = {"½": ["</script><!--", "\u2028", "\ud800", None, 1, 0.5, True]}
    assert unpacked(blocks, blocks.add(value)) == value


def test_nothing_packed_can_end_an_element():
    blocks = Blocks()
    blocks.add(["</script>", "<!--", "]]>", "&"])
    (packed,) = blocks.packed.values()
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed)


def test_equal_values_are_one_block():
    blocks = Blocks()
    assert blocks.add([1, "a"]) == blocks.add([1, "a"]) != blocks.add([1, "b"])
    assert len(blocks.packed) == 2


def test_numbers_that_json_lacks_become_null():
    blocks = Blocks()
    name = blocks.add({"loss": [float("nan"), float("inf"), 1.0], "own": (float("-inf"),)}, "named")
    assert name == "named"
    assert unpacked(blocks, name) == {"loss": [None, None, 1.0], "own": [None]}
