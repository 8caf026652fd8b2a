"""The fields of a contact, once: what other people call them, and how long they may be.

The aliases are the column headings of real exports (Google, Outlook, Thunderbird, Yahoo, Apple, HubSpot, Salesforce,
Mailchimp, Brevo, Pipedrive …) and what people write by hand in English, German, French and Spanish. Case, accents,
spaces and punctuation do not matter (`plain`). The order is the preference when several columns match.
Holds no rule: those are in `rules`.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

NAME_LENGTH_MAX = 255
"""Characters (code points) of a name: the rule of the HTTP contract."""

EMAIL_LENGTH_MAX = 320
"""Characters of an address: 64 before the @, 255 after it (RFC 5321). The index on it needs a bound."""

HEADING_LENGTH_MAX = 100
"""Characters of a heading or key that are looked at; no alias is half as long.

Without a bound a hostile heading costs the square of its length: Unicode sorts combining marks by insertion.
"""


def plain(heading: str) -> str:
    """A column's heading without case, accents, spaces and punctuation: `E-Mail-Adresse ` is `emailadresse`.

    One that is longer than HEADING_LENGTH_MAX is `""`, which is no alias.
    """
    if len(heading) > HEADING_LENGTH_MAX:
        return ""
    decomposed = unicodedata.normalize("NFKD", heading).casefold()
    return "".join(character for character in decomposed if character.isalnum())


def _plain(*headings: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(plain(heading) for heading in headings))


EMAIL = _plain(
    *("email", "email address", "mail", "mail address", "primary email", "primary email address", "email 1"),
    *("email 1 value", "email 1 address", "person email", "contact email", "customer email", "subscriber email"),
    *("user email", "your email", "work email", "work email address", "business email", "company email", "email work"),
    *("personal email", "private email", "home email", "email home", "email personal", "email id", "email addr"),
    *("E-Mail-Adresse", "Mailadresse", "E-Mail (geschäftlich)", "geschäftliche E-Mail", "E-Mail (privat)"),
    *("private E-Mail", "primäre E-Mail", "E-Mail-Adresse 1"),
    *("adresse e-mail", "adresse mail", "adresse électronique", "adresse de messagerie", "courriel"),
    *("adresse courriel", "courrier électronique", "adresse de courriel", "adresse de courrier électronique"),
    *("e-mail professionnel", "e-mail personnel"),
    *("correo electrónico", "correo", "correo-e", "dirección de correo electrónico", "dirección de correo"),
    *("dirección de email", "dirección electrónica", "correo electrónico 1", "email de contacto"),
)

_EMAIL = frozenset(EMAIL)


def is_email(heading: str) -> bool:
    """Whether a column or key of this name holds addresses."""
    return plain(heading) in _EMAIL


FULL_NAME = _plain(
    *("full name", "complete name", "first and last name", "first name last name", "last name first name"),
    *("vollständiger Name", "vollstaendiger Name", "ganzer Name", "Vor- und Nachname", "Vorname Nachname"),
    *("Name, Vorname", "Nachname, Vorname"),
    *("nom complet", "nom et prénom", "prénom et nom", "nom prénom", "prénom nom"),
    *("nombre completo", "nombre y apellidos", "nombre y apellido", "apellidos y nombre", "apellido y nombre"),
    *("nombre apellidos",),
    *("name", "contact name", "person name", "customer name", "subscriber name", "user full name", "your name"),
    *("Kontaktname", "nom du contact", "nombre del contacto"),
    *("display name", "Anzeigename", "nom d'affichage", "nom affiché", "nombre para mostrar"),
    *("contact", "Ansprechpartner"),
)

FIRST_NAME = _plain(
    *("first name", "given name", "first", "fname", "forename", "person first name", "contact first name"),
    *("Vorname", "Vornamen", "Rufname"),
    *("prénom", "prénoms"),
    *("nombre", "nombres", "primer nombre", "nombre de pila"),
)

MIDDLE_NAME = _plain(
    *("middle name", "middle", "additional name", "mname", "middle names"),
    *("zweiter Vorname", "weitere Vornamen"),
    *("deuxième prénom",),
    *("segundo nombre",),
)

LAST_NAME = _plain(
    *("last name", "family name", "surname", "last", "lname", "person last name", "contact last name"),
    *("Nachname", "Familienname", "Zuname"),
    *("nom", "nom de famille"),
    *("apellidos", "apellido", "primer apellido"),
)

FAMILY_NAME_BESIDE = _plain("Vorname", "Vornamen", "Rufname")
"""German forms ask for `Vorname` and `Name`: beside one of these, and without a `Nachname`, `Name` is the family name.

English ones (`First Name`, `Name`) mean the full name.
"""

_ALIASES = frozenset((*EMAIL, *FULL_NAME, *FIRST_NAME, *MIDDLE_NAME, *LAST_NAME))


@lru_cache(8192)
def _is_alias(heading: str) -> bool:
    return plain(heading) in _ALIASES


def is_alias(heading: str) -> bool:
    """Whether a column or key of this name can hold an address or (a part of) a name. Fast for what was asked
    before."""
    return len(heading) <= HEADING_LENGTH_MAX and _is_alias(heading)
