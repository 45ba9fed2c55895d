from typing import Any

import pytest

from support.browser import browser, page
from support.served_page import ServedPage

__all__ = ["browser", "page"]


@pytest.fixture
def served(page: Any) -> ServedPage:
    return ServedPage(page)
