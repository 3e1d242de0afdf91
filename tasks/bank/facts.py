"""Facts of the bank as small tables: only what is certain, stable and undisputed.

A table is a text, one entry a line, its columns apart by `|`, synonyms by `/`, the usual one first.
Appending a line moves no row of the bank; changing one changes the rows made of it.
"""

import functools
from typing import NamedTuple

# English, German, French, Spanish, Italian.
LANGUAGES = ("en", "de", "fr", "es", "it")


def table(text: str) -> list[list[str]]:
    """Returns the columns of each line of a table."""
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


def said(cell: str) -> tuple[str, ...]:
    """Returns the synonyms of a cell, the usual one first."""
    return tuple(cell.split("/"))


class Country(NamedTuple):
    """A country: names and capitals by language; French and Italian names have their articles."""

    names: dict[str, str]
    capitals: dict[str, str]
    continent: str


# English, capital, continent; German; French; Spanish; Italian, each with the capital. A dash is
# left out there: a continent that is a matter of opinion, a German name with an article.
_COUNTRIES = """
France|Paris|Europe|Frankreich|Paris|la France|Paris|Francia|París|la Francia|Parigi
Spain|Madrid|Europe|Spanien|Madrid|l'Espagne|Madrid|España|Madrid|la Spagna|Madrid
Italy|Rome|Europe|Italien|Rom|l'Italie|Rome|Italia|Roma|l'Italia|Roma
Portugal|Lisbon|Europe|Portugal|Lissabon|le Portugal|Lisbonne|Portugal|Lisboa|il Portogallo|Lisbona
Germany|Berlin|Europe|Deutschland|Berlin|l'Allemagne|Berlin|Alemania|Berlín|la Germania|Berlino
Austria|Vienna|Europe|Österreich|Wien|l'Autriche|Vienne|Austria|Viena|l'Austria|Vienna
Poland|Warsaw|Europe|Polen|Warschau|la Pologne|Varsovie|Polonia|Varsovia|la Polonia|Varsavia
Hungary|Budapest|Europe|Ungarn|Budapest|la Hongrie|Budapest|Hungría|Budapest|l'Ungheria|Budapest
Greece|Athens|Europe|Griechenland|Athen|la Grèce|Athènes|Grecia|Atenas|la Grecia|Atene
Sweden|Stockholm|Europe|Schweden|Stockholm|la Suède|Stockholm|Suecia|Estocolmo|la Svezia|Stoccolma
Norway|Oslo|Europe|Norwegen|Oslo|la Norvège|Oslo|Noruega|Oslo|la Norvegia|Oslo
Finland|Helsinki|Europe|Finnland|Helsinki|la Finlande|Helsinki|Finlandia|Helsinki|la Finlandia|\
Helsinki
Denmark|Copenhagen|Europe|Dänemark|Kopenhagen|le Danemark|Copenhague|Dinamarca|Copenhague|\
la Danimarca|Copenaghen
Ireland|Dublin|Europe|Irland|Dublin|l'Irlande|Dublin|Irlanda|Dublín|l'Irlanda|Dublino
Belgium|Brussels|Europe|Belgien|Brüssel|la Belgique|Bruxelles|Bélgica|Bruselas|il Belgio|Bruxelles
Romania|Bucharest|Europe|Rumänien|Bukarest|la Roumanie|Bucarest|Rumanía/Rumania|Bucarest|\
la Romania|Bucarest
Bulgaria|Sofia|Europe|Bulgarien|Sofia|la Bulgarie|Sofia|Bulgaria|Sofía|la Bulgaria|Sofia
Croatia|Zagreb|Europe|Kroatien|Zagreb|la Croatie|Zagreb|Croacia|Zagreb|la Croazia|Zagabria
Serbia|Belgrade|Europe|Serbien|Belgrad|la Serbie|Belgrade|Serbia|Belgrado|la Serbia|Belgrado
Albania|Tirana|Europe|Albanien|Tirana|l'Albanie|Tirana|Albania|Tirana|l'Albania|Tirana
Iceland|Reykjavik/Reykjavík|Europe|Island|Reykjavik/Reykjavík|l'Islande|Reykjavik|Islandia|\
Reikiavik|l'Islanda|Reykjavik
Estonia|Tallinn|Europe|Estland|Tallinn/Reval|l'Estonie|Tallinn|Estonia|Tallin/Tallinn|l'Estonia|\
Tallinn
Latvia|Riga|Europe|Lettland|Riga|la Lettonie|Riga|Letonia|Riga|la Lettonia|Riga
Lithuania|Vilnius|Europe|Litauen|Vilnius/Wilna|la Lituanie|Vilnius|Lituania|Vilna/Vilnius|\
la Lituania|Vilnius
Switzerland|Bern/Berne|Europe|-|Bern|la Suisse|Berne|Suiza|Berna|la Svizzera|Berna
Russia|Moscow|-|Russland|Moskau|la Russie|Moscou|Rusia|Moscú|la Russia|Mosca
Turkey/Türkiye|Ankara|-|-|Ankara|la Turquie|Ankara|Turquía|Ankara|la Turchia|Ankara
China|Beijing|Asia|China|Peking|la Chine|Pékin|China|Pekín|la Cina|Pechino
Japan|Tokyo|Asia|Japan|Tokio|le Japon|Tokyo|Japón|Tokio|il Giappone|Tokyo
India|New Delhi|Asia|Indien|Neu-Delhi/New Delhi|l'Inde|New Delhi|India|Nueva Delhi|l'India|\
Nuova Delhi
Thailand|Bangkok|Asia|Thailand|Bangkok|la Thaïlande|Bangkok|Tailandia|Bangkok|la Thailandia|Bangkok
Vietnam|Hanoi|Asia|Vietnam|Hanoi|le Vietnam/le Viêt Nam|Hanoï|Vietnam|Hanói|il Vietnam|Hanoi
Nepal|Kathmandu|Asia|Nepal|Kathmandu/Katmandu|le Népal|Katmandou|Nepal|Katmandú|il Nepal|Katmandu
Mongolia|Ulaanbaatar/Ulan Bator|Asia|-|-|la Mongolie|Oulan-Bator|Mongolia|Ulán Bator|\
la Mongolia|Ulan Bator
Egypt|Cairo|-|Ägypten|Kairo|l'Égypte|Le Caire|Egipto|El Cairo|l'Egitto|Il Cairo
Morocco|Rabat|Africa|Marokko|Rabat|le Maroc|Rabat|Marruecos|Rabat|il Marocco|Rabat
Tunisia|Tunis|Africa|Tunesien|Tunis|la Tunisie|Tunis|Túnez|Túnez|la Tunisia|Tunisi
Algeria|Algiers|Africa|Algerien|Algier|l'Algérie|Alger|Argelia|Argel|l'Algeria|Algeri
Kenya|Nairobi|Africa|Kenia|Nairobi|le Kenya|Nairobi|Kenia|Nairobi|il Kenya|Nairobi
Ethiopia|Addis Ababa|Africa|Äthiopien|Addis Abeba|l'Éthiopie|Addis-Abeba|Etiopía|Adís Abeba|\
l'Etiopia|Addis Abeba
Ghana|Accra|Africa|Ghana|Accra|le Ghana|Accra|Ghana|Acra|il Ghana|Accra
Senegal|Dakar|Africa|Senegal|Dakar|le Sénégal|Dakar|Senegal|Dakar|il Senegal|Dakar
Canada|Ottawa|North America|Kanada|Ottawa|le Canada|Ottawa|Canadá|Ottawa|il Canada|Ottawa
Mexico|Mexico City|North America|Mexiko|Mexiko-Stadt|le Mexique|Mexico|México|Ciudad de México|\
il Messico|Città del Messico
Cuba|Havana|North America|Kuba|Havanna|Cuba|La Havane|Cuba|La Habana|Cuba|L'Avana
Brazil|Brasilia/Brasília|South America|Brasilien|Brasilia/Brasília|le Brésil|Brasilia|Brasil|\
Brasilia|il Brasile|Brasilia
Argentina|Buenos Aires|South America|Argentinien|Buenos Aires|l'Argentine|Buenos Aires|\
Argentina|Buenos Aires|l'Argentina|Buenos Aires
Chile|Santiago|South America|Chile|Santiago|le Chili|Santiago|Chile|Santiago|il Cile|Santiago
Peru|Lima|South America|Peru|Lima|le Pérou|Lima|Perú|Lima|il Perù|Lima
Colombia|Bogotá/Bogota|South America|Kolumbien|Bogotá/Bogota|la Colombie|Bogota|Colombia|Bogotá|\
la Colombia|Bogotà/Bogotá
Uruguay|Montevideo|South America|Uruguay|Montevideo|l'Uruguay|Montevideo|Uruguay|Montevideo|\
l'Uruguay|Montevideo
Ecuador|Quito|South America|Ecuador|Quito|l'Équateur|Quito|Ecuador|Quito|l'Ecuador|Quito
Venezuela|Caracas|South America|Venezuela|Caracas|le Venezuela|Caracas|Venezuela|Caracas|\
il Venezuela|Caracas
Australia|Canberra|-|Australien|Canberra|l'Australie|Canberra|Australia|Canberra|l'Australia|\
Canberra
"""


@functools.cache
def countries() -> list[Country]:
    """Returns the countries."""
    found = []
    for row in table(_COUNTRIES):
        pairs = {"en": row[:2]}
        pairs |= {LANGUAGES[i]: row[2 * i + 1 : 2 * i + 3] for i in range(1, 5)}
        kept = {language: pair for language, pair in pairs.items() if "-" not in pair}
        names = {language: name for language, (name, _) in kept.items()}
        capitals = {language: capital for language, (_, capital) in kept.items()}
        found.append(Country(names, capitals, row[2]))
    return found


# English, symbol, German, French.
ELEMENTS = table("""
hydrogen|H|Wasserstoff|hydrogène
helium|He|Helium|hélium
lithium|Li|Lithium|lithium
carbon|C|Kohlenstoff|carbone
nitrogen|N|Stickstoff|azote
oxygen|O|Sauerstoff|oxygène
fluorine|F|Fluor|fluor
neon|Ne|Neon|néon
sodium|Na|Natrium|sodium
magnesium|Mg|Magnesium|magnésium
aluminium/aluminum|Al|Aluminium|aluminium
silicon|Si|Silicium/Silizium|silicium
phosphorus|P|Phosphor|phosphore
sulfur/sulphur|S|Schwefel|soufre
chlorine|Cl|Chlor|chlore
argon|Ar|Argon|argon
potassium|K|Kalium|potassium
calcium|Ca|Calcium/Kalzium|calcium
iron|Fe|Eisen|fer
nickel|Ni|Nickel|nickel
copper|Cu|Kupfer|cuivre
zinc|Zn|Zink|zinc
silver|Ag|Silber|argent
tin|Sn|Zinn|étain
iodine|I|Iod/Jod|iode
platinum|Pt|Platin|platine
gold|Au|Gold|or
mercury|Hg|Quecksilber|mercure
lead|Pb|Blei|plomb
uranium|U|Uran|uranium
""")

# What is in what, how often.
UNITS = table("""
How many seconds are in a minute?|60
How many minutes are in an hour?|60
How many hours are in a day?|24
How many days are in a week?|7
How many months are in a year?|12
How many days are in the month of January?|31
How many days are in the month of April?|30
How many days are in the month of June?|30
How many days are in the month of August?|31
How many days are in the month of November?|30
How many years are in a century?|100
How many years are in a decade?|10
How many metres are in a kilometre?|1000
How many centimetres are in a metre?|100
How many millimetres are in a centimetre?|10
How many grams are in a kilogram?|1000
How many millilitres are in a litre?|1000
How many inches are in a foot?|12
How many feet are in a yard?|3
How many items are in a dozen?|12
How many sides does a triangle have?|3
How many sides does a square have?|4
How many sides does a hexagon have?|6
How many corners does a pentagon have?|5
How many faces does a cube have?|6
How many degrees are in a right angle?|90
How many degrees are in a full circle?|360
How many legs does a spider have?|8
How many legs does an insect have?|6
How many wheels does a bicycle have?|2
How many letters does the English alphabet have?|26
How many players of one team are on the field in football (soccer)?|11
How many squares does a chessboard have?|64
How many strings does a violin have?|4
How many planets does the solar system have?|8
How many sides does an octagon have?|8
""")

CURRENCIES = table("""
Japan|yen
the United Kingdom|pound/pound sterling/british pound
India|rupee/indian rupee
China|yuan/renminbi
Brazil|real
Mexico|peso/mexican peso
Sweden|krona/swedish krona
Norway|krone/norwegian krone
Denmark|krone/danish krone
Poland|zloty/złoty/polish zloty
Hungary|forint/hungarian forint
Switzerland|franc/swiss franc
Turkey|lira/turkish lira
Russia|ruble/rouble/russian ruble
Thailand|baht/thai baht
Canada|dollar/canadian dollar
Australia|dollar/australian dollar
Germany|euro
France|euro
Italy|euro
""")

SPOKEN = table("""
France|French
Germany|German
Italy|Italian
Japan|Japanese
Portugal|Portuguese
Brazil|Portuguese
Mexico|Spanish
Argentina|Spanish
Cuba|Spanish
Austria|German
Greece|Greek
Poland|Polish
Hungary|Hungarian
Sweden|Swedish
Denmark|Danish
Iceland|Icelandic
Egypt|Arabic
Tunisia|Arabic
Russia|Russian
Thailand|Thai
Vietnam|Vietnamese
Romania|Romanian
Australia|English
""")

MONTHS = {
    "en": "January February March April May June July August September October November December",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre/setiembre octubre"
    " noviembre diciembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre"
    " dicembre",
}
DAYS = {
    "en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "de": "Montag Dienstag Mittwoch Donnerstag Freitag Samstag/Sonnabend Sonntag",
    "fr": "lundi mardi mercredi jeudi vendredi samedi dimanche",
    "es": "lunes martes miércoles jueves viernes sábado domingo",
    "it": "lunedì martedì mercoledì giovedì venerdì sabato domenica",
}
# Nought to twenty, then the tens to a hundred; `_` is a space within a word.
NUMERALS = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    " fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty"
    " ninety hundred/one_hundred/a_hundred",
    "de": "null eins/ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn"
    " vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn zwanzig dreißig vierzig fünfzig"
    " sechzig siebzig achtzig neunzig hundert/einhundert",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze"
    " seize dix-sept dix-huit dix-neuf vingt trente quarante cinquante soixante"
    " soixante-dix/septante quatre-vingts/quatre-vingt quatre-vingt-dix/nonante cent",
    "es": "cero uno/un dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce"
    " quince dieciséis diecisiete dieciocho diecinueve veinte treinta cuarenta cincuenta sesenta"
    " setenta ochenta noventa cien/ciento",
    "it": "zero uno/un due tre quattro cinque sei sette otto nove dieci undici dodici tredici"
    " quattordici quindici sedici diciassette diciotto diciannove venti trenta quaranta cinquanta"
    " sessanta settanta ottanta novanta cento",
}
NUMBERS = (*range(21), *range(30, 101, 10))


def numeral(value: int, language: str) -> tuple[str, ...]:
    """Returns how a number is written as a word; nothing where `NUMBERS` has it not."""
    if value not in NUMBERS:
        return ()
    return said(NUMERALS[language].split()[NUMBERS.index(value)].replace("_", " "))
