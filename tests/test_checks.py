"""The checks: right answers pass, wrong ones are told what is wrong, and the references are right."""

import ast
import copy
import importlib
import itertools
import math
import os
import pkgutil
import random
import re
import time
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from tightbound import Estimate, Problem, checks, exact, laplace, problems
from tightbound.checks import Check, CheckFailed, Option, Question, Quiz, Wrong
from tightbound.checks import laplace as laplace_checks
from tightbound.checks.answers import Answer, collect, decode, encode
from tightbound.checks.check import _describe

EXERCISES = Path(__file__).resolve().parent.parent / "chapters" / "exercises"
MODULES = {info.name: module for info in pkgutil.iter_modules(checks.__path__)
           if hasattr(module := importlib.import_module(f"tightbound.checks.{info.name}"), "ALL")}
CHECKS = {f"{topic}.{name}": value for topic, module in MODULES.items()
          for name, value in vars(module).items() if isinstance(value, Check)}
WRONGS = {f"{name}: {wrong.name}": (check, wrong) for name, check in CHECKS.items() for wrong in check.wrongs}
QUIZZES = {topic: module.quiz for topic, module in MODULES.items()}

each_check = pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)


DEAR = 10  # instances a call: a check that draws fewer has long to compute on each


def seeds(check):
    """So many calls that the check draws 100 instances; where they are dear two calls, but all with TIGHTBOUND_THOROUGH."""
    thorough = check.num_instances >= DEAR or os.environ.get("TIGHTBOUND_THOROUGH")
    return range(math.ceil(100 / check.num_instances) if thorough else 2)


def outputs(value):
    return list(value) if isinstance(value, tuple) else [value]


class Lesson:
    """The instances that a check draws from one seed, with its reference and its wrong answers on each, computed once.

    `check` is the same check, which draws these instances and looks its answers up, so that many functions can be
    diagnosed for the price of one. `answers` gives a function that returns the given values, one a call.
    """

    def __init__(self, check, seed):
        stream = random.Random(seed)
        self.instances = [check.draw(stream) for _ in range(check.num_instances)]
        self.check, turn = copy.copy(check), itertools.cycle(self.instances)
        self.check.draw = lambda _: next(turn)
        self.check.reference = self.remembered(check.reference)
        self.check.wrongs = tuple(replace(wrong, answer=self.remembered(wrong.answer)) for wrong in check.wrongs)
        self.right = [self.check.reference(**arguments) for arguments in self.instances]

    def remembered(self, function):
        found = {}

        def answer(**arguments):
            i = next(i for i, known in enumerate(self.instances) if all(known[k] is v for k, v in arguments.items()))
            if i not in found:
                found[i] = function(**arguments)
            return found[i]

        return answer

    @staticmethod
    def answers(values):
        values = iter(values)
        return lambda **arguments: next(values)


lesson = cache(Lesson)


def diagnosis(check, function, seed=0):
    found = check.diagnose(function, seed=seed)
    return found and found[0]


def test_every_check_is_found():
    assert [name for name in CHECKS if name.startswith("laplace.")] == [
        f"laplace.{name}" for name in ("evidence", "coin", "away", "predictive", "bic", "modes")]
    assert [*CHECKS.values()] == [check for module in MODULES.values() for check in module.ALL]


# Right and wrong answers ----------------------------------------------------------------------------------

@each_check
def test_the_reference_passes(check):
    for seed in seeds(check):
        assert lesson(check, seed).check.diagnose(check.reference) is None


@pytest.mark.parametrize(("check", "wrong"), WRONGS.values(), ids=WRONGS)
def test_a_catalogued_wrong_answer_gets_its_own_diagnosis(check, wrong):
    index = check.wrongs.index(wrong)

    def answer(right, mistaken):
        values = outputs(right)
        values[wrong.output] = mistaken
        return tuple(values) if len(values) > 1 else values[0]

    for seed in seeds(check):
        known = lesson(check, seed)
        mistaken = [known.check.wrongs[index].answer(**arguments) for arguments in known.instances]
        name, message = known.check.diagnose(known.answers(map(answer, known.right, mistaken)))
        assert name == wrong.name and wrong.message in message
        fine = [output for k, output in enumerate(check.outputs) if k != wrong.output]
        assert all(output in message for output in fine)  # "mean is right, but ..."


@each_check
def test_answers_written_as_plain_data_get_the_same_diagnosis(check):
    """Where marks are given, a student's function is in another process than its check."""
    known = lesson(check, 0)

    def through_data(values):
        return known.check.judge(known.instances, decode(encode(collect(known.answers(values), known.instances, 60, known.check.probe))))

    mistaken = [[] for _ in check.wrongs]
    for wrong, values in zip(known.check.wrongs, mistaken):
        for right, arguments in zip(known.right, known.instances):
            answer = outputs(right)
            answer[wrong.output] = wrong.answer(**arguments)
            values.append(tuple(answer) if len(answer) > 1 else answer[0])
    for values in (known.right, *mistaken, [None] * 100, ["text"] * 100, [(math.nan, math.inf)] * 100):
        assert through_data(values) == known.check.diagnose(known.answers(values))


@pytest.mark.parametrize("data", [
    b"", b"{}", b"[[]]", b"[" * 10**5, b"nonsense", b"\xff", b'[["right", "", "", null]]', b'[["", 1, "", null]]', b'[["", "", "", 1]]',
    b'[["", "", "", [[[2], "AAAA"]]]]', b'[["", "", "", [[[-1, -1], "AAAAAAAAAAA="]]]]', b'[["", "", "", [[[1e0], "AAAAAAAAAAA="]]]]',
    b'[["", "", "", [[[true], "AAAAAAAAAAA="]]]]', b'[["", "", "", [[[], "?"]]]]', b'[[[], "", "", null]]'])
def test_what_is_no_answer_is_refused(data):
    with pytest.raises(ValueError):
        answers = decode(data)
        laplace_checks.bic.judge(laplace_checks.bic.instances(0), answers)


def test_answers_survive_as_plain_data():
    odd = torch.tensor([math.nan, math.inf, -math.inf, 0.1, -0.0, 5e-324], dtype=torch.float64)
    (answer,) = decode(encode([Answer("", "Tensor", (odd, torch.zeros(0, 3, dtype=torch.float64)), "x")]))
    assert answer.outputs[0].numpy().tobytes() == odd.numpy().tobytes() and answer.outputs[1].shape == (0, 3)
    assert (answer.fault, answer.kind, answer.changed) == ("", "Tensor", "x")


def test_too_few_answers_are_none():
    instances = laplace_checks.bic.instances(0)
    with pytest.raises(ValueError, match="19 answers to 20 instances"):
        laplace_checks.bic.judge(instances, list(collect(laplace_checks.bic.reference, instances, 60))[:19])


@each_check
def test_the_catalogue_is_tidy(check):
    names, messages = [wrong.name for wrong in check.wrongs], [wrong.message for wrong in check.wrongs]
    assert names and len({*names}) == len({*messages}) == len(names)
    assert all(text.strip() for text in (*names, *messages, *check.hints.texts))
    assert all(0 <= wrong.output < len(check.outputs) for wrong in check.wrongs)
    assert len(check.hints) == len({*check.hints.texts}) == 3


@each_check
def test_an_answer_outside_the_catalogue_is_shown_beside_the_right_one(check):
    def answer(right):
        first, *others = outputs(right)
        return (first + 0.1234, *others) if others else first + 0.1234

    known = lesson(check, 0)
    name, message = known.check.diagnose(known.answers(map(answer, known.right)))
    assert name == "other"
    expected, got = re.search(r"Expected (.*), got (.*)\non this instance: ", message).groups()
    expected, got = np.array(ast.literal_eval(expected)), np.array(ast.literal_eval(got))
    assert got - expected == pytest.approx(np.full(got.shape, 0.1234), abs=1e-7)
    assert all(argument in message for argument in check.draw(random.Random(0)))


@each_check
def test_every_call_draws_fresh_instances(check):
    drawn, idle = [], copy.copy(check)
    idle.reference = lambda **arguments: 0.0  # what is right does not matter here

    def stop(**arguments):
        drawn.append(repr(arguments) + repr([vars(a) for a in arguments.values() if isinstance(a, Problem)]))
        raise ValueError

    def first(seed):
        idle.diagnose(stop, seed=seed)
        return drawn.pop()

    if not any(isinstance(a, Problem) for a in check.draw(random.Random(0)).values()):
        assert first(1) == first(1) != first(2)
    assert first(None) != first(None)


# What is wrong with any answer ----------------------------------------------------------------------------

def nothing(**arguments):
    pass


def stub(**arguments):
    raise NotImplementedError()


def crash(**arguments):
    raise KeyError("ouch")


def leave(**arguments):
    raise SystemExit("bye")


GENERAL = {
    "returned nothing": nothing, "not written": stub, "raised": crash, "not a function": 3.0,
    "not a number": lambda **arguments: "a lot", "number of outputs": lambda **arguments: [torch.zeros(1, 1, 1, 1)] * 4,
    "shape": None, "NaN": None,  # these depend on the check
}


def faulty(known, fault):
    if fault == "shape":
        return lambda **arguments: tuple(torch.zeros(7, 7) for _ in known.check.outputs)
    if fault == "NaN":
        return known.answers(tuple(value * math.nan for value in outputs(right)) for right in known.right)
    return GENERAL[fault]


def test_renamed_arguments_are_told_by_name():
    name, message = small().diagnose(lambda y: y.sum(), seed=0)
    assert name == "arguments" and "keep the names of the arguments" in message and "x" in message


@each_check
def test_general_faults_have_messages_of_their_own(check):
    known = lesson(check, 0)
    found = {fault: known.check.diagnose(faulty(known, fault)) for fault in GENERAL}
    assert {fault: name for fault, (name, _) in found.items()} == {fault: fault for fault in GENERAL}
    messages = {message for _, message in found.values()}
    assert len(messages) == len(GENERAL) and not messages & {wrong.message for wrong in check.wrongs}


def small(reference=lambda x: x.sum(), **options):
    """A check that costs nothing: the sum of a vector."""
    return Check("sum", draw=lambda stream: {"x": torch.tensor([stream.random(), 2.0], dtype=torch.float64)},
                 reference=reference, outputs=["total"], hints=["a", "b", "c"], wrongs=[], **options)


def test_messages_name_what_is_wrong():
    say = {fault: small().diagnose(function)[1] for fault, function in GENERAL.items() if function}
    assert "return" in say["returned nothing"] and "NotImplementedError" in say["not written"]
    assert "KeyError" in say["raised"] and "ouch" in say["raised"] and "x = [" in say["raised"]
    assert "str" in say["not a number"] and "got 4" in say["number of outputs"]
    assert "float" in say["not a function"]
    assert "(2,)" in small().diagnose(lambda x: x)[1]


def test_where_math_raises_the_message_is_that_of_a_nan():
    check = small(when_nan="mind the sign")
    for broken in (lambda x: math.log(-1), lambda x: math.exp(1000), lambda x: 1 / 0):
        assert "mind the sign\non this instance" in check.diagnose(broken)[1]
    assert "mind the sign" not in check.diagnose(crash)[1]


def test_a_loop_that_never_ends_is_stopped():
    def forever(x):
        while True:
            pass

    def stubborn(x):
        while True:
            try:
                time.sleep(1)
            except Exception:
                pass

    def slow(x):  # no single call takes long
        time.sleep(0.2)
        return x.sum()

    for function in (forever, stubborn, slow):
        name, message = small(seconds=0.5).diagnose(function)
        assert name == "too slow" and "0.5 seconds" in message
    assert small(seconds=30).diagnose(lambda x: x.sum()) is None


def test_a_function_that_changes_its_arguments_is_told_so():
    def careless(x):
        x += 1
        return x.sum() - 2

    name, message = small().diagnose(careless)
    assert name == "changed its arguments" and "argument x" in message


def test_leaving_the_program_counts_as_an_error():
    assert diagnosis(small(), leave) == "raised"


def test_many_kinds_of_numbers_are_accepted():
    for kind in (float, lambda v: v, lambda v: v.reshape(1), lambda v: v.requires_grad_(), np.float64,
                 lambda v: v.numpy(), lambda v: (v,), lambda v: [v], lambda v: Estimate(float(v))):
        assert small().diagnose(lambda x: kind(x.sum())) is None
    assert small(tolerance=1e-5).diagnose(lambda x: x.float().sum()) is None


def both(check, function, seed=0):
    """The diagnosis, which is the same for answers that were written as plain data."""
    drawn = check.instances(seed)
    through_data = check.judge(drawn, decode(encode(collect(function, drawn, 60))))
    assert through_data == check.diagnose(function, seed=seed)
    return through_data


def test_a_list_stands_for_the_tensor_that_it_would_make():
    vector, table = small(reference=lambda x: x), small(reference=lambda x: torch.outer(x, x))
    vector.wrongs = (Wrong("twice", lambda x: 2 * x, "twice too large"),)
    assert both(vector, lambda x: x.tolist()) is both(vector, lambda x: (x[0], x[1])) is None
    assert both(vector, lambda x: [*(2 * x)])[0] == "twice"
    assert both(table, lambda x: torch.outer(x, x).tolist()) is both(table, lambda x: [*torch.outer(x, x)]) is None
    name, message = both(vector, lambda x: [1.0] * 3)
    assert name == "shape" and "(2,)" in message and "(3,)" in message
    assert "got ()" in both(vector, lambda x: x.sum())[1]
    assert both(small(), lambda x: [x.sum()] * 2)[0] == "number of outputs"
    assert both(vector, lambda x: [x, x])[0] == both(vector, lambda x: [])[0] == "number of outputs"


def test_two_answers_in_one_tensor_are_told_to_be_two():
    check = small(reference=lambda x: (x[0], x[1]))
    check.outputs = ("first", "second")
    name, message = both(check, lambda x: x)
    assert name == "number of outputs" and "first, second stacked" in message and "`return a, b`" in message
    assert "expected 2 output(s) (first, second), got 1" in both(check, lambda x: x[0])[1]
    assert both(check, lambda x: x.tolist()) is None


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary()
    | st.sampled_from([10**400, object(), torch.zeros(0), torch.tensor(1j), np.array(["a"])]),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=4)


@given(value=junk)
@settings(deadline=None)
def test_any_junk_gets_a_diagnosis_and_no_traceback(value):
    for check in (small(reference=lambda x: 1e300), laplace_checks.away):
        name, message = check.diagnose(lambda **arguments: value)
        assert name and message


def test_an_answer_in_single_precision_is_told_so():
    def single(a):
        a = torch.tensor(a)
        return tuple(map(float, CHECKS["perturbation.stirling"].reference(a)))

    name, message = CHECKS["perturbation.stirling"].diagnose(single, seed=0)
    assert name == "few digits" and "float64" in message and "are right, but" not in message
    check = small(tolerance=1e-8)
    assert diagnosis(check, lambda x: x.float().sum()) == "few digits"
    assert diagnosis(check, lambda x: x.sum() + 1e-4) == "other"
    check.wrongs = (Wrong("rounded", lambda x: x.float().sum(), "do not round"),)
    assert diagnosis(check, lambda x: x.float().sum()) == "rounded"  # the catalogue knows better


def test_what_is_right_is_named_beside_a_few_digits():
    stirling = CHECKS["perturbation.stirling"]
    message = stirling.diagnose(lambda a: (stirling.reference(a)[0], stirling.reference(a)[1] + 1e-6), seed=0)[1]
    assert message.startswith("Laplace is right, but corrected is not: only the first digits are right")


@each_check
def test_the_instance_that_is_shown_can_be_computed_with(check):
    """Tensors of up to fifty numbers, and numbers, come back from the message, shapes and all."""
    arguments = check.draw(random.Random(0))
    shown = dict(zip(arguments, re.split(", (?:" + "|".join(arguments) + ") = ", f", {_describe(arguments)}")[1:]))
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and (value.ndim != 1 or len(value) <= 50):
            found = torch.tensor(ast.literal_eval(shown[name]), dtype=value.dtype)
            torch.testing.assert_close(found, value.detach(), rtol=1e-7, atol=0)
        if isinstance(value, (int, float)):
            assert ast.literal_eval(shown[name]) == pytest.approx(value, rel=1e-7)


@given(error=st.floats(-1, 1), size=st.floats(1e-3, 1e6), sign=st.sampled_from([-1, 1]))
@settings(deadline=None)
def test_the_tolerance_is_relative_to_the_answer_or_one(error, size, sign):
    allowed = 1e-3 * max(size, 1)
    check = small(reference=lambda x: sign * size, tolerance=1e-3)
    off = check.diagnose(lambda x: sign * size + 0.99 * error * allowed)
    assert off is None
    further = math.copysign(1.01 + abs(error), error)
    assert diagnosis(check, lambda x: sign * size + further * allowed) == "other"


def test_calling_prints_or_raises(capsys):
    check = small()
    check(lambda x: x.sum())
    assert capsys.readouterr().out == "✓ sum: right, on 20 fresh instances\n"
    with pytest.raises(CheckFailed, match="sum: total is off") as failure:
        check(lambda x: x.sum() + 1)
    lines = failure.value._render_traceback_()  # what a notebook shows in place of the traceback
    assert len(lines) == 1 and lines[0].startswith("✗ sum: total is off") and "hints" in lines[0]


def test_a_check_knows_its_chapter():
    assert [check.topic for check in CHECKS.values()] == [name.partition(".")[0] for name in CHECKS]


def test_infinity_is_close_to_nothing_but_itself():
    check = small(reference=lambda x: -math.inf)
    assert check.diagnose(lambda x: -math.inf) is None
    assert diagnosis(check, lambda x: 0.0) == diagnosis(check, lambda x: math.inf) == "other"
    finite = small()
    finite.wrongs = (Wrong("infinite", lambda x: math.inf, "infinite"),)
    assert diagnosis(finite, lambda x: 0.0) == "other" and diagnosis(finite, lambda x: math.inf) == "infinite"


def test_a_wrong_answer_may_have_another_shape_and_holds_whatever_stands_where_it_is_nan():
    check = small()
    check.wrongs = (Wrong("not summed", lambda x: x, "sum them"),
                    Wrong("large only", lambda x: x.sum() if x[0] > 0.5 else math.nan, "small ones are off"))
    assert diagnosis(check, lambda x: x) == "not summed" and diagnosis(check, lambda x: x + 1) == "shape"
    for small_value in (math.nan, math.inf, 7.0):
        assert diagnosis(check, lambda x: x.sum() if x[0] > 0.5 else small_value) == "large only"
    assert diagnosis(check, lambda x: math.nan) == "NaN"
    assert diagnosis(check, lambda x: x.sum() if x[0] > 0.6 else 7.0) == "other"


def test_a_wrong_answer_that_cannot_be_computed_is_passed_over():
    check = small()
    check.wrongs = (Wrong("broken", lambda x: 1 / 0, "?"), Wrong("twice", lambda x: 2 * x.sum(), "doubled"))
    assert diagnosis(check, lambda x: 2 * x.sum()) == "twice"


# The assignments ------------------------------------------------------------------------------------------

def cells(topic):
    return nbformat.read(EXERCISES / topic / f"{topic}.ipynb", as_version=4).cells


@cache
def functions(topic, *, solved):
    """What the cells of the assignment define, with the solutions in them or with stubs."""
    space, region = {}, re.compile("### BEGIN SOLUTION.*?### END SOLUTION", re.S)
    for cell in cells(topic):
        if cell.id == "imports" or cell.metadata.get("nbgrader", {}).get("solution"):
            exec(cell.source if solved else region.sub("raise NotImplementedError()", cell.source), space)
    return space


@pytest.mark.parametrize("topic", MODULES)
def test_the_assignment_asks_for_every_check_once(topic):
    names = [name.split(".")[1] for name in CHECKS if name.startswith(f"{topic}.")]
    sources = [cell.source for cell in cells(topic) if cell.cell_type == "code"]
    for name in names:
        assert sources.count(f"check.{name}({name})") == 1 and sources.count(f"check.{name}.hints") == 1
        metadata = {cell.id: cell.metadata for cell in cells(topic)}
        solution, test = metadata[f"{name}-solution"], metadata[f"{name}-test"]
        assert solution.nbgrader.solution and "hide-cell" in solution.tags
        assert test.nbgrader.grade and test.nbgrader.locked and test.nbgrader.points > 0


@each_check
def test_the_worked_solution_passes_and_the_stub_does_not(check):
    topic, name = next(key for key, value in CHECKS.items() if value is check).split(".")
    assert lesson(check, 1).check.diagnose(functions(topic, solved=True)[name]) is None
    assert diagnosis(lesson(check, 1).check, functions(topic, solved=False)[name]) == "not written"


def test_the_numbers_in_the_worked_solution_of_modes():
    solution = next(cell.source for cell in cells("laplace") if cell.id == "modes-solution")
    modes = functions("laplace", solved=True)["modes"]
    gap = {far: -float(modes(problems.two_modes(separation=far))) for far in (2.0, 1.5, 1.25, 0.5)}
    assert abs(gap[2.0]) < 0.01 and abs(gap[0.5]) < 0.01
    assert f"{gap[1.5]:+.2f} at 1.5" in solution and f"{gap[1.25]:+.2f}. By 0.5" in solution


# Hints and quiz -------------------------------------------------------------------------------------------

class Page(HTMLParser):
    """The tags, the attributes and the text of a piece of HTML, in which every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.depths = []  # of each <details> among its like
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append(tag)
        self.depths += [self.open.count(tag)] if tag == "details" else []
        self.attributes += [name for name, _ in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def is_passive(page):
    """No script, nothing that is fetched: it works in a page without a kernel."""
    return not {"script", "iframe", "img", "link", "object"} & {*page.tags} and not any(
        name.startswith("on") or name in ("src", "href") for name in page.attributes)


@each_check
def test_hints_open_one_by_one(check):
    page = Page(check.hints._repr_html_())
    assert is_passive(page) and "open" not in page.attributes
    assert page.tags.count("details") == page.tags.count("summary") == 3
    for i, text in enumerate(check.hints.texts):
        assert check.hints[i] == text and text.count("`") % 2 == 0
        assert text.replace("`", "") in page.text and "`" not in page.text
        assert text not in repr(check.hints)
    assert page.depths == [1, 2, 3]  # the second opens inside the first, the third inside the second


@pytest.mark.parametrize("quiz", QUIZZES.values(), ids=QUIZZES)
def test_the_quiz_explains_every_option(quiz):
    page = Page(quiz._repr_html_())
    options = [option for question in quiz.questions for option in question.options]
    assert is_passive(page) and page.tags.count("details") == page.tags.count("summary") == len(options)
    assert page.text.count("✓ Right.") == len(quiz.questions) == 5
    assert page.text.count("✗ Not so.") == len(options) - len(quiz.questions)
    for question in quiz.questions:
        assert question.text in page.text and sum(option.right for option in question.options) == 1
        for texts in zip(*((option.text, option.why) for option in question.options)):
            assert len({*texts}) == len(texts) and all(text.strip() and text in page.text for text in texts)
    places = {[option.right for option in question.options].index(True) for question in quiz.questions}
    assert len(places) > 1


letters = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])


@given(texts=st.lists(st.text(letters, min_size=1).filter(str.strip), min_size=6, max_size=6, unique=True))
def test_texts_are_escaped(texts):
    texts = [f"<b>{text}&amp;\"'" for text in texts]
    question, hint, *others = texts
    quiz = Quiz("q", [Question(question, [Option(others[0], others[1], True), Option(others[2], others[3])])])
    page = Page(quiz._repr_html_())
    shown = page.text.replace("`", "")  # a pair of them is set as code, a single one stays
    assert "b" not in page.tags and all(text.replace("`", "") in shown for text in (question, *others))
    hints = Check(question, draw=dict, reference=None, outputs=[], wrongs=[], hints=[hint] * 3).hints
    page = Page(hints._repr_html_())
    assert "b" not in page.tags and hint.replace("`", "") in page.text.replace("`", "")


def test_code_in_texts_is_set_as_code():
    page = Page(Check("c", draw=dict, reference=None, outputs=[], wrongs=[], hints=["`a < b`, and ` alone", "b", "c"]).hints._repr_html_())
    assert page.tags.count("code") == 1 and "a < b, and ` alone" in page.text


@pytest.mark.parametrize("options", [
    [Option("a", "b", True)], [Option("a", "b"), Option("c", "d")],
    [Option("a", "b", True), Option("c", "d", True)], [Option("a", "b", True), Option("c", " ")]],
    ids=["one option", "none right", "two right", "no explanation"])
def test_a_question_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match="'Why'"):
        Question("Why", options)


# The references, found by other routes --------------------------------------------------------------------

def instances(check, count, **fixed):
    stream = random.Random(12345)
    return [{**check.draw(stream), **fixed} for _ in range(count)]


def quadratic_on_grid(energy, gradient, hessian, num_points=401):
    """The integral of exp(-u) for a quadratic u in the plane, and its mean, by the trapezium rule."""
    centre = -torch.linalg.solve(hessian, gradient)
    deviations = torch.linalg.inv(hessian).diagonal().sqrt()
    sides = [torch.linspace(float(c - 9 * s), float(c + 9 * s), num_points, dtype=torch.float64)
             for c, s in zip(centre, deviations)]
    z = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)
    u = energy + z @ gradient + 0.5 * ((z @ hessian) * z).sum(-1)
    weight = torch.exp(-u) * math.prod(float(side[1] - side[0]) for side in sides)
    return weight.sum(), (weight.unsqueeze(-1) * z).sum((0, 1)) / weight.sum()


def matrix(seed):
    root = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return root @ root.T + 0.5 * torch.eye(2, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_evidence_is_the_integral_of_a_bell(seed):
    energy, hessian = torch.tensor(1.0 + 3 * seed, dtype=torch.float64), matrix(seed)
    volume, _ = quadratic_on_grid(energy, torch.zeros(2, dtype=torch.float64), hessian)
    log_evidence = laplace_checks.evidence.reference(energy, hessian)
    assert float(log_evidence) == pytest.approx(float(volume.log()), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_away_is_the_integral_and_the_mean_of_a_shifted_bell(seed):
    stream = torch.Generator().manual_seed(100 + seed)
    mu, gradient = torch.randn(2, 2, dtype=torch.float64, generator=stream)
    energy, hessian = torch.tensor(1.0 + 3 * seed, dtype=torch.float64), matrix(seed)
    volume, offset = quadratic_on_grid(energy, gradient, hessian)
    mean, log_evidence = laplace_checks.away.reference(mu, energy, gradient, hessian)
    assert float(log_evidence) == pytest.approx(float(volume.log()), abs=1e-9)
    torch.testing.assert_close(mean, mu + offset, rtol=0, atol=1e-9)


def test_coin_is_what_the_method_finds_by_itself():
    for arguments in instances(laplace_checks.coin, 8):
        approx = laplace.approximate(problems.coin(**arguments), num_starts=1)
        mean, variance, log_evidence = laplace_checks.coin.reference(**arguments)
        assert mean == pytest.approx(float(approx.q.loc), abs=1e-7)
        assert variance == pytest.approx(float(approx.q.covariance_matrix), rel=1e-6)
        assert log_evidence == pytest.approx(float(approx.log_evidence), abs=1e-7)


def test_predictive_is_close_to_the_average_and_the_plug_in_is_not():
    errors, plug_in_errors = [], []
    for arguments in instances(laplace_checks.predictive, 200):
        x, mean, covariance = arguments.values()
        m, s = float(x @ mean), math.sqrt(float(x @ covariance @ x))
        average, _ = quad(lambda e: norm.pdf(e) / (1 + math.exp(-m - s * e)), -10, 10)
        errors.append(abs(float(laplace_checks.predictive.reference(**arguments)) - average))
        plug_in_errors.append(abs(1 / (1 + math.exp(-m)) - average))
    assert max(errors) < 0.02 < 0.1 < max(plug_in_errors)


def test_the_average_over_weights_is_one_over_their_activation():
    x, mean, covariance = instances(laplace_checks.predictive, 1)[0].values()
    noise = torch.randn(200_000, len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = torch.sigmoid((mean + noise @ torch.linalg.cholesky(covariance).T) @ x)
    allowed = 0.02 + 4 * float(p.std()) / math.sqrt(len(p))  # the formula's accuracy and four standard errors
    found = laplace_checks.predictive.reference(x, mean, covariance)
    assert float(found) == pytest.approx(float(p.mean()), abs=allowed)


@pytest.mark.parametrize("d", [1, 3])
def test_bic_differs_from_an_exact_evidence_by_a_constant(d):
    """Of n data y_i ~ N(w, I_d) with the prior w ~ N(0, I_d) only their mean m and their scatter matter."""
    m, left = 0.7, []
    for n in (10**3, 10**6):
        best = -0.5 * n * d * math.log(2 * math.pi) - 0.5 * n * d  # with scatter n in every dimension
        evidence = best - 0.5 * d * math.log(1 + n) - 0.5 * d * m**2 * n / (1 + n)
        left.append(evidence - laplace_checks.bic.reference(best, d, n))
    assert left == pytest.approx([-0.5 * d * m**2] * 2, abs=2e-3)


def test_modes_is_the_sum_of_the_areas():
    for arguments in instances(laplace_checks.modes, 2):
        problem = arguments["problem"]
        density = lambda z: float(problem.log_joint(torch.tensor([z], dtype=torch.float64)).exp())
        areas = [quad(density, -8, 0, points=[-2.5])[0], quad(density, 0, 8, points=[2.5])[0]]
        found = laplace_checks._each_mode(problem).exp().tolist()
        assert sorted(found) == pytest.approx(sorted(areas), abs=2e-4)
        assert float(laplace_checks.modes.reference(problem)) == pytest.approx(math.log(sum(areas)), abs=2e-4)
        assert float(exact.quadrature(problem)) == pytest.approx(math.log(sum(areas)), abs=1e-8)


def test_modes_of_three_bells_in_the_plane():
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.5], [0.0, 2.5]], dtype=torch.float64)
    log_weights = torch.tensor([0.2, 0.5, 1.5], dtype=torch.float64).log()
    bells = lambda z: (log_weights - 8 * (z.unsqueeze(-2) - centres).square().sum(-1)).logsumexp(-1)
    exactly = math.log(2.2 * 2 * math.pi / 16)
    assert float(laplace_checks.modes.reference(Problem(bells, 2))) == pytest.approx(exactly, abs=1e-4)
    assert diagnosis(laplace_checks.modes, lambda problem: laplace.approximate(problem).log_evidence) \
        == "highest mode only"
