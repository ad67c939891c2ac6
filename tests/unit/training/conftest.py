from tests.unit.model.conftest import one_thread

__all__ = ["one_thread"]
