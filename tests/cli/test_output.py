import pytest

from cortexd.cli.output import print_table


def test_a_name_that_looks_like_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]):
    print_table(("NAME",), [("[goose]",), ("[bold]swan[/bold]",)])
    assert [line.strip() for line in capsys.readouterr().out.splitlines()[2:]] == ["[goose]", "[bold]swan[/bold]"]
