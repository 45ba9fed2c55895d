"""For tests of code that builds on unisono: fake members, tiny vocabularies, the contract of backends.

Test a combine rule, a gate or an engine with a `FakeModel`, and a new backend with the contract:

```python
case = ContractCase(texts=(ids_a, ids_b, ids_c), tolerance=1e-4)
check_backend_contract(load_my_backend(slots=4), case)
```

No test framework is needed: a broken rule raises an `AssertionError`.
"""

from __future__ import annotations

from collections.abc import Sequence

from unisono.backends.base import Truncation as Truncation
from unisono.backends.contract import BACKEND_CONTRACT as BACKEND_CONTRACT
from unisono.backends.contract import ContractCase as ContractCase
from unisono.backends.contract import alone as alone
from unisono.backends.contract import check_backend_contract as check_backend_contract
from unisono.backends.contract import check_unload as check_unload
from unisono.backends.contract import total_variation as total_variation
from unisono.backends.fake.backend import FakeBackend as FakeBackend
from unisono.backends.fake.backend import FakeModel as FakeModel
from unisono.backends.fake.backend import FakePass as FakePass
from unisono.backends.fake.backend import hashed_rule as hashed_rule
from unisono.backends.fake.backend import register_fake as register_fake
from unisono.backends.fake.backend import scripted_rule as scripted_rule
from unisono.backends.fake.vocabulary import CHAT_TEMPLATE as CHAT_TEMPLATE
from unisono.backends.fake.vocabulary import LongestMatchTokenizer as LongestMatchTokenizer
from unisono.backends.fake.vocabulary import byte_level_table as byte_level_table
from unisono.backends.fake.vocabulary import sentencepiece_table as sentencepiece_table


def fake_member(name: str, words: Sequence[str] = (), *, seed: int = 0, family: str = "byte-level") -> FakeModel:
    """Make and register a fake member with a tiny vocabulary, for ``model: fake:NAME``.

    Its logits are a hash of the ids so far and the seed, so they are the same every time.

    Args:
        name: the member's model is ``fake:NAME``.
        words: tokens longer than a byte.
        seed: members with the same seed and the same vocabulary are the same model.
        family: ``byte-level`` or ``sentencepiece``.
    """
    if family not in ("byte-level", "sentencepiece"):
        raise ValueError(f"unknown family {family!r}; choose byte-level or sentencepiece")
    table = byte_level_table(words) if family == "byte-level" else sentencepiece_table(words)
    tokenizer = LongestMatchTokenizer(table, leading_space=family == "sentencepiece")
    return register_fake(name, FakeModel(tokenizer, hashed_rule(len(table.texts), seed)))
