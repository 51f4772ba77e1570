"""GBNF, llama.cpp's notation of grammars, written as Lark's for llguidance, with llama.cpp's meaning.

The syntax is that of llama.cpp's `grammars/README.md` and `src/llama-grammar.cpp`. llguidance's lexer takes
the longest match and gives nothing of it back, whereas a GBNF grammar means every text that it derives. So
each lexeme here is one character, of which none begins another, and all else is left to the parser.

Beyond llama.cpp this takes left recursion, underscores in names, `{,n}` and the escapes `\\^` and `\\.`; it
refuses classes that no character is in, repetition of `{m,n}` with n < m, and tokens (`<think>`).
"""

from __future__ import annotations

import re
from bisect import bisect_right

MAX_CHARACTERS = 1 << 20
# Groups count too. llguidance follows references by recursion: 3000 in a chain overflow its stack.
MAX_RULES = 1000
MAX_NESTING = 100
MAX_LEXEMES = 20_000  # of literals and classes; llguidance numbers what it makes of them with 16 bits
MAX_TIMES = 100_000
_LAST, _SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"} | {c: c for c in '"\\[]-^.'}
_HEX = {"x": 2, "u": 4, "U": 8}
_NAME, _NUMBER = re.compile(r"[A-Za-z0-9_-]+"), re.compile(r"[0-9]+")
_SPACE, _SPACE_AND_LINES = (re.compile(rf"(?:[{space}]|#[^\r\n]*)*") for space in (r" \t", r" \t\r\n"))
_POSTFIX = re.compile(r"[*+?{]")

Ranges = list[tuple[int, int]]  # of code points, both ends included


class GbnfError(ValueError):
    """A text is not GBNF; says in one line where and why."""


def to_lark(text: str) -> str:
    """A GBNF grammar in Lark's syntax: its rule `root` becomes `start`; every rule is one of the parser's.

    Raises:
        GbnfError: with the number of the line and what was expected there, or which bound is passed.
    """
    if len(text) > MAX_CHARACTERS:
        raise GbnfError(f"it is longer than {MAX_CHARACTERS:,} characters")
    return _Parser(text).grammar()


class _Parser:
    """Recursive descent; as in llama.cpp, a line's end is white space inside of parentheses only."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._lines = [i + 1 for i, character in enumerate(text) if character == "\n"]
        self._rules: dict[str, str] = {}  # by Lark's name
        self._names: dict[str, str] = {"root": "start"}
        self._used: dict[str, int] = {}  # where, first
        self._lexemes = 0

    def grammar(self) -> str:
        self._skip(_SPACE_AND_LINES)
        while self._at < len(self._text):
            self._rule()
            self._skip(_SPACE_AND_LINES)
        for name, at in self._used.items():
            if self._names[name] not in self._rules:
                raise self._error(f"the rule {_short(name)} is used here and defined nowhere", at)
        if "start" not in self._rules:
            raise GbnfError("it has no rule named root")
        return "".join(f"{name}: {alternates}\n" for name, alternates in self._rules.items())

    def _rule(self) -> None:
        at = self._at
        name = self._name_of(self._take(_NAME, "the name of a rule"), "")
        self._skip(_SPACE)
        if not self._text.startswith("::=", self._at):
            raise self._expected("::= after the name of a rule")
        self._at += 3
        self._skip(_SPACE_AND_LINES)
        self._define(name, self._alternates(0), at)  # of two with one name the last counts, as in llama.cpp
        if self._at < len(self._text) and self._next() not in "\r\n":
            raise self._expected("a literal, a class, a rule, | or the end of the line")

    def _name_of(self, name: str, kind: str) -> str:
        """Lark's: lower case, and another for each of GBNF's."""
        if name not in self._names or kind:
            tidy = re.sub("[^a-z0-9]", "_", name.lower())[:40]
            self._names[name + kind] = f"r{len(self._names)}_{tidy}"
        return self._names[name + kind]

    def _define(self, name: str, alternates: str, at: int) -> str:
        self._rules[name] = alternates
        if len(self._rules) > MAX_RULES:
            raise self._error(f"it has more than {MAX_RULES:,} rules and groups", at)
        return name

    def _part(self, alternates: str, at: int) -> str:
        """A rule for what GBNF has no name for: llguidance bounds the nesting of parentheses."""
        return self._define(self._name_of("part", f" {len(self._names)}"), alternates, at)

    def _alternates(self, depth: int) -> str:
        found = [self._sequence(depth)]
        while self._next() == "|":
            self._at += 1
            self._skip(_SPACE_AND_LINES)
            found.append(self._sequence(depth))
        return " | ".join(found)

    def _sequence(self, depth: int) -> str:
        items = list[str]()
        while (next_one := self._next()) not in ("", "|", ")", "\r", "\n"):
            start = self._at
            if next_one == '"':
                item = self._literal()
            elif next_one == "[":
                item = self._regex(self._class())
            elif next_one == ".":
                self._at += 1
                item = self._regex([(0, _LAST)])
            elif next_one == "(":
                item = self._group(depth + 1)
            elif _NAME.match(next_one):
                name = self._take(_NAME, "a name")
                self._used.setdefault(name, start)
                item = self._name_of(name, "")
            elif next_one in "*+?{":
                raise self._expected("something to repeat before it")
            elif next_one in "<!":
                raise self._error("tokens such as <think> cannot be part of a grammar here", start)
            else:
                break
            self._skip(_SPACE_AND_LINES if depth else _SPACE)
            if _POSTFIX.match(self._next()):
                item = self._repeated(f"({item})" if " " in item else item, depth)
            items.append(item)
        return " ".join(items) or '""'

    def _group(self, depth: int) -> str:
        start = self._at
        if depth > MAX_NESTING:
            raise self._error(f"parentheses are nested more than {MAX_NESTING} deep", start)
        self._at += 1
        self._skip(_SPACE_AND_LINES)
        alternates = self._alternates(depth)
        if self._next() != ")":
            raise self._expected(f"the ) that ends the group of line {self._line(start)}")
        self._at += 1
        return self._part(alternates, start)

    def _repeated(self, item: str, depth: int) -> str:
        """With all of `*`, `+`, `?` and `{m,n}` that follow; each repeats what is before it."""
        space = _SPACE_AND_LINES if depth else _SPACE
        while True:
            start, sign = self._at, self._next()
            self._at += 1
            self._skip(space)
            if sign == "{":
                sign = self._times(space)
                self._skip(space)
            item = item + sign if sign != "{0,0}" else '""'
            if not _POSTFIX.match(self._next()):
                return item
            item = self._part(item, start)

    def _times(self, space: re.Pattern[str]) -> str:
        """What stands after `{`, up to `}`."""
        start = self._at
        least = 0 if self._next() == "," else self._number(space)
        most: int | None = least
        if self._next() == ",":
            self._at += 1
            self._skip(space)
            most = None if self._next() == "}" else self._number(space)
        if self._next() != "}":
            raise self._expected("a number, a comma or the } after {")
        self._at += 1
        if most is not None and most < least:
            raise self._error(f"at least {least} and at most {most} times is never", start)
        return f"{{{least},{'' if most is None else most}}}"

    def _number(self, space: re.Pattern[str]) -> int:
        start = self._at
        digits = self._take(_NUMBER, "a number").lstrip("0") or "0"
        if len(digits) > len(str(MAX_TIMES)) or int(digits) > MAX_TIMES:
            raise self._error(f"more than {MAX_TIMES:,} times", start)
        self._skip(space)
        return int(digits)

    def _literal(self) -> str:
        start, found = self._at, list[str]()
        self._at += 1
        while self._next() != '"':
            code = self._character('the " that ends the literal', start)
            found.append(self._regex([(code, code)]))
        self._at += 1
        return " ".join(found) or '""'

    def _class(self) -> Ranges:
        start = self._at
        self._at += 2 if self._text.startswith("[^", self._at) else 1
        inverted, ranges = self._at == start + 2, Ranges()
        while self._next() != "]":
            first = last = self._character("the ] that ends the class", start)
            if self._next() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._character("the ] that ends the class", start)
            if last < first:
                raise self._error("a range of characters ends before it begins", start)
            ranges.append((first, last))
        self._at += 1
        if not ranges:
            raise self._error("a class without characters", start)
        return _without(ranges) if inverted else ranges

    def _regex(self, ranges: Ranges) -> str:
        """One character, of those in the ranges; surrogates, which no text has, are left out."""
        valid = _without([*_without(ranges), _SURROGATES])
        if not valid:
            raise self._error("no character matches", self._at - 1)
        self._lexemes += 1
        if self._lexemes > MAX_LEXEMES:
            raise self._error(f"it has more than {MAX_LEXEMES:,} characters and classes", self._at - 1)
        shown = ["-".join(_escaped(end) for end in sorted({*ends})) for ends in valid]
        if len(shown) == 1 and "-" not in shown[0]:
            return f"/{shown[0]}/"
        return f"/[{''.join(shown)}]/"

    def _character(self, end: str, start: int) -> int:
        character = self._next()
        if not character:
            raise self._error(f"{end} is missing", start)
        self._at += 1
        if character != "\\":
            return ord(character)
        escape = self._next()
        self._at += 1
        if escape in _ESCAPES:
            return ord(_ESCAPES[escape])
        digits = self._text[self._at : self._at + _HEX.get(escape, 0)]
        if not re.fullmatch("[0-9A-Fa-f]+", digits) or len(digits) < _HEX[escape]:
            shown = _short("\\" + escape + digits)
            raise self._error(f"the escape {shown} is unknown or cut short", self._at - 1)
        self._at += len(digits)
        if int(digits, 16) > _LAST:
            raise self._error(f"there is no character {digits}", self._at - 1)
        return int(digits, 16)

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, space: re.Pattern[str]) -> None:
        if skipped := space.match(self._text, self._at):
            self._at = skipped.end()

    def _take(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if not found:
            raise self._expected(what)
        self._at = found.end()
        return found[0]

    def _line(self, at: int) -> int:
        return bisect_right(self._lines, at) + 1

    def _error(self, what: str, at: int) -> GbnfError:
        return GbnfError(f"line {self._line(at)}: {what}")

    def _expected(self, what: str) -> GbnfError:
        rest = self._text[self._at : self._at + 80].splitlines()
        found = _short(rest[0]) if rest and rest[0] else "the end of the line" if rest else "the end"
        return self._error(f"expected {what}, found {found}", self._at)


def _without(ranges: Ranges) -> Ranges:
    """The code points that are in none of the ranges."""
    left, begin = Ranges(), 0
    for first, last in sorted(ranges):
        if begin < first:
            left.append((begin, first - 1))
        begin = max(begin, last + 1)
    return [*left, (begin, _LAST)] if begin <= _LAST else left


def _escaped(code: int) -> str:
    """A character inside a class of Rust's regular expressions, in which & - ~ ^ and others are operators."""
    return chr(code) if code < 128 and chr(code).isalnum() else f"\\u{{{code:x}}}"


def _short(text: str) -> str:
    shown = ascii(text[:40])
    return shown if len(shown) <= 40 else shown[:36] + "...'"
