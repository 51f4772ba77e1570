"""GBNF means what it means in llama.cpp; what cannot be read is refused in one line.

The verdicts of `TABLE` are llama.cpp's (llama-cpp-python 0.3.36), asked byte by byte.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_text_constraint import EOS, Bytes

from localmoe.text.constraint import Constraints
from localmoe.text.gbnf import GbnfError, to_lark
from localmoe.text.grammar import Grammar, GrammarError

ARITHMETIC = r"""root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""
JSON = r"""root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""
CHESS = r"""# chess
root ::= (
    "1. " move " " move "\n"
    # more
    ([1-9] [0-9]? ". " move " " move "\n")+
)
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?
"""
LIST = r"""root ::= item+

# Excludes various line break characters
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
"""
# Grammar, texts that it derives, beginnings of such texts, and texts that leave it, as llama.cpp says.
TABLE = [
    (
        ARITHMETIC,
        ['1=2\n', '(a+b)*3=x\n', 'x1_y = (3)\n'],
        ['a+b', 'a=\n'],
        ['a + b =c\n\n1=2\n', '1+=2\n', '=', '12 3=4\n'],
    ),
    (
        JSON,
        [
            '{}',
            '{"a":1}',
            '{"a": [1, 2.5e+3, "x\\u00e9\\n"], "b": {"c": null}}',
            '{"a":"é🦀"}',
            '{"a" :1}',
            '{\n  "a": true\n}',
            '{"a":-0.5}',
        ],
        ['{"a":"x'],
        ['{"a":01}', '[1]', '{"a":"\\x"}', '{"a":"a\nb"}', '{"a":"\\u12g4"}', '{"a":1}  '],
    ),
    (
        CHESS,
        ['1. e4 e5\n2. Nf3 Nc6\n', '1. exd5 O-O-O+\n10. Qh4xe1 a8=Q#\n', '1. O-O-O O-O\n99. a1 a1\n'],
        ['1. e4 e5\n'],
        ['1. e4 e9\n'],
    ),
    (LIST, ['- a\n- b\n'], ['- a', ''], ['-a\n', '- \n']),
    ('root ::= word "end"\nword ::= [a-z]+\n', ['xend', 'xendend'], ['end', 'xen', 'endx'], ['Xend']),
    ('a ::= "x" | "xy"\nb ::= "yz"\nroot ::= a b\n', ['xyz', 'xyyz'], ['xyy'], ['xz', 'xyzz']),
    ('root ::= [+--]+', ['+', ',', '-', '+,-'], [], ['.', '*']),
    ('root ::= [a~~b]+', ['a', '~', 'b'], [], ['c']),
    ('root ::= [a&&b]+', ['a', '&', 'b'], [], ['c']),
    ('root ::= [a-z&&[b]+', ['a', '&', '[', 'b[['], [], [']', '-']),
    ('root ::= .', ['\n', '\r', 'é', '🦀', 'a'], [''], ['ab']),
    ('root ::= .* "x"', ['x', '\nx', 'xxx'], ['xy', 'é'], []),
    ('root ::= "\\u00e9" | [\\u0041-\\u0043] | "\\U0001F980"', ['é', 'A', 'C', '🦀'], [''], ['D', '🦁']),
    ('root ::= "\\x41\\x0a\\t\\r\\\\\\"\\[\\]"', ['A\n\t\r\\"[]'], ['A\n\t\r\\"['], ['A\r']),
    ('root ::= [\\-a]+', ['-', 'a', '-a-'], [], ['b']),
    ('root ::= [a\\-c]+', ['-', 'a', 'c'], [], ['b']),
    ('root ::= [a-]+ | [-b]', ['-', 'a', 'b', '--'], [], ['bb']),
    ('root ::= [^-a]+', ['b', '^', 'é', '\n'], [], ['-', 'a']),
    ('root ::= [a^]+', ['^', 'a'], [], ['b']),
    ('root ::= [\\]\\[/"]+', [']', '[', '/', '"'], [], ['\\']),
    ('root ::= [^\\]\\\\]+', ['[', 'a/'], [], [']', '\\']),
    ('start ::= "a"\nroot ::= start start', ['aa'], ['a'], ['aaa', 'b']),
    ('root ::= ("a"{2} "b"{0,1}){1,2}', ['aa', 'aab', 'aabaa', 'aabaab', 'aaaa'], ['a', 'aaa'], ['aabaabaa']),
    ('root ::= ("a"{2,} "b"){2}', ['aabaaab'], ['aab'], ['ab', 'aabaabx']),
    ('root ::= "ab"{2,3} "c"?', ['abab', 'ababab', 'ababc'], [], ['abababab', 'abc']),
    ('root ::= "a"{0} "b"{0,0} "c"', ['c'], [''], ['a', 'b']),
    ('root ::= "a"{2}{3} "b"', ['aaaaaab'], [], ['aaaab', 'aaaaaaa']),
    ('root ::= | "a" root', ['', 'a', 'aaa'], [], ['ab']),
    ('root ::= "" | "a"', ['', 'a'], [], ['aa']),
    ('root ::= e e "x"\ne ::= ', ['x'], [''], ['xx']),
    ('root ::= ("a" | ) ( | "b") ( )', ['', 'a', 'b', 'ab'], [], ['ba']),
    ('root ::= "a" |\n  "b" | # c\n  "c"', ['a', 'b', 'c'], [], ['d']),
    ('root ::=\n\n # c\n "a"\n\n# d\n', ['a'], [], ['b']),
    ('root ::= ("a"\n*\n"b"{ 1 ,\n2 }\n)', ['ab', 'abb', 'b'], [], ['abbb']),
    ('root ::= "a" { 1 , 2 } "b" *', ['a', 'aab'], [], ['aaa']),
    ('root ::= a\r\na ::= "x"\r\n', ['x'], [], ['y']),
    ('root ::= "a"\nroot ::= "b"', ['b'], [], ['a']),
    ('root ::= Ab ab AB a-b\nAb ::= "1"\nab ::= "2"\nAB ::= "3"\na-b ::= "4"', ['1234'], [], ['1111']),
    ('root ::= r1 r0\nr0 ::= ("a" "b")\nr1 ::= ("c")*', ['ab', 'ccab'], ['c'], []),
    (
        'root ::= "if" " "+ [a-z]+ | [a-z]+ "=" | "iffy"',
        ['if x', 'if=', 'iffy=', 'iffy', 'i='],
        ['ifx', 'if  '],
        [],
    ),
    ('root ::= "a"* "a" "a"* "b"', ['ab', 'aaab'], ['aa'], ['b']),
    ('root ::= (("a"?)*)* "b"', ['b', 'aab'], ['aa'], []),
    ('root ::= s\ns ::= "(" s ")" s | ', ['()', '(()())'], ['(()'], [')', '())']),
    (
        'root ::= x "1" | y "2"\nx ::= [a-m]+\ny ::= [g-z]+',
        ['a1', 'g1', 'g2', 'gm1', 'gm2', 'mz2'],
        [],
        ['ag2', 'gz1'],
    ),
    ('root ::= "é" [à-ü]* "ü"', ['éü', 'éàéü'], [], ['éü!', 'e', 'éáz']),
    ('root ::= [ぁ-ゟ]+ | [一-龠]{2}', ['ひら', '漢字'], ['漢'], ['漢字字', 'カ']),
    ('root ::= [😀-😂]+', ['😀', '😂😁'], [], ['😃']),
    ('root ::= [^\\x00-\\x7f]+', ['é', '🦀é'], [], ['a']),
    ('root ::= [\\ud800-\\ue000]', ['\ue000'], [], ['a']),
    ('root ::= "" "a" ""', ['a'], [''], []),
    ('123 ::= "a"\nroot ::= 123 123', ['aa'], ['a'], []),
    ('root ::= "a" # "b"\n', ['a'], [], ['ab']),
    ('root ::= "#" [#] "a"', ['##a'], ['#'], []),
    ('root ::= "// no" | "/*"', ['// no', '/*'], [], []),
    (
        'root ::= "{" ("\\"" [a-z]+ "\\"" ":" [0-9]+ ("," "\\"" [a-z]+ "\\"" ":" [0-9]+)*)? "}"',
        ['{}', '{"a":1}', '{"a":1,"b":22}'],
        [],
        ['{"a":1,}', '{,}'],
    ),
    (
        'root ::= date\ndate ::= [0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ([0-2] [0-9] | "3" [01])',
        ['2026-11-30'],
        ['2026-1'],
        ['2026-13-01', '20261'],
    ),
]

CONSTRAINTS = Constraints(Bytes())


def verdict(grammar: str, text: str) -> str:
    """Whether a text is derived ("whole"), begins one ("begin"), or neither ("never")."""
    constraint = CONSTRAINTS.start(Grammar.from_text(grammar), [])
    for byte in text.encode():
        if byte not in constraint.allowed():
            return "never"
        constraint.accept(byte)
    return "whole" if EOS in constraint.allowed() else "begin"


@pytest.mark.parametrize(("grammar", "whole", "begin", "never"), TABLE)
def test_a_grammar_derives_what_it_derives_in_llama_cpp(grammar, whole, begin, never):
    expected = {"whole": whole, "begin": begin, "never": never}
    for kind, texts in expected.items():
        assert [verdict(grammar, text) for text in texts] == [kind] * len(texts)


def test_what_llama_cpp_does_not_take():
    assert verdict('root ::= e\ne ::= e "+" [0-9] | [0-9]', "1+2+3") == "whole"  # left recursion
    assert verdict('root ::= a_b\na_b ::= "x"{,2} [\\^]', "xx^") == "whole"
    assert verdict("root ::= [^\\u2028]", "\u2013") == "whole"  # it refuses the first byte, which both share


@pytest.mark.parametrize(
    ("grammar", "what"),
    [
        ("root ::= a\n\na ::= missing", "line 3: the rule 'missing' is used here and defined nowhere"),
        ('foo ::= "a"', "it has no rule named root"),
        ('root ::= "a', 'line 1: the " that ends the literal is missing'),
        ("root ::= [a", "line 1: the ] that ends the class is missing"),
        ('root ::= (\n"a"', r"line 2: expected the \) that ends the group of line 1, found the end"),
        ('root ::= "a")', r"line 1: expected a literal, .*, found '\)'"),
        ('x ::= "a"\nroot = "a"', "line 2: expected ::= after the name of a rule, found '= \"a\"'"),
        ('root ::= "a"\n | "b"', r"line 2: expected the name of a rule, found '| \"b\"'"),
        ('root ::= * "a"', "line 1: expected something to repeat before it"),
        ('root ::= "\\q"', r"line 1: the escape '\\\\q' is unknown or cut short"),
        ('root ::= "\\u00"', "is unknown or cut short"),
        ('root ::= "\\UFFFFFFFF"', "there is no character FFFFFFFF"),
        ('root ::= "\\ud800"', "no character matches"),
        ("root ::= [^\\U00000000-\\U0010ffff]", "no character matches"),
        ("root ::= []", "a class without characters"),
        ("root ::= [b-a]", "a range of characters ends before it begins"),
        ('root ::= "a"{x}', "expected a number, found 'x}'"),
        ('root ::= "a"{2,1}', "at least 2 and at most 1 times is never"),
        (f'root ::= "a"{{{"9" * 5000}}}', "more than 100,000 times"),
        ("root ::= <think>", "tokens such as <think>"),
        ("root ::= " + "(" * 101, "parentheses are nested more than 100 deep"),
        ('root ::= "' + "a" * 20_001 + '"', "more than 20,000 characters and classes"),
        ("root ::= " + " " * (1 << 20), "longer than 1,048,576 characters"),
        ('root ::= "a" ' + "🦀" * 5000, r"found '\\U0001f980"),
        ("n" * 5000 + " ::= " + "m" * 5000, "line 1: the rule 'mmm"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(grammar, what):
    with pytest.raises(GbnfError, match=what) as raised:
        to_lark(grammar)
    assert len(str(raised.value)) <= 200
    assert "\n" not in str(raised.value)
    with pytest.raises(GrammarError, match=r"^the grammar cannot be used: "):
        Grammar.from_text(grammar)


def test_nothing_but_a_rule_makes_a_text_gbnf():
    assert verdict('start[lazy]: /[a-z]+/ // root ::= "a"\n', "a") == "whole"
    assert verdict('start: a [ "]" ] "::=" // "\na: "b"\n', "b]::=") == "whole"
    assert verdict('# "\nroot ::= ["] start "::="\nstart ::= "a"', '"a::=') == "whole"


def test_rules_are_bounded_where_llguidance_would_overflow_the_stack():
    """In processes of their own, which that would kill."""
    script = """if True:
        from localmoe.text.grammar import Grammar, GrammarError
        def gbnf(n):
            return "root ::= r0\\n" + "".join(f"r{i} ::= r{i + 1}\\n" for i in range(n)) + f'r{n} ::= "a"'
        def groups(n):
            return "root::=r0\\n" + "".join(f"r{i} ::= (r{i + 1} ()*)\\n" for i in range(n)) + f'r{n}::=""'
        def lark(n):
            return "start: r0\\n" + "".join(f"r{i}: (r{i + 1})\\n" for i in range(n)) + f'r{n}: "a"'
        for chain, most in ((gbnf, 998), (groups, 332), (lark, 998)):
            Grammar.from_text(chain(most))
            for more in (most + 1, 5 * most):
                try:
                    Grammar.from_text(chain(more))
                except GrammarError as error:
                    print(error)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-300:]
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert all("more than 1,000 rules" in line for line in lines)
