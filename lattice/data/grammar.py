"""A seeded grammar of everyday English: the bundled smoke-test corpus.

What it is: ``generate(count, seed)`` returns that many distinct, short,
ordinary sentences ("After washing the plates, Nora set the table for lunch.").  The
same arguments give the same sentences on every machine.

Why it exists: a text model needs text, and this lets ``make run`` train one
with nothing to download.  It is a smoke test, not a benchmark: the language
is small and regular, so a low loss on it shows that training works and says
little about how a model would do on real text.

How it works:

* A *template* is a sentence with slots, such as ``"{S} {acted} {ago}."``.
  Templates are in this file, in groups of a similar shape.
* A *word class* fills a slot: ``{fruit}`` is one of ``WORDS["fruit"]`` and
  ``{fruit+s}`` is its plural.  Entries may hold slots of their own.
* A *subject* (``{S}``) is drawn once for a sentence, and ``{he}``, ``{his}``,
  ``{is}``, ``{like/likes}`` and the verb forms agree with it.  ``{O}`` brings
  in a second person, who is the subject of whatever follows.
* A *domain* (kitchen, garden, office, ...) is drawn once for a sentence too.
  ``{act}`` ("water the roses"), ``{place}``, ``{past}`` and ``{present}`` (two
  kinds of clause), ``{regularly}`` and ``{habit_time}`` (how often) all come
  from it, so the parts of a sentence belong together.  The action slots differ
  in the verb form: ``{act}`` write, ``{acts}`` write or writes, ``{acted}``
  wrote, ``{acting}`` writing, ``{done}`` written (as in "has written").

The vocabulary is in ``grammar_words.py``.  To add words, add them there; to
add a sentence shape, add a template to the group it resembles below.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any, NamedTuple, TypeVar

from lattice.data.grammar_words import (
    CASTS,
    DOMAINS,
    DOUBLED_VERBS,
    FEMALE_RELATIVES,
    GROUPS,
    IRREGULAR_PLURALS,
    IRREGULAR_VERBS,
    JOB_HOLDERS,
    MALE_RELATIVES,
    MEN,
    WOMEN,
    WORDS,
    Cast,
    Domain,
    word_list,
)

CORPUS_SIZE = 60_000
"""The number of sentences a default training run uses."""

MIN_WORDS = 4
MAX_WORDS = 14

T = TypeVar("T")

# generate() gives up after this many draws in a row that bring nothing new.
MAX_FRUITLESS_DRAWS = 2_000


# --------------------------------------------------------------------------
# Subjects
# --------------------------------------------------------------------------


class Subject(NamedTuple):
    """Who a sentence is about, with everything that must agree with them."""

    text: str
    he: str
    him: str
    his: str
    be: str  # am, is or are
    singular: bool  # takes the -s form of a verb


def _she(text: str) -> Subject:
    return Subject(text, "she", "her", "her", "is", True)


def _he(text: str) -> Subject:
    return Subject(text, "he", "him", "his", "is", True)


def _they(text: str) -> Subject:
    return Subject(text, "they", "them", "their", "are", False)


SPEAKER = Subject("I", "I", "me", "my", "am", False)
WE = Subject("we", "we", "us", "our", "are", False)
YOU = Subject("you", "you", "you", "your", "are", False)
# "Who packed their bag?": a singular verb, but "their" for the owner.
WHO = Subject("who", "they", "them", "their", "is", True)

NAMED = tuple(_she(name) for name in WOMEN) + tuple(_he(name) for name in MEN)
RELATIVES = tuple(_she(text) for text in FEMALE_RELATIVES) + tuple(_he(text) for text in MALE_RELATIVES)
WORKERS = tuple(_she(text) for text in JOB_HOLDERS) + tuple(_he(text) for text in JOB_HOLDERS)
PLURALS = tuple(_they(text) for text in GROUPS)
COUPLES = tuple(_they(f"{woman} and {man}") for woman in WOMEN for man in MEN)
SHE_OR_HE = (_she("she"), _he("he"))

# A pool is drawn in two steps, first a row and then a subject from that row,
# so repeating a row makes its subjects more frequent.
ANYONE = (
    *(NAMED,) * 8,
    *(RELATIVES,) * 4,
    *(WORKERS,) * 2,
    *(SHE_OR_HE,) * 3,
    (SPEAKER,), (SPEAKER,), (WE,), (_they("they"),), PLURALS, COUPLES,
)  # fmt: skip
# Asked about in questions: no "did I ...?", but "did you ...?".
ASKED = (NAMED, NAMED, NAMED, RELATIVES, SHE_OR_HE, (YOU,), (YOU,), PLURALS, COUPLES)

POOLS: dict[str, tuple[tuple[Subject, ...], ...]] = {
    "anyone": ANYONE,
    "asked": ASKED,
    "you": ((YOU,),),
    "we": ((WE,),),
    "I": ((SPEAKER,),),
    "who": ((WHO,),),
}


# --------------------------------------------------------------------------
# Templates: groups of (weight, pool of subjects, templates)
# --------------------------------------------------------------------------

# How often the other two kinds of template are used, on the same scale as the
# weights in PEOPLE_TEMPLATES.
CAST_WEIGHT = 17
THEME_WEIGHT = 56

# About people doing things; each sentence stays within one domain.
PEOPLE_TEMPLATES: tuple[tuple[int, str, tuple[str, ...]], ...] = (
    (19, "anyone", (  # the past
        "{S} {acted} {ago}.",
        "{S} {acted} {place} {ago}.",
        "{ago}, {S} {acted}.",
        "{S} {manner} {acted}.",
        "{S} {acted} {past}.",
        "{S} {acted} {past}.",
        "{past}, {S} {acted}.",
        "{S} did not {act} {ago}.",
        "after {acting}, {S} {acted}.",
        "before {acting}, {S} {acted}.",
        "{S} {acted} and then {acted}.",
        "{S} {wanted} to {act} {past}.",
        "{S} {wanted} to {act} {ago}.",
        "{person} {asked} {O} to {act} {ago}.",
        "{person} watched {O} {act}.",
        "{person} let {O} {act} {ago}.",
        "{S} {have/has} already {done}.",
        "{S} {have/has} just {done} {place}.",
        "{S} {have/has} never {done}.",
        "{S} {have/has} finally {done}.",
        "{S} had {done} before {event_past}.",
        "{S} had already {done} when {event_past}.",
        "{S} had never {done} before.",
        "{says} {O} {have/has} already {done}.",
        "{S} {have/has} not {done} yet.",
        "nobody saw {O} {act} {ago}.",
    )),
    (20, "anyone", (  # habits
        "{S} {often} {acts} {habit_time}.",
        "{S} {acts} {regularly}.",
        "{S} {acts} {place} {regularly}.",
        "{S} {usually} {acts} {present}.",
        "{S} {usually} {acts} {present}.",
        "{present}, {S} {usually} {acts}.",
        "{S} {do/does} not {act} {habit_time}.",
        "{regularly}, {S} {acts} {place}.",
        "{regularly}, {S} {acts}.",
        "{S} {often} {acts} and {acts}.",
        "{S} {love_to} {act} {place}.",
        "{opinion} {S} {acts} {regularly}.",
    )),
    (12, "anyone", (  # things in progress, and other uses of -ing
        "{S} {is} {acting} {now}.",
        "{S} {is} {acting} {place}.",
        "{S} {is} still {acting}.",
        "{S} {was} {acting} when {event_past}.",
        "while {S} {was} {acting}, {event_past}.",
        "{weather_event} while {S} {was} {acting}.",
        "{S} {acted} while {O} {was} {acting}.",
        "{S} {is} {acting} and {O} {is} {acting}.",
        "{S} {is} not {acting} {now}.",
        "{S} {finished} {acting} {ago}.",
        "{S} {enjoy} {acting} {place}.",
        "{S} {enjoy} {acting} {habit_time}.",
        "{S} {acted} instead of {acting}.",
        "{S} {look/looks} {tired} after {acting}.",
        "{S} {was} {acting} {place} {ago}.",
    )),
    (8, "anyone", (  # plans
        "{S} will {act} {later}.",
        "{S} {is} going to {act} {later}.",
        "{S} {might} {act} {later}.",
        "{S} will {act} {present}.",
        "{S} {might} {act} {present}.",
        "{S} will not {act} {later}.",
        "{S} {want} to {act} {later}.",
        "{opinion} {S} will {act} {later}.",
        "{S} {is} too {tired} to {act} today.",
        "if {S} {have/has} time, {he} will {act}.",
        "{later}, {S} will {act} {place}.",
        "{S} {might} {act} instead of {acting}.",
    )),
    (6, "asked", (
        "did {S} {act} {ago}?",
        "{do/does} {S} {act} {regularly}?",
        "{is} {S} {acting} {now}?",
        "why did {S} {act} {ago}?",
        "when will {S} {act}?",
        "why {is} {S} {acting} {now}?",
        "how often {do/does} {S} {act}?",
        "will {S} {act} {later}?",
        "{have/has} {S} {done} yet?",
        "{have/has} {S} ever {done} {place}?",
        "can {S} {act} {later}?",
        "do you think {S} will {act} {later}?",
        "does {person} know why {S} {acted}?",
        "{do/does} {S} always {act} {present}?",
    )),
    (3, "who", (
        "who {acted} {ago}?",
        "who {acts} {regularly}?",
        "who is {acting} {place}?",
        "who wants to {act} {later}?",
        "who usually {acts} {habit_time}?",
        "somebody {acted} {place} {ago}.",
        "almost nobody {acts} {habit_time}.",
        "everyone is {acting} {now}.",
        "everyone {acts} {place} {regularly}.",
    )),
    (5, "you", (
        "please {act} {later}.",
        "please {act} {present}.",
        "do not {act} yet, {person}!",
        "do not forget to {act} {later}!",
        "remember to {act} {later}.",
        "could you {act} {later}, please?",
        "can you {act} {place}?",
        "would you mind {acting} {later}?",
        "you {might} {act} {present}.",
        "thank you for {acting} {ago}.",
        "{person}, please {act} {later}.",
        "{person}, did you {act} {ago}?",
        "try to {act} {regularly}.",
        "why not {act} {later}?",
        "tell {person} why you {acted} {ago}.",
    )),
    (3, "we", (
        "let's {act} {later}.",
        "shall we {act} {later}?",
        "how about {acting} {later}?",
        "we could {act} {present}.",
        "maybe we should {act} {later}.",
        "{person}, let's {act} {place}!",
        "it is time for us to {act}.",
    )),
    (5, "I", (  # lines of a conversation
        "{reply}, I will {act} {later}.",
        "{regret}, I cannot {act} {later}.",
        "yes, I {acted} {ago}.",
        "no, I did not {act} {ago}.",
        "I have already {done}, thank you.",
        "I have just {done}, {person}.",
        "I would love to {act} {later}.",
        "sorry, I have to {act} {later}.",
        "{person}, I am {acting} {now}!",
        "I don't want to {act} {later}.",
        "I'm {acting}, so please wait.",
        "I'll {act} {later}, I promise.",
        "can I {act} {later}, please?",
    )),
)  # fmt: skip

# About animals, children, vehicles and machines; the subject and the actions
# come from one cast.
CAST_TEMPLATES: tuple[str, ...] = (
    "{S} {acted} {ago}.",
    "{S} {often} {acts} {cast_time}.",
    "{S} {is} {acting} again.",
    "look, {S} {is} {acting}!",
    "{person} watched {S} {act}.",
    "did {S} {act} {ago}?",
    "{S} {acted} while {person} was watching.",
    "I think {S} {is} {acting}.",
    "{S} {have/has} just {done}.",
    "every {daytime}, {S} {acts}.",
    "in {season}, {S} {often} {acts}.",
    "why {do/does} {S} always {act}?",
    "{S} {acted} when {event_past}.",
    "{S} {acted} after {weather_event}.",
    "{S} {acted} and then {acted}.",
    "{S} {was} {acting} when {person} arrived.",
    "{S} will {act} sooner or later.",
    "I have never seen {S} {act} before.",
    "{person} saw {S} {act} {ago}.",
    "after {acting}, {S} {acted}.",
)

# About particular themes.  Nothing here takes an action from a domain, so the
# words of a template are chosen to fit one another.
THEME_TEMPLATES: dict[str, tuple[str, ...]] = {
    "weather": (
        "it is {weather} in {city} today.",
        "it was {weather} in {city} {ago}.",
        "it will be {weather} on {day} {daytime}.",
        "{says} it is getting {warmer} in {city}.",
        "the weather forecast says {weather_noun} for {day} {daytime}.",
        "there was a lot of {weather_noun} in {region} {ago}.",
        "we expect {weather_noun} and {weather_noun} in {region} {later}.",
        "{weather_event} just before {hour} o'clock on {day}.",
        "{weather_event} {ago} and the air felt {air}.",
        "{month} was {warmer} than usual in {city} this year.",
        "{person}, is {month} always so {weather} here?",
        "it was {warmer} {ago} than it is today.",
        "take a {wet_gear}, {person}, because it is {wet}.",
        "{person}, you need a {cold_gear} because it is {cold} outside.",
        "bring a {hot_gear}, {person}, because it is {hot} today.",
        "{O} forgot {his} {wet_gear} and got very wet {ago}.",
        "it was {teens} degrees in {city} {ago}.",
        "{S} {do/does} not like {weather_noun}, but {he} {love/loves} {season}.",
        "what will the weather be like in {city} {later}?",
        "{says} last {season} was {warmer} than usual in {region}.",
        "{S} stayed inside because it was {cold}.",
        "if it is {weather} {later}, we will stay at home.",
    ),
    "food": (
        "{says} the {stirred} tastes {taste}.",
        "this {dish} tastes {taste}, {person}.",
        "the {menu_dish} at the {eatery} is {taste}.",
        "{says} this {fruit} is {ripe}.",
        "that {fruit} is too {ripe} for {person}.",
        "{says} these {fruit+s} are {sweeter} than the last ones.",
        "{says} the {vegetable+s} in our garden are {crop} this year.",
        "{person}, would you like some {hot_drink} with your {cake} cake?",
        "would you like a {fruit} or some {berries}, {person}?",
        "{S} {eat/eats} {fruit+s} for breakfast.",
        "we need {number} {fruit+s} and some {staple}.",
        "{S} {need/needs} {few} {vegetable+s} for the {stirred}.",
        "{says} there is {container} in the {storage}.",
        "could you pass me {container}, {person}?",
        "is there any {staple} left in the {storage}, {person}?",
        "{says} there are {few} {fruit+s} in the {storage}.",
        "{S} ordered the {menu_dish} and a glass of {cold_drink}.",
        "{person} and I would like the {menu_dish}, please.",
        "{person}, do you want {menu_dish} or {menu_dish} tonight?",
        "{S} put the {dishware+s} in the {dish_place}.",
        "{says} there is a dirty {dishware} on the {surface}.",
        "{person} left a cup of {hot_drink} on the {surface}.",
        "{says} my {relative} makes the best {menu_dish} in town.",
        "{S} {need/needs} more {staple} for {meal}.",
        "{person}, add {few} spoons of {powder}, please.",
        "{S} added some {herb} to the {stirred}.",
        "{S} {like/likes} the {greens}, but not the {vegetable+s}.",
        "{S} dropped the {dishware} and it broke.",
        "{person}, who ate the last {treat_piece}?",
        "{S} {have/has} bread with {spread} for {meal}.",
        "{person}, can I have a {treat_piece} and some {cold_drink}?",
    ),
    "home": (
        "the {furniture} is {where} the {furniture}.",
        "{says} the {single_small} is on the {surface}.",
        "where is my {single_small}, {person}?",
        "where did you put the {single_small}, {person}?",
        "{O} cannot find {his} {small} anywhere.",
        "{O} left {his} {small} on the {surface}.",
        "{O} found {his} {small} under the {furniture}.",
        "{O} lost {his} {small} at the {venue}.",
        "{person}, your {single_small} is in the {room}.",
        "{says} the {room} is {room_adj}.",
        "the {room} is too {room_adj} for {person}.",
        "the {room} is {bigger} than the {room}.",
        "{says} the {room} looks {bigger} than before.",
        "{says} the {appliance} is broken again.",
        "{says} the {appliance} in the {room} does not work.",
        "{S} bought a new {appliance} {ago}.",
        "how old is your {appliance}, {person}?",
        "the {material} {furniture} looks {look}.",
        "a {material} {furniture} would look {look} in the {room}.",
        "the {colour} {soft} looks {look} in the {room}.",
        "{S} {need/needs} a new {soft} for the {room}.",
        "there are {few} {furniture+s} in the {room}.",
        "{S} {live/lives} in a {dwelling_adj} {dwelling}.",
        "{says} our {dwelling} has {few} rooms and a {dwelling_adj} garden.",
        "{person} left the {door} open {ago}.",
        "there is a {colour} {cushion} on the {seat}.",
        "{says} this {seat} is more comfortable than the {seat}.",
        "{says} the {bath} is clean, but the {bath} is dirty.",
    ),
    "tools": (
        "the {appliance} stopped working {ago}.",
        "{person}, can anyone repair this {broken}?",
        "this {tool} is too heavy for {person}.",
        "where does {person} keep the {tool}?",
        "{says} the {part} is old and does not work.",
        "{O} {need/needs} a new {part} for {his} {car}.",
        "{says} the {garden_tool} is behind the {shelter}.",
        "{S} left the {garden_tool} near the {fence}.",
        "{person}, please put the {garden_tool} back in the {shelter}.",
        "{says} there is a hole in the {painted}.",
    ),
    "nature": (
        "{says} the {flower+s} in our garden are {petals}.",
        "a {petals} {flower} grows near the {fence} and the {tree}.",
        "{S} picked {number} {flower+s} for {person}.",
        "{S} gave {person} a {petals} {flower} {ago}.",
        "{says} the {tree} is taller than the {fence}.",
        "there are {number} birds in the {tree} near the {stream}.",
        "{says} the {stream} is {scenery_adj} in {season}.",
        "{says} the {lake} looks {scenery_adj} in the {daytime}.",
        "{S} found a {shell} near the {shore}.",
        "{S} saw the {sky_sight} from the {shore} {ago}.",
        "how beautiful the {sky_sight} looked {ago}!",
        "{says} a {big_animal} is {larger} than a {little_animal}.",
        "is a {big_animal} {larger} than a {big_animal}?",
        "{person}, have you ever seen a {big_animal} or a {wild_animal}?",
        "my {relative} has a {pet} and {few} {garden_bird+s}.",
        "what is the name of your {pet}, {person}?",
        "{says} the {pet} is afraid of {scary}.",
        "{says} the {flower_pot} is {where} the {tree}.",
        "we have {number} {herd+s} and {few} {garden_bird+s} on the farm.",
        "{wow}, there is a {little_animal} in the {shelter}, {person}!",
    ),
    "people": (
        "{person} is a {job}.",
        "my {relative} works as a {job} in {city}.",
        "{person} wants to become a {job}.",
        "{woman} works as a {job} at the {workplace}.",
        "{says} {man} used to work at the {workplace}.",
        "the {job} and the {job} had lunch together.",
        "the {job} lives {where} the {building}.",
        "{person} is {trait} and {trait}.",
        "{says} my {relative} is very {trait}.",
        "the new {job} is very {trait}.",
        "{person} is {taller} than {person}.",
        "my {relative} is {taller} than your {relative}.",
        "{person} has {hair} hair.",
        "{woman} has {hair} hair and {colour} glasses.",
        "how many {sibling+s} does {person} have?",
        "{person} has {few} {sibling+s}.",
        "{woman} and {man} are {pair}.",
        "{person} was born in {month}.",
        "{S} moved to {city} last {season}.",
        "why {is} {S} so {glad} {now}?",
        "{S} {is} {glad} because {good_news}.",
        "{S} {is} {upset} because {bad_news}.",
        "why {was} {S} so {upset} {ago}?",
        "my hobby is {hobby}, and {person} likes {hobby}.",
        "{S} {prefer/prefers} {hobby} to {hobby}.",
        "{S} started {hobby} last {season}.",
        "{S} can speak {language} and a little {language}.",
        "{S} {is} learning {language} in {city}.",
        "the {age_adj} boy {child_thing}.",
        "my {age_adj} daughter {child_thing}.",
        "{person} is {teens} years old.",
        "{person} turned {teens} in {month}.",
        "{S} {is} afraid of {scary}.",
    ),
    "clothes": (
        "{O} {is} wearing a {colour} {garment}.",
        "{O} wore a {pattern} {garment} {ago}.",
        "this {colour} {garment} is too {fit} for me.",
        "that {pattern} {garment} looks {style} on you.",
        "these {pairs} are too {fit} for {person}.",
        "these {pairs} are {fits} and {fits}.",
        "your {colour} {pairs} are {fits}.",
        "do you have this {pattern} {garment} in {colour}?",
        "the {colour} {garment} is made of {fabric}.",
        "{S} bought a {fabric} {garment} {ago}.",
        "where are my {colour} {shoes}, {person}?",
        "{S} put on {his} {shoes} and went out.",
        "the {pairs} cost more than the {colour} {garment}.",
        "{O} lost {his} {colour} {garment} at the {venue}.",
    ),
    "shops": (
        "how much does this {colour} {garment} cost?",
        "how much is the {colour} {fabric} {garment}?",
        "the {shop} opens at {clock}.",
        "the {shop} closes at {clock} on {day+s}.",
        "is the {shop} open on {day} {daytime}?",
        "{says} the {shop_sells}.",
        "the {shop_sells} at {trade_adj} prices.",
        "{person}, is there a {shop} near the {building}?",
        "this {gift} costs {tens} {currency}.",
        "{says} this {big_buy} was cheaper than the last one.",
        "the {big_buy} cost {hundreds} {currency}.",
        "{S} paid {hundreds} {currency} for the {big_buy}.",
        "{S} paid for the {goods} by card {ago}.",
        "{S} {is} looking for a {gift} for {his} {relative}.",
        "the {shop} is {where} the {building}.",
        "{says} the {bag} is full of {goods}.",
        "{says} the {goods} are cheap, but the {goods} are expensive.",
        "{S} {need/needs} some {remedy} from the chemist.",
        "{S} bought some {meat} from the butcher {ago}.",
    ),
    "town": (
        "the {any_transport} to {city} leaves at {clock}.",
        "the {any_transport} from {city} was {tens} minutes late.",
        "{person}, what time does the {any_transport} to {city} leave?",
        "a ticket to {city} costs {hundreds} {currency}.",
        "how far is it from the {building} to the {building}?",
        "turn {side} at the {building} and then {side} after the {junction}.",
        "the {building} is on the {side} side of the {street}.",
        "the {building} is {where} the {building}.",
        "the {sight} is {where} the {building}.",
        "excuse me, is the {building} {where} the {building}?",
        "it takes {tens} minutes to walk from the {building} to the {sight}.",
        "the {sight} in {city} is closed on {day+s}.",
        "{says} the journey to {city} was {journey_adj}.",
        "{person}, was the flight to {city} {journey_adj}?",
        "{S} missed the {transport} to {town}.",
        "our {lodging} in {city} was {dwelling_adj}.",
        "{S} lost {his} {luggage} in {city}.",
        "{S} {have/has} lived in {city} for {number} years.",
        "{S} {is} from {city}, but {he} {live/lives} in {city}.",
        "have you ever been to {city}, {person}?",
        "{S} went to {city} with {his} {relative}.",
        "there was a lot of traffic near the {junction} {ago}.",
        "{S} walked from the {building} to the {building}.",
        "{says} the {sight} is older than the {building}.",
        "we stayed in {city} for {teens} days.",
    ),
    "sport": (
        "{person} won the {match} {ago}.",
        "we lost the {match} {ago}.",
        "{says} the {match} was {score_adj}.",
        "{says} the {player} {player_deed}.",
        "the {player} {player_deed} before the {match} {ago}.",
        "{says} the {player} is {taller} than the {player}.",
        "{says} {sport} is {harder} than {sport}.",
        "does {person} like {sport} or {sport}?",
        "{S} won the {sport} match by {few} points.",
        "the match between {city} and {city} was {score_adj}.",
        "{S} can run {number} {distance} without stopping.",
        "the {race} starts at {clock} {later_day}.",
        "{person} scored {few} goals in the match {ago}.",
        "{person} finished {ordinal} in the race {ago}.",
        "{O} broke {his} {racket} during the {match}.",
        "who won the {sport} match {ago}?",
        "{S} forgot {his} {sport} shoes at home.",
        "the {player} of our {sport} club is {trait}.",
    ),
    "health": (
        "{person}, my {ache} hurts today.",
        "my {ache} has hurt since {day} {daytime}.",
        "{S} {have/has} a {ailment}.",
        "{S} had a {ailment} {ago}.",
        "{S} {have/has} to stay {rest_place} because of a {ailment}.",
        "{O} hurt {his} {hurt} {ago}.",
        "does your {ache} still hurt, {person}?",
        "{person}, the {healer} can help you with your {ailment}.",
        "the {healer} looked at my {ache} {ago}.",
        "{says} too much {unhealthy} is bad for you.",
        "my {relative} has a {ailment}, so we called the {healer}.",
        "{S} stayed {rest_place} for {few} days.",
        "{says} some {exercise} will help your {hurt}.",
        "{S} felt much better after {few} days of rest.",
        "{O} put some {cream} on {his} {hurt}.",
        "the {healer} gave {person} some {pills}.",
        "{person}, when is your appointment with the {medic}?",
    ),
    "music": (
        "{says} the {instrument} sounds {sound}.",
        "the {song} was {sound} and {sound}.",
        "{person} plays the {instrument} in the {band}.",
        "{person}, can you play the {instrument} or the {instrument}?",
        "the {instrument} is {harder} than the {instrument}.",
        "the {concert} starts at {clock} {later_day}.",
        "the {concert} in {city} was {event_adj}.",
        "my {relative} likes {genre}, but I prefer {genre}.",
        "the {band} played a {sound} {song} {ago}.",
        "whose {instrument} is this, {person}?",
        "{S} forgot the words of the {song}.",
        "{says} there are {teens} people in the {band}.",
    ),
    "study": (
        "the {subject} lesson starts at {clock}.",
        "{says} {subject} is {harder} than {subject}.",
        "{says} the {subject} test was {difficulty}.",
        "is the {subject} test on {day} {daytime}?",
        "{says} our {subject} teacher is {trait}.",
        "{S} failed the {subject} test {ago}.",
        "{S} passed the {subject} test with good marks.",
        "{says} there are {teens} students in the {subject} class.",
        "{says} {subject} is as interesting as {subject}.",
        "{O} forgot {his} {stationery} at home.",
        "can I use your {stationery}, {person}?",
        "{person} drew a {diagram} on the {board}.",
        "{says} the {ordinal} question was about {topic}.",
        "{S} {know/knows} a lot about {topic}.",
        "{says} this book about {topic} is {book_adj}.",
        "{says} the answer to the {ordinal} question is {number}.",
        "this {puzzle} is too {difficulty} for {person}.",
        "{person}, page {teens} explains the {hard} words.",
        "{S} {want/wants} to improve {his} {skill} this {season}.",
    ),
    "work": (
        "the {meeting} starts at {clock} {later_day}.",
        "the {meeting} with the {client} was {event_adj}.",
        "is the {meeting} with the {client} on {day}?",
        "{says} the {document} is {work_adj}.",
        "{says} this {document} is more {work_adj} than the {document}.",
        "the {client} sent a {work_adj} {document} {ago}.",
        "the {client} liked the {figures} very much, {person}.",
        "{person}, where is the {document} for the {client}?",
        "{says} we have no {supplies} left in the office.",
        "{says} the {computer} is {where} the {furniture}.",
        "the {device} {tech_trouble}.",
        "my {device} {tech_trouble}.",
        "{S} forgot the {password} again.",
        "what is the password for the {device}, {person}?",
        "the {document} is on your desk, {person}.",
        "{S} {have/has} {number} meetings on {day}.",
        "{says} the bill for the {big_buy} is {hundreds} {currency}.",
        "the {parcel} from {city} arrived {ago}.",
        "{says} my {permit} runs out in {month}.",
        "the {stamp} cost {number} {currency}.",
        "{hello}, {person}, is the {form} ready?",
        "{O} lost {his} {permit} {ago}.",
    ),
    "leisure": (
        "{says} the {tale} is {tale_adj}.",
        "this {tale} is {tale_adj} and {tale_adj}, {person}.",
        "{says} the {film} was {event_adj}.",
        "what did you think of the {event}, {person}?",
        "how was the {event} {ago}?",
        "the {event} in {city} was {event_adj}.",
        "{says} the {event} was more interesting than the {event}.",
        "{S} {is} better at {board_game} than {person}.",
        "{person}, do you prefer {board_game} or {board_game}?",
        "{person} lost at {board_game} {ago}.",
        "{says} the {broadcast} about {topic} was {event_adj}.",
        "{says} this {pastime} is {harder} than the last one.",
        "{says} there is a good {film} on {later}.",
        "the {picture} in the {room} looks {look}.",
        "{S} made a {designed} for {person}.",
        "the {colour} {knitted} is for {person}.",
        "{says} the {carved} costs {tens} {currency}.",
        "{S} wrapped the {gift} in {colour} paper.",
        "{S} drew {few} {folded+s} on the {colour} paper.",
        "{S} decorated the {decorated} for the {party}.",
        "{person} told us a {tale_adj} {story}.",
    ),
    "talk": (
        "{hello}, {person}, how are you?",
        "{hello}, {person}, did you sleep well?",
        "{hello}, is {person} at home?",
        "have a {lovely} {farewell}, {person}!",
        "did you have a {lovely} {farewell}, {person}?",
        "thank you for the {lovely} {farewell}, {person}.",
        "{hello}, {person}, it is nice to meet you.",
        "see you {later}, {person}!",
        "are you free {later}, {person}?",
        "happy birthday, {person}, this {gift} is for you!",
        "congratulations on your {success}, {person}!",
        "I am sorry about the {mishap} {ago}, {person}.",
        "do not worry about the {mishap}, {person}.",
        "{reply}, see you at {clock}.",
        "{reply}, {person}, the {venue} is fine.",
        "{regret}, I am busy {later}.",
        "{hello}, {person}, what time is it?",
        "it is {clock} and {person} is late.",
        "let's meet at the {venue} at {clock}.",
        "let's go to the {venue} {later}.",
        "{wow}, {person} and {person} are here!",
        "{wow}, the {event} starts at {clock}!",
        "{wow}, {person}, there is a {wild_animal} in the {field}!",
        "{S} {was} {glad} to hear about your {success}.",
        "can you help me with the {chore}, {person}?",
        "{S} helped {person} with the {chore}.",
        "{says} the {event} was {event_adj}.",
        "{says} {person} is {trait}.",
        "how is your {relative}, {person}?",
        "{person}, my {relative} says hello to your {relative}.",
        "is the {party} on {day} or on {day}?",
        "{tens} people came to the {party} {ago}.",
        "the {party} starts at {clock}, so hurry up!",
        "call me {later}, {person}.",
        "{S} {know/knows} {person} from the {venue}.",
    ),
}


# --------------------------------------------------------------------------
# Word forms
# --------------------------------------------------------------------------

_VOWELS = "aeiou"


def _add_s(word: str) -> str:
    """``word`` with the ending -s, spelled as for a plural or for he/she/it."""
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in _VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def _plural(noun: str) -> str:
    """The plural of a noun; of a compound, the plural of its last word."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    first, space, last = noun.rpartition(" ")
    return first + space + IRREGULAR_PLURALS.get(last, _add_s(last))


def _past(verb: str) -> str:
    """The regular past tense, which is also the past participle."""
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        return verb[:-1] + "ied"
    if verb in DOUBLED_VERBS:
        return verb + verb[-1] + "ed"
    return verb + "ed"


def _ing(verb: str) -> str:
    """The -ing form."""
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    if verb in DOUBLED_VERBS:
        return verb + verb[-1] + "ing"
    return verb + "ing"


def _verb_forms(action: str) -> dict[str, str]:
    """An action ("water the roses") by slot name; only its first word changes."""
    verb, space, rest = action.partition(" ")
    third = "has" if verb == "have" else _add_s(verb)
    past, participle = IRREGULAR_VERBS.get(verb, (_past(verb), _past(verb)))
    forms = {
        "act": verb,
        "acts": third,
        "acted": past,
        "acting": _ing(verb),
        "done": participle,
    }
    return {slot: form + space + rest for slot, form in forms.items()}


# --------------------------------------------------------------------------
# Compiling: texts with slots become tuples of pieces
# --------------------------------------------------------------------------

# A piece is literal text, or a slot: its kind and what that kind needs.
#   ("words", texts)     one of these compiled texts
#   ("subject", field)   a field of the subject
#   ("other", None)      a new named subject
#   ("was", None)        was or were
#   ("agree", (y, x))    x for a singular subject, else y: {x/y} is {y's form/x's}
#   ("action", slot)     a verb phrase of the domain in that form
#   ("scene", slot)      a place, a clause or a time of the domain
_SLOT = re.compile(r"\{([^}]+)\}")
Piece = str | tuple[str, Any]
Text = tuple[Piece, ...]

_SUBJECT_SLOTS = {"S": "text", "he": "he", "him": "him", "his": "his", "is": "be"}
_ACTION_SLOTS = ("act", "acts", "acted", "acting", "done")
_SCENE_SLOTS = ("place", "past", "present", "regularly", "habit_time")


@cache
def _word_class(slot: str) -> tuple[Text, ...]:
    """The compiled entries of a word class; ``slot`` is its name, or name+s."""
    name, plus, _ = slot.partition("+")
    if name not in WORDS:
        raise KeyError(f"grammar: no word class is named {name!r}")
    entries = tuple(map(_plural, WORDS[name])) if plus else WORDS[name]
    return tuple(map(_compile, entries))


def _compile(text: str) -> Text:
    """``text`` as pieces; raises KeyError for a slot that names nothing."""
    pieces: list[Piece] = []
    # re.split with one group alternates literal text and slot names.
    for index, part in enumerate(_SLOT.split(text)):
        if index % 2 == 0:
            if part:
                pieces.append(part)
        elif part in _SUBJECT_SLOTS:
            pieces.append(("subject", _SUBJECT_SLOTS[part]))
        elif part == "O":
            pieces.append(("other", None))
        elif part == "was":
            pieces.append(("was", None))
        elif "/" in part:
            pieces.append(("agree", tuple(part.split("/"))))
        elif part in _ACTION_SLOTS:
            pieces.append(("action", part))
        elif part in _SCENE_SLOTS:
            pieces.append(("scene", part))
        else:
            pieces.append(("words", _word_class(part)))
    return tuple(pieces)


class _Scene(NamedTuple):
    """A compiled domain or cast: what can happen in one sentence."""

    pools: tuple[tuple[Subject, ...], ...]  # the subjects of a cast; a domain has none
    actions: tuple[dict[str, Text], ...]
    clauses: dict[str, tuple[Text, ...]]


def _compile_actions(actions: tuple[str, ...]) -> tuple[dict[str, Text], ...]:
    return tuple({slot: _compile(form) for slot, form in _verb_forms(action).items()} for action in actions)


def _compile_domain(domain: Domain) -> _Scene:
    clauses = {
        "place": domain.places,
        "past": domain.past,
        "present": domain.present,
        "regularly": domain.pace.regularly,
        "habit_time": domain.pace.habit_time,
    }
    compiled = {slot: tuple(map(_compile, texts)) for slot, texts in clauses.items()}
    return _Scene((), _compile_actions(domain.actions), compiled)


def _compile_cast(cast: Cast) -> _Scene:
    be = "are" if cast.plural else "is"

    def subject(text: str) -> Subject:
        return Subject(text, *cast.pronouns, be, not cast.plural)

    plain = tuple(subject(f"the {noun}") for noun in cast.nouns)
    described = tuple(subject(f"the {adjective} {noun}") for adjective in cast.adjectives for noun in cast.nouns)
    return _Scene((plain, described), _compile_actions(cast.actions), {})


# For templates that need no domain and no cast.
_NO_SCENE = _Scene((), (), {})

# A scene is listed once per action, so that all actions are equally frequent.
_DOMAIN_SCENES = tuple(scene for scene in map(_compile_domain, DOMAINS.values()) for _ in scene.actions)
_CAST_SCENES = tuple(scene for scene in map(_compile_cast, CASTS.values()) for _ in scene.actions)


class _Group(NamedTuple):
    """Compiled templates that share their pool of subjects and their scenes."""

    pools: tuple[tuple[Subject, ...], ...]  # empty: the scene has its own
    scenes: tuple[_Scene, ...]
    templates: tuple[Text, ...]


def _compile_groups() -> tuple[_Group, ...]:
    """All groups, each listed as often as its weight says."""
    groups: list[_Group] = []
    for weight, pool, texts in PEOPLE_TEMPLATES:
        templates = tuple(map(_compile, texts))
        groups += [_Group(POOLS[pool], _DOMAIN_SCENES, templates)] * weight
    templates = tuple(map(_compile, CAST_TEMPLATES))
    groups += [_Group((), _CAST_SCENES, templates)] * CAST_WEIGHT
    # All themes together make one group: its templates are equally frequent.
    templates = tuple(_compile(text) for texts in THEME_TEMPLATES.values() for text in texts)
    groups += [_Group(ANYONE, (_NO_SCENE,), templates)] * THEME_WEIGHT
    return tuple(groups)


_GROUPS = _compile_groups()


# --------------------------------------------------------------------------
# Drawing sentences
# --------------------------------------------------------------------------


def _pick(rng: Random, options: Sequence[T]) -> T:
    """One of ``options``, each as likely.

    ``Random.random`` is the one method whose stream Python promises to keep, so
    everything is drawn through it, and not through ``Random.choice``.
    """
    return options[int(rng.random() * len(options))]


def _expand(
    text: Text,
    rng: Random,
    subject: Subject,
    scene: _Scene,
    out: list[str],
) -> Subject:
    """Append ``text`` to ``out``, slots filled; return the subject it ends with."""
    for piece in text:
        if isinstance(piece, str):
            out.append(piece)
            continue
        kind, data = piece
        if kind == "words":
            subject = _expand(_pick(rng, data), rng, subject, scene, out)
        elif kind == "subject":
            out.append(getattr(subject, data))
        elif kind == "agree":
            out.append(data[1] if subject.singular else data[0])
        elif kind == "action":
            # "they water", but "she waters"
            form = "act" if data == "acts" and not subject.singular else data
            action = _pick(rng, scene.actions)[form]
            subject = _expand(action, rng, subject, scene, out)
        elif kind == "scene":
            clause = _pick(rng, scene.clauses[data])
            subject = _expand(clause, rng, subject, scene, out)
        elif kind == "was":
            out.append("were" if subject.be == "are" else "was")
        else:  # "other"
            subject = _pick(rng, NAMED)
            out.append(subject.text)
    return subject


# "a" before a vowel sound: not before "useful", but before "hour".
_A_BEFORE_VOWEL = re.compile(r"\b(a)(?= (?:(?!uni|use|euro)[aeiou]|hour|honest))", re.IGNORECASE)

_PUNCTUATION = re.compile(r"[^a-z ]")

# Words that a sentence may hold twice.  Any other repetition ("Emma helped
# Emma", "the garden chair is in the garden") makes it clumsy: it is not used.
_REPEATABLE: frozenset[str] = frozenset(
    word_list(
        """a, an, the, to, in, on, at, of, and, or, for, from, with, by, is, are, was,
        were, do, did, does, has, have, had, will, not, no, it, i, you, he, she, we,
        they, my, your, his, her, our, their, its, me, us, than, as, so, that, this,
        when, if"""
    )
)


def _draw(rng: Random) -> tuple[str, str] | None:
    """One sentence with its key for telling sentences apart, or None.

    None is for a draw that came out too short, too long or repetitive.
    """
    group = _pick(rng, _GROUPS)
    scene = _pick(rng, group.scenes)
    subject = _pick(rng, _pick(rng, group.pools or scene.pools))
    pieces: list[str] = []
    _expand(_pick(rng, group.templates), rng, subject, scene, pieces)
    text = _A_BEFORE_VOWEL.sub(r"\1n", "".join(pieces))
    key = _PUNCTUATION.sub("", text.lower())
    words = key.split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS:
        return None
    if len(frozenset(words)) < len(words):
        seen: list[str] = []
        for word in words:
            if word in seen and word not in _REPEATABLE:
                return None
            seen.append(word)
    return text[0].upper() + text[1:], key


def generate(count: int, seed: int = 0) -> list[str]:
    """``count`` distinct English sentences, in the order they were drawn.

    The same arguments always give the same list, on every platform, and a
    smaller ``count`` gives the beginning of the list for a larger one.  No two
    sentences are equal even when case and punctuation are ignored.  Each has
    ``MIN_WORDS`` to ``MAX_WORDS`` words, is plain ASCII, starts with a capital
    letter and ends in ``.``, ``?`` or ``!``.

    ``random.Random`` ignores the sign of a seed, so ``-1`` and ``1`` are alike.

    Raises ValueError, naming ``count``, when it is less than 1 or when the
    grammar gives nothing new in ``MAX_FRUITLESS_DRAWS`` draws in a row.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    rng = Random(seed)
    sentences: list[str] = []
    known: set[str] = set()
    fruitless = 0
    while len(sentences) < count:
        drawn = _draw(rng)
        if drawn is None or drawn[1] in known:
            fruitless += 1
            if fruitless >= MAX_FRUITLESS_DRAWS:
                raise ValueError(f"count is {count}, but the grammar gave only {len(sentences)} distinct sentences")
            continue
        fruitless = 0
        sentence, key = drawn
        known.add(key)
        sentences.append(sentence)
    return sentences
