"""Texts that break naive handling of tokens; each is a name and a text."""

from __future__ import annotations

import unicodedata

SURROGATES = range(0xD800, 0xE000)


def _planes() -> dict[str, str]:
    """Sixty-odd characters of each of Unicode's 17 planes: its ends, noncharacters, and a sample between."""
    texts = {}
    for plane in range(17):
        start = plane << 16
        points = [start, start + 1, *range(start + 7, start + 0x10000, 1021), start + 0xFFFD, start + 0xFFFE]
        points.append(start + 0xFFFF)
        texts[f"plane {plane}"] = "".join(chr(point) for point in points if point not in SURROGATES)
    return texts


_ACCENTS = "é à ñ ü ő ǖ Å Ω ﬁ ½ 가각갂 がぎ ệ क़"

ADVERSARIAL: dict[str, str] = {
    "plain English": "The quick brown fox jumps over the lazy dog's 3.14 metres.",
    "leading space": " leading",
    "trailing space": "trailing ",
    "a space": " ",
    "spaces": "".join(" " * count + "x" for count in (2, 3, 4, 7, 8, 15, 16, 31, 64, 129)),
    "a long run of spaces": " " * 1000,
    "tabs": "\ta\t\tb\t\t\t\tc \t d",
    "line breaks": "a\nb\r\nc\rd\n\n\ne\r\n\r\nf\n \n\t\n",
    "other breaks": "a\vb\fc\x1cd\x1de\x1ef\x85g\u2028h\u2029i",
    "NUL": "a\0b\0\0c",
    "control characters": "".join(map(chr, [*range(0x20), 0x7F, *range(0x80, 0xA0)])),
    "Latin-1": "".join(map(chr, range(0xA0, 0x100))),
    "characters of the byte-level alphabet": "Ġ Ċ ĉ č Ń ŀ Ł ł âĢĶ Ġthe",
    "composed": unicodedata.normalize("NFC", _ACCENTS),
    "decomposed": unicodedata.normalize("NFD", _ACCENTS),
    "compatibility forms": "ﬀ ① ² ㎏ Ａｂｃ　ｈａｌｆ ｶﾞ ™ … ℌ 〜",
    "combining marks": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞ \u0301 \u0300\u0301",
    "right to left": "שָׁלוֹם עֲלֵיכֶם. مَرْحَبًا بِالعالَم ١٢٣ \u200fabc\u200e \u202bعربي\u202c \u2067x\u2069",
    "emoji": "👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 👍🏽 🇩🇪🇫🇷🇯🇵 ☃\ufe0f ❤\ufe0e 🧑🏿\u200d🚀 #\ufe0f\u20e3",
    "a flag spelled with tags": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "zero width": "a\u200bb\u200cc\u200dd\u2060e\ufefff\u00adg\u180eh",
    "byte order mark": "\ufeffstart",
    "replacement characters": "\ufffd\ufffd a\ufffd",
    "the space mark": "a\u2581b \u2581\u2581 \u2581c\u2581",
    "byte-fallback lookalikes": "<0x0A> <0xFF><0x41>",
    "control lookalikes": "<|endoftext|> <s></s> <eos> <|im_end|> [INST] <｜end▁of▁sentence｜> <unk> <pad>",
    "scripts": "Ελληνικά русский हिन्दी தமிழ் ไทย 中文字符 日本語のテキスト 한국어 ქართული አማርኛ ខ្មែរ မြန်မာ ᚠᛇᚻ 𐍈 𒀀 𝔘𝔫𝔦",
    "letter case": "İstanbul ıI ß ẞ ΑΣ ας ǅ",
    "code": "def f(x):\n    return {\n\t'a': x**2,  # ½\n    }\n\n\n",
    "digits": "1234567890 3.14159 1,000,000 ٣٤٥ १२३",
    "long word": "a" * 300 + "é" * 100 + "语" * 50,
    "Burmese": "မြန်မာဘာသာ ဘာသာမန် ၁၂၃",
    **_planes(),
}
