"""The quizzes that close the notebooks: questions, the widget, and what a page without a kernel shows."""

import re

import pytest

from ip2p.teaching.notebook_files import NOTEBOOKS, number_of, read
from ip2p.teaching.quiz import QUIZZES, Quiz, load_quiz, marked_up

NUMBERS = ("00", "01", "01b", "02", "03", "04", "05", "06", "07", "08")


def notebook_of(number: str):
    """The notebook with this number."""
    return next(read(path) for path in NOTEBOOKS.glob("*.ipynb") if number_of(path) == number)


def headings(number: str) -> set[str]:
    """The headings of a notebook's sections."""
    found = set()
    for cell in notebook_of(number).cells:
        if cell.cell_type == "markdown":
            found.update(re.findall(r"^#{2,3} (.*)$", cell.source, re.MULTILINE))
    return found


def test_every_quiz_is_here_and_every_id_is_its_own():
    assert {path.stem for path in QUIZZES.glob("*.json")} == set(NUMBERS)
    ids = [question.id for number in NUMBERS for question in load_quiz(number)]
    assert len(ids) == len(set(ids)) == 10 * len(NUMBERS)


@pytest.mark.parametrize("number", NUMBERS)
def test_ten_questions_one_right_answer_each_and_wrong_ones_say_where_to_reread(number):
    sections = headings(number)
    questions = load_quiz(number)
    assert len(questions) == 10
    for question in questions:
        assert question.id.startswith(f"{number}-") and question.text.endswith((".", "?"))
        assert 3 <= len(question.options) <= 4
        assert sum(option.is_right for option in question.options) == 1, question.id
        told = [option.why for option in question.options]
        assert all(told) and len(set(told)) == len(told), f"{question.id}: an answer to each option"
        assert len({option.text for option in question.options}) == len(question.options)
        for option in question.options:
            assert option.is_right or option.reread in sections, f"{question.id}: {option.reread}?"


@pytest.mark.parametrize("number", NUMBERS)
def test_neither_place_nor_length_gives_the_answer_away(number):
    questions = load_quiz(number)
    places = [question.right for question in questions]
    longest = 0
    for question in questions:
        lengths = [len(option.text) for option in question.options]
        longest += lengths[question.right] == max(lengths)
    assert max(places.count(place) for place in range(4)) <= 4
    assert longest <= 5


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_closes_with_its_quiz(number):
    sources = [cell.source for cell in notebook_of(number).cells if cell.cell_type == "code"]
    assert sources[-1] == f'from ip2p.teaching.quiz import Quiz\n\nQuiz("{number}")'


def choose(ask, right: bool) -> None:
    """Choose the right option, or the first wrong one, and press the button."""
    places = [k for k, option in enumerate(ask.question.options) if option.is_right == right]
    ask.choice.value = places[0]
    ask.button.click()


def test_answers_are_checked_and_counted():
    quiz = Quiz("03")
    assert "0 of 10 right" in quiz.score.value
    first, second, *others = quiz.asked
    first.button.click()
    assert "Choose an answer first" in first.answer.value and first.tries == 0

    choose(first, right=False)
    wrong = first.question.options[first.choice.value]
    assert "✗" in first.answer.value and f"“{wrong.reread}”" in first.answer.value
    assert "0 of 10 right" in quiz.score.value
    choose(first, right=True)
    assert "✓" in first.answer.value and "1 of 10 right, 0 at the first try" in quiz.score.value
    choose(second, right=True)
    assert "2 of 10 right, 1 at the first try" in quiz.score.value
    for ask in others:
        choose(ask, right=True)
    assert "10 of 10 right, 9 at the first try" in quiz.score.value


def test_a_solved_question_can_be_answered_wrongly_again():
    quiz = Quiz("05")
    choose(quiz.asked[0], right=True)
    choose(quiz.asked[0], right=False)
    assert "0 of 10 right" in quiz.score.value


def test_a_page_without_a_kernel_shows_questions_and_folds_answers():
    quiz = Quiz("01b")
    data = quiz._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == quiz.model_id
    page = data["text/html"]
    assert page.count("<details><summary>Answer</summary>") == 10
    assert page.count("<li><p>") == 10
    assert marked_up("*a* < `b`") == "<em>a</em> &lt; <code>b</code>"
    for question in quiz.questions:
        assert question.options[question.right].why.split("`")[0].split("*")[0][:20] in page


def test_a_quiz_that_is_not_there_is_one_sentence():
    with pytest.raises(ValueError, match="no quiz for notebook '90'; there are 00, 01, 01b"):
        load_quiz("90")
