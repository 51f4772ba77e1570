"""One model and one conversation: asks, answers, regenerates, continues.

The canonical encoding of the conversation decides what the prompt is; the decoder keeps its KV cache from
turn to turn, so only what differs from the last prompt is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from localmoe.chat.asked import grammar_of, sampling_of
from localmoe.chat.conversation import Conversation, Turn
from localmoe.chat.kv_store import KVStore
from localmoe.chat.paced import CancelledError, ChatModel, PacedDecoder
from localmoe.chat.pieces import apart, until_cancelled
from localmoe.chat.recorder import Recorder
from localmoe.chat.summary import summarized
from localmoe.chat.window import ContextFullError, Window, announcements, decided, fit, reserve
from localmoe.errors import UsageError
from localmoe.generate.loop import Answer, stream
from localmoe.generate.sampling import Sampling
from localmoe.settings import RIVALS, Settings
from localmoe.text.constraint import Constraint
from localmoe.text.grammar import Grammar
from localmoe.text.thinking import Thoughts

Answering = Generator[str, None, None]  # pieces of text; closing it ends the answer there
Asked = tuple[Window, Constraint | None]  # the prompt, and what holds its answer to a form


class Session:
    """A chat with a model. `notice` shows a line to the user that is not part of the answer."""

    def __init__(
        self,
        model: ChatModel,
        settings: Settings,
        conversation: Conversation,
        recorder: Recorder,
        notice: Callable[[str], None],
        reference: str = "",
        states: KVStore | None = None,
        decoder: PacedDecoder | None = None,
    ) -> None:
        """`reference`: what to call the model when the conversation is resumed (a name or a path);
        `states`: where KV states of saved conversations are kept; `decoder`: the model's, if there is one.
        """
        self.settings = settings
        self.conversation = conversation
        self.recorder = recorder
        self.answer: Answer | None = None  # the last one
        self.thoughts = ""  # those before it
        self.logprobs = 0
        self.form: Grammar | None = None  # of answers
        self.thought: Callable[[str], None] = lambda text: None  # hears what is thought before an answer
        self._notice = notice
        self._states = states
        self._warned_full = False
        self._loaded: tuple[ChatModel, PacedDecoder] | None = None
        self.use(model, reference, decoder)

    def use(self, model: ChatModel, reference: str = "", decoder: PacedDecoder | None = None) -> None:
        """Answer with `model` from now on. Where it fails, the model is closed and all else is as before."""
        try:
            self._loaded = model, decoder or PacedDecoder(model.decoder())
        except BaseException:
            model.close()
            raise
        self.reference = reference or model.name
        self._restore()

    def close(self) -> None:
        """Keep what is to be kept, end the model and let go of it; `use` may bring another."""
        if self._loaded is None:
            return
        try:
            self.keep()
        finally:
            model, self._loaded = self.model, None
            model.close()

    @property
    def model(self) -> ChatModel:
        """The model that answers. UsageError between `close` and `use`."""
        return self._open()[0]

    @property
    def decoder(self) -> PacedDecoder:
        """Its KV cache for this conversation. UsageError likewise."""
        return self._open()[1]

    def _open(self) -> tuple[ChatModel, PacedDecoder]:
        if self._loaded is None:
            raise UsageError(f"{self.reference} could not be opened again; open a model with /model NAME")
        return self._loaded

    def take_up(self, conversation: Conversation) -> None:
        """Go on with another conversation."""
        self.keep()
        self.conversation = conversation
        self.answer = None
        self._restore()

    def keep(self) -> None:
        """Write what is not saved yet, and the KV state of a saved conversation for when it is resumed."""
        self.recorder.catch_up(self.conversation, self.reference)
        name = self.conversation.id
        if self._loaded is None or self._states is None or name is None:
            return
        if self.recorder.holds(self.conversation):
            self._states.save(name, self.decoder.inner, self.model.identity)

    def _restore(self) -> None:
        """Take up the KV state of a saved conversation, if there is one; it only saves computing."""
        name = self.conversation.id
        if self._loaded is not None and self._states is not None and name is not None:
            self._states.restore(name, self.decoder.inner, self.model.identity)

    @property
    def used(self) -> int:
        """Positions of the context in use."""
        return len(self.decoder.tokens)

    # What the prompt is

    def window(self) -> Window:
        """The prompt for the path to the head, shortened by the overflow policy if need be."""
        return self._fitted(self._summarize)

    def _fitted(self, summarize: Callable[[Sequence[Turn], str], str] | None) -> Window:
        turns = self.conversation.path()
        left_out, summary = decided(turns, self.model.context)
        return fit(
            partial(self.model.encode_chat, think=self.settings.think, effort=self.settings.effort),
            self.conversation.system,
            turns,
            limit=self.model.context - reserve(self.model.context, self.settings.max_tokens),
            policy=self.settings.overflow,
            left_out=left_out,
            summary=summary,
            summarize=summarize,
        )

    def _summarize(self, turns: Sequence[Turn], summary: str) -> str:
        return summarized(self.model, self.decoder, turns, summary)

    def _asked(self, begun: Turn | None = None) -> Asked:
        """The prompt for the path to the head, and the form of its answer; `begun`: the one that goes on."""
        window = self.window()
        if self.form is None:
            return window, None
        whole, answer = (None, "") if begun is None else (begun.whole, begun.content)
        return window, self.model.constraints.start(self.form, window.ids, whole=whole, answer=answer)

    # Asking

    def ask(
        self, text: str, *, typed: str | None = None, cancelled: Callable[[], bool] = lambda: False
    ) -> Answering:
        """Add a prompt and stream its answer. `typed`: what the user wrote, where `text` has attachments too.

        If the answer is cancelled before its first word, the prompt is taken back as well.
        """
        before = self.conversation.head
        prompt = self.conversation.add("user", text)
        if typed is not None and typed != text:
            prompt.details["typed"] = typed
        self.decoder.cancelled = cancelled
        try:
            asked = self._asked()
        except BaseException as error:
            self.conversation.head = before
            self.conversation.turns.remove(prompt)
            if isinstance(error, CancelledError):
                return
            raise
        self.recorder.save(self.conversation, self.reference, retry=True)
        yield from self._answer(asked, cancelled, before)

    def regenerate(self, cancelled: Callable[[], bool] = lambda: False) -> Answering:
        """Another answer to the last prompt, beside the one that is there.

        If it is cancelled before its first word, the conversation stands on the earlier answer again.
        """
        prompt = self.conversation.last("user")
        if prompt is None:
            raise UsageError("there is no prompt to answer again")
        before, self.conversation.head = self.conversation.head, prompt
        self.decoder.cancelled = cancelled
        try:
            asked = self._asked()
        except BaseException as error:
            self.conversation.head = before
            if isinstance(error, CancelledError):
                return
            raise
        yield from self._answer(asked, cancelled, before)

    def continue_answer(self, cancelled: Callable[[], bool] = lambda: False) -> Answering:
        """Let the model go on with its last answer."""
        turn = self.conversation.head
        if turn is None or turn.role != "assistant":
            raise UsageError("there is no answer to continue")
        self.decoder.cancelled = cancelled
        with suppress(CancelledError):
            yield from self._stream(turn, self._asked(turn), cancelled, continues=True)

    def _answer(self, asked: Asked, cancelled: Callable[[], bool], before: Turn | None) -> Answering:
        """Answer the prompt at the head; `before`: where to stand if nothing is said."""
        turn = self.conversation.add("assistant", "", status="streaming")
        self.recorder.save(self.conversation, self.reference)
        try:
            yield from self._stream(turn, asked, cancelled)
        finally:
            if turn.status == "interrupted" and not turn.whole:
                self.conversation.head = before
                self.recorder.stand_on(self.conversation)

    def _stream(
        self, turn: Turn, asked: Asked, cancelled: Callable[[], bool], continues: bool = False
    ) -> Answering:
        """Generate into `turn`, piece by piece; whatever ends it, the turn says so and is saved."""
        window, constraint = asked
        for line in announcements(window):
            self._notice(line)
        whole = turn.whole if continues else None
        self.answer, self.thoughts = None, turn.thoughts
        sampling = sampling_of(self.settings)
        turn.status = "streaming"
        turn.details |= {
            "model": self.model.name,
            "identity": self.model.identity,
            "parameters": _parameters(sampling),
            "window": {
                "context": self.model.context,
                "left_out": window.left_out,
                "summary": window.summary,
            },
        }
        pieces = stream(
            self.decoder,
            self.model.tokenizer,
            window.ids,
            sampling=sampling,
            max_tokens=self.settings.max_tokens,
            stop=self.settings.stop,
            logprobs=self.logprobs,
            continues=continues,
            constraint=constraint,
            cancelled=cancelled,
        )
        thoughts = Thoughts(self.model.tokenizer, window.ids, whole)
        with self.recorder.answering(turn):
            try:
                for thinking, text, answer in apart(until_cancelled(pieces), thoughts):
                    turn.content += text
                    self.answer = answer or self.answer
                    if thinking:
                        self.thoughts += thinking
                        turn.details = {**turn.details, "thoughts": self.thoughts}  # others read it meanwhile
                        self.thought(self.thoughts)
                    if text:
                        yield text
            finally:
                ended = self.answer is not None and self.answer.finish_reason != "cancelled"
                turn.status = "complete" if ended else "interrupted"
                if self.answer is not None:
                    turn.details |= _facts(self.answer)
        if self.thoughts.strip() and not turn.content:
            self._tell_how_thoughts_ended()
        self._watch_context()

    def _tell_how_thoughts_ended(self) -> None:
        reason = self.answer.finish_reason if self.answer is not None else "cancelled"
        if reason == "length":
            self._notice(
                "The answer ended within the model's thoughts: /continue goes on; raise max_tokens, or ask "
                "for an answer at once with /set think off."
            )
        elif reason == "stop":
            self._notice("The answer ended within the model's thoughts: at a stop text, or by itself.")

    def set(self, **values: Any) -> None:
        """Change settings; they hold from the next answer on. UsageError, and nothing changed, where one
        cannot be used.
        """
        changed = replace(self.settings, **values)
        if not values.keys().isdisjoint(RIVALS):
            self.form = grammar_of(changed)
        self.settings = changed

    def _way_on(self) -> str:
        """What /continue would do, now that the context is full."""
        try:
            self._fitted(None)
        except ContextFullError as error:
            return f"it cannot go on: {error}."
        return "/continue makes room and goes on."

    def _watch_context(self) -> None:
        full = self.used >= 0.8 * self.model.context
        if self.answer is not None and self.answer.finish_reason == "context":
            self._notice(f"The answer reached the end of the context; {self._way_on()}")
        elif full and not self._warned_full:
            share = 100 * self.used // self.model.context
            then = {
                "drop": "the oldest turns will be left out",
                "stop": "the conversation will stop",
                "summarize": "the oldest turns will be summed up",
            }[self.settings.overflow]
            self._notice(
                f"{share} % of the context is used ({self.used:,} of {self.model.context:,} tokens); "
                f"when it is full, {then} (/set overflow)."
            )
        self._warned_full = full


def _parameters(sampling: Sampling) -> dict[str, Any]:
    return {name: value for name, value in vars(sampling).items() if name != "seed"}


def _facts(answer: Answer) -> dict[str, Any]:
    """What is kept of an answer beside its text."""
    return {
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "prefilled_tokens": answer.prefilled_tokens,
        "completion_tokens": answer.completion_tokens,
        "seed": answer.seed,
        "timings": dict(answer.timings),
    }
