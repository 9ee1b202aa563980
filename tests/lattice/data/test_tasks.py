"""Bundled tasks: their answers against simulations written otherwise, their two sides, and what one reaches without reading."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import presets.layers
from lattice.data.corpus import Corpus, load_corpus, pairs_to_score
from lattice.data.pair import DataError, Pair
from lattice.data.tasks import house, sides
from lattice.data.tasks.gossip import Gossip
from lattice.data.tasks.house import MOST_DOORS, ROOMS, START, House
from lattice.data.tasks.lift import Lift
from lattice.data.tasks.mirror import Mirror
from lattice.data.tasks.named import TASKS, arguments, held_out_task, named, values
from lattice.data.tasks.readers import without_reading
from lattice.data.tasks.robot import Robot
from lattice.data.tasks.sides import drawn, side_of
from lattice.data.tasks.task import LONGEST, Range

ROOT = Path(__file__).resolve().parents[3]
NAMES = sorted(TASKS)


def both(source: str) -> tuple[list[Pair], list[Pair]]:
    opened = named(source)
    return list(opened.pairs("train")), list(opened.pairs("test"))


def some(source: str, count: int = 400) -> list[Pair]:
    return list(named(f"{source},count={count}").pairs("train"))


def sources(pairs) -> set[str]:
    return {pair.source for pair in pairs}


# Answers to beginnings


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_so_far_is_that_of_the_words_so_far_if_these_ask_something(name):
    task, (pair,) = named(f"task:{name}").task, some(f"task:{name}", 1)
    words = pair.source.split()
    for count in range(1, len(words) + 1):
        beginning = " ".join(words[:count])
        if name == "gossip":
            assert task.answer_so_far(beginning) is None
        else:
            assert task.answer_so_far(beginning) == task.answer(beginning)
            assert task.answer_so_far(f"{beginning} nowhere") is None


def test_the_task_of_the_held_out_sentences_is_found_by_the_settings():
    def task_with(*assignments):
        return held_out_task(presets.layers.load("tiny", None, assignments).config.data)

    assert task_with() is None and task_with("data.train=/text.txt") is None
    assert task_with("data.train=task:lift,floors=3") == Lift(floors=3)
    assert task_with("data.train=task:lift", "data.valid=task:robot") == Robot()
    assert task_with("data.train=task:lift", "data.valid=/text.jsonl") is None


# Answers, by simulations that share nothing with the tasks


def on_a_grid(sentence: str, start: complex, allowed) -> complex:
    """Walks on complex numbers, north and up being +i; a step counts if `allowed` says so of both ends."""
    place = start
    for word in sentence.split():
        step = {"n": 1j, "u": 1j, "s": -1j, "d": -1j, "e": 1, "r": 1, "w": -1, "l": -1}[word[0]]
        place += step if allowed(place, place + step) else 0
    return place


@pytest.mark.parametrize("arguments", ["", ",doors=3", ",seed=5", ",words=1-6"])
def test_the_house_is_walked_through_its_doors_alone(arguments):
    task = named(f"task:house{arguments}").task
    places = {complex(x, -y): room for y, row in enumerate(ROOMS) for x, room in enumerate(row)}
    doors = {frozenset((room, beyond)) for (room, _), beyond in task.plan.items()}
    (start,) = (place for place, room in places.items() if room == START)

    def has_door(one: complex, other: complex) -> bool:
        return other in places and frozenset((places[one], places[other])) in doors

    for pair in some(f"task:house{arguments}"):
        assert pair.target == places[on_a_grid(pair.source, start, has_door)]


@pytest.mark.parametrize(("side", "middle"), [(5, "c 3"), (2, "a 1"), (9, "e 5")])
def test_the_robot_stays_in_its_yard(side, middle):
    yard = {complex(x, y) for x in range(side) for y in range(side)}
    start = complex((side - 1) // 2, (side - 1) // 2)
    for pair in some(f"task:robot,side={side}"):
        end = on_a_grid(pair.source, start, lambda _, there: there in yard)
        assert pair.target == f"{'abcdefghi'[int(end.real)]} {int(end.imag) + 1}"
    assert Robot(side=side).answer("") == middle


@pytest.mark.parametrize(("floors", "start"), [(7, 4), (2, 1), (10, 5)])
def test_the_lift_stops_at_both_ends(floors, start):
    for pair in some(f"task:lift,floors={floors}"):
        building, at = set(range(1, floors + 1)), start
        for there in ({"up": 1, "down": -1}[word] for word in pair.source.split()):
            at += there if at + there in building else 0
        assert pair.target == f"floor {at}"
    assert Lift().answer("up " * 9) == "floor 7" and Lift().answer("down " * 9) == "floor 1"


@pytest.mark.parametrize("people", [2, 5, 12])
def test_gossip_spreads_a_secret_from_those_who_know_it(people):
    for pair in some(f"task:gossip,people={people}"):
        words = pair.source.split()
        person, owner = words[-3], words[-1]
        knowing = {owner}
        for at in range(0, len(words) - 4, 3):
            if words[at] in knowing:
                knowing.add(words[at + 2])
        assert words[-4::2] == ["does", "know"] and set(words[1:-4:3]) == {"tells"}
        assert pair.target == ("yes" if person in knowing else "no")
        assert person != owner


def test_the_mirror_turns_the_words_around():
    pairs = some("task:mirror,vocabulary=4")
    assert all(pair.target.split() == pair.source.split()[::-1] for pair in pairs)
    assert len({word for pair in pairs for word in pair.source.split()}) == 4


# The house


@pytest.mark.parametrize("seed", range(5))
def test_the_doors_of_a_house_lead_everywhere_in_one_way_and_both_directions(seed):
    plan = House(seed=seed).plan
    assert len(plan) == 2 * 11
    assert all(any(back == room for (other, _), back in plan.items() if other == beyond) for (room, _), beyond in plan.items())
    reached = {START}
    for _ in range(12):
        reached |= {beyond for (room, _), beyond in plan.items() if room in reached}
    assert reached == {room for row in ROOMS for room in row}


def test_more_doors_are_added_to_the_same_tree_until_no_wall_is_left():
    plans = [House(doors=doors).plan for doors in range(MOST_DOORS + 1)]
    assert [len(plan) for plan in plans] == [2 * (11 + doors) for doors in range(MOST_DOORS + 1)]
    assert all(few.items() < more.items() for few, more in itertools.pairwise(plans))


def test_the_seed_alone_draws_the_doors():
    assert House(words=Range(1, 3)).plan == House().plan
    assert len({tuple(sorted(House(seed=seed).plan.items())) for seed in range(8)}) == 8


# Two sides


@pytest.mark.parametrize("name", NAMES)
def test_no_sentence_comes_twice_or_on_both_sides(name):
    train, test = both(f"task:{name}")
    assert (len(train), len(test)) == (25_000, 1_000)
    assert len(sources(train) | sources(test)) == 26_000


@pytest.mark.parametrize("name", NAMES)
def test_a_test_sentence_is_no_training_sentence_of_another_difficulty_either(name):
    longer = TASKS[name].longer
    short, _ = both(f"task:{name},{longer}=6-10,count=1000,held=1")
    _, test = both(f"task:{name},{longer}=6-12,count=1,held=100")
    assert not sources(short) & sources(test)
    task = named(f"task:{name}").task
    assert all(side_of(task, sentence) == "test" for sentence in sources(test))


@pytest.mark.parametrize("name", NAMES)
def test_fewer_sentences_are_the_beginning_of_more(name):
    train, test = both(f"task:{name},count=900,held=90")
    assert some(f"task:{name}", 2000)[:900] == train
    assert list(named(f"task:{name}").pairs("test"))[:90] == test


@pytest.mark.parametrize("name", NAMES)
def test_lengths_are_uniform(name):
    longer = TASKS[name].longer
    task = named(f"task:{name},{longer}=12-16").task
    words = Counter(len(pair.source.split()) for pair in drawn(task, "train", 4000))
    assert len(words) == 5
    assert all(680 < count < 920 for count in words.values())


def test_all_sentences_there_are_can_be_asked_for():
    train, test = both("task:lift,words=1-2,count=5,held=1")
    assert sources(train) | sources(test) == {"up", "down", "up up", "up down", "down up", "down down"}
    lift = Lift(words=Range(1, 9))
    exact = Counter(side_of(lift, sentence) for length in range(1, 10) for sentence in lift.every(length))
    train, test = both(f"task:lift,words=1-9,count={exact['train']},held={exact['test']}")
    assert len(sources(train) | sources(test)) == lift.all_distinct == 2**10 - 2


@pytest.mark.parametrize("task", [House(), Robot(side=3), Mirror(vocabulary=3), Gossip(people=2), Gossip(people=3)], ids=repr)
def test_every_sentence_is_counted_and_can_be_drawn(task):
    every = list(task.every(2))
    assert len(every) == len(set(every)) == task.distinct(2)
    rng = random.Random(0)
    assert {task.draw(2, rng) for _ in range(40 * len(every))} == set(every)


@pytest.mark.parametrize("name", NAMES)
def test_the_longest_sentence_has_as_many_words_as_is_told(name):
    opened = named(f"task:{name}")
    assert max(len(pair.source.split()) for pair in opened.pairs("train")) == opened.task.most_words


def test_gossip_says_yes_half_of_the_time_at_any_length():
    pairs = some("task:gossip", 6000)
    assert 0.48 < sum(pair.target == "yes" for pair in pairs) / len(pairs) < 0.52
    longest = [pair.target for pair in pairs if len(pair.source.split()) == 46]
    assert 0.42 < longest.count("yes") / len(longest) < 0.58


# The same everywhere


DIGESTS = {
    "gossip": "67aa1c21fc733da8",
    "house": "42c4352a1d6264d1",
    "lift": "dc543123c99a3fea",
    "mirror": "d5bbc57b6d21a5ba",
    "robot": "a9ccabc5a9644b10",
}


def digest(name: str) -> str:
    train, test = both(f"task:{name},count=200,held=50")
    text = "\n".join(f"{pair.source}\t{pair.target}" for pair in train + test)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_sentences_are_these_on_every_machine(name):
    assert digest(name) == DIGESTS[name]


def test_another_seed_gives_other_sentences():
    assert len(sources(some("task:robot", 200)) & sources(some("task:robot,seed=1", 200))) < 20


def test_only_the_stable_random_method_is_used(monkeypatch):
    class OnlyRandom:
        """A generator with no method but random(), whose stream Python keeps."""

        def __init__(self, seed: str) -> None:
            self.random = random.Random(seed).random

    monkeypatch.setattr(house, "Random", OnlyRandom)
    monkeypatch.setattr(sides, "Random", OnlyRandom)
    assert {name: digest(name) for name in NAMES} == DIGESTS


def test_tasks_load_without_torch():
    code = "import sys, lattice.data.tasks.named, lattice.data.tasks.readers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Names and arguments


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("task:hous", "no task 'hous'; there are house, lift, robot, gossip, mirror; did you mean 'house'?"),
        ("task:chess", "no task 'chess'; there are house, lift, robot, gossip, mirror"),
        ("task:", "'' is no name of a task; a task is task:NAME,argument=value,..."),
        ("task:house?words=3", "'house?words=3' is no name of a task"),
        ("task:lift,word=3", "lift has no argument 'word'; there are words, floors, seed, count, held; did you mean 'words'?"),
        ("task:lift,people=3", "lift has no argument 'people'; there are words, floors, seed, count, held"),
        ("task:lift,words", "'words' is no argument=value"),
        ("task:lift,words=3,words=4", "words is given twice"),
        ("task:lift,words=few", "words: 'few' is no range; write it as 4-28, or as 8 for 8 alone"),
        ("task:lift,words=9-4", f"words: 9-4 is no range within 1 to {LONGEST}, the smaller number first"),
        ("task:lift,words=0-4", f"words: 0-4 is no range within 1 to {LONGEST}"),
        ("task:mirror,words=4-300", f"words: 4-300 is no range within 1 to {LONGEST}"),
        ("task:gossip,sentences=0", f"sentences: 0-0 is no range within 1 to {LONGEST}"),
        ("task:lift,floors=1", "floors: 1 is not within 2 to 99"),
        ("task:house,doors=7", "doors: 7 is not within 0 to 6"),
        ("task:robot,side=10", "side: 10 is not within 2 to 9"),
        ("task:gossip,people=13", "people: 13 is not within 2 to 12"),
        ("task:mirror,vocabulary=1", "vocabulary: 1 is not within 2 to 26"),
        ("task:lift,seed=-1", "seed: '-1' is not a whole number"),
        ("task:lift,seed=1.5", "seed: '1.5' is not a whole number"),
        ("task:lift,count=0", "count: 0 is not within 1 to 10000000"),
        ("task:lift,held=0", "held: 0 is not within 1 to 10000000"),
    ],
)
def test_what_is_no_task_is_refused_with_what_would_do(source, says):
    with pytest.raises(DataError) as refused:
        named(source)
    assert says in str(refused.value) and source in str(refused.value)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Lift(words=Range(0, 3)), "words: 0-3"),
        (lambda: House(doors=-1), "doors: -1"),
        (lambda: Gossip(people=1), "people: 1"),
        (lambda: Robot(seed=-1), "seed: -1"),
    ],
)
def test_a_task_of_impossible_difficulty_can_not_be_made(make, field):
    with pytest.raises(ValueError, match=field):
        make()


def test_more_sentences_than_there_are_are_refused_with_their_number_and_what_would_do():
    with pytest.raises(DataError) as refused:
        list(named("task:lift,words=1-2").pairs("train"))
    assert str(refused.value) == (
        "task:lift: with words=1-2 there are 6 distinct sentences, 5 of them to train on, and 25000 were asked for; ask for "
        "count=5, or for longer ones (words=1-17)"
    )
    assert len(both("task:lift,words=1-17")[0]) == 25_000
    with pytest.raises(
        DataError, match=r"2 distinct sentences, 0 of them to test on, and 1 were asked for; ask for longer ones"
    ):
        list(named("task:lift,words=1,held=1").pairs("test"))


def test_arguments_are_told_as_they_were_given():
    opened = named("task:house,words=5,doors=2,seed=3,count=10,held=4")
    assert values(opened) == {"words": "5-5", "doors": 2, "seed": 3, "count": 10, "held": 4}
    assert list(arguments(Gossip)) == ["sentences", "people", "seed", "count", "held"]
    assert dataclasses.replace(opened.task, words=Range(4, 28), doors=0, seed=0) == House()


# Without reading


@pytest.mark.parametrize("name", NAMES)
def test_neither_one_answer_nor_the_last_words_give_the_answers(name):
    train, test = both(f"task:{name},count=8000")
    task = named(f"task:{name}").task
    reached = without_reading(train, test)
    assert all(task.answer(pair.source) == pair.target for pair in test)
    assert max(reached.constant, *reached.last_words.values()) < 0.6
    if name in ("house", "lift", "robot"):
        assert reached.constant < reached.last_words[1] < reached.last_words[3]


def test_readers_answer_as_most_sentences_with_these_last_words_did():
    train = [Pair("a x", "1"), Pair("b x", "1"), Pair("c x", "2"), Pair("c y", "2"), Pair("d y", "2"), Pair("z", "2")]
    test = [Pair("e x", "1"), Pair("c x", "2"), Pair("c y", "2"), Pair("x", "2")]
    reached = without_reading(train, test)
    assert reached.constant == 0.75
    assert reached.last_words == {1: 0.5, 2: 0.75, 3: 0.75}


# As a corpus


def config_of(*assignments: str):
    return presets.layers.load("tiny", None, assignments).config


def test_a_task_as_data_is_a_corpus_of_pairs():
    config = config_of("data.train=task:lift,count=300,held=64")
    corpus = load_corpus(config)
    assert config.data.task == "pairs"
    assert (len(corpus.train), len(corpus.valid), corpus.left_out) == (300, 64, {})
    assert corpus.name == "task:lift,count=300,held=64"
    assert (list(corpus.train), list(corpus.valid)) == both(corpus.name)
    assert corpus.fingerprint() == load_corpus(config).fingerprint()
    assert corpus.fingerprint() != load_corpus(config_of("data.train=task:lift,count=300,held=64,seed=1")).fingerprint()


def test_another_task_can_be_held_out():
    corpus = load_corpus(config_of("data.train=task:lift,words=6-9,count=300", "data.valid=task:lift,words=10-14,held=70"))
    assert {len(pair.source.split()) for pair in corpus.train} == {6, 7, 8, 9}
    assert list(corpus.valid) == list(named("task:lift,words=10-14,held=70").pairs("test"))


def test_pairs_of_a_file_can_be_scored_on_a_task_and_the_other_way_round(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("up\tfloor 5\n", encoding="utf-8")
    config = config_of("data.train=task:lift,count=300,held=64")
    assert pairs_to_score(path, config, {}) == (Pair("up", "floor 5"),)
    scored = pairs_to_score(Path("task:house,held=9"), config_of(), {})
    assert scored == tuple(named("task:house,held=9").pairs("test"))


def test_the_bundled_corpus_is_no_task():
    corpus = load_corpus(config_of("data.max_held_out=10"))
    assert isinstance(corpus, Corpus) and corpus.name == "bundled"
