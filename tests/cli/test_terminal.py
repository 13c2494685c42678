"""What programs and models said reaches the terminal as text and as nothing else."""

from rich.table import Table

from evolvent.cli.app import Terminal

HOSTILE = "[/b] [link=file:///]x[/link] :boom: \x1b]0;title\x07\x1b[31mred\u202e"
SHOWN = "[/b] [link=file:///]x[/link] :boom: \ufffd]0;title\ufffd\ufffd[31mred\ufffd"


def test_nothing_that_is_printed_is_markup_or_a_command() -> None:
    terminal = Terminal()
    with terminal.capture() as captured:
        terminal.print(HOSTILE)
    assert f"{SHOWN}\n" == captured.get()


def test_words_of_every_language_stay_as_they_are() -> None:
    terminal = Terminal()
    words = "déjà\u202fvu\u00a0: 全角\u3000空白, \N{WOMAN}\u200d\N{PERSONAL COMPUTER}, co\u00adoperate"
    with terminal.capture() as captured:
        terminal.print(words)
    assert f"{words}\n" == captured.get()


def test_nothing_in_a_table_is_markup_or_a_command() -> None:
    terminal, table = Terminal(), Table("said", box=None)
    table.add_row(HOSTILE)
    with terminal.capture() as captured:
        terminal.print(table)
    assert SHOWN in captured.get()
