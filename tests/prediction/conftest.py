import pytest
from benched import Benched, make_bench


@pytest.fixture(scope="session")
def benched(tmp_path_factory: pytest.TempPathFactory) -> Benched:
    """A small benchmark that is trained once; nobody may write in its folders."""
    return make_bench(tmp_path_factory.mktemp("benched"))
