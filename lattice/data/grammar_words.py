"""Word tables for the bundled English grammar (see ``grammar.py``).

This file holds vocabulary only; the sentence shapes and the code that fills
them live in ``grammar.py``.  Everything is grouped by meaning, so that a verb
only ever meets objects that suit it: people peel potatoes, not chairs.

Reading the tables:

* ``word_list("a, b, c d")`` is a tuple of the comma-separated entries.
* ``{fruit}`` inside an entry is a slot, filled from ``WORDS["fruit"]``;
  ``{fruit+s}`` takes the plurals of that class.
* ``{he}``, ``{him}``, ``{his}``, ``{is}``, ``{was}`` and ``{need/needs}``
  agree with the subject of the sentence.
* An action ("peel the {root+s}") starts with the base form of its verb; the
  other forms come from the rules in ``grammar.py`` and from the
  ``IRREGULAR_VERBS`` and ``DOUBLED_VERBS`` tables here.
* "a" is always written before a noun; ``grammar.py`` turns it into "an".
"""

from __future__ import annotations

from typing import NamedTuple


def word_list(text: str) -> tuple[str, ...]:
    """The comma-separated entries of ``text``, with line breaks folded away."""
    return tuple(" ".join(entry.split()) for entry in text.split(","))


class Pace(NamedTuple):
    """How often things happen in one area of life."""

    regularly: tuple[str, ...]  # says how often: "every Monday"
    habit_time: tuple[str, ...]  # follows "often" or "never": "in the evening"


class Domain(NamedTuple):
    """One area of life: what people do there, how often, where and why."""

    pace: Pace
    actions: tuple[str, ...]  # verb phrases any adult can do
    places: tuple[str, ...]  # where each of the actions can happen
    past: tuple[str, ...]  # clauses that follow a past-tense action
    present: tuple[str, ...]  # clauses that follow a habit or a plan


class Cast(NamedTuple):
    """Subjects other than adults (animals, children, machines) and their deeds."""

    pronouns: tuple[str, str, str]  # he, him, his
    plural: bool
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    actions: tuple[str, ...]


# --------------------------------------------------------------------------
# People
# --------------------------------------------------------------------------

WOMEN = word_list(
    """Emma, Anna, Maria, Grace, Lucy, Clara, Nora, Alice, Ruth, Helen, Julia, Amira,
    Leila, Priya, Mei, Hana, Olga, Zoe, Rosa, Nadia"""
)
MEN = word_list(
    """Tom, Daniel, Peter, Omar, Ben, James, Lucas, Adam, David, Hugo, Leo, Oscar,
    Ravi, Kenji, Ivan, Pablo, Marco, Felix, Henry, Victor"""
)
FEMALE_RELATIVES = word_list("my mother, my sister, my grandmother, my aunt, my wife, my daughter")
MALE_RELATIVES = word_list("my father, my brother, my grandfather, my uncle, my husband, my son")
JOB_HOLDERS = word_list(
    """the teacher, the nurse, the doctor, the driver, the manager, the waiter,
    the farmer, the baker"""
)
GROUPS = word_list("my parents, our neighbours, my cousins, my friends, the students, our guests")

# --------------------------------------------------------------------------
# Areas of life
# --------------------------------------------------------------------------

# People make tea every day, but they do not fly to Tokyo every day.
WEEKLY = Pace(
    regularly=word_list(
        """every day, every {daytime}, every {day}, on {day+s}, at the weekend,
        twice a week, every other {day}"""
    ),
    habit_time=word_list(
        """in the {daytime}, on {day+s}, at the weekend, after work,
        before breakfast, after dinner"""
    ),
)
YEARLY = Pace(
    regularly=word_list("every {season}, every {month}, twice a year, once a month, every other year"),
    habit_time=word_list("in {season}, in {month}, in the holidays"),
)

DOMAINS: dict[str, Domain] = {
    "kitchen": Domain(
        pace=WEEKLY,
        actions=word_list(
            """cook {dish} for {meal}, bake {baked}, chop the {vegetable+s},
            peel the {root+s}, stir the {stirred}, make {hot_drink} for everyone,
            wash the {dishware+s}, taste the {stirred}, pour the {cold_drink},
            prepare {meal}, set the table for {meal}"""
        ),
        places=word_list("in the kitchen, at home, at {owner} house, in the restaurant"),
        past=word_list(
            """because the guests were hungry, before the guests arrived,
            after the children came home, when {he} got home from work,
            because the fridge was full, because the whole family was at home,
            while the radio was playing"""
        ),
        present=word_list(
            """when guests come for {meal}, when {he} {is} hungry,
            when the children come home, if the fridge is full,
            while the radio is playing, before the family wakes up"""
        ),
    ),
    "housework": Domain(
        pace=WEEKLY,
        actions=word_list(
            """sweep the {room} floor, tidy the {room}, clean the {room},
            clean the {bath}, fold the {laundry}, wash the {laundry},
            wipe the {surface}, empty the {bin}, make the beds, open the {opening+s},
            close the {opening+s}, lock the {door}, turn off the {appliance},
            move the {furniture+s}"""
        ),
        places=word_list("at home, at {owner} house, in the new flat, in the cottage"),
        past=word_list(
            """because the house was a mess, before the guests arrived,
            when the party was over, after a busy week, while the baby was asleep,
            before {he} went to bed, because it was {his} turn"""
        ),
        present=word_list(
            """when the house is a mess, if there is time, when it is {his} turn,
            while the baby is asleep, before {he} {go/goes} to bed,
            when nobody is at home"""
        ),
    ),
    "repairs": Domain(
        pace=YEARLY,
        actions=word_list(
            """fix the {broken}, repair the {broken}, paint the {painted} {colour},
            build a {built}, mend the {painted}, carry the {tool} downstairs,
            borrow a {tool} from {person}, check the {part}, use the {tool},
            look for the {tool}"""
        ),
        places=word_list("in the garage, in the workshop, at {owner} house, at home"),
        past=word_list(
            """because the old one was broken, before winter came,
            after {he} found the right tool, because the roof was old,
            while {person} was helping, because the house was old"""
        ),
        present=word_list(
            """if {he} can find the right tool, if the weather is dry,
            before winter comes, if {person} helps, if there is time"""
        ),
    ),
    "garden": Domain(
        pace=WEEKLY,
        actions=word_list(
            """water the {flower+s}, plant {flower+s}, pick the {tree_fruit+s},
            cut the {lawn}, dig up the {root+s}, feed the {garden_bird+s},
            move the {flower_pot}, sit under the {tree}, look at the {flower+s},
            pick {flower+s}, dig a hole near the {tree}"""
        ),
        places=word_list("in the garden, behind the house, by the shed, beside the pond"),
        past=word_list(
            """because the ground was dry, before the snow came,
            because spring was here, after the rain, while the sun was shining,
            before it got dark"""
        ),
        present=word_list(
            """when the ground is dry, if the weather is fine, before the snow comes,
            while the sun is shining, before it gets dark, if it is not raining"""
        ),
    ),
    "animals": Domain(
        pace=WEEKLY,
        actions=word_list(
            """feed the {pet}, walk the dog, feed the {herd+s}, brush the {furry},
            ride the {mount}, watch the {wild_animal+s},
            photograph the {wild_animal+s}, take the {pet} to the vet,
            collect the eggs, play with the {pet}, look after the {pet},
            call the dog, clean the {shelter}"""
        ),
        places=word_list("on the farm, in the village, near the barn, in the countryside"),
        past=word_list(
            """because the farmer was away, before the sun rose, after a long walk,
            because the animals were nervous, when the vet arrived,
            because the family was on holiday"""
        ),
        present=word_list(
            """when the farmer is away, when the animals are nervous,
            before the sun rises, when the family is on holiday,
            if the weather is fine"""
        ),
    ),
    "office": Domain(
        pace=WEEKLY,
        actions=word_list(
            """answer the {phone}, write a {document}, read the {document},
            send the {document} to {person}, print the {document},
            check the {figures}, sign the {document}, finish the {document},
            call the {client}, plan the {meeting}, prepare for the {meeting},
            discuss the {figures} with {person}, order more {supplies},
            join the {meeting}, meet the {client}"""
        ),
        places=word_list("in the office, at work, at {his} desk, in the city centre"),
        past=word_list(
            """because the boss asked for it, before the boss arrived,
            after a long meeting, because the customer was waiting,
            when the computer was working again, before {he} left the office,
            after the coffee break, because everyone was in a hurry"""
        ),
        present=word_list(
            """before {he} {leave/leaves} the office, if the boss agrees,
            when the boss asks for it, if the computer is working,
            after the coffee break, when the customer is waiting"""
        ),
    ),
    "school": Domain(
        pace=WEEKLY,
        actions=word_list(
            """study {subject}, learn {language}, practise {his} {skill},
            solve the {puzzle}, finish {his} {subject} homework,
            read the {ordinal} chapter, write a story about {topic},
            ask {person} a question, borrow a {stationery} from {person},
            draw a {diagram}, take the {subject} test, listen to the teacher,
            discuss {topic}, choose a book about {topic}"""
        ),
        places=word_list("at school, in the classroom, in the library, at the evening class"),
        past=word_list(
            """because the test was close, before the bell rang, after the lesson,
            because the teacher asked for it, while the room was quiet,
            when the holidays were over"""
        ),
        present=word_list(
            """before the bell rings, if the library is open, when the test is close,
            after the lesson, if the teacher asks for it, while the room is quiet"""
        ),
    ),
    "shopping": Domain(
        pace=YEARLY,
        actions=word_list(
            """buy a {colour} {garment}, buy {fruit+s}, buy {staple},
            pay for the {goods}, order a {gift} for {person}, return the {garment},
            try on a {garment}, choose a {gift} for {person},
            spend {tens} {currency} on {goods}, carry the {bag+s}, look for a {gift},
            sell {his} old {big_buy}"""
        ),
        places=word_list("at the market, in town, at the supermarket, in the new shop"),
        past=word_list(
            """because the prices were low, before the shop closed,
            because there was a sale, after {he} checked the prices,
            when the market opened, because the old one was broken"""
        ),
        present=word_list(
            """when there is a sale, if the prices are low, before the shop closes,
            when the market opens, if {he} {have/has} enough money"""
        ),
    ),
    "travel": Domain(
        pace=YEARLY,
        actions=word_list(
            """pack {his} {luggage}, book a {lodging},
            catch the {transport} to {town}, drive to {town}, fly to {city},
            travel to {city}, visit the {sight}, explore the {sight},
            take photos of the {sight}, stay at a {lodging}, cross the {crossing},
            check the {timetable}, book {few} tickets to {city}, enjoy the {view}"""
        ),
        places=word_list("with {person}, with {companions}, with a friend"),
        past=word_list(
            """because the tickets were cheap, before the train left,
            after a long flight, when the holidays started, before the sun set,
            because the weather was perfect"""
        ),
        present=word_list(
            """if the tickets are cheap, when the holidays start,
            if {person} comes too, if the roads are clear,
            when the weather is perfect"""
        ),
    ),
    "sport": Domain(
        pace=WEEKLY,
        actions=word_list(
            """play {sport}, practise {sport}, train for the {race}, kick the ball,
            throw the ball to {person}, catch the ball, run {few} {distance},
            swim {few} {distance}, ride a {bike}, climb the {climb},
            join the {sport} club, watch the {match}, jump over the {fence}"""
        ),
        places=word_list("with {companions}, with {person}, with the team, with the club"),
        past=word_list(
            """because the match was important, while the crowd was watching,
            after a short rest, because the coach asked for it,
            when the weather was better, after {he} bought new shoes"""
        ),
        present=word_list(
            """if the weather is dry, when the coach asks for it,
            if {he} {is} not too tired, after a short rest, when the season starts"""
        ),
    ),
    "health": Domain(
        pace=WEEKLY,
        actions=word_list(
            """take {his} {medicine}, drink {healthy_drink},
            rest {his} {limb+s}, see the {medic}, brush {his} teeth,
            wash {his} {washed}, sleep for {few} hours, eat {healthy},
            see the {healer} about a bad {hurt}, call the {medic},
            exercise for {tens} minutes, rest for {tens} minutes"""
        ),
        places=word_list("at home, at the clinic, at {owner} house, at the hospital"),
        past=word_list(
            """because {he} felt ill, after a long day, before {he} went to bed,
            because {his} head hurt, because the doctor said so,
            when {he} {was} very tired"""
        ),
        present=word_list(
            """when {he} {is} ill, if {his} head hurts, after a long day,
            when {he} {is} very tired, before {he} {go/goes} to bed,
            if the doctor says so"""
        ),
    ),
    "music": Domain(
        pace=WEEKLY,
        actions=word_list(
            """play the {instrument}, sing a {song}, listen to {genre},
            practise the {instrument}, dance to {genre}, learn a new {song},
            write a {song}, join the {band}, play in the {band}"""
        ),
        places=word_list("in the music room, at the music school, in the studio, at home"),
        past=word_list(
            """because everybody wanted more, before the concert started,
            after the singer arrived, because {he} liked music,
            while everybody listened, when the hall was empty"""
        ),
        present=word_list(
            """when the hall is empty, if everybody wants more,
            before the concert starts, when {he} {is} in a good mood,
            while the others listen"""
        ),
    ),
    "crafts": Domain(
        pace=YEARLY,
        actions=word_list(
            """draw a {picture}, paint a {picture}, knit a {knitted},
            cut out {few} paper {folded+s}, design a {designed},
            decorate the {decorated}, make a {carved}, sell a {picture},
            finish the {knitted}, fold a paper {folded}, paint the {carved} {colour}"""
        ),
        places=word_list("in the studio, at home, at the art class, at the kitchen table"),
        past=word_list(
            """because {he} had some new paint, before the exhibition opened,
            while the paint was drying, when {he} had a free hour,
            because {person} liked it, after the art class"""
        ),
        present=word_list(
            """when {he} {have/has} a free hour, while the paint is drying,
            before the exhibition opens, if the light is good, if {person} helps"""
        ),
    ),
    "friends": Domain(
        pace=YEARLY,
        actions=word_list(
            """invite {companions} to the {party}, visit {companions},
            thank {person} for the {gift}, help {person} with the {chore},
            meet {person} at the {venue}, call {person} about the {party},
            surprise {person} with a {gift}, tell {companions} a {story},
            celebrate {his} {success}, talk to {companions},
            write a letter to {person}, wave to {companions},
            share the {treat} with {companions}, lend {person} money"""
        ),
        places=word_list("at {owner} house, at the office, in the street, in the cafe"),
        past=word_list(
            """before everyone left, after the party, because friends are important,
            because {he} {was} in a good mood, because it was a good day"""
        ),
        present=word_list(
            """when everyone is here, if {he} {have/has} the time,
            when {he} {is} in a good mood, before everyone leaves, after the party"""
        ),
    ),
    "leisure": Domain(
        pace=WEEKLY,
        actions=word_list(
            """read a {novel}, watch a {film}, finish the {pastime},
            play {board_game}, borrow a {novel} from {person},
            listen to a {broadcast}, try a new {pastime}, enjoy a {film},
            choose a {film}, talk about the {film}, laugh at the {film},
            rest on the {seat}, order a {novel}, turn off the {screen}"""
        ),
        places=word_list("at home, in the living room, at {owner} house, with {companions}"),
        past=word_list(
            """because it was raining, after the housework,
            because there was nothing else to do, while dinner was cooking,
            before {he} went to bed, after a busy day"""
        ),
        present=word_list(
            """when it is raining, if there is nothing else to do, after a busy day,
            while dinner is cooking, if {he} {need/needs} a break"""
        ),
    ),
    "outdoors": Domain(
        pace=WEEKLY,
        actions=word_list(
            """walk along the {shore}, climb the {climb}, follow the {trail},
            collect {shell+s}, swim in the {lake}, watch the {sky_sight}, fly a kite,
            explore the {wood}, have a picnic by the {lake}, cross the {crossing},
            look at the {sky_sight}, carry the {tent}, light a fire,
            photograph the {sky_sight}, fish in the {lake}"""
        ),
        places=word_list("with {companions}, with {person}, with a friend"),
        past=word_list(
            """because the weather was perfect, before the sun set,
            after the fog cleared, because {he} wanted fresh air,
            while the birds were singing, when the ground was dry"""
        ),
        present=word_list(
            """if the weather is perfect, before the sun sets,
            when the ground is dry, while the birds are singing,
            when {he} {need/needs} fresh air"""
        ),
    ),
    "errands": Domain(
        pace=WEEKLY,
        actions=word_list(
            """post the {parcel}, pay the {bill}, fill in the {form},
            collect the {parcel}, park the {car}, wash the {car},
            return the library books, wait for the {transport} home, buy a {stamp},
            book a table at the {eatery}, order a taxi to the {station},
            drive {person} to the {station}, pick up {person} from the {station},
            change the {password}, start the {car}, stop at the {eatery}"""
        ),
        places=word_list("on the way home, in town, with {person}, without any help"),
        past=word_list(
            """before the bank closed, because {person} was too busy,
            because it was important, while {person} waited outside,
            after the post office opened, because {he} had a free hour"""
        ),
        present=word_list(
            """before the bank closes, if it is important, when {person} is too busy,
            while {person} waits outside, after the post office opens"""
        ),
    ),
}

# --------------------------------------------------------------------------
# Animals, children, vehicles and machines as subjects
# --------------------------------------------------------------------------

IT = ("it", "it", "its")
THEY = ("they", "them", "their")

CASTS: dict[str, Cast] = {
    "pets": Cast(
        IT,
        False,
        word_list("hungry, sleepy, little, friendly, lazy, clever"),
        word_list("dog, cat, puppy, kitten, rabbit"),
        word_list(
            """sleep on the {seat}, hide under the {furniture}, drink water,
            play with a {toy}, wait by the {door}, jump over the {fence},
            sit on the carpet, chase a {toy}, chase the {garden_bird+s},
            sit near the {door}"""
        ),
    ),
    "birds": Cast(
        IT,
        False,
        word_list("tiny, noisy, hungry, brown, young"),
        word_list("robin, sparrow, pigeon, owl, crow, duck"),
        word_list(
            """build a nest in the {tree}, fly over the {landscape},
            land on the {roof}, sit on the {fence}, feed its young,
            drink from the {stream}, hide in the {tree}"""
        ),
    ),
    "farm": Cast(
        IT,
        False,
        word_list("old, gentle, strong, white, calm"),
        word_list("cow, horse, goat, donkey, sheep"),
        word_list(
            """eat hay in the {shelter}, rest under the {tree},
            walk across the {field}, stand by the {fence}, follow the farmer,
            drink from the {stream}, sleep in the {field}, break the {fence},
            run towards the {shelter}"""
        ),
    ),
    "wild": Cast(
        IT,
        False,
        word_list("wild, nervous, curious, quick, grey"),
        word_list("fox, deer, squirrel, bear, wolf"),
        word_list(
            """run into the {wood}, hide behind the {tree}, cross the {crossing},
            look for food near the {wood}, drink from the {stream},
            sleep under the {tree}, disappear into the {wood},
            dig a hole near the {tree}"""
        ),
    ),
    "zoo": Cast(
        IT,
        False,
        word_list("huge, proud, sleepy, beautiful, clever"),
        word_list("lion, tiger, elephant, giraffe, monkey, camel"),
        word_list(
            """rest in the shade, walk towards the {fence}, look at the visitors,
            sleep near the rocks, drink from the {stream}, stand under the {tree},
            sit in the sun, eat its {meal}"""
        ),
    ),
    "sea": Cast(
        IT,
        False,
        word_list("huge, grey, beautiful, lonely"),
        word_list("whale, dolphin, seal, turtle"),
        word_list(
            """swim near the {boat}, follow the {boat}, swim towards the {island},
            disappear under the waves, look for food near the {island}"""
        ),
    ),
    "insects": Cast(
        IT,
        False,
        word_list("tiny, beautiful, busy, bright"),
        word_list("bee, butterfly, beetle"),
        word_list(
            """land on the {flower+s}, fly around the {room},
            rest on the {flower_pot}, sit on a leaf, fly over the {flower+s}"""
        ),
    ),
    "children": Cast(
        THEY,
        True,
        word_list("happy, noisy, excited, cheerful, younger"),
        word_list("children, boys, girls, twins"),
        word_list(
            """play with the {toy+s}, build a {sandcastle}, laugh at the {clown},
            run around the {playground}, chase the {toy}, ask for {treat},
            hide behind the {furniture}, throw snow, share the {toy+s},
            sing a {song}, climb the {tree}, point at the {wild_animal+s},
            race to the {playground}"""
        ),
    ),
    "vehicles": Cast(
        IT,
        False,
        word_list("blue, crowded, empty, old, yellow"),
        word_list("bus, taxi, tram, van, truck"),
        word_list(
            """stop outside the {building}, turn into the {street},
            drive past the {building}, wait near the {building},
            leave without {person}, cross the {bridge}, break down near the {bridge}"""
        ),
    ),
    "machines": Cast(
        IT,
        False,
        word_list("old, new, expensive, cheap, noisy"),
        word_list("printer, computer, heater, washing machine, television"),
        word_list(
            """stop working, make a {strange} noise, break down, use too much power,
            work without any trouble"""
        ),
    ),
}

# --------------------------------------------------------------------------
# Word classes, by slot name
# --------------------------------------------------------------------------

WORDS: dict[str, tuple[str, ...]] = {
    # People
    "person": WOMEN + MEN,
    "woman": WOMEN,
    "man": MEN,
    "companions": word_list(
        """the neighbours, {his} friends, {his} cousins, {his} family,
        {his} old friends, {his} colleagues, {his} grandparents, the whole team"""
    ),
    "owner": word_list("my sister's, my brother's, our neighbour's, my uncle's, my friend's, my aunt's"),
    "relative": word_list(
        """mother, father, sister, brother, aunt, uncle, grandmother, grandfather,
        cousin, neighbour"""
    ),
    "job": word_list(
        """teacher, nurse, baker, doctor, pilot, lawyer, gardener, plumber, engineer,
        dentist, cook, musician, actor, farmer, waiter, driver, singer"""
    ),
    "workplace": word_list("hospital, bank, school, hotel, theatre, museum, airport"),
    "trait": word_list(
        """kind, honest, patient, generous, clever, funny, brave, polite, shy,
        cheerful, serious, careful, helpful, quiet"""
    ),
    "taller": word_list("taller, shorter, older, younger, stronger, faster"),
    "hair": word_list("dark, short, long, red, grey"),
    "sibling": word_list("brother, sister, cousin"),
    "pair": word_list("friends, neighbours, cousins, colleagues"),
    "glad": word_list("happy, glad, cheerful, excited, pleased"),
    "upset": word_list("sad, upset, worried, disappointed, unhappy"),
    "good_news": word_list(
        """the test went well, the sun is shining, {his} friends are visiting,
        the holidays start tomorrow, {he} won a prize, {he} found {his} {small},
        the weekend is finally here, the baby is well, the train was on time,
        {his} team won the {match}, {he} got a new job"""
    ),
    "bad_news": word_list(
        """{he} lost {his} {small}, the bus was late again, {his} {device} is broken,
        {he} missed the last train, the street was so noisy, the bill was too high,
        the holiday is over, {he} did not sleep well, {he} failed the driving test,
        {he} broke {his} {bike}"""
    ),
    # Food and drink
    "meal": word_list("breakfast, lunch, dinner"),
    "fruit": word_list("apple, banana, peach, plum, orange, lemon, melon"),
    "tree_fruit": word_list("apple, peach, plum, lemon, orange"),
    "berries": word_list("strawberries, cherries, grapes"),
    "vegetable": word_list("carrot, onion, tomato, pepper, mushroom, bean, cabbage"),
    "crop": word_list("sweeter, bigger, smaller"),
    "root": word_list("potato, carrot, onion"),
    "greens": word_list("spinach, lettuce, salad, rice"),
    "dish": word_list("pasta, rice, curry, stew, soup, chicken, fish"),
    "menu_dish": word_list(
        """vegetable soup, tomato salad, mushroom soup, fish pie, chicken stew,
        cheese sandwich, chicken curry, onion tart, pasta salad"""
    ),
    "baked": word_list("fresh bread, a {cake} cake, a {cake} cake, biscuits, an apple pie, bread"),
    "cake": word_list("chocolate, lemon, carrot, banana, honey"),
    "stirred": word_list("soup, sauce, stew, curry"),
    "powder": word_list("flour, sugar, salt, honey"),
    "spread": word_list("butter, jam, honey, cheese"),
    "herb": word_list("cheese, salt, butter, garlic"),
    "hot_drink": word_list("tea, coffee, hot chocolate"),
    "cold_drink": word_list("orange juice, water, milk, lemonade, apple juice"),
    "staple": word_list(
        """bread, butter, cheese, flour, sugar, honey, jam, milk, rice, pasta,
        coffee, tea, salt, garlic, spinach, lettuce"""
    ),
    "taste": word_list("delicious, sweet, sour, wonderful, too hot, better than before"),
    "ripe": word_list("ripe, sweet, sour, soft, hard"),
    "sweeter": word_list("sweeter, cheaper, bigger, smaller"),
    "container": word_list(
        """a jar of honey, a jar of jam, a bottle of {cold_drink}, a bag of salt,
        a box of {berries}, a bowl of {berries}, a box of biscuits, a bottle of milk,
        a basket of {fruit+s}, a bag of {vegetable+s}, a plate of biscuits,
        a bowl of sugar"""
    ),
    "storage": word_list("fridge, cupboard, kitchen, basket"),
    "dish_place": word_list("cupboard, drawer, sink"),
    "dishware": word_list("plate, cup, glass, bowl, pot, spoon"),
    "treat": word_list("ice cream, chocolate, biscuits, lemonade, cake"),
    "treat_piece": word_list("biscuit, sandwich, slice of cake, slice of bread, slice of ham"),
    # Home
    "room": word_list("kitchen, bedroom, bathroom, hall, living room, attic, guest room"),
    "room_adj": word_list("bright, dark, tidy, warm, cold, clean, noisy"),
    "bigger": word_list("bigger, smaller, warmer, colder"),
    "furniture": word_list("table, chair, sofa, wardrobe, desk, bench, armchair, bed"),
    "seat": word_list("sofa, armchair, bed, bench"),
    "laundry": word_list("clothes, shirts, towels, sheets, blankets, trousers"),
    "surface": word_list("table, shelf, desk, bench, windowsill"),
    "bath": word_list("bath, sink, shower, mirror, carpet"),
    "bin": word_list("bin, bucket, drawer, fridge, basket"),
    "opening": word_list("window, curtain, door, cupboard"),
    "door": word_list("front door, back door, gate, garage door, kitchen door"),
    "cushion": word_list("cushion, pillow, vase, picture"),
    "small": word_list(
        """keys, wallet, phone, glasses, umbrella, watch, passport, ring, notebook,
        gloves, camera, hat"""
    ),
    "single_small": word_list("wallet, phone, umbrella, watch, passport, ring, notebook, camera, hat, ruler"),
    "appliance": word_list("kettle, toaster, fridge, oven, washing machine, heater, radio, lamp"),
    "material": word_list("wooden, plastic, leather, glass"),
    "soft": word_list("cushion, blanket, carpet, pillow, lamp"),
    "look": word_list("lovely, strange, elegant, old, modern, perfect, wonderful"),
    "dwelling": word_list("house, flat, cottage"),
    "dwelling_adj": word_list("small, large, pretty, modern, comfortable, quiet"),
    # Repairs
    "broken": word_list(
        """tap, roof, radio, clock, chair, washing machine, toaster, printer, heater,
        shower, lamp"""
    ),
    "painted": word_list("fence, wall, door, shed, bench, cupboard, gate"),
    "built": word_list("shelf, shed, wall, fence, bench, cupboard"),
    "part": word_list("battery, lock, switch, tyre, wheel"),
    "tool": word_list("hammer, drill, saw, ladder, toolbox"),
    # Garden and nature
    "flower": word_list("rose, tulip, daisy, sunflower"),
    "petals": word_list("red, yellow, white, pink, purple, orange"),
    "tree": word_list("oak, apple tree, pine, cherry tree, old tree, hedge"),
    "lawn": word_list("grass, hedge, bushes, branches"),
    "garden_bird": word_list("bird, hen, duck"),
    "flower_pot": word_list("flower pot, bench, garden table, bucket"),
    "garden_tool": word_list("rake, spade, bucket, broom, ladder"),
    "shore": word_list("river, canal, beach, lake, coast"),
    "lake": word_list("lake, river, bay, sea"),
    "wood": word_list("forest, woods, valley, park, bushes"),
    "stream": word_list("stream, river, fountain, pond"),
    "trail": word_list("path, river, coast, signs"),
    "climb": word_list("hill, mountain, cliff, rocks"),
    "tent": word_list("tent, rucksack, picnic basket, blankets"),
    "shell": word_list("shell, stone"),
    "sky_sight": word_list("stars, sunset, moon, clouds, rainbow, waves"),
    "bridge": word_list("bridge, railway line, canal, tunnel"),
    "fence": word_list("fence, wall, gate, hedge"),
    "roof": word_list("roof, fence, windowsill, wall"),
    "landscape": word_list("field, village, lake, forest, harbour, valley"),
    "field": word_list("field, meadow, grass, valley"),
    "scenery_adj": word_list("deep, calm, beautiful, cold, clear"),
    # Animals
    "pet": word_list("cat, dog, rabbit, parrot, puppy, kitten"),
    "furry": word_list("cat, dog, rabbit, kitten, puppy"),
    "mount": word_list("horse, pony, donkey"),
    "herd": word_list("sheep, cow, goat, horse"),
    "shelter": word_list("barn, stable, shed"),
    "wild_animal": word_list("deer, fox, squirrel, swan, monkey, elephant, bear"),
    "big_animal": word_list("elephant, horse, bear, giraffe, whale, camel, lion, tiger"),
    "little_animal": word_list("rabbit, squirrel, sparrow, cat, robin"),
    "larger": word_list("bigger, heavier, stronger, larger"),
    # Office
    "phone": word_list("phone, customer, emails, door, question"),
    "document": word_list("report, letter, contract, invoice, summary, email"),
    "figures": word_list("budget, results, prices, plan, design"),
    "meeting": word_list("meeting, conference, interview, workshop"),
    "client": word_list("client, customer, manager, lawyer, boss"),
    "supplies": word_list("paper, ink, envelopes, pens, coffee, batteries"),
    "computer": word_list("computer, printer, laptop"),
    "work_adj": word_list("urgent, boring, important, difficult, useful"),
    # School
    "subject": word_list(
        """maths, history, physics, chemistry, biology, English, French, Spanish,
        German, art"""
    ),
    "skill": word_list("spelling, grammar, reading, writing"),
    "puzzle": word_list("puzzle, riddle, crossword, problem"),
    "hard": word_list("new, long, difficult"),
    "board": word_list("board, wall, poster"),
    "ordinal": word_list("first, second, third, fourth, last"),
    "topic": word_list("space, the ocean, dinosaurs, robots, the planets, wild animals"),
    "stationery": word_list("pencil, ruler, notebook, dictionary, pen"),
    "diagram": word_list("map, triangle, circle, square"),
    "harder": word_list("harder, easier, more interesting, more useful, more difficult"),
    "difficulty": word_list("easy, difficult, long, short"),
    # Clothes and shopping
    "garment": word_list("shirt, jacket, coat, dress, skirt, jumper, hat, scarf, belt, tie"),
    "shoes": word_list("shoes, boots, slippers, socks, gloves"),
    "pairs": word_list("shoes, boots, trousers, jeans, gloves, slippers, socks"),
    "fit": word_list("long, short, small, big, expensive"),
    "fits": word_list("comfortable, warm, cheap, dirty, new, elegant"),
    "fabric": word_list("wool, cotton, silk, leather"),
    "style": word_list("lovely, perfect, wonderful, elegant, strange"),
    "pattern": word_list("striped, plain, knitted, elegant"),
    "colour": word_list("red, blue, green, yellow, white, black, brown, grey, purple, pink, orange"),
    "goods": word_list("shoes, books, tickets, toys, clothes, vegetables, curtains, tools"),
    "gift": word_list(
        """present, bunch of flowers, box of chocolates, card, cake, necklace, watch,
        book, vase"""
    ),
    "big_buy": word_list("bicycle, laptop, camera, sofa, piano, fridge"),
    "bag": word_list("bag, box, basket, suitcase, parcel"),
    "currency": word_list("pounds, dollars, euros"),
    "shop": word_list(
        """bakery, chemist, butcher, bookshop, supermarket, florist, hardware shop,
        post office, library, toy shop, cafe"""
    ),
    "shop_sells": word_list(
        """bakery sells {baked_goods}, chemist sells {remedy}, butcher sells {meat},
        supermarket sells {vegetable+s}, supermarket sells {fruit+s},
        florist sells {flower+s}, toy shop sells {toy+s}"""
    ),
    "baked_goods": word_list("bread, biscuits, cake"),
    "remedy": word_list("medicine, vitamins, pills, bandages"),
    "meat": word_list("ham, chicken, fish"),
    "trade_adj": word_list("cheap, good, low"),
    # Travel and town
    "luggage": word_list("suitcase, bag, rucksack, passport, camera"),
    "lodging": word_list("hotel, guest house, campsite, room by the sea"),
    "transport": word_list("train, bus, ferry"),
    "any_transport": word_list("train, bus, plane, flight"),
    "town": word_list("the coast, the airport, the capital, the seaside, the city"),
    "city": word_list(
        """London, Paris, Rome, Madrid, Lisbon, Berlin, Vienna, Athens, Dublin, Oslo,
        Istanbul, Cairo, Tokyo, Sydney, Toronto, Chicago, Lima, Nairobi"""
    ),
    "sight": word_list("castle, museum, cathedral, palace, gallery, harbour, old town, lighthouse"),
    "crossing": word_list("river, road, bridge, valley, railway line"),
    "island": word_list("island, harbour, bay, coast"),
    "boat": word_list("boat, ship, ferry"),
    "timetable": word_list("timetable, map, address, weather forecast, luggage"),
    "view": word_list("view, local food, sunset, boat trip, journey"),
    "building": word_list(
        """bank, library, station, hospital, museum, church, school, cinema, hotel,
        post office, police station, stadium, theatre, bookshop"""
    ),
    "street": word_list("main road, car park, side street, square"),
    "junction": word_list("traffic lights, bridge, main road"),
    "where": word_list("next to, opposite, behind, near, in front of, close to"),
    "side": word_list("left, right"),
    "station": word_list("station, airport, hospital, theatre, hotel"),
    "eatery": word_list("restaurant, cafe, bakery"),
    "venue": word_list("cafe, cinema, station, gym, park, library"),
    "journey_adj": word_list("long, tiring, comfortable, pleasant, short, exciting"),
    # Sport
    "sport": word_list("football, tennis, basketball, cricket, hockey, volleyball, golf"),
    "race": word_list("race, marathon, match, tournament"),
    "distance": word_list("miles, kilometres, lengths"),
    "bike": word_list("bike, bicycle, skateboard"),
    "match": word_list("match, game, race, tournament"),
    "racket": word_list("racket, bat, glasses"),
    "score_adj": word_list("exciting, boring, close, unfair, brilliant"),
    "player": word_list("goalkeeper, captain, referee, coach, champion"),
    "player_deed": word_list(
        """blew the whistle, shouted at the players, fell on the grass,
        thanked the crowd, shook hands with everyone"""
    ),
    # Health
    "medicine": word_list("medicine, pills, vitamins, time"),
    "healthy_drink": word_list("a glass of water, a cup of tea, a glass of juice, a glass of milk"),
    "healthy": word_list("fruit, vegetables, fish, salad, beans, spinach, oranges"),
    "unhealthy": word_list("sugar, salt, coffee, chocolate"),
    "limb": word_list("leg, arm, knee, shoulder, eye"),
    "washed": word_list("hands, face, hair, feet"),
    "hurt": word_list("back, knee, ankle, shoulder, wrist, elbow, finger, foot"),
    "ache": word_list(
        """head, tooth, ear, throat, stomach, back, knee, ankle, wrist, elbow,
        finger, foot"""
    ),
    "medic": word_list("doctor, dentist, nurse"),
    "healer": word_list("doctor, nurse"),
    "pills": word_list("medicine, pills, vitamins, bandages, cream"),
    "cream": word_list("cream, ice, oil"),
    "exercise": word_list("yoga, swimming, exercise, rest"),
    "ailment": word_list(
        """cold, headache, fever, sore throat, toothache, bad cough, stomach ache,
        bad back"""
    ),
    "rest_place": word_list("in bed, at home, inside, in the shade"),
    # Music
    "instrument": word_list("piano, guitar, violin, flute, drum, trumpet, cello, harp"),
    "song": word_list("song, tune, melody, folk song, love song"),
    "genre": word_list("jazz, classical music, pop music, rock music, opera, folk music"),
    "band": word_list("band, orchestra, school band"),
    "concert": word_list("concert, festival, opera, musical"),
    "sound": word_list("beautiful, loud, sad, cheerful, awful, gentle, strange, soft"),
    # Crafts
    "picture": word_list("portrait, picture, cartoon, picture of a {wild_animal}, sketch"),
    "knitted": word_list("scarf, jumper, blanket, hat"),
    "carved": word_list("wooden spoon, toy boat, mask, puppet"),
    "folded": word_list("plane, boat, star, hat, flower"),
    "designed": word_list("poster, card, invitation, mask"),
    "decorated": word_list("cake, room, tree, window, table, stage"),
    # Friends
    "party": word_list("party, wedding, barbecue, picnic, dinner, birthday party, concert"),
    "chore": word_list("shopping, luggage, homework, cooking, housework"),
    "success": word_list("new job, wedding, prize, new house"),
    "story": word_list("story, joke, fairy tale, riddle, secret"),
    "mishap": word_list("delay, mess, noise, broken window, accident"),
    # Leisure
    "novel": word_list("novel, comic, magazine, cookbook, travel guide, newspaper"),
    "film": word_list("film, comedy, documentary, cartoon, musical, quiz show"),
    "tale": word_list("novel, story, comic, play"),
    "tale_adj": word_list("exciting, funny, sad, boring, long, famous, silly"),
    "pastime": word_list("puzzle, crossword, novel, board game, model train"),
    "book_adj": word_list("boring, exciting, interesting, useful, too long"),
    "board_game": word_list("chess, cards, dominoes, darts"),
    "broadcast": word_list("podcast, series, radio play, debate"),
    "screen": word_list("television, computer, laptop, radio"),
    # Children
    "toy": word_list("ball, balloon, doll, toy, kite, puzzle"),
    "sandcastle": word_list("sandcastle, snowman"),
    "clown": word_list("clown, puppet show, monkeys, parrot, joke"),
    "playground": word_list("playground, garden, park, pool"),
    "age_adj": word_list("little, funny, shy, clever"),
    "child_thing": word_list(
        """is learning to walk, knows a lot about {topic}, has lost a tooth,
        is afraid of {scary}, wants to become a {job}, is {number} years old,
        has started school"""
    ),
    "scary": word_list("spiders, thunder, the dark, ghosts, loud noises, snakes"),
    # Errands and technology
    "parcel": word_list("parcel, letter, postcard, luggage"),
    "bill": word_list("bill, rent, fine, taxi driver"),
    "form": word_list("form, survey, contract"),
    "permit": word_list("passport, driving licence, library card, visa"),
    "car": word_list("car, van, motorbike, truck"),
    "device": word_list("phone, laptop, camera, computer, tablet"),
    "stamp": word_list("stamp, newspaper, train ticket, magazine, postcard"),
    "password": word_list("password, code, address, appointment, date"),
    "tech_trouble": word_list(
        """will not start, is running out of battery, does not work,
        belongs to {person}"""
    ),
    # Weather
    "weather": word_list(
        """sunny, cloudy, windy, rainy, foggy, stormy, warm, cold, freezing,
        dry, cool"""
    ),
    "air": word_list("cold, warm, cool, dry, fresh"),
    "warmer": word_list("warmer, colder, wetter, drier, sunnier, windier"),
    "weather_noun": word_list("rain, snow, sunshine, fog, frost, thunder, wind"),
    "region": word_list("the north, the south, the mountains, the valley, the west, the east"),
    "weather_event": word_list(
        """the sun came out, the snow melted, the wind stopped, the clouds cleared,
        the storm passed, the rain stopped, the fog cleared, it started to snow,
        it started to rain, the sky turned grey, the sun set"""
    ),
    "wet_gear": word_list("umbrella, raincoat"),
    "cold_gear": word_list("scarf, warm jumper, warm coat, hat"),
    "hot_gear": word_list("hat, bottle of water"),
    "wet": word_list("raining, getting cloudy, starting to rain"),
    "cold": word_list("freezing, very cold, cold, getting cold"),
    "hot": word_list("sunny, hot, very warm, so bright"),
    "season": word_list("spring, summer, autumn, winter"),
    # Small talk
    "hello": word_list("hello, hi, good morning, good afternoon, good evening"),
    "lovely": word_list("lovely, nice, great, pleasant, wonderful"),
    "farewell": word_list("evening, weekend, day, trip, holiday, flight, journey"),
    "event": word_list(
        """film, concert, party, match, meeting, wedding, interview, festival, trip,
        play, exhibition"""
    ),
    "event_adj": word_list(
        """great, boring, wonderful, terrible, interesting, fantastic, noisy,
        amazing, fun, perfect"""
    ),
    "reply": word_list("yes, sure, of course, certainly, no problem, all right, fine"),
    "regret": word_list("sorry, no, excuse me"),
    "opinion": word_list(
        """I think, I believe, I hope, I guess, maybe, perhaps, I am sure,
        {person} said, {person} told me, everyone knows"""
    ),
    "says": word_list(
        """I think, I believe, I know, {person} says, {person} thinks,
        {person} believes, {person} told me, my {relative} says, my {relative} thinks"""
    ),
    "wow": word_list("look, listen, wow, oh dear, hey"),
    "later_day": word_list("tonight, tomorrow, on {day}, this {daytime}, today"),
    "hobby": word_list(
        """chess, gardening, cooking, painting, singing, dancing, fishing, cycling,
        swimming, yoga, baking, reading"""
    ),
    "language": word_list("English, French, Spanish, German, Italian, Arabic, Chinese, Hindi"),
    # Numbers and time
    "few": word_list("two, three, four, five, six"),
    "number": word_list("two, three, four, five, six, seven, eight, nine, ten, eleven, twelve"),
    "teens": word_list(
        """eleven, twelve, thirteen, fourteen, fifteen, sixteen, seventeen, eighteen,
        nineteen, twenty"""
    ),
    "tens": word_list("ten, twenty, thirty, forty, fifty, sixty"),
    "hundreds": word_list("seventy, eighty, ninety, a hundred, two hundred, five hundred"),
    "hour": word_list("one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve"),
    "clock": word_list(
        """{hour} o'clock, half past {hour}, a quarter to {hour},
        a quarter past {hour}, noon, ten to {hour}"""
    ),
    "daytime": word_list("morning, afternoon, evening"),
    "day": word_list("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "month": word_list(
        """January, February, March, April, May, June, July, August, September,
        October, November, December"""
    ),
    "ago": word_list(
        """yesterday, last night, last week, last weekend, this morning, on {day},
        on {day} {daytime}, yesterday {daytime}, {few} days ago, an hour ago,
        earlier today, the other day, last {day}, last month"""
    ),
    "later": word_list(
        """tomorrow, tomorrow {daytime}, next week, next {day}, on {day},
        this evening, tonight, later today, after lunch, before dinner, at {clock},
        in {few} hours, this weekend, on {day} {daytime}"""
    ),
    "cast_time": word_list("in the {daytime}, at night, in the rain, in {season}"),
    "now": word_list("now, right now, at the moment, again, today, this {daytime}"),
    "usually": word_list("often, usually, always, sometimes, generally, normally"),
    "often": word_list("often, usually, always, sometimes, rarely, never, normally, generally"),
    "manner": word_list("finally, recently, happily, quietly, once, gladly"),
    "strange": word_list("strange, loud, terrible, funny, high, low"),
    # Parts of verb phrases; these agree with the subject
    "wanted": word_list("wanted, tried, decided, offered, promised, agreed, refused, planned"),
    "asked": word_list("asked, told, reminded, wanted, allowed"),
    "finished": word_list("suggested, avoided, enjoyed, regretted, tried"),
    "love_to": word_list("{like/likes} to, {love/loves} to, {hate/hates} to, {prefer/prefers} to"),
    "enjoy": word_list(
        """{enjoy/enjoys}, {like/likes}, {love/loves}, {hate/hates},
        {do/does} not mind, {is} tired of, {is} good at, {prefer/prefers}"""
    ),
    "might": word_list("might, may, should, could, must, can"),
    "want": word_list("{want/wants}, {plan/plans}, {hope/hopes}, {need/needs}, {have/has}, {is} ready"),
    "tired": word_list("tired, busy, sleepy, weak, nervous, lazy, exhausted"),
    "event_past": word_list(
        """the phone rang, {person} arrived, {person} called, the music stopped,
        it started to rain, the storm began, somebody shouted,
        the clock struck {hour}, a dog barked"""
    ),
}

# --------------------------------------------------------------------------
# Irregular forms
# --------------------------------------------------------------------------

# base -> (past, past participle)
IRREGULAR_VERBS: dict[str, tuple[str, str]] = {
    "break": ("broke", "broken"),
    "build": ("built", "built"),
    "buy": ("bought", "bought"),
    "catch": ("caught", "caught"),
    "choose": ("chose", "chosen"),
    "cut": ("cut", "cut"),
    "dig": ("dug", "dug"),
    "draw": ("drew", "drawn"),
    "drink": ("drank", "drunk"),
    "drive": ("drove", "driven"),
    "eat": ("ate", "eaten"),
    "feed": ("fed", "fed"),
    "fly": ("flew", "flown"),
    "have": ("had", "had"),
    "hide": ("hid", "hidden"),
    "leave": ("left", "left"),
    "lend": ("lent", "lent"),
    "light": ("lit", "lit"),
    "make": ("made", "made"),
    "meet": ("met", "met"),
    "pay": ("paid", "paid"),
    "read": ("read", "read"),
    "ride": ("rode", "ridden"),
    "run": ("ran", "run"),
    "see": ("saw", "seen"),
    "sell": ("sold", "sold"),
    "send": ("sent", "sent"),
    "set": ("set", "set"),
    "sing": ("sang", "sung"),
    "sit": ("sat", "sat"),
    "sleep": ("slept", "slept"),
    "spend": ("spent", "spent"),
    "stand": ("stood", "stood"),
    "sweep": ("swept", "swept"),
    "swim": ("swam", "swum"),
    "take": ("took", "taken"),
    "tell": ("told", "told"),
    "throw": ("threw", "thrown"),
    "write": ("wrote", "written"),
}

# Verbs whose last consonant doubles before -ed and -ing.
DOUBLED_VERBS: frozenset[str] = frozenset(word_list("chop, cut, dig, knit, plan, run, set, sit, stir, stop, swim, travel"))

# singular -> plural, where the rules of ``grammar.py`` do not apply
IRREGULAR_PLURALS: dict[str, str] = {
    "sheep": "sheep",
    "deer": "deer",
    "potato": "potatoes",
    "tomato": "tomatoes",
}
