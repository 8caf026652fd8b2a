"""Which column is what, by the headers of real exports."""

from __future__ import annotations

import pytest

from rollcall.errors import BadMapping, NoEmailColumn, NoNameColumn
from rollcall.records.mapping import check, guess, unique
from rollcall.records.plan import Mapping

EXPORTS = {
    "plain": ("name,email", "email", ("name",)),
    "shouted": ("EMAIL,NAME", "EMAIL", ("NAME",)),
    "blanks and marks": (" E-Mail_Address ,Full-Name", "E-Mail_Address", ("Full-Name",)),
    "google": (
        "First Name,Middle Name,Last Name,Phonetic First Name,Nickname,File As,Organization Name,E-mail 1 - Label,"
        "E-mail 1 - Value,E-mail 2 - Label,E-mail 2 - Value,Phone 1 - Value",
        "E-mail 1 - Value",
        ("First Name", "Middle Name", "Last Name"),
    ),
    "google, old": (
        "Name,Given Name,Additional Name,Family Name,Yomi Name,E-mail 1 - Type,E-mail 1 - Value,Organization 1 - Name",
        "E-mail 1 - Value",
        ("Name",),
    ),
    "outlook": (
        "Title,First Name,Middle Name,Last Name,Suffix,Company,E-mail Address,E-mail Type,E-mail Display Name,"
        "E-mail 2 Address",
        "E-mail Address",
        ("First Name", "Middle Name", "Last Name"),
    ),
    "thunderbird": (
        "First Name,Last Name,Display Name,Nickname,Primary Email,Secondary Email,Notes,",
        "Primary Email",
        ("Display Name",),
    ),
    "yahoo": ("First,Middle,Last,Nickname,Email,Category,Alternate Email 1", "Email", ("First", "Middle", "Last")),
    "hubspot": (
        "Record ID,First Name,Last Name,Email,Phone Number,Lead Status,Create Date,Associated Company",
        "Email",
        ("First Name", "Last Name"),
    ),
    "salesforce": ("Id,AccountId,LastName,FirstName,Salutation,Name,Phone,Email,Title", "Email", ("Name",)),
    "mailchimp": (
        "Email Address,First Name,Last Name,MEMBER_RATING,OPTIN_TIME",
        "Email Address",
        ("First Name", "Last Name"),
    ),
    "mailchimp, merge fields": ("EMAIL,FNAME,LNAME,TAGS", "EMAIL", ("FNAME", "LNAME")),
    "linkedin": (
        "First Name,Last Name,URL,Email Address,Company,Position",
        "Email Address",
        ("First Name", "Last Name"),
    ),
    "brevo": ("EMAIL,LASTNAME,FIRSTNAME,SMS,EMAIL_BLACKLISTED", "EMAIL", ("FIRSTNAME", "LASTNAME")),
    "pipedrive": ("Person - ID,Person - Name,Person - Email,Person - Phone", "Person - Email", ("Person - Name",)),
    "systeme": ("Email,First name,Surname,Phone number", "Email", ("First name", "Surname")),
    "german": ("Vorname,Nachname,E-Mail-Adresse", "E-Mail-Adresse", ("Vorname", "Nachname")),
    "german, name beside vorname": ("Name,Vorname,E-Mail", "E-Mail", ("Vorname", "Name")),
    "german, full": ("vollständiger Name,Mail", "Mail", ("vollständiger Name",)),
    "english, name beside first name": ("first name,name,email", "email", ("name",)),
    "french": ("Prénom,Nom,Adresse e-mail", "Adresse e-mail", ("Prénom", "Nom")),
    "french, one": ("NOM,COURRIEL", "COURRIEL", ("NOM",)),
    "french, full": ("Nom complet,Nom,adresse électronique", "adresse électronique", ("Nom complet",)),
    "spanish": ("Nombre,Apellidos,Correo electrónico", "Correo electrónico", ("Nombre", "Apellidos")),
    "spanish, without accents": ("nombre completo,correo electronico", "correo electronico", ("nombre completo",)),
    "two of them": ("Work Email,Email,Name", "Email", ("Name",)),
    "the first of equals": ("Email,name,e-mail", "Email", ("name",)),
}


@pytest.mark.parametrize("export", EXPORTS)
def test_mapping_guesses_the_columns_of_real_exports(export: str) -> None:
    header, email, name = EXPORTS[export]

    assert guess(unique(header.split(","))) == Mapping(email, name)


def test_mapping_accents_may_be_composed_or_not() -> None:
    assert guess(("Pre\u0301nom", "Courriel")).name == ("Pre\u0301nom",)


def test_mapping_says_what_it_saw_and_what_it_looked_for() -> None:
    with pytest.raises(NoEmailColumn, match=r'The columns are "name", "phone"\..*looked for: email'):
        guess(("name", "phone"))
    with pytest.raises(NoNameColumn, match='The columns are "email"'):
        guess(("email",))


def test_mapping_shows_the_beginning_of_a_long_header() -> None:
    with pytest.raises(NoEmailColumn) as raised:
        guess(["x" * 1000, *(f"c{number}" for number in range(5000))])

    message = str(raised.value)
    assert '"c18" and 4981 more.' in message
    assert len(message) < 700


def test_mapping_a_contact_in_the_first_line_is_told_and_not_shown() -> None:
    with pytest.raises(NoEmailColumn, match="no header line") as raised:
        guess(("Ann", "ann@example.com"))

    assert "ann" not in str(raised.value).casefold()


def test_mapping_a_given_mapping_is_checked() -> None:
    given = Mapping("Mail", ("Vor", "Nach"))

    assert check(given, ("Mail", "Vor", "Nach")) is given
    with pytest.raises(BadMapping, match=r'names "Nach", which the file does not have\. The columns are "Mail", "Vor"'):
        check(given, ("Mail", "Vor"))
    with pytest.raises(BadMapping, match="no column for the name"):
        check(Mapping("Mail", ()), ("Mail",))


@pytest.mark.parametrize(
    ("cells", "columns"),
    [
        (("name", "email"), ("name", "email")),
        (("name", "", " \u00a0"), ("name", "column 2", "column 3")),
        (("Phone", "Phone", " Phone "), ("Phone", "Phone (2)", "Phone (3)")),
        (("Phone", "Phone", "Phone (2)"), ("Phone", "Phone (3)", "Phone (2)")),
        (("column 2", ""), ("column 2", "column 2 (2)")),
        (("\ufeffname", "Email", "email"), ("name", "Email", "email")),
    ],
)
def test_mapping_every_column_gets_a_name_of_its_own(cells: tuple[str, ...], columns: tuple[str, ...]) -> None:
    assert unique(cells) == columns


def test_mapping_a_hundred_thousand_equal_columns_are_no_bomb() -> None:
    columns = unique(["a"] * 100_000)

    assert len(set(columns)) == 100_000
