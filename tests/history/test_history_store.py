"""Conversations as trees of messages, search, export and import."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localmoe.errors import UsageError
from localmoe.history import store
from localmoe.history.search import MARK_END, MARK_START, search
from localmoe.history.store import History
from localmoe.history.transfer import export, import_jsonl, title_of, write_whole


def talk(history: History, *turns: str, title: str = "") -> str:
    conversation = history.create(title=title)
    parent = None
    for number, text in enumerate(turns):
        parent = history.add(conversation, parent, "assistant" if number % 2 else "user", text)
    return conversation


def test_the_head_moves_and_nothing_is_lost(history: History) -> None:
    conversation = history.create(title="t", system="be brief", model="demo")
    question = history.add(conversation, None, "user", "q1")
    first = history.add(conversation, question, "assistant", "a1", details={"seed": 7})
    second = history.add(conversation, question, "assistant", "a2")
    summary = history.find(conversation)
    assert (summary.system, summary.model, summary.head, summary.messages) == ("be brief", "demo", second, 3)
    assert [one.content for one in history.path_to(conversation, second)] == ["q1", "a2"]
    history.set_head(conversation, first)
    path = history.path_to(conversation, history.find(conversation).head)
    assert [one.content for one in path] == ["q1", "a1"]
    assert path[1].details == {"seed": 7}
    assert len(history.messages(conversation)) == 3


def test_find(history: History) -> None:
    one = talk(history, "a")
    assert history.find(one[:4]).id == one
    with pytest.raises(UsageError, match="no conversation has the id 'zzzz0'"):
        history.find("zzzz0")
    with pytest.raises(UsageError):
        history.find("%")
    for _ in range(40):
        talk(history, "a")
    with pytest.raises(UsageError, match="conversations begin with"):
        history.find("")


def test_latest_is_the_one_changed_last(history: History) -> None:
    assert history.latest() is None
    old, new = talk(history, "old"), talk(history, "new")
    assert history.latest().id == new  # type: ignore[union-attr] # not None: two exist
    history.change(old, title="renamed")
    history.add(old, None, "user", "again")
    assert history.latest().id == old  # type: ignore[union-attr] # not None: two exist


def test_search_follows_every_change_of_a_message(history: History) -> None:
    conversation = history.create(title="animals")
    message = history.add(conversation, None, "assistant", "a zebra", status="streaming")
    assert search(history, "zebra") == []  # still being written
    history.update(message, "a zebra and a gnu", "complete")
    assert [hit.message for hit in search(history, "gnu zeb")] == [message]
    history.update(message, "a zebra and a gnu", "streaming")
    assert search(history, "gnu") == []
    history.update(message, "an emu", "interrupted")
    assert search(history, "gnu") == []
    history.update(message, "an ibex", "complete")
    assert search(history, "emu") == []
    hit = search(history, "IBEX")[0]
    assert hit.excerpt == f"an {MARK_START}ibex{MARK_END}"
    assert hit.title == "animals"
    history.delete(conversation)
    assert search(history, "ibex") == []


@pytest.mark.parametrize("words", ['"', "a* OR b", "NEAR(x y)", "col:x", "-x", "(", "^q", "", "\0", "';--"])
def test_search_takes_no_syntax(history: History, words: str) -> None:
    talk(history, "plain words")
    assert search(history, words) == []


def test_search_any_word_and_without_a_conversation(history: History) -> None:
    one, two = talk(history, "red apple"), talk(history, "green apple pie")
    assert [hit.conversation for hit in search(history, "pie red apple", every=False, without=one)] == [two]
    assert search(history, "pie red") == []
    assert {hit.conversation for hit in search(history, "pie red", every=False)} == {one, two}
    # accents and case do not matter
    assert [hit.conversation for hit in search(history, "Äpple gréen")] == [two]


def test_search_inside_sentences_without_spaces(history: History) -> None:
    long = "天气很好。" * 40
    chinese = talk(history, "你好世界，我住在东京。", f"{long}Das iPhone手机 100%。{long}")
    japanese = talk(history, "東京の天気は?", "晴れです in Tokyo")
    history.add(chinese, None, "assistant", "世界 is being written", status="streaming")
    (hit,) = search(history, "世界")
    assert hit.excerpt == f"你好{MARK_START}世界{MARK_END}，我住在东京。"
    assert [hit.conversation for hit in search(history, "東京")] == [japanese]
    assert [hit.conversation for hit in search(history, "tok 晴れ")] == [japanese]
    assert search(history, "世界 天気") == []
    assert len(search(history, "世界 天気", every=False)) == 2
    assert search(history, "世界 天気", every=False, without=chinese, limit=1)[0].conversation == japanese
    (hit,) = search(history, "iphone手机")
    assert f"Das {MARK_START}iPhone手机{MARK_END} 100%" in hit.excerpt
    assert hit.excerpt.startswith("… ")
    assert hit.excerpt.endswith(" …")
    assert search(history, "手_ 1%") == search(history, "世%。") == []  # no wildcards


def test_an_answer_whose_process_died_becomes_interrupted(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = history.create()
    history.add(conversation, None, "assistant", "half an ans", status="streaming")
    assert history.messages(conversation)[0].status == "streaming"
    monkeypatch.setattr(store, "_STALE_SECONDS", -1.0)
    assert history.messages(conversation)[0].status == "interrupted"
    assert len(search(history, "half")) == 1


def test_deleted_text_is_gone_from_the_file(history: History, database: Path) -> None:
    conversation = talk(history, "the password is xyzzyplugh", "noted xyzzyplugh")
    talk(history, "something else")
    history.delete(conversation)
    history.close()
    left = b"".join(file.read_bytes() for file in database.parent.iterdir())
    assert b"xyzzyplugh" not in left
    assert b"something else" in left


def test_text_that_is_no_utf8(history: History, database: Path) -> None:
    conversation = history.create(title="a\udcff", system="b\ud800", model="c\udcff")
    history.add(conversation, None, "user", "d\udcff\0", details={"typed": "e\udcff"})
    summary = history.find(conversation)
    assert (summary.title, summary.system, summary.model) == ("a?", "b?", "c?")
    assert history.messages(conversation)[0].content == "d?\0"
    assert history.recent_prompts() == ["e?"]
    history.change(conversation, title="f\udcff")
    assert search(history, "zebra\udcff") == []
    with pytest.raises(UsageError, match="no conversation has the id"):
        history.find("x\udcff")
    write_whole(database.with_name("copy.md"), "g\udcff")
    assert database.with_name("copy.md").read_text() == "g?"


def test_recent_prompts(history: History) -> None:
    conversation = talk(history, "one", "answer", "two", "answer", "one")
    history.add(conversation, None, "user", "three\n```\nfile\n```", details={"typed": "three"})
    assert history.recent_prompts() == ["three", "one", "two"]
    assert history.recent_prompts(limit=1) == ["three"]
    history.add(conversation, None, "user", "four", details={"typed": "4", "x": float("nan")})
    assert history.recent_prompts(limit=2) == ["four", "three"]  # SQLite reads no NaN


def test_a_limit_may_be_any_number(history: History) -> None:
    talk(history, "one")
    assert len(history.conversations(limit=10**20)) == len(search(history, "one", limit=10**20)) == 1


def test_a_transaction_is_all_or_nothing(history: History) -> None:
    def fail_halfway() -> None:
        with history.transaction():
            talk(history, "inside")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert history.conversations() == []


messages = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), st.text(), st.integers(0, 5)), min_size=1, max_size=6
)


@settings(max_examples=25, deadline=None)
@given(turns=messages, title=st.text(), system=st.text())
def test_export_and_import_round_trip(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[str, str, int]], title: str, system: str
) -> None:
    with History(tmp_path_factory.mktemp("round") / "history" / "h.db") as history:
        source = history.create(title=title, system=system, model="m", created=5.0)
        ids: list[int] = []
        for role, text, back in turns:
            parent = ids[-1 - back] if back < len(ids) else None
            ids.append(history.add(source, parent, role, text, details={"n": back}))  # type: ignore[arg-type] # a Role
        history.set_head(source, ids[0])
        text = export(history, [history.find(source)], "jsonl")
        (copy,) = import_jsonl(history, text.split("\n"), "test")
        again = json.loads(export(history, [history.find(copy)], "jsonl"))
        original = json.loads(text)
        number = {one["id"]: place for place, one in enumerate(again["messages"])}
        place_of = {one["id"]: place for place, one in enumerate(original["messages"])}
        for data, index in ((again, number), (original, place_of)):
            del data["id"]
            data["head"] = index[data["head"]]
            for one in data["messages"]:
                one["id"], one["parent"] = index[one["id"]], index.get(one["parent"])
        original["title"] = original["title"] or title_of(turns[0][1])
        assert again == original


def test_import_of_plain_message_lists(history: History) -> None:
    line = json.dumps(
        {
            "messages": [
                {"role": "system", "content": "s", "id": "first"},
                {"role": "user", "content": "hello there", "parent": "first"},
                {"role": "assistant", "content": "hi"},
            ]
        }
    )
    (one,) = import_jsonl(history, [line, "", "  "], "f")
    summary = history.find(one)
    assert (summary.title, summary.system) == ("hello there", "s")
    assert [message.content for message in history.path_to(one, summary.head)] == ["hello there", "hi"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "f.jsonl, line 2: not JSON"),
        ("[]", "expected an object with a list"),
        ('{"messages": [3]}', "message 1: expected"),
        ('{"messages": [{"role": "tool", "content": ""}]}', "role must be"),
        ('{"messages": [{"role": "user", "content": "", "parent": 4}]}', "parent 4 does not come before"),
        ('{"messages": [{"role": "user", "content": ""}], "head": 9}', "`head` must be"),
        ('{"messages": [{"role": "user", "content": "", "id": [1]}]}', "message 1: `id` and `parent`"),
        ('{"messages": [{"role": "user", "content": "", "parent": {}}]}', "`id` and `parent` must be"),
        ('{"messages": [], "head": {}}', "`head` must be"),
        ('{"messages": [{"role": "user", "content": "", "details": {"x": NaN}}]}', "not JSON.*NaN"),
        ("[" * 200_000, "not JSON.*too deep"),
        ('{"messages": [], "title": 3}', "title must be text"),
        ('{"messages": [], "created": "now"}', "numbers of seconds"),
        ('{"messages": [{"role": "user", "content": "", "status": "odd"}]}', "unknown status"),
        ('{"messages": [{"role": "user", "content": "", "details": 1}]}', "`details` must be"),
    ],
)
def test_a_bad_import_writes_nothing(history: History, line: str, expected: str) -> None:
    good = '{"messages": [{"role": "user", "content": "fine"}]}'
    with pytest.raises(UsageError, match=expected):
        import_jsonl(history, [good, line], "f.jsonl")
    assert history.conversations() == []


def test_markdown_export_shows_the_branch_one_stands_on(history: History) -> None:
    conversation = history.create(title="Trip", system="Be kind.", model="demo")
    question = history.add(conversation, None, "user", "where?")
    history.add(conversation, question, "assistant", "Rome")
    history.add(conversation, question, "assistant", "Oslo", status="interrupted")
    text = export(history, history.conversations(), "markdown")
    assert text.startswith("# Trip\n")
    assert "## System\n\nBe kind.\n\n## User\n\nwhere?\n\n## Assistant (interrupted)\n\nOslo\n" in text
    assert "Rome" not in text
    assert "Rome" in export(history, history.conversations(), "json")


def test_titles() -> None:
    assert title_of(" a\n b ") == "a b"
    long = title_of("word, " * 40)
    assert len(long) <= 60
    assert long.endswith("word…")
