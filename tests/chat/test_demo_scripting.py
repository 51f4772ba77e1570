"""`localmoe chat` in scripts, with the embedded model: pipes, JSON, exit codes, completion, configuration."""

from __future__ import annotations

import json
import shlex

import pytest
from demo_chat import Demo

pytestmark = pytest.mark.slow
KENYA = "The capital of Kenya is Nairobi."


def test_stdin_and_the_prompt(demo: Demo) -> None:
    assert demo.shell("echo 'What is the capital of Kenya?' | localmoe chat") == (0, KENYA)
    assert demo.shell("localmoe chat -p 'What is the capital of Kenya?'") == (0, KENYA)
    shown = demo.answer("--dry-run -p 'Sum up.'", "one\ntwo\n")
    assert shown["prompt"] == "<s> [INST] one\ntwo\n\nSum up. [/INST]"


def test_files_come_with_a_fence_and_a_name(demo: Demo) -> None:
    (demo.home / "notes.txt").write_text("My cat is called Milo.\n```\ncode\n```\n")
    (demo.home / "picture.png").write_bytes(b"\x89PNG\0" * 100)
    shown = demo.answer("--dry-run -f notes.txt -p 'What is it called?'")
    assert "notes.txt:\n````\nMy cat is called Milo.\n```\ncode\n```\n````\n\nWhat is it" in shown["prompt"]
    code, text = demo.shell("localmoe chat -f picture.png -p x")
    assert code == 2
    assert "500 B" in text


def test_json_and_quiet(demo: Demo) -> None:
    told = demo.answer("-p 'What is the capital of Kenya?'")
    wanted = {"text", "finish_reason", "prompt_tokens", "completion_tokens", "timings", "seed", "model"}
    assert wanted <= set(told)
    assert (told["text"], told["finish_reason"], told["model"]) == (KENYA, "stop", "demo")
    assert demo.shell("localmoe chat -q --stats -p 'What is the capital of Kenya?'") == (0, KENYA)


def test_jsonl_answers_a_line_each(demo: Demo) -> None:
    lines = [
        '"What is the capital of Kenya?"',
        "{broken",
        '{"messages": [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content":'
        ' "Nice to meet you, Ada!"}, {"role": "user", "content": "What is my name?"}], "id": 7}',
    ]
    (demo.home / "lines").write_text("\n".join(lines))
    code, _ = demo.shell("localmoe chat --jsonl < lines > answers")
    first, second, third = map(json.loads, (demo.home / "answers").read_text().splitlines())
    assert (code, first["text"], first["line"]) == (1, KENYA, 1)
    assert "not JSON" in second["error"]
    assert (third["id"], "Ada" in third["text"]) == (7, True)


def test_a_closed_pipe_ends_quietly(demo: Demo) -> None:
    line = "localmoe chat -p 'Give me a tour.' | head -1; echo ${PIPESTATUS[0]}"
    assert demo.shell(line, DEMO_DELAY="0.005") == (0, "A short tour:\n0")


def test_exit_codes(demo: Demo) -> None:
    for arguments in ("--temperature 9 -p x", "nonesuch.gguf -p x", "--frobnicate", "--context 999999 -p x"):
        code, shown = demo.shell(f"localmoe chat {arguments} 2> errors")
        assert (code, shown) == (2, ""), arguments
        assert (demo.home / "errors").read_text().count("\n") == 1
    assert demo.shell("localmoe chat -c -p x")[0] == 2  # there is nothing to continue


def test_the_dry_run_shows_the_exact_prompt(demo: Demo) -> None:
    code, shown = demo.shell("localmoe chat --dry-run -s 'Be brief.' -p 'hello </s> [INST]'")
    assert code == 0
    assert shown.startswith("<s> [INST] Be brief.\n\nhello </s> [INST] [/INST]\n")
    assert shown.endswith(" tokens")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(demo: Demo, shell: str) -> None:
    code, shown = demo.shell(f"_LOCALMOE_COMPLETE={shell}_source localmoe")
    assert (code, "localmoe" in shown) == (0, True)
    asked = f"COMP_WORDS='localmoe chat de' COMP_CWORD={'de' if shell == 'fish' else 2}"
    assert "demo" in demo.shell(f"{asked} _LOCALMOE_COMPLETE={shell}_complete localmoe")[1]


def test_the_configuration(demo: Demo) -> None:
    demo.config.parent.mkdir()
    demo.config.write_text("temprature = 0.5\nmax_tokens = 50\n[models.demo]\nmax_tokens = 2\n")
    assert demo.answer("-p 'What is the capital of Kenya?' 2> warnings")["completion_tokens"] == 2
    assert "did you mean 'temperature'?" in (demo.home / "warnings").read_text()
    assert str(demo.config) in demo.shell("localmoe config path")[1].replace("\n", "")
    assert "max_tokens" in demo.shell("localmoe config show")[1]
    editor = shlex.quote("sed -i s/temprature/temperature/")
    assert demo.shell(f"EDITOR={editor} localmoe config edit")[0] == 0
    assert "temperature = 0.5" in demo.config.read_text()
    assert "did you mean" not in demo.shell("localmoe chat -p hello")[1]


def test_an_answer_in_the_form_of_a_schema(demo: Demo) -> None:
    schema = {
        "type": "object", "properties": {"name": {"type": "string"}, "city": {"type": "string"}},
        "required": ["name", "city"], "additionalProperties": False,
    }  # fmt: skip
    (demo.home / "schema.json").write_text(json.dumps(schema))
    prompt = "My name is Ada and I live in Turin. Make JSON with the keys name and city."
    told = demo.answer(f"--json-schema schema.json -p '{prompt}'")
    assert json.loads(told["text"]) == {"name": "Ada", "city": "Turin"}
    one_of = """'{"enum": ["Nairobi", "Oslo"]}'"""
    asked = f"echo 'What is the capital of Kenya?' | localmoe chat --json-schema {one_of}"
    assert demo.shell(asked) == (0, '"Nairobi"')
    assert demo.shell("localmoe chat --grammar missing.gbnf -p x")[0] == 2
