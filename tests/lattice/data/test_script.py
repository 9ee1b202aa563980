"""Which tokenization BLEU gets for which text, and that 13a stays for text with spaces."""

from __future__ import annotations

import pytest

from lattice.data.script import script_shares, tokenization
from monitors.quality import score

CHINESE = ["今天天气很好，我们去公园散步。", "他在北京工作了三年。", "这本书很有意思"]
MIXED = ["我在2019年买了一台 iPhone 手机, 现在还能用", "请把 README.md 发给我, 谢谢"]
JAPANESE = ["今日は天気がいいので散歩に行きます。", "東京は大きい都市です。"]
THAI = ["วันนี้อากาศดีมาก เราไปเดินเล่นกัน", "เขาทำงานที่กรุงเทพมาสามปีแล้ว"]
ENGLISH = ["A brown dog runs through the grass.", "Come here now!", "Yes."]
RUSSIAN = ["Кошка сидит на окне.", "Съешь же ещё этих мягких французских булок."]
KOREAN = ["오늘은 날씨가 아주 좋습니다.", "그는 서울에서 삼 년 동안 일했다."]
SPLIT = ["今天 天气 很 好 ， 我们 去 公园 散步 。", "他 在 北京 工作 了 三 年 。"]
WORDS = ["apple", "pear", "a house", "дом"]


@pytest.mark.parametrize(
    ("references", "fitting"),
    [
        (CHINESE, "zh"), (MIXED, "zh"), (JAPANESE, "char"), (THAI, "char"), (WORDS, "char"), (["12", "7"], "char"),
        (ENGLISH, "13a"), (RUSSIAN, "13a"), (KOREAN, "13a"), (SPLIT, "13a"), (["one two three four", *WORDS], "13a"),
    ],
    ids=[
        "chinese", "chinese-with-latin", "japanese", "thai", "one-word-lines", "numbers",
        "english", "russian", "korean", "chinese-split-into-words", "some-longer-lines",
    ],
)  # fmt: skip
def test_the_tokenization_fits_the_text(references, fitting):
    assert tokenization(references) == fitting


@pytest.mark.parametrize("references", [CHINESE, MIXED, JAPANESE, THAI, WORDS, ENGLISH, RUSSIAN])
def test_what_came_back_as_it_was_scores_100_and_half_of_it_less(references):
    fitting = tokenization(references)
    assert score(references, references, fitting).bleu == pytest.approx(100)
    assert 0 < score([text[: len(text) // 2 + 2] for text in references], references, fitting).bleu < 90


def test_text_without_letters_has_no_script():
    assert script_shares(["12", "!"]) == {}
