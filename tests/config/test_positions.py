"""Each table and key of a TOML file is found on the line where it begins."""

from cortexd.config.positions import positions

TEXT = '''\
title = "x" # not [a.table]
[server]
port = 1
nested.deep = { a = 1, b = [2] }

[models]
directories = [
    "[[model]]",  # looks like a header
    "port = 2",
]
after = """
[server]
port = 3"""
[[model]]
name = "a"
[model.sampling]
top_p = 0.5
[[model]]
name = "b"
[model."quo.ted"]
x = 1
[[model.part]]
y = 1
[[model.part]]
y = 2
'''


def test_keys_are_found_on_their_lines():
    found = positions(TEXT)
    assert found["title",] == 1
    assert found["server",] == 2
    assert found["server", "port"] == 3
    assert found["server", "nested", "deep", "b", 0] == 4
    assert found["models", "directories"] == 7
    assert found["models", "after"] == 11


def test_tables_of_an_array_are_told_apart():
    found = positions(TEXT)
    assert found["model", 0, "name"] == 15
    assert found["model", 0, "sampling", "top_p"] == 17
    assert found["model", 1, "name"] == 19
    assert found["model", 1, "quo.ted", "x"] == 21
    assert (found["model", 1, "part", 0, "y"], found["model", 1, "part", 1, "y"]) == (23, 25)


def test_what_only_looks_like_a_statement_is_none():
    assert ("model",) in positions("[[model]]")
    assert ("model",) not in positions('a = """\n[[model]]\n"""')


def test_lines_may_end_as_on_windows():
    assert positions("a = 1\r\nb = [\r\n1]\r\nc = 2\r\n") == {("a",): 1, ("b",): 2, ("b", 0): 2, ("c",): 4}
