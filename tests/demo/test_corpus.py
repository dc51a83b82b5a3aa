import pytest

from cortexd.demo.corpus import END, clean, decode, encode, expand, load, plain, prompt

CORPUS = load()
GROUPS = CORPUS.groups
TURNS = [text for group in GROUPS for text in (*group.held_out, group.answer)] + [q for q, _ in CORPUS.trained]


def test_a_pattern_stands_for_each_of_its_alternatives():
    assert expand("(Hi|Hey)( there|)!") == ["Hi there!", "Hi!", "Hey there!", "Hey!"]


def test_a_pattern_without_choices_is_itself():
    assert expand("What is cortexd?") == ["What is cortexd?"]


def test_wordings_that_come_out_equal_are_kept_once():
    assert expand("(a|a |)b") == ["ab", "a b", "b"]


def test_there_are_hundreds_of_questions_and_more_than_a_hundred_answers():
    assert len({plain(question) for question, _ in CORPUS.trained}) >= 400
    assert len({group.answer for group in GROUPS}) == len(GROUPS) >= 100


def test_every_answer_has_trained_and_held_out_questions():
    assert not [group.answer for group in GROUPS if not (group.patterns and group.held_out)]


def test_answers_are_short_plain_text_without_markdown():
    assert not [a for _, a in CORPUS.held_out if len(a) > 200 or not a.isascii() or "**" in a or set(a) & set("`#|")]


def test_no_held_out_question_is_trained_on():
    trained = {plain(question) for question, _ in CORPUS.trained}
    assert not [question for question, _ in CORPUS.held_out if plain(question) in trained]


def test_no_held_out_question_is_listed_twice():
    held_out = [plain(question) for question, _ in CORPUS.held_out]
    assert len(set(held_out)) == len(held_out)


def test_no_question_has_two_answers():
    answers: dict[str, set[str]] = {}
    for question, answer in CORPUS.trained:
        answers.setdefault(plain(question), set()).add(answer)
    assert not {question for question, known in answers.items() if len(known) > 1 and question}


def test_no_turn_holds_a_line_break_or_outer_space():
    assert not [text for text in (*TURNS, *CORPUS.systems) if text != clean(text) or "\n" in text]


def test_no_pattern_leaves_its_brackets_behind():
    assert not [question for question, _ in CORPUS.trained if set(question) & set("()|")]


def test_every_turn_survives_its_tokens():
    assert all(decode(encode(text)) == text for text in TURNS)


def test_reading_tokens_stops_at_the_end():
    assert decode([*encode("ü"), END, *encode("never")]) == "ü"


def test_tokens_leave_zero_for_the_end():
    assert encode("\x00é") == [1, 0xC3 + 1, 0xA9 + 1]


def test_a_blank_line_inside_a_turn_is_closed():
    assert clean(" a\r\n\r\n\nb\n") == "a\nb"


def test_a_prompt_has_the_official_format():
    assert prompt(["Hi"]) == "User: Hi\n\nAssistant:"
    assert prompt(["a", "b"], ["x"], "s") == "System: s\n\nUser: a\n\nAssistant: x\n\nUser: b\n\nAssistant:"


def test_a_prompt_needs_one_more_question_than_answers():
    with pytest.raises(ValueError):
        prompt(["a"], ["x"])


def test_a_question_is_compared_without_case_punctuation_and_spacing():
    assert plain("  What's  THAT?! ") == plain("what s that")
