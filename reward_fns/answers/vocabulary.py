"""The words, commands and characters that answers are made of, and what each stands for."""

from __future__ import annotations

import re


def _words(text: str) -> list[str]:
    return text.split()


# What NFKC would turn into a plain digit, and a power with it.
SUPERSCRIPTS = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u207e]+")
PRIMES = re.compile(r"\^\s*(?:\{\s*(?:\\prime\s*)+\}|\\prime(?![A-Za-z]))")
VULGAR_FRACTIONS = re.compile("[\u00bc-\u00be\u2150-\u215e]")
# Zero-width characters and marks of writing direction. They show nothing.
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
# Around an answer they say that it is found, or right. Crosses, thumbs down and doubting faces are not among them.
APPROVING = (
    "\u2713\u2714\u2705\u2611\U0001f5f8\U0001f389\U0001f38a\U0001f44d\U0001f44f\U0001f44c\U0001f64c\U0001f4aa\U0001f3c6"
    "\U0001f3af\U0001f680\U0001f642\U0001f60a\U0001f600\U0001f603\U0001f604\U0001f601\U0001f60e\U0001f913\u2728\u2b50"
    "\U0001f31f\U0001f525\u220e\u25a0\u25fc\ufe0f\u200d"
)
APPROVING_COMMANDS = ("\\checkmark", "\\blacksquare")
FORBIDDEN = re.compile("[\u0000-\u0008\u000e-\u001f\u007f\ud800-\udfff]")

CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\u2796\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00d7\u00b7\u22c5\u2217\u2219\u2715\u2a2f", "*"),
        **dict.fromkeys("\u00f7\u2215\u2044", "/"),
        **dict.fromkeys("\u2018\u2019\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u0022", " "),
        "\u00b0": r"\degree ",
        "\u221a": r"\sqrt ",
        "\u221e": r"\infty ",
        "\u222b": r"\int ",
        "\u2211": r"\sum ",
        "\u220f": r"\prod ",
        "\u2192": r"\to ",
        "\u2264": "<=",
        "\u2265": ">=",
        "\u2a7d": "<=",
        "\u2a7e": ">=",
        "\u2260": "!=",
        "\u2248": r"\approx ",
        "\u00b1": r"\pm ",
        "\u2213": r"\mp ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\u2208": r"\in ",
        "\u2205": r"\emptyset ",
        "\u2216": r"\setminus ",
        "\u2026": "...",
        "\u211d": r"\mathbb{R}",
        "\u2220": r"\angle ",
        "\u230a": r"\lfloor ",
        "\u230b": r"\rfloor ",
        "\u2308": r"\lceil ",
        "\u2309": r"\rceil ",
        "\u27e8": r"\langle ",
        "\u27e9": r"\rangle ",
        "\u3001": ",",
        "\u3002": ".",
        "\u20ac": r"\euro ",
        "\u00a2": r"\cent ",
        "\u00a3": r"\pounds ",
        "\u00a5": r"\yen ",
        **{
            letter: rf"\{name} "
            for letter, name in zip(
                "αβγδεζηθικλμνξπρστυφχψω",
                _words("""
        alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon
        phi chi psi omega
    """),
                strict=True,
            )
        },
    }
)

# Commands whose argument is text, and commands that only change how a formula looks.
UPRIGHT_FONTS = (
    "text",
    "textrm",
    "textbf",
    "textit",
    "textnormal",
    "mathrm",
    "mbox",
    "operatorname",
    "hbox",
    "emph",
)
FONTS = (
    *UPRIGHT_FONTS,
    *(
        "mathbf",
        "mathit",
        "mathsf",
        "mathcal",
        "boldsymbol",
        "bm",
        "boxed",
        "fbox",
        "underline",
        "ensuremath",
    ),
)

WORD_SYMBOLS = {
    "and": "and",
    "or": "or",
    "percent": "%",
    "to": ":",
    "equals": "=",
    "minus": "-",
    "negative": "-",
}
CONSTANTS = ("e", "i", "d")
SYMBOLS = {"**": "^", "==": "=", "....": "..."}
OPENING = ("(", "[", r"\{", "langle")
CLOSING = (")", "]", r"\}", "rangle")

COMMAND_SYMBOLS = {
    **{name: name for name in ("pm", "mp", "cup", "cap", "in", "setminus", "langle", "rangle")},
    **{name: f"\\{name}" for name in "{}"},
    "lbrace": r"\{",
    "rbrace": r"\}",
    "lbrack": "[",
    "rbrack": "]",
    "lparen": "(",
    "rparen": ")",
    "backslash": "setminus",
    "smallsetminus": "setminus",
    "bigcup": "cup",
    "land": "and",
    "wedge": "and",
    "lor": "or",
    "vee": "or",
    **dict.fromkeys(("le", "leq", "leqslant", "leqq"), "<="),
    **dict.fromkeys(("ge", "geq", "geqslant", "geqq"), ">="),
    **dict.fromkeys(("ne", "neq"), "!="),
    "lt": "<",
    "gt": ">",
    **dict.fromkeys(("cdot", "times", "ast"), "*"),
    "div": "/",
    **dict.fromkeys(("vert", "lvert", "rvert", "mid"), "|"),
    "colon": ":",
    **dict.fromkeys(("ldots", "cdots", "dots", "dotsc", "dotsb"), "..."),
    "%": "%",
    "_": "_",
    "&": "&",
    r"\\": r"\\",
    **dict.fromkeys(("newline", "cr"), r"\\"),
    "prime": "'",
    **dict.fromkeys(("equiv", "coloneqq"), "="),
    **dict.fromkeys(("approx", "simeq", "thickapprox"), "approx"),
}
COMMAND_SYNONYMS = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac", "sfrac"), "frac"),
    **dict.fromkeys(("lVert", "rVert", "Vert"), "|"),
    **dict.fromkeys(("dbinom", "tbinom"), "binom"),
    "varnothing": "emptyset",
    "varepsilon": "epsilon",
    "varphi": "phi",
    "vartheta": "theta",
    "$": "dollar",
    "Re": "re",
    "Im": "im",
}

# Functions of one argument, as commands and as plain words.
FUNCTIONS = {
    *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc"),
    *(
        "sinh",
        "cosh",
        "tanh",
        "coth",
        "arcsinh",
        "arccosh",
        "arctanh",
        "exp",
        "cis",
        "ln",
        "log",
        "lg",
        "re",
        "im",
        "arg",
        "sgn",
    ),
}
PLAIN_FUNCTIONS = {
    **{name: name for name in FUNCTIONS if name not in ("re", "im", "arg")},
    **{f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{
        name: name
        for name in ("sqrt", "cbrt", "pi", "abs", "floor", "ceil", "min", "max", "gcd", "lcm", "frac")
    },
    **{name: name for name in ("alpha", "beta", "theta", "lambda", "phi", "omega", "gamma", "sigma")},
    "infinity": "infty",
    "infty": "infty",
    "inf": "infty",
    "oo": "infty",
}
GREEK = _words("""
        alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi
        chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar
    """)

# In front of what they are taken of, and with it the name of a value: \\max f = 4, \\deg P = 3, \\gcd(a, b) = 6.
OPERATORS = frozenset(
    _words("max min sup inf limsup liminf deg dim rank ker tr ord gcd lcm arg re im Pr argmax argmin")
)
EXPECTATIONS = (r"\mathbbE", r"\mathbbP", r"\mathbbV")

NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        _words("""
        zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
        sixteen seventeen eighteen nineteen twenty
    """)
    )
}
TENS = {
    word: 10 * (2 + number)
    for number, word in enumerate(_words("twenty thirty forty fifty sixty seventy eighty ninety"))
}
MULTIPLES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}

# Units by their normal form; plurals lose their s first.
_UNITS = {
    "mm": "millimeter millimetre",
    "cm": "centimeter centimetre",
    "m": "meter metre",
    "km": "kilometer kilometre",
    "inch": "in",
    "foot": "ft feet",
    "yard": "yd",
    "mile": "mi",
    "g": "gram gm",
    "kg": "kilogram kilo",
    "mg": "milligram",
    "pound": "lb",
    "ounce": "oz",
    "l": "liter litre",
    "ml": "milliliter millilitre",
    "second": "sec s",
    "minute": "min",
    "hour": "hr h",
    "day": "",
    "week": "",
    "month": "",
    "year": "yr",
    "dollar": "usd buck",
    "euro": "eur",
    "gbp": "",
    "cent": "",
    "mile/hour": "mph",
    "km/hour": "kph kmh",
    "newton": "",
    "joule": "",
    "watt": "",
    "volt": "",
    "kelvin": "",
    "radian": "rad",
    "celsius": "c",
    "fahrenheit": "f",
}
# Only as words in \\text{}: elsewhere these letters may be a product.
_ABBREVIATIONS = {
    "week": "wk",
    "month": "mo mth",
    "hectare": "ha",
    "gallon": "gal",
    "quart": "qt",
    "tablespoon": "tbsp",
    "teaspoon": "tsp",
    "hertz": "hz",
    "kilowatt": "kw",
}
UNIT_NAMES = {name: unit for unit, names in _UNITS.items() for name in (unit, *names.split())}
SHORT_UNITS = {name for name in UNIT_NAMES if 2 <= len(name) <= 3}
SHORT_UNITS |= {f"{name}s" for name in SHORT_UNITS if len(name) == 2} - {"ins", "mis"}  # hrs, lbs
UNIT_NAMES |= {name: unit for unit, names in _ABBREVIATIONS.items() for name in (unit, *names.split())}
# Abbreviations of units that are names of functions, unless something follows of which they can be one.
UNITS_OR_FUNCTIONS = {"min", "sec"}
BEHIND_UNIT = re.compile(r"(?:\\[,;: ]|[\s~.}$)\]])*(?:\Z|[,;/]|\\text|(?:and|or|per)\b)")

# Words of two or three letters; other letters of that number are taken for a product.
SHORT_WORDS = SHORT_UNITS | set(
    _words("""
        a an the no yes odd one two six ten all any are but few for from how if is it not now of off on per
        red so sum sq the to too you yet cup men boy dog cat car box pen egg hat toy bus ant bee cow hen pig
        fox won lot bit mod nor via tie win lie log set map row
    """)
)
# What follows a number and is one of these is no unit: it says more, or less, than the number alone.
NOT_UNITS = frozenset(
    _words("""
        or and not than to at least most about approximately maybe perhaps if when is are so plus minus
        times divided mod modulo squared cubed factorial half halves third thirds quarter quarters fourth
        fourths fifth fifths sixth tenth tenths hundredth hundredths more less fewer over under above below
        between from but except either both other even odd prime negative positive one two three four five
        six seven eight nine ten any all every each only could would should else otherwise likely probably
        wrong false incorrect only x
        cannot possibly never nope no excluded fails none nothing neither lakh crore permille tens score grand
        root roots inverse binary hexadecimal octal repeating recurring approx wrong minimum maximum reciprocal opposite
    """)
) | frozenset(MULTIPLES)
FOR_ALL = [["for", quantifier] for quantifier in ("all", "any", "every", "each")]
KINDS_OF_NUMBERS = frozenset(
    _words("""
        real reals number numbers integer integers positive natural naturals rational whole complex value values
        of and , the
    """)
)
# Words after which the answer itself follows.
LEADING_VERBS = ("is", "are", "equals", "be", "therefore", "thus", "so", "hence")
UNCERTAIN = frozenset(
    _words("""
        not about approximately roughly nearly almost less more least most between around under over wrong
        incorrect but except excluding nothing none no never neither half twice opposite other cannot false
        double triple
    """)
)

NO_SOLUTION = {"nosolution", "norealsolution", "norealsolutions"}
EMPTY_SET = (r"\emptyset", "emptyset", "theemptyset", "nullset")
# Whether the half line of positive numbers includes 0.
HALF_LINES = {
    r"\mathbbR_{>=0}": True,
    r"\mathbbR^+": False,
    r"\mathbbR_+": False,
    r"\mathbbR_{>0}": False,
}
ALL_REALS = (r"\mathbbR", "allrealnumbers", "allreals", "realnumbers", "allrealx")
# Behind a number, without \\text{}: 5m, 20 m^2.
LETTER_UNIT = re.compile(
    r"(?P<number>-?[0-9][0-9,.]*)(?:\\[,;: ]|[\s~])*(?P<unit>[mgshlL])(?P<power>\^(?:[23]|\{[23]\}))?\.?"
)
SPEEDS = re.compile(r"(?:m|km|cm|ft|mi|g|kg)/(?:s|h|min|hr|sec|l|ml|m|cm)(?:\^[23])?")
TEXT_SYNONYMS = {
    "nosolutions": "nosolution",
    "none": "nosolution",
    "doesnotexist": "dne",
    "itdoesnotexist": "dne",
    "undefined": "dne",
}
