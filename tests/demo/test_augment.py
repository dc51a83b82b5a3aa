from itertools import islice

from cortexd.demo.augment import UNASKED, USER_WEIGHT, Conversations, render
from cortexd.demo.corpus import END, decode, encode, load, plain

CORPUS = load()


def test_a_conversation_is_rendered_in_the_official_format():
    example = render([("a?", "X.", 0), ("b?", "Y.", 1)], "s")
    assert decode(example.tokens) == "System: s\n\nUser: a?\n\nAssistant: X.\n\nUser: b?\n\nAssistant: Y."


def test_every_token_is_to_be_foretold_but_an_answer_is_followed_by_an_end():
    example = render([("a", "X", 0), ("b", "Y", 1)])
    ends = [i for i, target in enumerate(example.targets) if target == END]
    assert [decode(example.tokens[: i + 1])[-2:] for i in ends] == [" X", " Y"]
    inner = [i for i in range(len(example.tokens) - 1) if i not in ends]
    assert all(example.targets[i] == example.tokens[i + 1] for i in inner)


def test_answers_and_their_ends_weigh_one_and_all_else_little():
    example = render([("a", "X", 0), ("b", "Y", 1)])
    learned = [target for target, weight in zip(example.targets, example.weights, strict=True) if weight == 1.0]
    assert learned == [*encode(" X"), END, *encode(" Y"), END]
    assert set(example.weights) == {1.0, USER_WEIGHT}


def test_meanings_stand_where_a_question_has_been_read_and_its_answer_has_not_begun():
    example = render([("a", "X", 5), ("b", "Y", 7)])
    cue = len("\n\nAssistant:")
    assert [number for number in example.meanings if number != UNASKED] == [5] * cue + [7] * cue
    last = max(i for i, number in enumerate(example.meanings) if number == 7)
    assert decode(example.tokens[: last + 1]).endswith("b\n\nAssistant:")


def test_a_cut_example_keeps_its_parts_together():
    example = render([("a", "X", 0)]).cut(5)
    assert {len(part) for part in (example.tokens, example.targets, example.weights, example.meanings)} == {5}


def test_the_same_seed_gives_the_same_conversations():
    first, second = ([c.example() for _ in range(50)] for c in (Conversations(CORPUS, 3), Conversations(CORPUS, 3)))
    assert first == second
    assert first != [Conversations(CORPUS, 4).example() for _ in range(50)]


def test_no_conversation_asks_a_held_out_question():
    conversations = Conversations(CORPUS, 0)
    held_out = {plain(question) for question, _ in CORPUS.held_out}
    asked = (plain(conversations.question(group)) for _ in range(20) for group in CORPUS.groups)
    assert not held_out.intersection(asked)


def test_questions_are_typed_in_many_ways_and_never_empty():
    conversations = Conversations(CORPUS, 0)
    group = next(g for g in CORPUS.groups if "What is a lease?" in g.patterns)
    wordings = {wording for questions in group.questions for wording in questions}
    typed = [conversations.question(group) for _ in range(300)]
    assert wordings.intersection(typed)
    assert len(set(typed)) > 2 * len(wordings)
    assert all(question.strip() for question in typed)


def test_conversations_have_one_to_three_turns():
    conversations = Conversations(CORPUS, 0)
    turns = {decode(conversations.example().tokens).count("Assistant:") for _ in range(200)}
    assert turns == {1, 2, 3}


def test_a_batch_keeps_to_its_tokens_with_padding_counted():
    batches = list(islice(Conversations(CORPUS, 0).batches(2048), 40))
    assert all(len(batch) * max(len(e.tokens) for e in batch) <= 2048 for batch in batches)
    assert sum(len(batch) for batch in batches) / len(batches) > 4
