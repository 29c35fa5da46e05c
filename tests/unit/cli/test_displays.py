import io

from kubediffusion.cli import displays, news


class Terminal(io.StringIO):
    def isatty(self):
        return True


def item(kind, name="cat", **fields):
    return news.News(request_id=name, kind=kind, **fields)


RUN = (
    item(news.Kind.STARTED),
    item(news.Kind.STEP, step=4, total=8, eta_seconds=2.0),
    item(news.Kind.SUCCEEDED, detail="done in 4.0 s"),
)


def shown(display, stream):
    with display:
        for each in RUN:
            display.show(each)
        display.say("and that was [it]")
    return stream.getvalue()


def test_a_pipe_gets_plain_lines():
    stream = io.StringIO()
    assert shown(displays.choose(to=stream), stream).splitlines() == [
        "cat: started",
        "cat: step 4/8, 2.0 s left",
        "cat: done in 4.0 s",
        "and that was [it]",
    ]


def test_a_terse_pipe_is_told_of_ends_alone():
    stream = io.StringIO()
    display = displays.choose(is_terse=True, to=stream)
    assert shown(display, stream).splitlines() == ["  cat: done in 4.0 s", "and that was [it]"]


def test_a_script_is_told_nothing():
    stream = io.StringIO()
    assert shown(displays.choose(is_silent=True, to=stream), stream) == ""


def test_a_terminal_gets_bars_and_lines_above_them(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    text = shown(displays.choose(to=stream), stream)
    assert "━" in text
    assert "done in 4.0 s" in text
    assert "and that was [it]" in text
