"""The sentences of the family `inference`: of each kind three, whose answers are yes, no, unknown.

{a}, {b}, {c} are people, {k} is an invented kind of thing, {q} and {qs} a quality of one and of
several, {x}, {y}, {z} goods, {m} and {n} numbers.
"""

LABELS = {
    "en": ("yes", "no", "unknown"),
    "de": ("ja", "nein", "unbekannt"),
    "fr": ("oui", "non", "inconnu"),
    "es": ("sí", "no", "desconocido"),
    "it": ("sì", "no", "sconosciuto"),
}
ANSWER = {
    "en": "Answer yes, no or unknown.",
    "de": "Antworte mit ja, nein oder unbekannt.",
    "fr": "Réponds par oui, non ou inconnu.",
    "es": "Responde sí, no o desconocido.",
    "it": "Rispondi sì, no o sconosciuto.",
}
# Of two people: a statement that passes on to a third, and its question.
ORDERS = {
    "en": (
        ("{} is taller than {}.", "Is {} taller than {}?"),
        ("{} is older than {}.", "Is {} older than {}?"),
        ("{} arrived before {}.", "Did {} arrive before {}?"),
    ),
    "de": (
        ("{} ist größer als {}.", "Ist {} größer als {}?"),
        ("{} ist älter als {}.", "Ist {} älter als {}?"),
        ("{} kam vor {} an.", "Kam {} vor {} an?"),
    ),
    "fr": (
        ("{} court plus vite que {}.", "Est-ce que {} court plus vite que {} ?"),
        ("{} a plus d'argent que {}.", "Est-ce que {} a plus d'argent que {} ?"),
        (
            "{} est là depuis plus longtemps que {}.",
            "Est-ce que {} est là depuis plus longtemps que {} ?",
        ),
    ),
    "es": (
        ("{} es más grande que {}.", "¿Es {} más grande que {}?"),
        ("{} es mayor que {}.", "¿Es {} mayor que {}?"),
        ("{} llegó antes que {}.", "¿Llegó {} antes que {}?"),
    ),
    "it": (
        ("{} è più grande di {}.", "{} è più grande di {}?"),
        ("{} corre più veloce di {}.", "{} corre più veloce di {}?"),
        ("{} ha più anni di {}.", "{} ha più anni di {}?"),
    ),
}
CLASSES = {
    "en": (
        "All {k}s are {qs}. Mo is a {k}. Is Mo {q}?",
        "No {k} is {q}. Mo is a {k}. Is Mo {q}?",
        "Some {k}s are {qs} and some are not. Mo is a {k}. Is Mo {q}?",
    ),
    "de": (
        "Alle {k}s sind {qs}. Mo ist ein {k}. Ist Mo {q}?",
        "Kein {k} ist {q}. Mo ist ein {k}. Ist Mo {q}?",
        "Manche {k}s sind {qs}, manche nicht. Mo ist ein {k}. Ist Mo {q}?",
    ),
    "fr": (
        "Tous les {k}s sont {qs}. Mo est un {k}. Est-ce que Mo est {q} ?",
        "Aucun {k} n'est {q}. Mo est un {k}. Est-ce que Mo est {q} ?",
        "Certains {k}s sont {qs}, d'autres non. Mo est un {k}. Est-ce que Mo est {q} ?",
    ),
    "es": (
        "Todos los {k}s son {qs}. Mo es un {k}. ¿Es Mo {q}?",
        "Ningún {k} es {q}. Mo es un {k}. ¿Es Mo {q}?",
        "Algunos {k}s son {qs} y otros no. Mo es un {k}. ¿Es Mo {q}?",
    ),
    "it": (
        "Tutti i {k} sono {qs}. Mo è un {k}. Mo è {q}?",
        "Nessun {k} è {q}. Mo è un {k}. Mo è {q}?",
        "Alcuni {k} sono {qs} e altri no. Mo è un {k}. Mo è {q}?",
    ),
}
KINDS = ("blim", "tork", "wub", "fep", "mip", "gorp", "bonk", "plim", "terp", "nub", "drig", "zorp")
QUALITIES = {
    "en": (("red", "red"), ("small", "small"), ("green", "green"), ("heavy", "heavy")),
    "de": (("rot", "rot"), ("klein", "klein"), ("grün", "grün"), ("schwer", "schwer")),
    "fr": (("rouge", "rouges"), ("petit", "petits"), ("vert", "verts"), ("lourd", "lourds")),
    "es": (("rojo", "rojos"), ("pequeño", "pequeños"), ("verde", "verdes"), ("negro", "negros")),
    "it": (("rosso", "rossi"), ("piccolo", "piccoli"), ("verde", "verdi"), ("nero", "neri")),
}
BOUGHT = {
    "en": (
        "{a} bought {x}, but no {y}. Did {a} buy {x}?",
        "{a} bought {x}, but no {y}. Did {a} buy {y}?",
        "{a} bought {x}. {b} bought {y}. Did {a} also buy {z}?",
    ),
    "de": (
        "{a} hat {x} gekauft, aber {y} nicht. Hat {a} {x} gekauft?",
        "{a} hat {x} gekauft, aber {y} nicht. Hat {a} {y} gekauft?",
        "{a} hat {x} gekauft. {b} hat {y} gekauft. Hat {a} auch {z} gekauft?",
    ),
    "fr": (
        "{a} a acheté {x}, mais pas {y}. Est-ce que {a} a acheté {x} ?",
        "{a} a acheté {x}, mais pas {y}. Est-ce que {a} a acheté {y} ?",
        "{a} a acheté {x}. {b} a acheté {y}. Est-ce que {a} a aussi acheté {z} ?",
    ),
    "es": (
        "{a} compró {x}, pero no compró {y}. ¿Compró {a} {x}?",
        "{a} compró {x}, pero no compró {y}. ¿Compró {a} {y}?",
        "{a} compró {x}. {b} compró {y}. ¿Compró {a} también {z}?",
    ),
    "it": (
        "{a} ha comprato {x}, ma non {y}. {a} ha comprato {x}?",
        "{a} ha comprato {x}, ma non {y}. {a} ha comprato {y}?",
        "{a} ha comprato {x}. {b} ha comprato {y}. {a} ha comprato anche {z}?",
    ),
}
GOODS = {
    "en": ("bread", "milk", "cheese", "salt", "sugar", "butter", "rice", "honey", "soap"),
    "de": ("Brot", "Milch", "Käse", "Salz", "Zucker", "Butter", "Reis", "Honig", "Seife"),
    "fr": (
        "le pain",
        "le lait",
        "le fromage",
        "le sel",
        "le sucre",
        "le beurre",
        "le riz",
        "le miel",
        "le savon",
    ),
    "es": ("pan", "leche", "queso", "sal", "azúcar", "mantequilla", "arroz", "miel", "jabón"),
    "it": (
        "il pane",
        "il latte",
        "il formaggio",
        "il sale",
        "lo zucchero",
        "il burro",
        "il riso",
        "il miele",
        "il sapone",
    ),
}
# The places, of which {p} and {r} are two, stand in `PLACES`.
EITHER = {
    "en": (
        "{a} is looking for the key. It is either {p} or {r}. It is not {p}. Is the key {r}?",
        "{a} is looking for the key. It is either {p} or {r}. It is not {p}. Is the key {p}?",
        "{a} is looking for the key. It is either {p} or {r}. Is the key {r}?",
    ),
    "de": (
        "{a} sucht den Schlüssel. Er ist entweder {p} oder {r}. Er ist nicht {p}."
        " Ist der Schlüssel {r}?",
        "{a} sucht den Schlüssel. Er ist entweder {p} oder {r}. Er ist nicht {p}."
        " Ist der Schlüssel {p}?",
        "{a} sucht den Schlüssel. Er ist entweder {p} oder {r}. Ist der Schlüssel {r}?",
    ),
    "fr": (
        "{a} cherche la clé. Elle est soit {p}, soit {r}. Elle n'est pas {p}."
        " Est-ce que la clé est {r} ?",
        "{a} cherche la clé. Elle est soit {p}, soit {r}. Elle n'est pas {p}."
        " Est-ce que la clé est {p} ?",
        "{a} cherche la clé. Elle est soit {p}, soit {r}. Est-ce que la clé est {r} ?",
    ),
    "es": (
        "{a} busca la llave. Está o {p} o {r}. No está {p}. ¿Está la llave {r}?",
        "{a} busca la llave. Está o {p} o {r}. No está {p}. ¿Está la llave {p}?",
        "{a} busca la llave. Está o {p} o {r}. ¿Está la llave {r}?",
    ),
    "it": (
        "{a} cerca la chiave. È o {p} o {r}. Non è {p}. La chiave è {r}?",
        "{a} cerca la chiave. È o {p} o {r}. Non è {p}. La chiave è {p}?",
        "{a} cerca la chiave. È o {p} o {r}. La chiave è {r}?",
    ),
}
PLACES = {
    "en": ("in the box", "in the bag", "on the table", "in the car", "under the chair"),
    "de": ("in der Kiste", "in der Tasche", "auf dem Tisch", "im Auto", "unter dem Stuhl"),
    "fr": ("dans la boîte", "dans le sac", "sur la table", "dans la voiture", "sous la chaise"),
    "es": ("en la caja", "en la bolsa", "sobre la mesa", "en el coche", "bajo la silla"),
    "it": ("nella scatola", "nella borsa", "sul tavolo", "nella macchina", "sotto la sedia"),
}
# {m} is more than {n}.
MORE = {
    "en": (
        "{a} has {m} books. {b} has {n} books. Does {a} have more books than {b}?",
        "{a} has {n} books. {b} has {m} books. Does {a} have more books than {b}?",
        "{a} has {m} books. {b} has books, too. Does {a} have more books than {b}?",
    ),
    "de": (
        "{a} hat {m} Bücher. {b} hat {n} Bücher. Hat {a} mehr Bücher als {b}?",
        "{a} hat {n} Bücher. {b} hat {m} Bücher. Hat {a} mehr Bücher als {b}?",
        "{a} hat {m} Bücher. {b} hat auch Bücher. Hat {a} mehr Bücher als {b}?",
    ),
    "fr": (
        "{a} a {m} livres. {b} a {n} livres. Est-ce que {a} a plus de livres que {b} ?",
        "{a} a {n} livres. {b} a {m} livres. Est-ce que {a} a plus de livres que {b} ?",
        "{a} a {m} livres. {b} a aussi des livres. Est-ce que {a} a plus de livres que {b} ?",
    ),
    "es": (
        "{a} tiene {m} libros. {b} tiene {n} libros. ¿Tiene {a} más libros que {b}?",
        "{a} tiene {n} libros. {b} tiene {m} libros. ¿Tiene {a} más libros que {b}?",
        "{a} tiene {m} libros. {b} también tiene libros. ¿Tiene {a} más libros que {b}?",
    ),
    "it": (
        "{a} ha {m} libri. {b} ha {n} libri. {a} ha più libri di {b}?",
        "{a} ha {n} libri. {b} ha {m} libri. {a} ha più libri di {b}?",
        "{a} ha {m} libri. Anche {b} ha dei libri. {a} ha più libri di {b}?",
    ),
}
