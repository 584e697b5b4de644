"""The nightly look at the page: what it says without a browser, and of a page that is not as it should be."""

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import screenshots
from runs import RUNS

FAULT = "beyond the screen: DIV wide"


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """A browser that says this of every page; the report of what it was asked."""

    def install(answer: str) -> None:
        program = tmp_path / "chromium"
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho \'<pre id="said" hidden="">{answer}</pre>\'\n'
        )
        program.chmod(0o755)
        monkeypatch.setattr(screenshots, "browser", lambda: str(program))
        monkeypatch.setattr(screenshots, "RUNS", {"nothing": RUNS["nothing"]})

    return install


def test_without_a_browser_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(screenshots, "BROWSERS", ("no-such-browser",))
    assert screenshots.main(tmp_path / "pictures") == 0
    assert capsys.readouterr().out.startswith("no browser here, nothing was looked at: install chromium")


def test_a_fault_is_said_of_every_screen_and_fails(pretend, tmp_path, capsys):
    pretend(f'["{FAULT}"]')
    assert screenshots.main(tmp_path / "pictures") == 1
    said = capsys.readouterr().out
    assert said.count(FAULT) == len(screenshots.WIDTHS) * len(screenshots.SCHEMES) == 4
    asked = (tmp_path / "asked").read_text()
    assert "--window-size=1366" in asked and "preferredColorScheme=0" in asked and asked.count("--screenshot=") == 4


def test_a_page_that_never_loads_fails(pretend, tmp_path, capsys):
    pretend("")
    assert screenshots.main(tmp_path / "pictures") == 1 and "the page did not load" in capsys.readouterr().out


def test_a_page_without_fault_passes(pretend, tmp_path):
    pretend("[]")
    assert screenshots.main(tmp_path / "pictures") == 0
