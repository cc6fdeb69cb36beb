"""The objects and colours that the demo model knows, and the objects that it has never seen.

An object is named here as in its caption. Its picture is the emoji of that Unicode name; where the caption uses
another, plainer name, `UNICODE_NAMES` gives the Unicode one.
"""

from __future__ import annotations

from collections.abc import Sequence

COLOURS = {
    "red": (214, 48, 49),
    "orange": (240, 140, 40),
    "yellow": (248, 214, 72),
    "green": (60, 166, 80),
    "teal": (40, 160, 160),
    "blue": (52, 104, 214),
    "purple": (130, 70, 190),
    "pink": (245, 150, 190),
    "brown": (122, 80, 50),
    "black": (26, 26, 30),
    "white": (246, 246, 246),
    "grey": (140, 144, 150),
}

# Never shown in training: they are the subjects of the demo's personalisation.
HELD_OUT = (
    "teddy bear",
    "cat",
    "dog",
    "robot",
    "teapot",
    "backpack",
    "duck",
    "sneaker",
    "sunglasses",
    "alarm clock",
    "candle",
    "sloth",
)

TRAINED_NAMES = tuple(
    """
rat; mouse; ox; cow; tiger; leopard; rabbit; dragon; crocodile; whale; snail; snake; horse; ram; goat; sheep; monkey;
rooster; chicken; pig; boar; elephant; octopus; spiral shell; bug; ant; honeybee; lady beetle; fish; tropical fish;
blowfish; turtle; hatching chick; bird; penguin; koala; poodle; dolphin; frog face; hamster face; wolf face; bear face;
panda face; chipmunk; crab; lion face; scorpion; turkey; unicorn face; eagle; bat; shark; owl; fox face; butterfly;
deer; gorilla; lizard; rhinoceros; shrimp; squid; hedgehog; kangaroo; llama; peacock; parrot; raccoon; lobster; swan;
mammoth; otter; skunk; flamingo; beaver; seal; spider; beetle;
hot dog; taco; chestnut; evergreen tree; palm tree; cactus; hot pepper; tulip; rose; hibiscus; sunflower; mushroom;
tomato; aubergine; grapes; watermelon; tangerine; lemon; banana; pineapple; red apple; green apple; pear; peach;
cherries; strawberry; hamburger; slice of pizza; rice ball; bread; french fries; doughnut; cookie; chocolate bar;
lollipop; honey pot; birthday cake; cupcake; avocado; cucumber; potato; carrot; egg; kiwifruit; pancakes; coconut;
broccoli; pretzel; sandwich; cheese wedge; onion; garlic; waffle; popcorn; ice cream; wine glass; beer mug;
hot beverage;
jack-o-lantern; christmas tree; balloon; wrapped present; top hat; crown; eyeglasses; necktie; t-shirt; jeans; dress;
purse; high-heeled shoe; gloves; scarf; socks; ring; gem stone; bomb; money bag; guitar; violin; trumpet; saxophone;
drum; soccer ball; american football; volleyball; baseball; trophy; bowling; video game; dice; teddy;
car; taxi; bus; ambulance; fire engine; police car; truck; tractor; bicycle; motor scooter; helicopter; rocket;
airplane; sailboat; ship; steam locomotive; flying saucer; skateboard; house; castle; tent; volcano; umbrella;
telephone; mobile phone; camera; television; radio; computer; printer; battery; key; lock; bell; hammer; wrench;
scissors; axe; magnet; microscope; telescope; light bulb; book; envelope; pencil; chair; couch; bed; door; toilet;
bathtub; broom; basket; bucket; snowman; fire; droplet; star; sun; crescent moon; rainbow; heart; skull; ghost; alien;
planet; anchor; gear; brain; bone; tooth; moai; kite; magic wand; ladder
""".replace("\n", " ")
    .strip()
    .split("; ")
)
TRAINED_NAMES = tuple(
    name.strip() for chunk in TRAINED_NAMES for name in chunk.split(";") if name.strip() not in ("", "teddy")
)

# Scenes of the demo's subjects: what is in each of the five pictures, from left to right, and the colour behind it.
SCENES = {
    "table": (
        ("candle", "red apple", "blue"),
        ("hot beverage", "candle", "yellow"),
        ("red apple", "hot beverage", "teal"),
        ("book", "candle", "pink"),
        ("hot beverage", "book", "grey"),
    ),
    "garden": (
        ("evergreen tree", "tulip", "blue"),
        ("sunflower", "house", "teal"),
        ("tulip", "sunflower", "pink"),
        ("house", "evergreen tree", "orange"),
        ("sunflower", "evergreen tree", "purple"),
    ),
}

UNICODE_NAMES = {
    "robot": "robot face",
    "backpack": "school satchel",
    "sneaker": "athletic shoe",
    "sunglasses": "dark sunglasses",
    "pig": "pig face",
    "cow": "cow face",
    "tiger": "tiger face",
    "rabbit": "rabbit face",
    "mouse": "mouse face",
    "monkey": "monkey face",
    "drum": "drum with drumsticks",
    "dice": "game die",
    "car": "automobile",
    "truck": "delivery truck",
    "house": "house building",
    "castle": "european castle",
    "telephone": "black telephone",
    "computer": "personal computer",
    "light bulb": "electric light bulb",
    "book": "orange book",
    "couch": "couch and lamp",
    "scissors": "black scissors",
    "star": "white medium star",
    "sun": "sun with face",
    "heart": "heavy black heart",
    "alien": "extraterrestrial alien",
    "planet": "ringed planet",
    "moai": "moyai",
    "deer": "deer",
    "basketball": "basketball and hoop",
}


def with_article(name: str) -> str:
    """The name behind a or an."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def caption(name: str, colour: str) -> str:
    """The caption of one picture, in the words that the demo model was trained on."""
    return f"{with_article(name)} on {with_article(colour)} background"


def scene_caption(scene: str, objects: Sequence[str], colour: str) -> str:
    """The caption of a scene: it names the objects, so that they are not learnt as part of the scene."""
    return f"{with_article(scene)} with {with_article(' and '.join(objects))} on {with_article(colour)} background"
